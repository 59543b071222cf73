"""A terminal: names from files must not steer it, a reader that has gone is no mistake, Ctrl-C is never lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

# Control characters, and what turns the direction of the text around.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: object, keep: str = "") -> str:
    r"""`text` with control characters written out (ESC is \x1b), but for those in `keep`."""
    written = _STEERING.sub(lambda m: m[0] if m[0] in keep else ascii(m[0])[1:-1], str(text))
    return written.encode("utf-8", "backslashreplace").decode()  # file names need not be UTF-8


def open_streams() -> None:
    """Open what the caller closed (`lrp-tf ... 2>&-`) on the null device.

    Otherwise Python has None there, and the next file that is opened, a table for instance, gets the number of the
    closed stream and receives all that C++ writes to it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def say(text: str, *, error: bool = False) -> None:
    """Print a line. Where the reader has gone, as in `lrp-tf summary MODEL | head`, fall silent.

    Nothing can tell of a standard error that takes nothing: then the exit code must do.
    """
    stream = sys.stderr if error else sys.stdout
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as problem:
        if not (error or isinstance(problem, BrokenPipeError)):
            raise
        silence(stream)


def flush() -> None:
    """Write what is left; at exit Python itself would complain of a reader that has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)


def silence(stream: TextIO) -> None:
    """Drop all that is still written to `stream`."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


_pressed = threading.Event()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Remember that Ctrl-C was pressed: some libraries catch KeyboardInterrupt while they are imported, and drop it.

    Where another handler than Python's own is in force, or in another thread than the first, nothing changes.
    """
    _pressed.clear()
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    signal.default_int_handler(number, frame)


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed and nothing came of it."""
    if _pressed.is_set():
        raise KeyboardInterrupt

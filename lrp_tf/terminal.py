"""Writing to a terminal: names of files must not steer it, a closed pipe is no error, and Ctrl-C is never lost."""

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

# Control characters, and those that reverse the direction of the text.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: object, keep: str = "") -> str:
    r"""`text` with control characters written out (ESC as \x1b), except those in `keep`."""
    written = _STEERING.sub(lambda m: m[0] if m[0] in keep else ascii(m[0])[1:-1], str(text))
    return written.encode("utf-8", "backslashreplace").decode()  # file names need not be UTF-8


def open_streams() -> None:
    """Open standard streams that the caller closed (`lrp-tf ... 2>&-`) on the null device.

    Otherwise they are None, and the next file that is opened, for instance a table, gets the number of the closed
    stream and receives what C++ writes to it.
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
    """Print a line. If the reader has closed the pipe, as in `lrp-tf summary MODEL | head`, print nothing more.

    If standard error cannot be written, only the exit code remains.

    Raises:
        OSError: standard output cannot be written for another reason.
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
    """Write what is buffered; at exit Python would complain about a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)


def silence(stream: TextIO) -> None:
    """Discard everything that is written to `stream` from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


_pressed = threading.Event()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Remember that Ctrl-C was pressed: some libraries catch KeyboardInterrupt while they are imported, and drop it.

    Nothing changes if a handler other than Python's is installed, or in a thread other than the first.
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
    """Raise KeyboardInterrupt if Ctrl-C was pressed and the exception was dropped."""
    if _pressed.is_set():
        raise KeyboardInterrupt

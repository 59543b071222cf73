"""Text on a terminal: names from files must not steer it, and a reader that has gone is no mistake."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

# Control characters, and what turns the direction of the text around.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: object, keep: str = "") -> str:
    r"""`text` with control characters written out (ESC is \x1b), but for those in `keep`."""
    written = _STEERING.sub(lambda m: m[0] if m[0] in keep else ascii(m[0])[1:-1], str(text))
    return written.encode("utf-8", "backslashreplace").decode()  # file names need not be UTF-8


def say(text: str, *, error: bool = False) -> None:
    """Print a line. Where the reader has gone, as in `lrp-tf summary MODEL | head`, fall silent."""
    stream = sys.stderr if error else sys.stdout
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        _silence(stream)


def flush() -> None:
    """Write what is left; at exit Python itself would complain of a reader that has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _silence(stream)


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

"""Imports TensorFlow without its greetings: notes that it writes at every start, whatever the log level."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator

# Notes and warnings of the C++ log, in the format of absl and in the older one; errors never match.
_GREETING = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)|[IW]\d{4} [\d:.]+ +\d+ \S+:\d+\] "
    rb"|\d{4}-\d\d-\d\d [\d:.]+: [IW] "
)
_NO_DRIVER, _NO_CUDA = b"Could not find cuda drivers on your machine", b"failed call to cuInit"


def import_tensorflow() -> None:
    """Import Keras and TensorFlow, and list the GPUs: all greetings are written here.

    If the user has set TF_CPP_MIN_LOG_LEVEL, nothing is held back.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        importlib.import_module("keras")
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with _without_greetings():
        importlib.import_module("keras")
        importlib.import_module("tensorflow").config.list_physical_devices()


@contextlib.contextmanager
def _without_greetings() -> Iterator[None]:
    """Pass file descriptor 2 through a child process that drops greetings.

    A thread would end with this process; the child still passes on what TensorFlow writes while it crashes.
    """
    if not hasattr(os, "fork"):
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writing)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when the pipe does
            _copy(reading)
        finally:
            os._exit(0)
    before = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    os.close(reading)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        _wait(child)


def _copy(reading: int) -> None:
    no_driver = False
    with open(reading, "rb") as lines:
        for line in lines:
            no_driver = no_driver or _NO_DRIVER in line
            if not _GREETING.match(line) and not (no_driver and _NO_CUDA in line):
                os.write(2, line)


def _wait(child: int) -> None:
    """Wait until all is copied, for a second at most: a process that TensorFlow started may hold the pipe open."""
    until = time.monotonic() + 1
    while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < until:
        time.sleep(0.002)

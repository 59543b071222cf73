"""The converter and the interpreter without their remarks."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what Python and C++ of LiteRT write; the latter writes to the file descriptor of standard error."""
    logger, before = logging.getLogger("absl"), logging.getLogger("absl").level
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logger.setLevel(before)

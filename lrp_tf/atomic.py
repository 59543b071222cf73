"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic(path: str | os.PathLike, draw: Callable[[Path], object]) -> Path:
    """Let `draw` write a temporary file beside `path` and rename it: no half-written file under the final name.

    A process that is killed meanwhile leaves a file whose name begins with ".tmp-".

    Args:
        path: the file to write, of any kind; an old one is replaced.
        draw: writes the file that it is given, which exists, is empty and has the suffix of `path`.

    Returns:
        `path`.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the folder cannot be written.
        Exception: what `draw` raises. An old file under `path` stays as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Expected a file in a folder that exists. Received: {str(path)!r}")
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}{path.suffix}"
    # Not by tempfile, which gives the file to its owner alone; open() gives the usual rights.
    temporary.open("xb").close()
    try:
        draw(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a temporary folder beside `path`, which gets that name once it is whole; its parents are made.

    A process that is killed meanwhile leaves a folder whose name begins with ".tmp-".

    Raises:
        FileExistsError: `path` exists.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists. Expected a folder that does not")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""Files of numbers -> arrays. A new format is one entry of `READERS`."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrp_tf.files.errors import ImageError

# One sample in each file; more entries than this are a mistake, such as a whole data set.
MAX_ENTRIES = 200_000_000


class ArrayError(ImageError):
    """A file is no readable array; the message is the reason, without the name of the file."""


class Array(NamedTuple):
    """One sample.

    Attributes:
        values: real numbers or booleans, all finite, of any shape but [].
        names: of the channels on its last axis, as a header gives them; empty: not known.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()


def read(path: str | os.PathLike[str]) -> Array:
    """The array in a file.

    Raises:
        ArrayError: another kind of file, a file that cannot be read, or what it holds is no array of finite numbers.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise ArrayError(f"no array that can be read. Expected a file ending in {' '.join(sorted(READERS))}")
    try:
        found = READERS[suffix](Path(path))
    except OSError as error:
        raise ArrayError(error.strerror or str(error)) from error
    values = found.values
    if values.dtype.kind not in "fiub" or not values.ndim or not values.size:
        raise ArrayError(f"expected an array of real numbers. Received: {values.dtype} of shape {values.shape}")
    if values.size > MAX_ENTRIES:
        raise ArrayError(f"expected one sample in each file. Received: an array of shape {values.shape}")
    if bad := int(np.sum(~np.isfinite(values))):
        raise ArrayError(f"expected finite numbers. Received: {bad} NaN or Inf among {values.size}")
    return found


def _npy(path: Path) -> Array:
    try:
        with open(path, "rb") as file:  # NumPy leaves it open where the archive is damaged
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.ndarray):  # an archive under another name
                raise ArrayError("expected one array, as numpy.save writes it. Received: an archive of several")
    except ArrayError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        why = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise ArrayError(f"no array of numbers as numpy.save writes it: {why}") from error
    return Array(found)


def _csv(path: Path) -> Array:
    """A row for each time step, a column for each channel; a first row without numbers holds the channels' names."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    rows = [row for row in _cells([line for line in text.splitlines() if line.strip()]) if any(row)]
    names = tuple(rows.pop(0)) if rows and not any(map(_is_number, rows[0])) else ()
    if not rows:
        raise ArrayError("it holds no rows of numbers")
    width = len(rows[0])
    for number, row in enumerate(rows, 1 + bool(names)):
        wrong = [cell for cell in row if not _is_number(cell)]
        if wrong or len(row) != width:
            reason = f"{wrong[0]!r} is no number" if wrong else f"{len(row)} cells"
            raise ArrayError(f"row {number}: {reason}. Expected {width} numbers, as in the rows above")
    if names and len(names) != width:
        raise ArrayError(f"{len(names)} names above {width} columns. Expected a name for each column")
    return Array(np.array([[float(cell) for cell in row] for row in rows]), names)


def _cells(lines: list[str]) -> list[list[str]]:
    """The cells of each line: by tabs, semicolons or commas, else by blanks, of which several may align columns."""
    delimiter = next((mark for mark in "\t;," if lines and mark in lines[0]), None)
    if delimiter is None:
        by_blanks = [line.split() for line in lines]
        single = all(len(cells) == 1 for cells in by_blanks[1:])  # its name may hold blanks
        return [[line.strip()] for line in lines] if single else by_blanks
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise ArrayError(f"no table of numbers: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path], Array]] = {".npy": _npy, ".csv": _csv, ".tsv": _csv}
SUFFIXES = frozenset(READERS)

"""Files of numbers -> arrays. A new format is one entry of `READERS`."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lrp_tf.arrays import nifti, sound
from lrp_tf.arrays.sample import Array, ArrayError

# One sample in each file; more entries than this are a mistake, such as a whole data set.
MAX_ENTRIES = 200_000_000


def read(path: str | os.PathLike[str]) -> Array:
    """The array in a file.

    Raises:
        ArrayError: another kind of file, a file that cannot be read, or what it holds is no array of finite numbers.
        ExtraError: the package that reads such files is not installed.
    """
    suffix = suffix_of(path)
    if suffix is None:
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


def suffix_of(path: str | os.PathLike[str]) -> str | None:
    """The suffix that says how a file is read; None: it is no array."""
    name = os.fspath(path).lower()
    return next((suffix for suffix in READERS if name.endswith(suffix)), None)


READERS: dict[str, Callable[[Path], Array]] = {".npy": _npy, ".csv": _csv, ".tsv": _csv}
READERS |= {suffix: lambda path: nifti.read(path, MAX_ENTRIES) for suffix in nifti.SUFFIXES}
READERS |= {suffix: lambda path: sound.read(path, MAX_ENTRIES) for suffix in sound.SUFFIXES}
SUFFIXES = frozenset(READERS)

"""Where the rows of each file lie in a table, so that tables larger than memory can be put into another order."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.csv_tables import PATH, from_cell


class Lines:
    """The rows of a table by the number of their file, 16 bytes of memory for each file.

    A table whose last rows were cut off ends ahead of them; of rows that a file has in two places the first count.

    Args:
        path: of the table. It may be missing.
        numbers: file -> its number; the first cell of a row names the file.
        columns: of a whole row.
        ahead: bytes that are read at once.

    Attributes:
        twice: how many files have rows in two places.

    Raises:
        LoadError: a row of a file without number.
    """

    def __init__(self, path: Path, numbers: Mapping[str, int], columns: int, ahead: int = 1 << 16) -> None:
        self.path, self.ahead, self.twice = path, ahead, 0
        self.places = np.empty((0, 2), np.int64)  # where the rows of a file begin and end; -1: it has none
        self._read, self._held = 0, b""
        last = ""
        for begin, end, file, _ in groups(path, columns):
            if file not in numbers:
                raise LoadError(f"{path} holds rows of {file!r}, which is not on the list of its shard ({path.parent})")
            number = numbers[file]
            if not len(self.places):
                self.places = np.full((len(numbers), 2), -1, np.int64)
            if self.places[number, 0] >= 0:
                self.twice += file != last
                continue
            self.places[number], last = (begin, end), file

    def has(self, number: int) -> bool:
        """Whether a file has rows."""
        return len(self.places) > 0 and bool(self.places[number, 0] >= 0)

    def count(self) -> int:
        """How many files have rows."""
        return int((self.places[:, 0] >= 0).sum())

    def of(self, number: int) -> bytes:
        """The rows of a file, as they are; b"" if it has none. Cheap where they are asked for in the table's order."""
        if not self.has(number):
            return b""
        begin, end = map(int, self.places[number])
        if not self._read <= begin <= end <= self._read + len(self._held):
            with open(self.path, "rb") as file:
                file.seek(begin)
                self._read, self._held = begin, file.read(max(end - begin, self.ahead))
        return self._held[begin - self._read : end - self._read]


class Group(NamedTuple):
    """Rows of a table that follow one another and belong to the same file.

    Attributes:
        begin, end: where they lie.
        file: the first cell of each.
        base: the second one.
    """

    begin: int
    end: int
    file: str
    base: str


def groups(path: Path, columns: int) -> Iterator[Group]:
    """The whole rows of a table behind its header, by file; memory holds one of them.

    Rows of one file are one write: of those whose end was cut off, by a full disk or a kill, none counts.
    """
    group: Group | None = None
    cut: str | None = None  # first cell of the row above, if that is not whole
    for begin, end, row in records(path):
        if len(row) != columns:
            cut = from_cell(row[0], PATH) if row else ""
            continue
        found = Group(begin, end, from_cell(row[0], PATH), from_cell(row[1], PATH))
        if group is not None and group.file == found.file and cut is None:
            group = group._replace(end=end)
            continue
        if group is not None:
            yield group
        group, cut = found, None
    if group is not None and not (cut is not None and group.file.startswith(cut)):
        yield group


def records(path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """(begin, end, cells) of each row behind the header; of the last one, if it was cut off, its first cell alone."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        place, record = len(file.readline()), b""
        for line in file:
            record += line
            if record.count(b'"') % 2 or not line.endswith(b"\r\n"):  # a cell goes over several lines
                continue
            row = next(csv.reader([record.decode("utf-8", "surrogateescape")], strict=False))
            yield place, place + len(record), row
            place, record = place + len(record), b""
        if record:
            yield place, place + len(record), record.decode("utf-8", "surrogateescape").split(",")[:1]

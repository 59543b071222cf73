"""The relevance of all rows of a table on disk: `NAME.relevance.csv`, a column for each feature."""

from __future__ import annotations

import csv
import itertools
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.gallery.ledger import PATH, CsvTable, Row, from_cell, to_cell, to_csv
from lrp_tf.tables.files import Table

_AHEAD = ("file", "target", "target_name", "checksum")


class Store:
    """The relevance of the rows of one table, whole rows at any time. Use it as a context manager, to add.

    Args:
        count: targets of each row.
    """

    def __init__(self, path: Path, table: Table, count: int) -> None:
        self.path, self.table, self.count = path, table, count
        self.header = (*_AHEAD, *map(to_cell, table.names))
        self.places = {table.key(i): i for i in range(len(table.labels))}
        self.file = CsvTable(path, self.header, {}, append=True)

    def __enter__(self) -> Store:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.file.__exit__(*error)

    def add(self, row: int, targets: Sequence[Row], maps: np.ndarray) -> None:
        """Append the relevance [k, F] of a row, with number and name of each target."""
        key, checksum = to_cell(self.table.key(row), PATH), self._checksum(row)
        self.file.add([
            (key, target, to_cell(str(name)), checksum, *(f"{value:.9g}" for value in relevance))
            for (target, name), relevance in zip(targets, maps, strict=True)
        ])  # fmt: skip

    def finished(self) -> set[str]:
        """Keys of the rows whose relevance an earlier run wrote, if the table still holds the same numbers there."""
        return {key for key, _ in self._found()}

    def keep(self, keys: Container[str]) -> None:
        """Leave out all rows but these."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

        def write(path: Path) -> None:
            with open(path, "wb") as file:
                file.write(to_csv([self.header]).encode())
                for key, lines in self._found():
                    if key in keys:
                        file.write(to_csv(lines).encode("utf-8", "surrogateescape"))

        atomic(self.path, write)

    def read(self) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """All that is there, in the order of the table.

        Returns:
            Indices of rows [M], relevance float32 [M, k, F], and the names of each row's targets [M][k].
        """
        relevance = np.full((len(self.table.labels), self.count, len(self.table.names)), np.nan, np.float32)
        names: dict[int, list[str]] = {}
        for key, lines in self._found():
            place = self.places[key]
            relevance[place] = [list(map(float, line[len(_AHEAD) :])) for line in lines]
            names[place] = [from_cell(line[2]) if line[2] != line[1] else f"class {line[1]}" for line in lines]
        found = sorted(names)
        return np.array(found, int), relevance[found], [names[place] for place in found]

    def _found(self) -> Iterator[tuple[str, list[list[str]]]]:
        """(key, lines) of each row that is there as a whole, and of which the table has not changed since."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.reader(line for line in file if line.endswith(("\n", "\r")))  # the last may have been cut off
            if tuple(next(rows, ())) != self.header:
                return
            for cell, group in itertools.groupby(rows, key=lambda row: row[0] if row else ""):
                key, lines = from_cell(cell, PATH), list(group)
                whole = len(lines) == self.count and all(len(line) == len(self.header) for line in lines)
                if whole and key in self.places and {line[3] for line in lines} == {self._checksum(self.places[key])}:
                    yield key, lines

    def _checksum(self, row: int) -> str:
        """Of the numbers of a row, so that a run that is resumed sees where the table has changed."""
        return f"{zlib.crc32(np.ascontiguousarray(self.table.values[row]).tobytes()):08x}"

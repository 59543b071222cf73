"""The relevance of all rows of a table on disk: `NAME.relevance.csv`, a column for each feature."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lrp_tf.gallery import ledger
from lrp_tf.gallery.ledger import PATH, CsvTable, from_cell, to_cell
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
        self.file = CsvTable(path, self.header, {}, append=True)

    def __enter__(self) -> Store:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.file.__exit__(*error)

    def add(self, row: int, targets: Sequence[tuple[object, object]], maps: np.ndarray) -> None:
        """Append the relevance [k, F] of a row, with number and name of each target."""
        key, checksum = to_cell(self.table.key(row), PATH), self._checksum(row)
        self.file.add([
            (key, target, to_cell(str(name)), checksum, *(f"{value:.9g}" for value in relevance))
            for (target, name), relevance in zip(targets, maps, strict=True)
        ])  # fmt: skip

    def finished(self) -> set[str]:
        """Keys of the rows whose relevance an earlier run wrote, if the table still holds the same numbers there."""
        return set(self._found())

    def keep(self, keys: Mapping[str, object]) -> None:
        """Leave out all rows but these."""
        kept = [line for key, lines in self._found().items() if key in keys for line in lines]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ledger.write_text(self.path, ledger.to_csv([self.header, *kept]))

    def read(self) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """All that is there, in the order of the table: indices of rows [M], relevance [M, k, F], names of targets."""
        places = {self.table.key(i): i for i in range(len(self.table.labels))}
        found = sorted((places[key], lines) for key, lines in self._found().items())
        relevance = np.array([[line[len(_AHEAD) :] for line in lines] for _, lines in found], np.float64)
        names = [[from_cell(line[2]) if line[2] != line[1] else f"class {line[1]}" for line in lines]
                 for _, lines in found]  # fmt: skip
        return np.array([i for i, _ in found], int), relevance, names

    def _found(self) -> dict[str, list[list[str]]]:
        """Key of a row -> its lines, for rows that are there as a whole, unchanged since."""
        if not self.path.exists():
            return {}
        lines = ledger.complete_rows(self.path, len(self.header))
        if not lines or tuple(lines[0]) != self.header:
            return {}
        by_key: dict[str, list[list[str]]] = {}
        for line in lines[1:]:
            by_key.setdefault(from_cell(line[0], PATH), []).append(line)
        places = {self.table.key(i): i for i in range(len(self.table.labels))}
        return {
            key: rows
            for key, rows in by_key.items()
            if key in places and len(rows) == self.count and {row[3] for row in rows} == {self._checksum(places[key])}
        }

    def _checksum(self, row: int) -> str:
        """Of the numbers of a row, so that a run that is resumed sees where the table has changed."""
        return f"{zlib.crc32(np.ascontiguousarray(self.table.values[row]).tobytes()):08x}"

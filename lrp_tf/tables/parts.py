"""What a run over tables writes, and where: names of rows and of what belongs to a table as a whole."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.gallery import ledger
from lrp_tf.gallery.draw import numbered
from lrp_tf.gallery.ledger import COLUMNS
from lrp_tf.gallery.names import Names
from lrp_tf.gallery.tiles import kept as tiles_of
from lrp_tf.tables.draw import draw_whole
from lrp_tf.tables.files import Table
from lrp_tf.tables.store import Store


class Part:
    """What a run writes of one table: `base` is its path without suffix.

    Args:
        out: folder of the results.
        base: of the table's results, below the folder.
        count: targets of each row.
    """

    def __init__(self, out: Path, table: Table, base: str, count: int) -> None:
        self.table, self.name, self.base, self.count = table, base, out / base, count
        self.store = Store(out / f"{base}.relevance.csv", table, count)


class Layout:
    """The names of all that a run over tables writes.

    Args:
        out: folder of the results.
        places: key of a row -> its table and its number there, None for a file that is no table.
        rows: how many of a table are drawn.
        count: targets of each row.
        form: suffix of the pictures, without the dot.
        tiled: rows that are drawn have small pictures for a page, too.
    """

    def __init__(
        self,
        out: Path,
        tables: Sequence[Table],
        places: Mapping[str, tuple[Table, int | None]],
        rows: int,
        count: int,
        form: str,
        tiled: bool,
    ) -> None:
        self.out, self.tables, self.places, self.rows, self.count = out, tables, places, rows, count
        self.form, self.tiled = form, tiled
        self.suffixes = [f"{number}.{form}" for number in numbered(count)]
        self.parts = self._parts()
        self.bases = self._bases()

    def _parts(self) -> dict[str, Part]:
        """Path of a table -> what is written of it; files that are no tables have nothing."""
        pictures = [f".{what}{number}.{self.form}" for what in ("mean", "beeswarm") for number in numbered(self.count)]
        names = Names([*pictures, ".relevance.csv", ".relevance.npy"])
        names.spare(self.out, [table.path for table in self.tables])
        tables = {table.path: table for table in self.tables if table.labels}
        return {
            path: Part(self.out, table, names.new(path, table.relative or Path(path).name), self.count)
            for path, table in tables.items()
        }

    def _bases(self) -> dict[str, str]:
        """Key of a row -> the path of its picture below the folder of results, without suffix."""
        names = Names(self.suffixes)
        names.spare(self.out, [table.path for table in self.tables])
        found = {}
        for key, (table, row) in self.places.items():
            if row is None:
                found[key] = Path(table.path).stem
            else:
                label = re.sub(r"[^\w.+-]+|^\.", "_", table.labels[row])
                found[key] = names.new(key, f"{self.parts[table.path].name}/{label}.csv")
        return found

    def stored(self) -> set[str]:
        """Keys of the rows of which an earlier run left all: lines of results, relevance, and pictures if any."""
        results = self.out / ledger.RESULTS
        lines = ledger.complete_rows(results, len(COLUMNS))[1:] if results.exists() else []
        counts = collections.Counter(ledger.from_cell(line[0], ledger.PATH) for line in lines)

        def drawn(key: str) -> bool:
            base = self.out / self.bases[key]
            tiles = not self.tiled or tiles_of(self.out, key) is not None
            return not self._pictured(key) or (tiles and all(Path(f"{base}{end}").exists() for end in self.suffixes))

        stored = {key for part in self.parts.values() for key in part.store.finished()}
        return {key for key in stored if counts[key] == self.count and drawn(key)}

    def _pictured(self, key: str) -> bool:
        _, row = self.places[key]
        return row is not None and row < self.rows


@dataclasses.dataclass(frozen=True)
class Wholes:
    """Writes what belongs to a table as a whole.

    Attributes:
        form: suffix of the pictures, without the dot.
        rather: what targets are set against, in titles.
        save: write the relevance as an array, too.
    """

    form: str
    rather: str
    save: bool

    def write(self, part: Part) -> None:
        """The pictures of a whole table, of all rows that have a result."""
        places, relevance, classes = part.store.read()
        if not len(places):
            return
        table = part.table
        draw_whole(part.base, relevance, table.values[places], classes, self.rather, table, self.form)
        if self.save:
            whole = np.full((len(table.labels), *relevance.shape[1:]), np.nan, np.float32)
            whole[places] = relevance
            saved = whole if part.count > 1 else whole[:, 0]
            atomic(Path(f"{part.base}.relevance.npy"), lambda path: np.save(path, saved))

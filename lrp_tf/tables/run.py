"""`TableGallery`: explains the rows of tables, draws them and the whole, and keeps the tables of `lrp_tf.gallery`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from lrp_tf.arrays.form import array_form
from lrp_tf.atomic import atomic
from lrp_tf.files.errors import ImageError, LoadError
from lrp_tf.gallery import ledger
from lrp_tf.gallery.draw import numbered
from lrp_tf.gallery.explain import Explained, Explaining, Failed
from lrp_tf.gallery.layers import LayerTable
from lrp_tf.gallery.ledger import COLUMNS, Item, Record, Row
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.page.results import write_about
from lrp_tf.gallery.run import Gallery
from lrp_tf.gallery.tally import Listener, Outcome, Tally, targets_of
from lrp_tf.gallery.tiles import keep
from lrp_tf.gallery.tiles import kept as tiles_of
from lrp_tf.tables.draw import draw_row, draw_whole, row_tiles
from lrp_tf.tables.files import ALL, Choice, Table, read
from lrp_tf.tables.store import Store
from lrp_tf.tables.stream import RowStream

ROWS = 20  # of a table have a picture


@dataclasses.dataclass(frozen=True)
class TableGallery(Gallery):
    """A gallery of tables, in which every row is a sample.

        table = lrp_tf.tables.read("patients.csv", 30)
        lrp_tf.tables.TableGallery(explainer, loading.get_preprocessing("none"), "results", tables=(table,)).run()

    For `patients.csv` it writes `patients/1.png` with the bars of the first row and so on, `patients.mean.png`,
    `patients.beeswarm.png` and `patients.relevance.csv`, beside the tables of every gallery.

    The other attributes are those of `Gallery`; `size`, `how`, `max_pixels`, `save_layers` and what `look` holds beside
    its format are those of other files alone. `save_relevance` writes `patients.relevance.npy`, [N, F] or [N, k, F],
    with NaN for rows that failed.

    Attributes:
        tables: see `read` and `read_all`.
        rows: how many rows of each table are drawn; the first ones.

    Raises:
        ValueError: see `Look.check`.
    """

    tables: tuple[Table, ...] = ()
    rows: int = ROWS

    @property
    def at(self) -> str:
        """Where relevance arrives, in words."""
        return RowStream.at

    def run(
        self,
        files: Iterable[tuple[str, str]] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Callable[[int], object] = lambda done: None,
        tell: Callable[[str], object] = lambda line: None,
        finished: Callable[[list[Row]], object] = lambda rows: None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Outcome:
        """Explain the rows of all tables. See `Gallery.run`, which counts files where this counts rows.

        Args:
            files: pairs as `listed` gives them; None: all.

        Raises:
            LoadError: the model takes several inputs, gives no classes, or takes whole numbers and there is a
                preprocessing; and see `Gallery.run`.
        """
        with ledger.only_run(self.out):
            rows = list(listed(self.tables) if files is None else files)
            outcome = _Run(self, rows, Listener(progress, tell, finished, warn)).run(resume, overwrite)
            if self.page:
                write_page(self.out)
            return outcome


def read_all(
    files: Iterable[tuple[str, str]],
    features: int | None,
    choice: Choice = ALL,
    describe: Callable[[Exception], str] = str,
) -> tuple[Table, ...]:
    """The tables in files, pairs as `images.find` gives them. One that is no table has a `reason` and no rows."""
    found = []
    for path, relative in files:
        try:
            table = read(path, features, choice)
        except ImageError as error:
            table = Table(path, (), np.empty((0, 0)), (), reason=describe(error))
        found.append(table._replace(relative=relative))
    return tuple(found)


def listed(tables: Iterable[Table]) -> list[tuple[str, str]]:
    """(key, path of its table) of each row; of a file that is no table, its own path twice."""
    return [
        (key, table.path)
        for table in tables
        for key in ([table.path] if table.reason else map(table.key, range(len(table.labels))))
    ]


class _Part:
    """What a run writes of one table."""

    def __init__(self, gallery: Gallery, table: Table, base: str, count: int) -> None:
        self.table, self.base = table, base
        self.store = Store(gallery.out / f"{base}.relevance.csv", table, count)


class _Run:
    """One run: plan, explain, draw, record."""

    def __init__(
        self,
        gallery: TableGallery,
        files: list[tuple[str, str]],
        listener: Listener,
    ) -> None:
        self.gallery, self.files, self.listener = gallery, files, listener
        form = array_form(gallery.explainer.graph)
        if gallery.preprocessing.name != "none" and not tf.as_dtype(form.dtype).is_floating:
            raise LoadError(f"The model takes whole numbers ({form.dtype}). Expected `preprocess` none", "preprocess")
        self.rows: dict[str, tuple[Table, int | None]] = {}
        for table in gallery.tables:
            self.rows |= {table.key(i): (table, i) for i in range(len(table.labels))}
            if table.reason:
                self.rows[table.path] = (table, None)
        self.stream = RowStream(self.rows, form, gallery.preprocessing, gallery.batch, gallery.describe)
        self.explaining = Explaining(
            *(gallery.explainer, gallery.targets, gallery.classes, self.stream, gallery.contrast, gallery.layers)
        )
        self.suffixes = [f"{number}.{gallery.look.format}" for number in numbered(self.explaining.count)]
        self.tiled = gallery.page or gallery.tiles
        self.parts = self._parts()
        self.bases = self._bases()

    def run(self, resume: bool, overwrite: bool) -> Outcome:
        gallery = self.gallery
        stored = self._stored() if resume else set()
        files = [(key, f"{self.bases[key]}.csv") for key, _ in self.files]
        kept = [table.path for table in gallery.tables]
        plan = ledger.plan(
            gallery.out,
            files,
            [],  # not every row has a picture, see `_stored`
            gallery.settings,
            resume=resume,
            overwrite=overwrite,
            kept=kept,
            whole=stored.__contains__,
        )
        if self.tiled:
            about = gallery.about(self.explaining.rather, self.suffixes)
            write_about(gallery.out, about | {"tables": kept})
        for part in self.parts.values():
            part.store.keep(plan.finished)
        with contextlib.ExitStack() as stack:
            record = stack.enter_context(Record(gallery.out, append=resume))
            for part in self.parts.values():
                stack.enter_context(part.store)
            layers = stack.enter_context(LayerTable(gallery.out, plan.finished)) if gallery.layers else None
            tally = Tally(self.listener, record, layers)
            self.listener.progress(plan.skipped)
            for found in self.explaining([item.path for item in plan.items]):
                self._settle(tally, plan.items[found.number], found)
        for part in self.parts.values():
            self._finish(part)
        return tally.outcome(plan.skipped, self.stream.low, self.stream.high)

    def _parts(self) -> dict[str, _Part]:
        """Path of a table -> what is written of it; files that are no tables have nothing."""
        count, form = self.explaining.count, self.gallery.look.format
        pictures = [f".{what}{number}.{form}" for what in ("mean", "beeswarm") for number in numbered(count)]
        names = ledger.Names([*pictures, ".relevance.csv", ".relevance.npy"])
        names.spare(self.gallery.out, [table.path for table in self.gallery.tables])
        tables = {table.path: table for table in self.gallery.tables if table.labels}
        return {
            path: _Part(self.gallery, table, names.new(path, table.relative or Path(path).name), count)
            for path, table in tables.items()
        }

    def _bases(self) -> dict[str, str]:
        """Key of a row -> the path of its picture below the folder of results, without suffix."""
        names = ledger.Names(self.suffixes)
        names.spare(self.gallery.out, [table.path for table in self.gallery.tables])
        found = {}
        for key, (table, row) in self.rows.items():
            if row is None:
                found[key] = Path(table.path).stem
            else:
                label = re.sub(r"[^\w.+-]+|^\.", "_", table.labels[row])
                found[key] = names.new(key, f"{self.parts[table.path].base}/{label}.csv")
        return found

    def _stored(self) -> set[str]:
        """Keys of the rows of which an earlier run left all: lines of results, relevance, and pictures if any."""
        results = self.gallery.out / ledger.RESULTS
        lines = ledger.complete_rows(results, len(COLUMNS))[1:] if results.exists() else []
        counts = collections.Counter(ledger.from_cell(line[0], ledger.PATH) for line in lines)

        def drawn(key: str) -> bool:
            base = self.gallery.out / self.bases[key]
            tiles = not self.tiled or tiles_of(self.gallery.out, key) is not None
            return not self._pictured(key) or (tiles and all(Path(f"{base}{end}").exists() for end in self.suffixes))

        stored = {key for part in self.parts.values() for key in part.store.finished()}
        return {key for key in stored if counts[key] == self.explaining.count and drawn(key)}

    def _pictured(self, key: str) -> bool:
        _, row = self.rows[key]
        return row is not None and row < self.gallery.rows

    def _settle(self, tally: Tally, item: Item, found: Explained | Failed) -> None:
        """Draw a row, then record it."""
        table, row = self.rows[item.path]
        if isinstance(found, Failed) or row is None:
            tally.fail(item, found.reason if isinstance(found, Failed) else table.reason)
            return
        try:
            if not np.isfinite(found.maps).all():
                raise ValueError("its relevance holds NaN or Inf. Remedy: `report` tells where it begins")
            if self._pictured(item.path):
                titles = found.titles
                draw_row(self.gallery.out / item.base, found.maps, titles, table, row, self.gallery.look.format)
                if self.tiled:
                    keep(self.gallery.out, item.path, row_tiles(found.maps, table, row))
        except (OSError, ValueError) as error:
            tally.fail(item, ledger.why_unwritten(error, self.gallery.describe))
            return
        item = item if self._pictured(item.path) else item._replace(base="")
        targets = targets_of([(item.path, item.base, *cells) for cells in found.rows])
        self.parts[table.path].store.add(row, targets, found.maps)
        tally.add(item, found)

    def _finish(self, part: _Part) -> None:
        """The pictures of a whole table, of all rows that have a result."""
        places, relevance, classes = part.store.read()
        if not len(places):
            return
        table, base = part.table, self.gallery.out / part.base
        rather = self.explaining.rather
        draw_whole(base, relevance, table.values[places], classes, rather, table, self.gallery.look.format)
        if self.gallery.save_relevance:
            whole = np.full((len(table.labels), *relevance.shape[1:]), np.nan, np.float32)
            whole[places] = relevance
            saved = whole if self.explaining.count > 1 else whole[:, 0]
            atomic(Path(f"{base}.relevance.npy"), lambda path: np.save(path, saved))

"""`TableGallery`: explains the rows of tables, draws them and the whole, and keeps the tables of `lrp_tf.gallery`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.arrays.form import array_form
from lrp_tf.files.errors import ImageError, LoadError
from lrp_tf.gallery import ledger
from lrp_tf.gallery.explain import Explained, Explaining, Failed
from lrp_tf.gallery.finished import Finished, targets_of
from lrp_tf.gallery.layers import rows_of
from lrp_tf.gallery.ledger import Item, Row, RunPlan
from lrp_tf.gallery.page.results import write_about
from lrp_tf.gallery.run import Gallery
from lrp_tf.gallery.tally import Listener, Outcome, Recording
from lrp_tf.gallery.tiles import keep
from lrp_tf.tables.draw import draw_row, row_tiles
from lrp_tf.tables.files import ALL, Choice, Table, read
from lrp_tf.tables.parts import Layout, Wholes
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
        shard: tuple[int, int] | None = None,
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
        rows = listed(self.tables) if files is None else files
        told = (progress, tell, finished, warn)
        return self._run(rows, resume, overwrite, shard, Listener(*told))

    def explain(
        self, items: Sequence[Item], *, scale: float | None = None, relevance: bool = False
    ) -> Iterator[Finished]:
        """See `Gallery.explain`. Items are rows; relevance is always given, since `record` keeps it; no `scale`."""
        return self._explained(items, self._rows_explaining())

    def _rows_explaining(self) -> Explaining:
        form = array_form(self.explainer.graph)
        if self.preprocessing.name != "none" and not tf.as_dtype(form.dtype).is_floating:
            raise LoadError(f"The model takes whole numbers ({form.dtype}). Expected `preprocess` none", "preprocess")
        stream = RowStream(self._places(), form, self.preprocessing, self.batch, self.describe)
        return Explaining(self.explainer, self.targets, self.classes, stream, self.contrast, self.layers)

    def _places(self) -> dict[str, tuple[Table, int | None]]:
        """Key of a row -> its table, and its number there; a file that is no table has no row."""
        found: dict[str, tuple[Table, int | None]] = {}
        for table in self.tables:
            found |= {table.key(i): (table, i) for i in range(len(table.labels))}
            if table.reason:
                found[table.path] = (table, None)
        return found

    def _explained(self, items: Sequence[Item], explaining: Explaining) -> Iterator[Finished]:
        places, stream = self._places(), explaining.stream
        for found in explaining([item.path for item in items]):
            item = items[found.number]
            table, row = places[item.path]
            told: tuple[list[Row], str | None, list[Row], np.ndarray | None]
            if isinstance(found, Failed) or row is None:
                told = ([], found.reason if isinstance(found, Failed) else table.reason, [], None)
            else:
                told = self._drawn(item, found, table, row)
            rows, reason, of_layers, maps = told
            yield Finished(item, rows, reason, of_layers, stream.low, stream.high, maps)

    def _drawn(
        self, item: Item, found: Explained, table: Table, row: int
    ) -> tuple[list[Row], str | None, list[Row], np.ndarray | None]:
        """Draw a row, if it is one that is drawn: what is recorded of it, or the reason why there is no picture."""
        pictured = row < self.rows
        try:
            if not np.isfinite(found.maps).all():
                raise ValueError("its relevance holds NaN or Inf. Remedy: `report` tells where it begins")
            if pictured:
                draw_row(self.out / item.base, found.maps, found.titles, table, row, self.look.format)
                if self._tiled:
                    keep(self.out, item.path, row_tiles(found.maps, table, row))
        except (OSError, ValueError) as error:
            return [], ledger.why_unwritten(error, self.describe), [], None
        named = item if pictured else item._replace(base="")
        rows: list[Row] = [(named.path, named.base, *cells) for cells in found.rows]
        of_layers = rows_of(named, targets_of(rows), found.layers) if found.layers is not None else []
        return rows, None, of_layers, found.maps

    def _layout(self) -> Layout:
        explaining = self._rows_explaining()
        return Layout(self.out, self.tables, self._places(), self.rows, explaining.count, self.look.format, self._tiled)

    def _locked(self, shard: tuple[int, int] | None, overwrite: bool) -> contextlib.AbstractContextManager[None]:
        if shard is not None:
            raise LoadError(
                "`shard` is for photographs and arrays: the pictures of a table as a whole need all of its rows. "
                "Expected tables without it. Remedy: a run for each table, with an `out` of its own",
                ("shard", "out"),
            )
        return super()._locked(shard, overwrite)

    def _planned(
        self, files: Sequence[tuple[str, str]], resume: bool, overwrite: bool, shard: tuple[int, int] | None
    ) -> RunPlan:
        layout = self._layout()
        stored = layout.stored() if resume else set()
        kept = [table.path for table in self.tables]
        plan = ledger.plan(
            self.out,
            [(key, f"{layout.bases[key]}.csv") for key, _ in files],
            [],  # not every row has a picture, see `Layout.stored`
            self.settings,
            resume=resume,
            overwrite=overwrite,
            kept=kept,
            whole=stored.__contains__,
        )
        if self._tiled:
            about = self.about(self._rows_explaining().rather, layout.suffixes)
            write_about(self.out, about | {"tables": kept})
        return plan

    def _recording(
        self, plan: RunPlan, listener: Listener, around: contextlib.AbstractContextManager[object]
    ) -> Recording:
        wholes = Wholes(self.look.format, self._rows_explaining().rather, self.save_relevance)
        told = (self.out, plan, listener, bool(self.layers), around, self._complete)
        return RowRecording(self._layout(), wholes, *told)


class RowRecording(Recording):
    """The tables of a run over rows: beside those of every run the relevance of each table, and pictures of it.

    Args:
        layout: what is written where. wholes: draws what belongs to a table as a whole.
    """

    def __init__(self, layout: Layout, wholes: Wholes, *rest: Any) -> None:
        super().__init__(*rest)
        self.layout, self.wholes = layout, wholes

    def _open(self, stack: contextlib.ExitStack) -> None:
        for part in self.layout.parts.values():
            part.store.keep(self.plan.finished)
        super()._open(stack)
        for part in self.layout.parts.values():
            stack.enter_context(part.store)

    def _add_rows(self, finished: Finished) -> None:
        table, row = self.layout.places[finished.item.path]
        assert row is not None  # a file that is no table has a reason
        assert finished.relevance is not None  # as `TableGallery.explain` gives it
        self.layout.parts[table.path].store.add(row, finished.targets, finished.relevance)
        super()._add_rows(finished)

    def _finish(self) -> None:
        for part in self.layout.parts.values():
            self.wholes.write(part)
        super()._finish()


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

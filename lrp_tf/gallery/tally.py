"""What a run records of each file, whatever its kind: rows, failures, warnings, and who is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.layers import LayerTable
from lrp_tf.gallery.ledger import Record, Row, RunPlan
from lrp_tf.terminal import printable


class Outcome(NamedTuple):
    """What became of the files.

        outcome = gallery.run(images.find(["photos"]))
        print(outcome.done, outcome.failed)

    Attributes:
        done, failed: files with and without a result.
        skipped: files that an earlier run finished.
        low, high: the range of the values that were fed to the model.
        scale: the |R| of full colour, if `Look.scale` is "run".
        absurd: maps that are not to be trusted, see `lrp_tf.RelevanceWarning`.
    """

    done: int
    failed: int
    skipped: int
    low: float
    high: float
    scale: float | None = None
    absurd: int = 0


class Listener(NamedTuple):
    """The functions that are called during a run, see `Gallery.run`."""

    progress: Callable[[int], object] = lambda done: None
    tell: Callable[[str], object] = lambda line: None
    finished: Callable[[list[Row]], object] = lambda rows: None
    warn: Callable[[str], object] = lambda line: None


class Recording:
    """The tables of a run, open to add what is finished. Use it as a context manager.

        plan = gallery.plan(images.find(["photos"]))
        with gallery.record(plan) as record:
            for finished in gallery.explain(plan.items):
                record.add(finished)
        print(record.outcome().done)

    Args:
        folder: of the tables.
        plan: see `Gallery.plan`.
        listener: who is told.
        layers: there is a table of layers, too.
        around: is entered first and left last: the lock of the folder, say.
        complete: called after all files were added, with the tables closed.
    """

    def __init__(
        self,
        folder: Path,
        plan: RunPlan,
        listener: Listener,
        layers: bool,
        around: contextlib.AbstractContextManager[object],
        complete: Callable[[], object],
    ) -> None:
        self.folder, self.plan, self.listener, self.layers = folder, plan, listener, layers
        self.done = self.failed = self.absurd = 0
        self.low, self.high = np.inf, -np.inf
        self._known = {*plan.finished}
        self._around, self._complete = around, complete

    def __enter__(self) -> Recording:
        with contextlib.ExitStack() as around:
            around.enter_context(self._around)
            with contextlib.ExitStack() as tables:
                self._open(tables)
                self._tables = tables.pop_all()
            self._whole = around.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._whole:
            self._tables.close()
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        """What follows when all files are recorded, with the tables closed."""
        self._complete()

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Open the tables."""
        self._record = stack.enter_context(Record(self.folder, append=self.plan.resumed))
        self._layers = stack.enter_context(LayerTable(self.folder, self.plan.finished)) if self.layers else None

    def add(self, finished: Finished) -> bool:
        """Record one file: its rows, or the reason why it has none. Its pictures are written already.

        Returns:
            False, and nothing is written, where the file is recorded already: work that was done twice counts once.
        """
        if finished.item.path in self._known:
            return False
        self._known.add(finished.item.path)
        self.low, self.high = min(self.low, finished.low), max(self.high, finished.high)
        path = finished.item.path
        if finished.reason is not None:
            self._record.fail(path, finished.reason)
            self.listener.tell(f"{path!r}: {finished.reason}")
            self.failed += 1
        else:
            self._add_rows(finished)
            self.listener.finished(finished.rows)
            for name, warning in finished.warnings:
                self.absurd += 1
                self.listener.warn(f"{path!r}, {printable(name)}: {warning}")
            self.done += 1
        self.listener.progress(1)
        return True

    def _add_rows(self, finished: Finished) -> None:
        """The row of results comes last: it tells that all else is there."""
        if self._layers is not None and finished.layers:
            self._layers.add(finished.layers)
        self._record.add(finished.rows)

    def outcome(self, scale: float | None = None) -> Outcome:
        """What became of the files so far. `scale`: the |R| of full colour of the whole run."""
        return Outcome(self.done, self.failed, self.plan.skipped, float(self.low), float(self.high), scale, self.absurd)

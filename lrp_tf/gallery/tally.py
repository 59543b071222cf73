"""What a run records of each file, whatever its kind: rows, failures, warnings, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lrp_tf.gallery.explain import Explained
from lrp_tf.gallery.layers import LayerTable
from lrp_tf.gallery.ledger import COLUMNS, Item, Record, Row
from lrp_tf.terminal import printable

_TARGET, _NAME, _WARNING = (COLUMNS.index(name) for name in ("target", "target_name", "warning"))


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

    progress: Callable[[int], object]
    tell: Callable[[str], object]
    finished: Callable[[list[Row]], object]
    warn: Callable[[str], object]


class Tally:
    """Records what becomes of each file, tells it, and counts.

    Args:
        of_layers: the table of layers, if some were asked for.
    """

    def __init__(self, listener: Listener, record: Record, of_layers: LayerTable | None) -> None:
        self.listener, self.record, self.of_layers = listener, record, of_layers
        self.done = self.failed = self.absurd = 0

    def add(self, item: Item, found: Explained) -> None:
        """Record a file whose pictures are written."""
        rows: list[Row] = [(item.path, item.base, *row) for row in found.rows]
        if self.of_layers is not None and found.layers is not None:
            self.of_layers.add(item, targets_of(rows), found.layers)
        self.record.add(rows)
        self.listener.finished(rows)
        for row in rows:
            if row[_WARNING]:
                self.absurd += 1
                self.listener.warn(f"{item.path!r}, {printable(row[_NAME])}: {row[_WARNING]}")
        self.done += 1
        self.listener.progress(1)

    def fail(self, item: Item, reason: str) -> None:
        """Record a file without a result."""
        self.record.fail(item.path, reason)
        self.listener.tell(f"{item.path!r}: {reason}")
        self.failed += 1
        self.listener.progress(1)

    def outcome(self, skipped: int, low: float, high: float, scale: float | None = None) -> Outcome:
        """See `Outcome`."""
        return Outcome(self.done, self.failed, skipped, float(low), float(high), scale, self.absurd)


def targets_of(rows: Sequence[Row]) -> list[tuple[object, object]]:
    """Number and name of the target of each row of the table of results."""
    return [(row[_TARGET], row[_NAME]) for row in rows]

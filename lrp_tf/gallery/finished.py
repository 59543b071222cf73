"""What became of one file: plain data, which may travel from the process that explains to the one that records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrp_tf.gallery.ledger import COLUMNS, Item, Row

_TARGET, _NAME, _WARNING = (COLUMNS.index(name) for name in ("target", "target_name", "warning"))


class Finished(NamedTuple):
    """One file, whose pictures are written, or the reason why there are none. It pickles.

        plan = gallery.plan(images.find(["photos"]))
        for finished in gallery.explain(plan.items):
            print(finished.item.path, finished.reason or len(finished.rows))

    Attributes:
        item: the file, and the path of its results.
        rows: of `results.csv`, one for each target, see `ledger.COLUMNS`; none without a result.
        reason: why there is no result; None if there is one.
        layers: rows of `layers.csv`.
        low, high: the range of the values that were fed to the model so far.
        relevance: float32 [k, ...] of the model's input, channels last; None unless it was asked for.
    """

    item: Item
    rows: list[Row]
    reason: str | None = None
    layers: list[Row] = []  # noqa: RUF012 - never changed
    low: float = np.inf
    high: float = -np.inf
    relevance: np.ndarray | None = None

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """(name of the target, what is absurd) of each map that is not to be trusted."""
        return [(str(row[_NAME]), str(row[_WARNING])) for row in self.rows if row[_WARNING]]

    @property
    def targets(self) -> list[Row]:
        """Number and name of the target of each row."""
        return targets_of(self.rows)


def targets_of(rows: list[Row]) -> list[Row]:
    """Number and name of the target of each row of the table of results."""
    return [(row[_TARGET], row[_NAME]) for row in rows]

"""The features that metrics remove, one by one or in sets, and what takes their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate import fills
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.regions import Grid

# At most this many steps where features are removed one after another, unless the caller says how many at once.
STEPS = 100


def rows(indices: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` features each row of indices [B, n] names, bool [B, count]."""
    found = np.zeros((len(indices), count), bool)
    np.put_along_axis(found, indices, True, axis=1)
    return found


def bounded(name: str, value: int, most: int, which: str) -> int:
    """The value.

    Raises:
        ValueError: it is not in 1 to `most`; the message says which limit that is.
    """
    if not is_whole(value):
        raise ValueError(f"{name} expects a whole number from 1 to {most}, {which}. Received: {value!r}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} expects 1 to {most}, {which}. Received: {value}")
    return int(value)


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a case's samples: regions of a grid, by default of 1/28 of the shorter side as for `perturb`.

    Attributes:
        relevance: of each feature, summed over its positions and channels, float64 [B, N].
        filler: fills what is not kept, see `fills.Filler`.
    """

    case: Case
    grid: Grid
    relevance: np.ndarray
    filler: fills.Filler

    @classmethod
    def of(cls, case: Case, fill: fills.FillLike = "black", region: int | tuple[int, ...] | None = None) -> Features:
        """The regions of a grid, see `Grid.of`; each feature of samples [B, F] is a region of its own.

        Raises:
            ValueError: a region beyond the input; an unknown fill, or one that the samples cannot have.
        """
        x, axis, neighbours = case.x, case.channel_axis, case.x.ndim > 2
        last = np.ascontiguousarray(x[..., None] if axis is None else np.moveaxis(x, axis, -1))
        samples = fills.Samples(last, neighbours, case.seed, case.ids)
        filler = fills.get(fill, neighbours=neighbours, channel_axis=axis).filler(samples)
        grid = Grid.of(last.shape[1:-1], region if neighbours or region is not None else 1)
        return cls(case, grid, grid.pooled(case.positions), filler)

    @property
    def count(self) -> int:
        """How many there are in a sample."""
        return self.relevance.shape[1]

    def size(self, name: str, size: int) -> int:
        """A number of features that are removed at once.

        Raises:
            ValueError: fewer than one, more than there are.
        """
        return bounded(name, size, self.count, "as many features as there are")

    def steps(self, order: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
        """Groups of `size` features in an order [B, N], each [B, size], the last one perhaps smaller.

        Args:
            size: by default as many as it takes for at most 100 steps.
        """
        size = self.size("features_in_step", -(-self.count // STEPS) if size is None else size)
        return (order[:, first : first + size] for first in range(0, self.count, size))

    def random(self, generators: Sequence[np.random.Generator], size: int) -> np.ndarray:
        """`size` random features for each sample, [B, size]."""
        return np.stack([g.choice(self.count, size, replace=False) for g in generators])

    def keeping(self, keep: np.ndarray) -> np.ndarray:
        """x with the positions that are not kept (bool [B, *positions]) filled."""
        found, axis = self.filler(keep), self.case.channel_axis
        return found[..., 0] if axis is None else np.moveaxis(found, -1, axis)

    def without(self, removed: np.ndarray) -> np.ndarray:
        """x with the removed features, bool [B, N], filled."""
        return self.keeping(self.grid.spread(~removed))

    def set_to(self, values: np.ndarray, removed: np.ndarray) -> np.ndarray:
        """x with the removed features, bool [B, N], set to values that broadcast to x."""
        return self.case.at(self.grid.spread(~removed), self.case.x, values)

    def effects(self, groups: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Relevance of each group of features [B, n], and by how much the score falls without it; both [B, groups]."""
        totals, drops = [], []
        for group in groups:
            totals.append(np.take_along_axis(self.relevance, group, axis=1).sum(axis=1))
            drops.append(self.case.score - self.case.scores(self.without(rows(group, self.count))))
        return np.stack(totals, axis=1), np.stack(drops, axis=1)


def ascending(values: np.ndarray) -> np.ndarray:
    """Features from the least to the largest value of each row, [B, N]; equal values in the order of features."""
    return np.argsort(values, axis=1, kind="stable")

"""The features that metrics remove, one by one or in sets, and what takes their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from lrp_tf.evaluate.case import Case

# What takes the place of removed features: a word, see `fill_of`, or values.
Fill: TypeAlias = str | float | np.ndarray

FILLS = ("black", "white", "mean")

# At most this many steps where features are removed one after another, unless the caller says how many at once.
STEPS = 100


def fill_of(case: Case, fill: Fill) -> np.ndarray:
    """What takes the place of removed features, in x's dtype; broadcasts to x.

    Args:
        fill: "black", "white": each sample's least and largest value; "mean": its mean in each channel; a number or an
            array that broadcasts to x.

    Raises:
        ValueError: an unknown word; an array that does not broadcast, NaN or Inf.
    """
    x, inner = case.x, tuple(range(1, case.x.ndim))
    if isinstance(fill, str):
        places = tuple(axis for axis in inner if axis != case.channel_axis)
        if fill not in FILLS:
            raise ValueError(f"fill expects one of {list(FILLS)}, a number or an array. Received: {fill!r}")
        if fill == "mean":
            return x.mean(axis=places, keepdims=True)
        return x.min(axis=inner, keepdims=True) if fill == "black" else x.max(axis=inner, keepdims=True)
    values = np.asarray(fill, x.dtype)
    try:
        np.broadcast_to(values, x.shape)
    except ValueError as error:
        raise ValueError(f"fill expects an array that broadcasts to {x.shape}. Received: {values.shape}") from error
    if not np.isfinite(values).all():
        raise ValueError("fill expects finite values. Received: NaN or Inf")
    return values


def rows(indices: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` features each row of indices [B, n] names, bool [B, count]."""
    found = np.zeros((len(indices), count), bool)
    np.put_along_axis(found, indices, True, axis=1)
    return found


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a case's samples. Make them with `Features.of`.

    Attributes:
        relevance: of each feature, float64 [B, N].
        fill: broadcasts to x.
        entries: whether each entry of x is a feature, and not each position.
    """

    case: Case
    relevance: np.ndarray
    fill: np.ndarray
    entries: bool

    @classmethod
    def of(cls, case: Case, fill: Fill = "black", *, entries: bool = False) -> Features:
        """The positions (pixels, times, features) of a case's samples.

        Args:
            entries: each channel's entry is a feature of its own; relevance without channels counts for all of them.
        """
        found = case.positions
        if entries:
            found = case.relevance.astype(np.float64)
            if found.ndim < case.x.ndim and case.channel_axis is not None:
                found = np.broadcast_to(np.expand_dims(found, case.channel_axis), case.x.shape)
        return cls(case, found.reshape(len(case), -1), fill_of(case, fill), entries)

    @property
    def count(self) -> int:
        """How many there are in a sample."""
        return self.relevance.shape[1]

    def size(self, size: int | None, most: int, name: str) -> int:
        """How many features to remove at once; by default `most`.

        Raises:
            ValueError: fewer than one, more than there are.
        """
        size = most if size is None else size
        if not 1 <= size <= self.count:
            raise ValueError(f"{name} expects 1 to {self.count}, as many features as there are. Received: {size}")
        return size

    def steps(self, order: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
        """Groups of `size` features in an order [B, N], each [B, size], the last one perhaps smaller.

        Args:
            size: by default as many as it takes for at most 100 steps.
        """
        size = self.size(size, -(-self.count // STEPS), "features_in_step")
        for first in range(0, self.count, size):
            yield order[:, first : first + size]

    def order(self, values: np.ndarray) -> np.ndarray:
        """Features from the least to the largest value of each row, [B, N]; equal values in the order of features."""
        return np.argsort(values, axis=1, kind="stable")

    def random(self, generators: Sequence[np.random.Generator], size: int) -> np.ndarray:
        """`size` random features for each sample, [B, size]."""
        return np.stack([g.choice(self.count, size, replace=False) for g in generators])

    def without(self, removed: np.ndarray) -> np.ndarray:
        """x with the removed features, bool [B, N], filled."""
        return self.filled(removed, self.fill)

    def filled(self, removed: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """x with `fill` in the place of some features, bool [B, N]."""
        x = self.case.x
        if self.entries:
            return np.where(removed.reshape(x.shape), fill, x).astype(x.dtype)
        return self.case.at(~removed.reshape(self.case.positions.shape), x, fill)

    def effects(self, groups: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Relevance of each group of features [B, n], and by how much the score falls without it; both [B, groups]."""
        totals, drops = [], []
        for group in groups:
            totals.append(np.take_along_axis(self.relevance, group, axis=1).sum(axis=1))
            drops.append(self.case.score - self.case.scores(self.without(rows(group, self.count))))
        return np.stack(totals, axis=1), np.stack(drops, axis=1)

"""Where a picture is flipped: regions on a grid, their relevance, and which of them comes first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

ORDERS = ("morf", "lerf", "random")
POOLINGS = ("sum", "abs")

# Regions are 1/28 of a picture's side, as in the pixel flipping of R. Bermudez Schettino (github.com/rodrigobdz/lrp).
_SIDES = 28


@dataclasses.dataclass(frozen=True)
class Grid:
    """Positions cut into regions; those at the far borders are smaller if the sides do not divide.

    Attributes:
        shape: of the positions, such as (height, width), (time,) or (features,).
        region: sides of a region, one for each axis of positions.
    """

    shape: tuple[int, ...]
    region: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], region: int | tuple[int, ...] | None = None) -> Grid:
        """A grid of regions with that side, or with those sides; None: max(1, side // 28) of the shortest side.

        Raises:
            TypeError: sides that are no integers. ValueError: sides below 1, beyond the picture, or of another number.
        """
        if region is None:
            region = max(1, min(shape) // _SIDES)
        sides = tuple(region) if isinstance(region, Sequence) else (region,) * len(shape)
        if not all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides):
            raise TypeError(f"region expects an integer, or one for each of {len(shape)} axes. Received: {region!r}")
        if len(sides) != len(shape):
            raise ValueError(f"region expects a side for each of {len(shape)} axes. Received: {region!r}")
        if any(not 1 <= side <= full for side, full in zip(sides, shape, strict=True)):
            raise ValueError(f"region expects sides from 1 to those of the input, {shape}. Received: {region!r}")
        return cls(shape, tuple(int(side) for side in sides))

    @property
    def sides(self) -> tuple[int, ...]:
        """How many regions there are on each axis."""
        return tuple(-(-full // side) for full, side in zip(self.shape, self.region, strict=True))

    @property
    def size(self) -> int:
        """How many regions there are."""
        return math.prod(self.sides)

    def pooled(self, values: np.ndarray) -> np.ndarray:
        """Sum over each region: [B, *shape] -> float64 [B, size]."""
        values = values.astype(np.float64)
        for axis, (full, side) in enumerate(zip(self.shape, self.region, strict=True), start=1):
            values = np.add.reduceat(values, np.arange(0, full, side), axis=axis)
        return values.reshape(len(values), -1)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """The value of its region at each position: [B, size] -> [B, *shape]."""
        values = values.reshape(-1, *self.sides)
        for axis, (full, side) in enumerate(zip(self.shape, self.region, strict=True), start=1):
            values = values.repeat(side, axis=axis).take(np.arange(full), axis=axis)
        return values


def pooled(relevance: np.ndarray, grid: Grid, pooling: str = "sum") -> np.ndarray:
    """Relevance of each region, float64 [B, size], of relevance [B, *positions] or [B, *positions, C].

    Args:
        pooling: "sum" over channels and region; "abs": of |R|, for maps whose signs cancel within a region.

    Raises:
        ValueError: another pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling expects one of {POOLINGS}. Received: {pooling!r}")
    values = relevance.astype(np.float64)
    if pooling == "abs":
        values = np.abs(values)
    return grid.pooled(values if values.ndim == len(grid.shape) + 1 else values.sum(axis=-1))


def ranks(values: np.ndarray, order: str, generators: list[np.random.Generator]) -> np.ndarray:
    """When each region is flipped: int32 [B, size], 0 for the first.

    Equal regions come in random order, by each sample's generator: a constant map is flipped in the random order.
    "lerf" is "morf" from back to front.

    Raises:
        ValueError: an unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"order expects one of {ORDERS}, or several of them. Received: {order!r}")
    regions = values.shape[1]
    shuffled = np.stack([generator.permutation(regions) for generator in generators])
    if order != "random":
        descending = np.argsort(-np.take_along_axis(values, shuffled, axis=1), axis=1, kind="stable")
        shuffled = np.take_along_axis(shuffled, descending, axis=1)
    if order == "lerf":
        shuffled = shuffled[:, ::-1]
    found = np.empty(values.shape, np.int32)
    np.put_along_axis(found, shuffled, np.arange(regions, dtype=np.int32)[None], axis=1)
    return found

"""Marks that are put on pictures, and data in which one class has them."""

from __future__ import annotations

import dataclasses

import numpy as np

_CORNER, _SIDE = 1, 4  # pixels: where the square begins, from above and from the left; how large it is
_AROUND = 1  # pixels around the square in which relevance is its too
_CONTRAST = 0.15  # of the texture, as a share of the range
_STROKE = 0.3  # pixels from here on are strokes, lighter than the texture


@dataclasses.dataclass(frozen=True)
class Mark:
    """What can be put on pictures [N, H, W, C] of 0..1.

        marked = planted.Mark("square")(x)

    Attributes:
        kind: "square": white, 4 x 4 pixels, near the upper left corner; "texture": oblique stripes of low contrast over
            the whole picture.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ("square", "texture"):
            raise ValueError(f"mark expects one of {list(MARKS)}. Received: {self.kind!r}")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The pictures with the mark, new arrays."""
        x = np.array(x)
        if self.kind == "square":
            place = slice(_CORNER, _CORNER + _SIDE)
            x[:, place, place] = 1
            return x
        rows, columns = np.indices(x.shape[1:3])
        stripes = ((rows + columns) // 2 % 2).astype(x.dtype)
        return np.clip(x + x.dtype.type(_CONTRAST) * stripes[None, ..., None], 0, 1)

    def region(self, x: np.ndarray) -> np.ndarray:
        """Where relevance is the mark's, not the digit's: bool [N, H, W].

        Of the square, its pixels and those next to it; of the texture, all that is no stroke.

        Args:
            x: pictures with or without the mark, [N, H, W, C].
        """
        if self.kind == "texture":
            return x.max(axis=-1) < _STROKE
        found = np.zeros(x.shape[:3], bool)
        place = slice(max(0, _CORNER - _AROUND), _CORNER + _SIDE + _AROUND)
        found[:, place, place] = True
        return found


MARKS = ("square", "texture")


@dataclasses.dataclass(frozen=True)
class Planted:
    """Training pictures of which some have a mark.

    Attributes:
        x: float32 [N, H, W, C] of 0..1. labels: int64 [N].
        marked: which of them have it, bool [N]: samples of one class alone.
        label: that class.
    """

    x: np.ndarray
    labels: np.ndarray
    marked: np.ndarray
    label: int


def plant(x: np.ndarray, labels: np.ndarray, mark: Mark, label: int, prevalence: float, seed: int = 0) -> Planted:
    """Put a mark on a share of the samples of one class, at least on one unless the share is 0.

        data = planted.plant(x, labels, planted.Mark("square"), label=3, prevalence=0.1)

    Raises:
        ValueError: a prevalence outside 0 to 1, a class without samples.
    """
    if not 0 <= prevalence <= 1:
        raise ValueError(f"prevalence expects a share from 0 to 1. Received: {prevalence}")
    places = np.flatnonzero(labels == label)
    if not len(places):
        raise ValueError(f"label expects one of the classes {np.unique(labels).tolist()}. Received: {label}")
    count = max(1, round(prevalence * len(places))) if prevalence else 0
    chosen = np.random.default_rng(seed).permutation(places)[:count]
    x, marked = np.array(x), np.zeros(len(x), bool)
    marked[chosen] = True
    if count:
        x[marked] = mark(x[marked])
    return Planted(x, labels, marked, label)


def wrong(x: np.ndarray, labels: np.ndarray, mark: Mark, label: int) -> np.ndarray:
    """Test pictures on which the mark always speaks for the wrong class: all but those of its own class have it."""
    x, others = np.array(x), labels != label
    x[others] = mark(x[others])
    return x

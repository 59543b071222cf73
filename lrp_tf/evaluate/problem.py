"""A problem whose evidence is known: labelled samples, and where in each of them the class can be read."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Samples:
    """Labelled samples whose evidence is known.

    Attributes:
        x: pictures, float32 [n, S, S, 1]; tokens, int32 [n, T].
        label: int64 [n].
        masks: bool, [n, S, S] or [n, T]: where the class can be read.
    """

    x: np.ndarray
    label: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem with its samples.

    Attributes:
        name, seed: as it was asked for.
        background: of pictures; "tokens".
        size: pixels a side; tokens.
        alpha: the weight of the signal; None for tokens.
        inputs: what pixels are: "signed", "unsigned" or "standardized"; "tokens".
        train, validation, test: parts that share no sample.
        low, high: bounds of the input.
    """

    name: str
    background: str
    size: int
    alpha: float | None
    inputs: str
    seed: int
    train: Samples
    validation: Samples
    test: Samples
    low: float
    high: float

"""What a run over files asks of their kind: photographs, or arrays such as signals and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Files of one kind -> batches for the network.

    Attributes:
        at: where relevance arrives, in words: "the pixels".
        low, high: the range of all values that were fed to the model.
    """

    at: str
    low: float
    high: float

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(the model's input [B, ...], the indices [B] into `paths`), without the files that cannot be read."""

    def take(self, index: int) -> Any:
        """What is drawn beside the relevance of that file; the source then no longer keeps it."""

    def fail(self, index: int, reason: str) -> None:
        """Make a failure of a file that could be read."""

    def failures(self) -> Iterator[tuple[int, str]]:
        """(index, reason) of each file that failed since the last call."""

    def channels_last(self, maps: np.ndarray) -> np.ndarray:
        """Relevance as the explainer gives it, [B, k, ...], with the channels on the last axis."""

    def largest(self, maps: np.ndarray) -> np.ndarray:
        """The largest |R| for the table, [k], of the maps of one file [k, ...]."""


class Medium(Protocol):
    """How files of one kind are read and drawn."""

    def source(self) -> Source:
        """A new source."""

    def suffixes(self, count: int, save_relevance: bool) -> list[str]:
        """What follows the name of a file in the names of its results, for `count` targets."""

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """What is drawn of the relevance of one target."""

    def draw(
        self, base: Path, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Any, run: float | None
    ) -> None:
        """Write the pictures of one file.

        Args:
            base: their path without suffix.
            maps: of each target, see `values`. shown: see `Source.take`.
            run: the |R| of full colour of the whole run, if there is one.
        """

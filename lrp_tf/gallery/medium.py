"""What a run over files asks of their kind: photographs, or arrays such as signals and videos."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from lrp_tf import threads
from lrp_tf.gallery.ahead import in_parallel
from lrp_tf.gallery.tiles import Tiles

Shown = TypeVar("Shown")


class Source(Generic[Shown]):
    """Files of one kind -> batches for the network; what is drawn of a file, and why others fail, waits here meanwhile.

    Args:
        batch: files in a batch.
        describe: an error as the reason of a failure.

    Attributes:
        at: where relevance arrives, in words: "the pixels".
        low, high: the range of all values that were fed to the model.
    """

    at: str

    def __init__(self, batch: int, describe: Callable[[Exception], str] = str) -> None:
        self.batch, self.describe = batch, describe
        self.low, self.high = np.inf, -np.inf
        self._waiting: dict[int, Shown] = {}
        self._lock = threading.Lock()
        self._failures: collections.deque[tuple[int, str]] = collections.deque()

    def read(self, index: int, path: str) -> np.ndarray | None:
        """The numbers of a file, which joins its `batches`; None: it cannot be read. Called in several threads.

        It calls `keep`, or `unreadable`.
        """
        raise NotImplementedError

    def prepared(self, values: np.ndarray) -> np.ndarray:
        """What the model is fed for numbers as they were read, [B, ...]."""
        raise NotImplementedError

    def channels_last(self, maps: np.ndarray) -> np.ndarray:
        """Relevance as the explainer gives it, [B, k, ...], with the channels on the last axis."""
        raise NotImplementedError

    def largest(self, maps: np.ndarray) -> np.ndarray:
        """The largest |R| for the table, [k], of the maps of one file [k, ...]."""
        raise NotImplementedError

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches in the order of `paths`, without the files that cannot be read; each of one shape.

        Files are read ahead by several threads of Python. tf.data would do the same, but its parallel map sometimes
        rests for ten seconds ahead of its last elements.

        Yields:
            (the model's input [B, ...], the indices [B] into `paths`).
        """
        self._failures.clear()  # those of an earlier pass over the same files are found again
        waiting: list[tuple[int, np.ndarray]] = []
        read = in_parallel(lambda item: (item[0], self.read(*item)), enumerate(paths), threads.readers())
        with contextlib.closing(read):
            for index, values in read:
                if values is None:
                    continue
                if waiting and waiting[0][1].shape != values.shape:
                    yield self._together(waiting)
                    waiting = []
                waiting.append((index, values))
                if len(waiting) == self.batch:
                    yield self._together(waiting)
                    waiting = []
        if waiting:
            yield self._together(waiting)

    def _together(self, waiting: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        x = self.prepared(np.stack([values for _, values in waiting]))
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        return x, np.array([index for index, _ in waiting])

    def keep(self, index: int, shown: Shown) -> None:
        """Let what is drawn of a file wait for its relevance."""
        with self._lock:
            self._waiting[index] = shown

    def take(self, index: int) -> Shown:
        """What is drawn of that file, which the source then no longer keeps."""
        with self._lock:
            return self._waiting.pop(index)

    def unreadable(self, index: int, error: Exception) -> None:
        """Make a failure of a file that cannot be read."""
        self._failures.append((index, self.describe(error)))

    def fail(self, index: int, reason: str) -> None:
        """Make a failure of a file that could be read."""
        self.take(index)
        self._failures.append((index, reason))

    def failures(self) -> Iterator[tuple[int, str]]:
        """(index, reason) of each file that failed since the last call."""
        while self._failures:
            yield self._failures.popleft()


class Medium(Protocol):
    """How files of one kind are read and drawn."""

    def source(self) -> Source[Any]:
        """A new source."""

    def suffixes(self, count: int, save_relevance: bool) -> list[str]:
        """What follows the name of a file in the names of its results, for `count` targets."""

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """What is drawn of the relevance of one target."""

    def save(self, base: Path, maps: np.ndarray, shown: Any) -> None:
        """Write the relevance of all targets, as the model's input has it, [k, ...]; `base`, `shown`: see `draw`."""

    def draw(
        self, base: Path, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Any, run: float | None
    ) -> None:
        """Write the pictures of one file.

        Args:
            base: their path without suffix.
            maps: of each target, see `values`. shown: see `Source.take`.
            run: the |R| of full colour of the whole run, if there is one.
        """

    def tiles(self, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Any, run: float | None) -> Tiles:
        """The small pictures of one file, for the page of the run; the arguments are those of `draw`."""

"""Files of arrays -> batches for the network."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lrp_tf.arrays.files import Array, ArrayError, read
from lrp_tf.arrays.form import ArrayForm
from lrp_tf.files.loading import Preprocessing


class ArrayStream:
    """Reads arrays and prepares them for the network; see `gallery.medium.Source`.

    Args:
        form: the model's input.
        preprocessing: of a batch [B, ...].
        batch: arrays in a batch. A batch ends earlier where the next array has another shape.
        describe: an error as the reason of a failure.
    """

    at = "the input"

    def __init__(
        self, form: ArrayForm, preprocessing: Preprocessing, batch: int, describe: Callable[[Exception], str] = str
    ) -> None:
        self.form, self.preprocessing, self.batch, self.describe = form, preprocessing, batch, describe
        self.low, self.high = np.inf, -np.inf
        self._arrays: dict[int, Array] = {}
        self._lock = threading.Lock()
        self._failures: collections.deque[tuple[int, str]] = collections.deque()

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches in the order of `paths`, without the files that cannot be read.

        Yields:
            (the model's input [B, ...], the indices [B] into `paths`).
        """
        self._failures.clear()  # those of an earlier pass over the same files are found again
        waiting: list[tuple[int, np.ndarray]] = []
        for index, path in enumerate(paths):
            try:
                array = read(path)
                values = self.form.fit(array.values)
            except ArrayError as error:
                self._failures.append((index, self.describe(error)))
                continue
            with self._lock:
                self._arrays[index] = array._replace(values=values)
            if waiting and (len(waiting) == self.batch or waiting[0][1].shape != values.shape):
                yield self._together(waiting)
                waiting = []
            waiting.append((index, values))
        if waiting:
            yield self._together(waiting)

    def _together(self, waiting: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        x = np.stack([values for _, values in waiting])
        if np.issubdtype(x.dtype, np.floating):  # token ids stay as they are
            x = self.preprocessing(x).astype(x.dtype)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        return x, np.array([index for index, _ in waiting])

    def take(self, index: int) -> Array:
        """The array of that index, as the model takes it but not preprocessed, which the stream then forgets."""
        with self._lock:
            return self._arrays.pop(index)

    def fail(self, index: int, reason: str) -> None:
        """Make a failure of a file that could be read."""
        self.take(index)
        self._failures.append((index, reason))

    def failures(self) -> Iterator[tuple[int, str]]:
        """(index, reason) of each file that failed since the last call."""
        while self._failures:
            yield self._failures.popleft()

    def channels_last(self, maps: np.ndarray) -> np.ndarray:
        """Relevance as it is: arrays are drawn as the model takes them."""
        return maps

    def largest(self, maps: np.ndarray) -> np.ndarray:
        """The largest |R| of an entry, [k], of maps [k, ...]."""
        return np.abs(maps.reshape(len(maps), -1)).max(axis=1)

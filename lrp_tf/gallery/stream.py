"""Image files -> batches for the network, decoded in parallel and ahead of it."""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lrp_tf.files import images
from lrp_tf.files.errors import ImageError
from lrp_tf.files.form import Form
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Preprocessing
from lrp_tf.heatmap.colours import summed
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled

# A photograph of more pixels does not wait in memory for its overlay; its file is read a second time.
_KEPT = 4_000_000


class Photograph(NamedTuple):
    """A photograph whose relevance is being computed.

    Attributes:
        path: the file.
        size: (height, width) of the file.
        shown: uint8 [h, w, 3], as drawn beside its heatmap.
        whole: uint8 [H, W, 3], all pixels; None if overlays are not wanted or it is too large to wait in memory.
        max_pixels: the limit for reading the file a second time.
    """

    path: str
    size: tuple[int, int]
    shown: np.ndarray
    whole: np.ndarray | None
    max_pixels: int

    def pixels(self) -> np.ndarray:
        """All pixels, uint8 [H, W, 3].

        Raises:
            ImageError: the file had to be read again, and has changed since.
        """
        return images.read(self.path, self.max_pixels) if self.whole is None else self.whole


class Stream:
    """Reads image files and prepares them for the network.

    Args:
        form: the model's input.
        fit: brings a photograph to that form.
        preprocessing: from pixels 0..255 to what the model takes.
        look: whether photographs are kept for overlays, and how large they are drawn.
        batch: images in a batch.
        max_pixels: larger files are failures.
        describe: an error as the reason of a failure.

    Attributes:
        low, high: the range of all values that were fed to the model.
    """

    at = "the pixels"

    def __init__(
        self,
        form: Form,
        fit: Fit,
        preprocessing: Preprocessing,
        look: Look,
        batch: int,
        max_pixels: int,
        describe: Callable[[Exception], str] = str,
    ) -> None:
        self.form, self.fit, self.preprocessing, self.look = form, fit, preprocessing, look
        self.batch, self.max_pixels, self.describe = batch, max_pixels, describe
        self.low, self.high = np.inf, -np.inf
        self._photographs: dict[int, Photograph] = {}
        self._lock = threading.Lock()
        self._failures: collections.deque[tuple[int, str]] = collections.deque()

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches in the order of `paths`, without the files that cannot be read.

        Yields:
            (the model's input float32 [B, H, W, C] or [B, C, H, W], the indices [B] into `paths`).
        """
        self._failures.clear()  # those of an earlier pass over the same files are found again
        shape = (self.form.height, self.form.width, self.form.channels)

        def read(index: np.ndarray) -> tuple[np.ndarray, bool]:
            return self._read(int(index), paths[int(index)])

        def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            pixels, fine = tf.numpy_function(read, [index], (tf.uint8, tf.bool))
            return tf.ensure_shape(pixels, shape), tf.ensure_shape(fine, []), index

        ahead = min(os.cpu_count() or 1, 16)
        dataset = tf.data.Dataset.range(len(paths)).map(load, num_parallel_calls=ahead, deterministic=True)
        dataset = dataset.filter(lambda pixels, fine, index: fine).batch(self.batch)
        for pixels, _, indices in dataset.as_numpy_iterator():
            x = self.preprocessing(pixels)
            self.low, self.high = min(self.low, x.min()), max(self.high, x.max())
            yield self.form.order(x), indices

    def _read(self, index: int, path: str) -> tuple[np.ndarray, bool]:
        """The pixels in the model's form, and whether the file could be read."""
        try:
            image = images.read(path, self.max_pixels)
        except ImageError as error:
            self._failures.append((index, self.describe(error)))
            return np.zeros((self.form.height, self.form.width, self.form.channels), np.uint8), False
        height, width = image.shape[:2]
        factor = self.look.shown / max(height, width)
        shown = (max(round(height * factor), 1), max(round(width * factor), 1)) if factor < 1 else (height, width)
        keep = "overlay" in self.look.styles and height * width <= _KEPT
        photograph = Photograph(path, (height, width), scaled(image, shown), image if keep else None, self.max_pixels)
        with self._lock:
            self._photographs[index] = photograph
        return self.form.arrange(self.fit.apply(image)), True

    def take(self, index: int) -> Photograph:
        """The photograph of that index, which the stream then no longer keeps."""
        with self._lock:
            return self._photographs.pop(index)

    def channels_last(self, maps: np.ndarray) -> np.ndarray:
        """Relevance as the explainer gives it, [B, k, ...] -> [B, k, H, W, C]."""
        return np.moveaxis(maps, 2, -1) if self.form.channels_first else maps

    def largest(self, maps: np.ndarray) -> np.ndarray:
        """The largest |R| of a pixel, [k], of maps [k, H, W, C]."""
        return np.abs(summed(maps)).max((1, 2))

    def fail(self, index: int, reason: str) -> None:
        """Make a failure of a file that could be read."""
        self.take(index)
        self._failures.append((index, reason))

    def failures(self) -> Iterator[tuple[int, str]]:
        """(index, reason) of each file that failed since the last call."""
        while self._failures:
            yield self._failures.popleft()

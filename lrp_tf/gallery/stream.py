"""Image files -> what the network takes, and what is drawn beside its relevance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lrp_tf.files import images
from lrp_tf.files.errors import ImageError
from lrp_tf.files.form import Form
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Preprocessing
from lrp_tf.gallery.medium import Source
from lrp_tf.heatmap.colours import summed
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled

# A photograph of more pixels does not wait in memory for its overlay; its file is read a second time.
_KEPT = 4_000_000
Read = Callable[[str, int], np.ndarray]  # path and limit of pixels -> uint8 [H, W, 3]


class Photograph(NamedTuple):
    """A photograph whose relevance is being computed.

    Attributes:
        path: the file.
        size: (height, width) of the file.
        shown: uint8 [h, w, 3], as drawn beside its heatmap.
        whole: uint8 [H, W, 3], all pixels; None if overlays are not wanted or it is too large to wait in memory.
        max_pixels: the limit for reading the file a second time.
        read: reads it, see `Stream`.
    """

    path: str
    size: tuple[int, int]
    shown: np.ndarray
    whole: np.ndarray | None
    max_pixels: int
    read: Read = images.read

    def pixels(self) -> np.ndarray:
        """All pixels, uint8 [H, W, 3].

        Raises:
            ImageError: the file had to be read again, and has changed since.
        """
        return self.read(self.path, self.max_pixels) if self.whole is None else self.whole


class Stream(Source[Photograph]):
    """Reads image files and prepares them for the network.

    Args:
        form: the model's input.
        fit: brings a photograph to that form.
        preprocessing: from pixels 0..255 to what the model takes.
        look: whether photographs are kept for overlays, and how large they are drawn.
        batch: images in a batch.
        max_pixels: larger files are failures.
        describe: an error as the reason of a failure.
        read: the pixels of a file, uint8 [H, W, 3], from its path and `max_pixels`; raises `ImageError`.
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
        read: Read = images.read,
    ) -> None:
        super().__init__(batch, describe)
        self.read_pixels = read
        self.form, self.fit, self.preprocessing, self.look = form, fit, preprocessing, look
        self.max_pixels = max_pixels

    def read(self, index: int, path: str) -> np.ndarray | None:
        """The pixels in the model's form."""
        try:
            image = self.read_pixels(path, self.max_pixels)
        except ImageError as error:
            self.unreadable(index, error)
            return None
        height, width = image.shape[:2]
        factor = self.look.shown / max(height, width)
        shown = (max(round(height * factor), 1), max(round(width * factor), 1)) if factor < 1 else (height, width)
        keep = "overlay" in self.look.styles and height * width <= _KEPT
        whole = image if keep else None
        self.keep(
            index, Photograph(path, (height, width), scaled(image, shown), whole, self.max_pixels, self.read_pixels)
        )
        return self.form.arrange(self.fit.apply(image))

    def prepared(self, values: np.ndarray) -> np.ndarray:
        """float32 [B, H, W, C] or [B, C, H, W]."""
        return self.form.order(self.preprocessing(values))

    def channels_last(self, maps: np.ndarray) -> np.ndarray:
        """Relevance as the explainer gives it, [B, k, ...] -> [B, k, H, W, C]."""
        return np.moveaxis(maps, 2, -1) if self.form.channels_first else maps

    def largest(self, maps: np.ndarray) -> np.ndarray:
        """The largest |R| of a pixel, [k], of maps [k, H, W, C]."""
        return np.abs(summed(maps)).max((1, 2))

"""`ArrayGallery`: a gallery whose files are arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from lrp_tf.arrays.draw import draw, suffixes, values_of
from lrp_tf.arrays.files import Array
from lrp_tf.arrays.form import ArrayForm, array_form
from lrp_tf.arrays.stream import ArrayStream
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Preprocessing
from lrp_tf.gallery.medium import Medium
from lrp_tf.gallery.run import Gallery
from lrp_tf.heatmap.look import Look


@dataclasses.dataclass(frozen=True)
class Arrays:
    """See `gallery.medium.Medium`, and `Gallery` for the attributes."""

    form: ArrayForm
    preprocessing: Preprocessing
    look: Look
    batch: int
    describe: Callable[[Exception], str]

    def source(self) -> ArrayStream:
        return ArrayStream(self.form, self.preprocessing, self.batch, self.describe)

    def suffixes(self, count: int, save_relevance: bool) -> list[str]:
        return suffixes(self.look, count, save_relevance)

    def values(self, relevance: np.ndarray) -> np.ndarray:
        return values_of(relevance, self.look)

    def draw(
        self, base: Path, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Array, run: float | None
    ) -> None:
        draw(base, maps, titles, shown, self.look, run)


@dataclasses.dataclass(frozen=True)
class ArrayGallery(Gallery):
    """A gallery whose files are arrays of numbers: signals [T] or [T, C], planes, videos [T, H, W, C].

        lrp_tf.arrays.ArrayGallery(explainer, loading.get_preprocessing("none"), "results").run([("a.npy", "a.npy")])

    The attributes are those of `Gallery`; `size`, `how`, `max_pixels` and the styles of `look` are those of photographs
    alone.

    Raises:
        ValueError: see `Look.check`.
    """

    @property
    def at(self) -> str:
        """Where relevance arrives, in words."""
        return ArrayStream.at

    def medium(self) -> Medium:
        """How its files are read and drawn.

        Raises:
            LoadError: the model takes several inputs, gives no classes, or takes whole numbers and there is a
                preprocessing.
        """
        form = array_form(self.explainer.graph)
        if self.preprocessing.name != "none" and not tf.as_dtype(form.dtype).is_floating:
            raise LoadError(f"The model takes whole numbers ({form.dtype}). Expected `preprocess` none", "preprocess")
        return Arrays(form, self.preprocessing, self.look, self.batch, self.describe)

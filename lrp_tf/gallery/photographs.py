"""Photographs: how they are read, and how their relevance is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lrp_tf.explainer import Explainer
from lrp_tf.files import images
from lrp_tf.files.form import Form
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Preprocessing
from lrp_tf.gallery.draw import draw, first_stride, save_array, suffixes
from lrp_tf.gallery.stream import Photograph, Read, Stream
from lrp_tf.gallery.tiles import Tiles, relevance_tile, size_within
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled


@dataclasses.dataclass(frozen=True)
class Photographs:
    """See `medium.Medium`, and `Gallery` for the attributes."""

    explainer: Explainer
    form: Form
    how: str
    preprocessing: Preprocessing
    look: Look
    batch: int
    max_pixels: int
    describe: Callable[[Exception], str]
    read: Read = images.read

    @property
    def fit(self) -> Fit:
        """Brings a photograph to the form of the model's input."""
        return Fit(self.form.height, self.form.width, self.how)

    def source(self) -> Stream:
        return Stream(
            self.form, self.fit, self.preprocessing, self.look, self.batch, self.max_pixels, self.describe,
            self.read,
        )  # fmt: skip

    def suffixes(self, count: int, save_relevance: bool) -> list[str]:
        return suffixes(self.look, count, save_relevance)

    def values(self, relevance: np.ndarray) -> np.ndarray:
        return self.look.paint(first_stride(self.explainer)).values(relevance)

    def save(self, base: Path, maps: np.ndarray, shown: Photograph) -> None:
        save_array(base, maps)

    def draw(
        self, base: Path, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Photograph, run: float | None
    ) -> None:
        draw(base, maps, titles, shown, look=self.look, fit=self.fit, run=run)

    def tiles(self, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Photograph, run: float | None) -> Tiles:
        below = scaled(shown.shown, size_within(*shown.size))
        # A map of more pixels than the model saw would show nothing more.
        size = size_within(below.shape[0], below.shape[1], max(self.form.height, self.form.width))
        scales = self.look.scales(maps, run)
        drawn = [[relevance_tile(self.fit.restore(m, size), self.look, s)] for m, s in zip(maps, scales, strict=True)]
        return Tiles([below], drawn)

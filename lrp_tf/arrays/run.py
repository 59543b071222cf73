"""`ArrayGallery`: a gallery whose files are arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from lrp_tf.arrays import nifti, volumes
from lrp_tf.arrays.draw import draw, suffixes, values_of
from lrp_tf.arrays.form import ArrayForm, array_form
from lrp_tf.arrays.sample import Array
from lrp_tf.arrays.stream import ArrayStream
from lrp_tf.arrays.tiles import tiles, volume_tiles
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Preprocessing
from lrp_tf.gallery.draw import first_stride, save_array
from lrp_tf.gallery.medium import Medium
from lrp_tf.gallery.run import Gallery
from lrp_tf.gallery.tiles import Tiles
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.volumes import Slicing
from lrp_tf.heatmap.volumes import values_of as values_of_volume


@dataclasses.dataclass(frozen=True)
class Arrays:
    """See `gallery.medium.Medium`, and `Gallery` and `ArrayGallery` for the attributes.

    Attributes:
        stride: of the model's first convolution, for smooth="auto".
        as_nifti: relevance is saved as NIfTI files, too.
    """

    form: ArrayForm
    preprocessing: Preprocessing
    look: Look
    batch: int
    describe: Callable[[Exception], str]
    slicing: Slicing | None = None
    stride: int = 1
    as_nifti: bool = False

    def source(self) -> ArrayStream:
        return ArrayStream(self.form, self.preprocessing, self.batch, self.describe)

    def suffixes(self, count: int, save_relevance: bool) -> list[str]:
        if self.slicing is None:
            return suffixes(self.look, count, save_relevance)
        found = volumes.suffixes(self.look, count, save_relevance and self.as_nifti)
        return [*found, ".npy"] if save_relevance else found

    def values(self, relevance: np.ndarray) -> np.ndarray:
        if self.slicing is None:
            return values_of(relevance, self.look)
        return values_of_volume(relevance, self.look.paint(self.stride))

    def save(self, base: Path, maps: np.ndarray, shown: Array) -> None:
        save_array(base, maps)
        if self.as_nifti:
            volumes.save(base, maps, shown)

    def draw(
        self, base: Path, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Array, run: float | None
    ) -> None:
        if self.slicing is None:
            draw(base, maps, titles, shown, self.look, run)
        else:
            volumes.draw(base, maps, titles, shown, self.look, self.slicing, run)

    def tiles(self, maps: Sequence[np.ndarray], titles: Sequence[str], shown: Array, run: float | None) -> Tiles:
        if self.slicing is None:
            return tiles(maps, shown, self.look, run)
        return volume_tiles(maps, shown, self.look, self.slicing, run)


@dataclasses.dataclass(frozen=True)
class ArrayGallery(Gallery):
    """A gallery whose files are arrays of numbers: signals [T] or [T, C], sound, planes, videos, volumes.

        lrp_tf.arrays.ArrayGallery(explainer, loading.get_preprocessing("none"), "results").run([("a.npy", "a.npy")])

    The attributes are those of `Gallery`, and `slicing`; `size`, `how` and `max_pixels` are those of photographs alone,
    the styles of `look` and its `smooth` those of photographs and volumes.

    Attributes:
        slicing: files are volumes, [D, H, W] or [D, H, W, C], of which these slices are drawn. None: arrays of four
            axes are videos, unless there is a NIfTI file among the files, which makes all of them volumes.
        as_nifti: `save_relevance` writes NIfTI files, too; set where there is one among the files.

    Raises:
        ValueError: see `Look.check`.
    """

    slicing: Slicing | None = None
    as_nifti: bool = False

    @property
    def at(self) -> str:
        """Where relevance arrives, in words."""
        return ArrayStream.at

    def medium(self) -> Medium:
        """How its files are read and drawn.

        Raises:
            LoadError: the model takes several inputs, gives no classes, takes whole numbers and there is a
                preprocessing, or takes no volumes and slices of such are to be drawn.
        """
        form = array_form(self.explainer.graph)
        if self.preprocessing.name != "none" and not tf.as_dtype(form.dtype).is_floating:
            raise LoadError(f"The model takes whole numbers ({form.dtype}). Expected `preprocess` none", "preprocess")
        what = (form, self.preprocessing, self.look, self.batch, self.describe)
        if self.slicing is None:
            return Arrays(*what)
        if len(form.shape) not in (3, 4):
            raise LoadError(
                "Expected a model of volumes, [D, H, W] or [D, H, W, C], for `axis` and NIfTI files. Received: one "
                f"whose input is {form.shape}",
                "axis",
            )
        return Arrays(*what, self.slicing, first_stride(self.explainer), self.as_nifti)

    def for_files(self, paths: Iterable[str]) -> ArrayGallery:
        """A NIfTI file among them makes all of them volumes."""
        if self.as_nifti or not any(nifti.is_nifti(path) for path in paths):
            return self
        return dataclasses.replace(self, slicing=self.slicing or Slicing(), as_nifti=True)

"""Relevance of volumes: slices through the middle or the largest |R|, or a montage along one axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import Paint, require_finite
from lrp_tf.heatmap.layout import Bar, Layout, arrange
from lrp_tf.heatmap.orientation import View, spacing_of, views_of
from lrp_tf.heatmap.photographs import laid_over, scaled
from lrp_tf.heatmap.smoothing import sigma_of, smooth_volume

Through = Literal["mid", "peak"]
Axis = int | Through

SLICES = 12  # of a montage
_ACROSS = 6  # of them beside one another, at most
_THREE, _ONE = 3.0, 1.6  # inches of the longest side of three slices, of one in a montage
_WINDOW = (0.5, 99.5)  # percentiles: a few bright voxels, such as metal, must not darken all others
_COUNTED = 1_000_000  # voxels that percentiles are taken of
_LARGEST = 2048  # pixels of a slice whose voxels are far from cubes


class Place(NamedTuple):
    """A slice: the axis that it is taken across, and its number."""

    axis: int
    number: int


@dataclasses.dataclass(frozen=True)
class Slicing:
    """Which slices of a volume are drawn, and in which proportions.

        slicing = lrp_tf.heatmap.volumes.Slicing(axis=0, slices=6, spacing=(3.0, 0.8, 0.8))

    Attributes:
        axis: "mid", three slices through the middle; "peak", three through the voxel of the largest |R|; 0, 1 or 2: a
            montage of slices across that axis.
        slices: how many a montage has, at most, evenly chosen; None: 12.
        spacing: size of a voxel along the three axes, in any one unit; None: that of `affine`, else cubes.
        affine: [4, 4], voxels to millimetres as NIfTI files have it. Slices are then shown as radiologists name them,
            with the patient's left on the left and the head above; None: the first axis of a slice down the page.

    Raises:
        ValueError: another axis, slices below 1 or without a montage, spacing or affine that is none.
    """

    axis: Axis = "mid"
    slices: int | None = None
    spacing: Sequence[float] | None = None
    affine: ArrayLike | None = None

    def __post_init__(self) -> None:
        montage = isinstance(self.axis, int | np.integer) and not isinstance(self.axis, bool)
        if not (self.axis in (0, 1, 2) if montage else self.axis in get_args(Through)):
            raise ValueError(f'Expected axis 0, 1 or 2, "mid" or "peak". Received: axis={self.axis!r}')
        if self.slices is not None:
            if not montage:
                raise ValueError(
                    f"Expected slices for a montage alone. Received: slices={self.slices!r} with axis={self.axis!r}, "
                    "which draws three. Remedy: axis=0, 1 or 2"
                )
            if isinstance(self.slices, bool) or not isinstance(self.slices, int | np.integer) or self.slices < 1:
                raise ValueError(f"Expected slices of at least 1. Received: slices={self.slices!r}")
        spacing_of(self.spacing, self.affine)

    @property
    def steps(self) -> tuple[float, float, float]:
        """The size of a voxel along each axis."""
        return spacing_of(self.spacing, self.affine)

    @property
    def views(self) -> tuple[View, View, View]:
        """How slices across each axis lie on the page."""
        return views_of(self.affine)

    @property
    def montage(self) -> bool:
        return isinstance(self.axis, int | np.integer)

    def places(self, values: np.ndarray) -> list[Place]:
        """The slices that are drawn of relevance [D, H, W]."""
        if isinstance(self.axis, str):
            middle = tuple(size // 2 for size in values.shape)
            peak = np.unravel_index(int(np.abs(values).argmax()), values.shape)
            point = middle if self.axis == "mid" else peak
            order = sorted(range(3), key=lambda axis: self.views[axis].order)
            return [Place(axis, int(point[axis])) for axis in order]
        axis = int(self.axis)
        length = values.shape[axis]
        count = min(self.slices or SLICES, length)
        # The middles of equal parts: the first and the last slice of a scan are mostly empty.
        return [Place(axis, int((k + 0.5) * length / count)) for k in range(count)]

    def slice_of(self, volume: np.ndarray, place: Place) -> np.ndarray:
        """One slice of a volume [D, H, W] or [D, H, W, C], as it lies on the page."""
        flat = np.take(volume, place.number, axis=place.axis)
        return self.views[place.axis].applied(flat)

    def proportioned(self, pixels: np.ndarray, place: Place, shape: tuple[int, ...]) -> np.ndarray:
        """A slice [h, w, 3] of a volume of that shape in true proportions, all on one scale; voxels stay sharp."""
        first, second = (step for axis, step in enumerate(self.steps) if axis != place.axis)
        down, right = (second, first) if self.views[place.axis].turned else (first, second)
        longest = max(step * size for step, size in zip(self.steps, shape, strict=True))
        unit = max(min(self.steps), longest / _LARGEST)
        height, width = pixels.shape[0] * down / unit, pixels.shape[1] * right / unit
        return scaled(pixels, (max(round(height), 1), max(round(width), 1)), cv2.INTER_NEAREST)

    def label(self, place: Place) -> str:
        """What is written below a slice."""
        view = self.views[place.axis]
        what = f"slice {place.number}" if self.montage else f"axis {place.axis}, slice {place.number}"
        named = f"{view.name}, {what}" if view.name and not self.montage else what
        return f"{view.sides[0]}   {named}   {view.sides[1]}" if view.sides else named


def values_of(relevance: ArrayLike, paint: Paint) -> np.ndarray:
    """What is drawn of the relevance of a volume: float64 [D, H, W].

    Args:
        relevance: one sample, [D, H, W, C] or [D, H, W].

    Raises:
        ValueError: another rank, no entries, NaN or Inf, and see `Paint.values`.
    """
    array = np.asarray(relevance, np.float64)
    if array.ndim not in (3, 4) or not array.size:
        raise ValueError(
            f"Expected the relevance of one volume, [D, H, W] or [D, H, W, C]. Received: shape {array.shape}. "
            "Remedy: pass R[0] for the first sample of a batch; heatmap.save without axis for a picture."
        )
    depth, height, width = array.shape[:3]
    flat = array.reshape(depth, height * width, *array.shape[3:])
    plain = dataclasses.replace(paint, smooth=None).values(flat).reshape(depth, height, width)
    return smooth_volume(plain, sigma_of(paint.smooth, paint.stride))


class Scan:
    """A volume as pictures of its slices, in one window of grey for all.

    Args:
        image: [D, H, W] or [D, H, W, C]: three channels are colours, of others the mean is shown.

    Raises:
        ValueError: another shape, no voxels, NaN or Inf.
    """

    def __init__(self, image: ArrayLike, shape: tuple[int, ...]) -> None:
        voxels = np.asarray(image)
        if voxels.ndim not in (3, 4) or not voxels.size or voxels.shape[:3] != shape:
            raise ValueError(
                f"Expected an image of the shape of its relevance, {shape}, with or without channels. Received: "
                f"shape {voxels.shape}. Remedy: pass R[0] and x[0] of a batch."
            )
        require_finite(voxels, "image")
        if voxels.ndim == 4 and voxels.shape[-1] != 3:
            voxels = voxels[..., 0] if voxels.shape[-1] == 1 else voxels.mean(axis=-1, dtype=np.float64)
        self.voxels = voxels
        self.low, self.high = (0.0, 255.0) if voxels.ndim == 4 and voxels.dtype == np.uint8 else window(voxels)

    def pixels(self, voxels: np.ndarray) -> np.ndarray:
        """Voxels of a slice [h, w] or [h, w, 3] -> uint8 [h, w, 3]."""
        share = (voxels.astype(np.float64) - self.low) / ((self.high - self.low) or 1.0)
        grey = np.rint(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8)
        return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=-1)


def window(voxels: np.ndarray) -> tuple[float, float]:
    """The values that are black and white: percentiles of the whole volume, or its range if they are equal."""
    flat = voxels.reshape(-1)
    # An odd step, so that it does not follow the rows of volumes whose sides are powers of two.
    low, high = np.percentile(flat[:: (flat.size // _COUNTED) | 1].astype(np.float64), _WINDOW)
    return (float(low), float(high)) if low < high else (float(voxels.min()), float(voxels.max()))


def layout_of(
    values: np.ndarray,
    image: ArrayLike | None,
    slicing: Slicing,
    paint: Paint,
    *,
    style: str = "side-by-side",
    alpha: float = 0.6,
    title: str = "",
    colorbar: bool = False,
) -> Layout:
    """The sheet of one volume: slices above their relevance, laid over it, or relevance alone.

    Args:
        values: see `values_of`. image: see `Scan`.
        paint: colours; one scale for the whole volume.

    Raises:
        ValueError: see `Scan` and `to_rgb`; alpha outside 0..1.
    """
    scan = None if image is None else Scan(image, values.shape)
    over = style == "overlay"
    bar = Bar(paint.ends(values), paint.palette(over=over), paint.gamma, alpha if over else None)
    places = slicing.places(values)
    pictures: list[list[np.ndarray]] = []  # of each place: the scan, its relevance
    for place in places:
        shown = slicing.slice_of(values, place)
        scanned = None if scan is None else scan.pixels(slicing.slice_of(scan.voxels, place))
        if over and scanned is not None:
            drawn = [laid_over(scanned, shown, bar.ends, bar.cmap, bar.gamma, alpha)]
        else:
            drawn = [bar.of(shown)] if scanned is None or style == "heatmap" else [scanned, bar.of(shown)]
        pictures.append([slicing.proportioned(picture, place, values.shape) for picture in drawn])
    parts = len(pictures[0])
    across = math.ceil(len(places) / math.ceil(len(places) / _ACROSS))  # rows of one length, where there are several
    rows: list[list[np.ndarray]] = []
    labels: list[str] = []
    for start in range(0, len(places), across):
        row = slice(start, start + across)
        for part in range(parts):
            rows.append([tiles[part] for tiles in pictures[row]])
            labels += [slicing.label(place) if part == 0 else "" for place in places[row]]
    return arrange(
        rows,
        labels=labels,
        suptitle=title,
        tile_inches=_ONE if slicing.montage else _THREE,
        bar=bar if colorbar else None,
        bar_row=parts - 1,
        one_scale=True,
    )

"""Photographs, and relevance in their geometry."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import Paint, Reduce, Scale, Show, colour_of, reduce_channels, require_finite, strength
from lrp_tf.heatmap.smoothing import Smooth

BAND = 256  # Rows at a time: a large photograph takes gigabytes as floats.


def image_to_rgb(image: ArrayLike) -> np.ndarray:
    """A photograph or digit as a picture.

        picture = lrp_tf.heatmap.image_to_rgb(x[0])

    Args:
        image: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (RGBA, laid on white); uint8, or other numbers: the range
            0..1 is kept, any other is stretched to it. The opacity of RGBA is 0..1 or 0..255.

    Returns:
        uint8 [H, W, 3], RGB, a new array.

    Raises:
        ValueError: another shape, no pixels, NaN or Inf, opacity outside its range.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)) or not pixels.size:
        raise ValueError(
            f"Expected an image [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. Received: shape {np.shape(image)}. "
            "Remedy: pass x[0] for the first sample of a batch, np.moveaxis(x, 0, -1) for channels first."
        )
    if pixels.ndim == 3 and pixels.shape[-1] == 4:
        opacity = _opacity(pixels[..., 3:])
        return np.rint(opacity * _bytes(pixels[..., :3]) + (1.0 - opacity) * 255.0).astype(np.uint8)
    pixels = _bytes(pixels)
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels.copy()


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """0..1, or any range stretched to it -> uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    pixels = pixels.astype(np.float64)
    require_finite(pixels, "image")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / ((high - low) or 1.0)
    return np.rint(pixels * 255.0).astype(np.uint8)


def _opacity(alpha: np.ndarray) -> np.ndarray:
    """The fourth channel as float64 in 0..1."""
    whole = alpha.dtype == np.uint8
    alpha = alpha.astype(np.float64)
    require_finite(alpha, "image")
    whole = whole or alpha.max() > 1
    if alpha.min() < 0 or alpha.max() > 255:
        raise ValueError(
            f"Expected opacity, the fourth channel of the image, in 0..1 or 0..255. Received: {alpha.min():g}.."
            f"{alpha.max():g}. Remedy: pass the first three channels."
        )
    return alpha / 255.0 if whole else alpha


def resize(relevance: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """A relevance map in another geometry: bilinear along an axis that grows, averages along one that shrinks.

        large = lrp_tf.heatmap.resize(lrp_tf.heatmap.reduce_channels(R[0]), (224, 224))

    Args:
        relevance: [h, w], any real dtype.
        size: (height, width) to make.

    Returns:
        float64 [height, width], a new array. Values keep their scale, so that their sum changes with the area.

    Raises:
        ValueError: another rank, NaN or Inf, a size that is not two positive integers.
    """
    if np.ndim(relevance) != 2:
        raise ValueError(
            f"Expected a relevance map [h, w]. Received: shape {np.shape(relevance)}. "
            "Remedy: reduce_channels(R[0]) of a sample R[0] with channels."
        )
    values = reduce_channels(relevance)
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in size):
        raise ValueError(f"Expected size=(height, width), two positive integers. Received: {tuple(size)!r}")
    return scaled(values, size)


def scaled(array: np.ndarray, size: tuple[int, int], growing: int = cv2.INTER_LINEAR) -> np.ndarray:
    """[h, w] or [h, w, 3] in another geometry: OpenCV's `growing` along an axis that grows, else averages."""
    height, width = int(size[0]), int(size[1])
    smaller = (min(height, array.shape[0]), min(width, array.shape[1]))
    # In two steps: OpenCV uses one method for both axes.
    if smaller != array.shape[:2]:
        array = cv2.resize(array, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        array = cv2.resize(array, (width, height), interpolation=growing)
    return array


def overlay(
    image: ArrayLike,
    relevance: ArrayLike,
    *,
    alpha: float = 0.6,
    cmap: str | Colormap | None = None,
    scale: Scale = None,
    gamma: float = 1.0,
    reduce: Reduce = "sum",
    symmetric: bool = True,
    show: Show = "signed",
    smooth: Smooth = None,
    stride: float | None = None,
) -> np.ndarray:
    """Relevance over the photograph in grey; the larger |R|, the more opaque; invisible where R is 0.

        picture = lrp_tf.heatmap.overlay(x[0], R[0], smooth=1.0)

    Args:
        image: see `image_to_rgb`.
        relevance: one sample, [h, w] or [h, w, C]; brought to the geometry of the image.
        alpha: opacity of the largest |R|, 0 to 1.
        cmap: as in `to_rgb`; None: "vivid", from medium grey to bright red and blue, which stand out on dark and
            on light photographs, and "vivid_magnitude" for show="abs".
        scale, gamma, reduce, symmetric, show, smooth, stride: see `to_rgb`. Opacity follows gamma too.

    Returns:
        uint8 [H, W, 3], RGB, in the geometry of the image.

    Raises:
        ValueError: see `image_to_rgb` and `to_rgb`; alpha outside 0..1.
    """
    paint = Paint(scale, cmap, reduce, gamma, symmetric, show, smooth, stride)
    photo = image_to_rgb(image)
    values = resize(paint.values(relevance), photo.shape[:2])
    return laid_over(photo, values, paint.ends(values), paint.palette(over=True), gamma, alpha)


def laid_over(
    photo: np.ndarray, values: np.ndarray, ends: tuple[float, float], cmap: str | Colormap, gamma: float, alpha: float
) -> np.ndarray:
    """`overlay` of values [H, W] as drawn, over a photograph uint8 [H, W, 3]; gives uint8 [H, W, 3].

    Raises:
        ValueError: alpha outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected alpha from 0 to 1. Received: alpha={alpha!r}")
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    picture = np.empty((*grey.shape, 3), np.uint8)
    for top in range(0, len(grey), BAND):
        rows = slice(top, top + BAND)
        shown = strength(values[rows], ends, gamma)
        # The root shows faint relevance, and the largest still leaves the photograph visible.
        opacity = (alpha * np.sqrt(np.abs(shown))).astype(np.float32)
        below = cv2.cvtColor(grey[rows], cv2.COLOR_GRAY2RGB)
        tint = cv2.subtract(colour_of(shown, ends, cmap, gamma), below, dtype=cv2.CV_32F)
        blend = cv2.add(below, cv2.multiply(tint, cv2.merge([opacity] * 3)), dtype=cv2.CV_32F)
        picture[rows] = cv2.convertScaleAbs(blend)  # rounds
    return picture

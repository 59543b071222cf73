"""Smoothing for display, since strided convolutions leave a lattice in relevance."""

from __future__ import annotations

import numbers
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike

Smooth = float | Literal["auto"] | None


def sigma_of(smooth: Smooth, stride: float | None) -> float:
    """The standard deviation that `smooth` stands for, in pixels of the relevance map; 0 for none.

    Raises:
        ValueError: neither None, "auto" nor a finite number of at least 0; "auto" without stride, a stride below 1.
    """
    if stride is not None and not (_number(stride) and 1 <= stride < np.inf):
        raise ValueError(
            f"Expected stride of at least 1, the step of the model's first convolution. Received: {stride!r}"
        )
    if smooth is None:
        return 0.0
    if isinstance(smooth, str) and smooth == "auto":
        if stride is None:
            raise ValueError(
                'smooth="auto" is half the stride of the model\'s first convolution, which an array does not tell. '
                "Received: no stride. Remedy: stride=lrp_tf.gallery.first_stride(explainer), or smooth as a number"
            )
        return stride / 2
    if not _number(smooth) or not 0 <= smooth < np.inf:
        raise ValueError(f'Expected smooth="auto", None or a number of pixels, 0 or more. Received: smooth={smooth!r}')
    return float(smooth)


def _number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def smooth(relevance: ArrayLike, sigma: float) -> np.ndarray:
    """Convolve a relevance map with a Gaussian. The map is mirrored at its borders, so that its sum stays.

        smoothed = lrp_tf.heatmap.smooth(lrp_tf.heatmap.reduce_channels(R[0]), sigma=1.5)

    Args:
        relevance: [h, w], any real dtype.
        sigma: the standard deviation in pixels of the map; 0 changes nothing.

    Returns:
        float64 [h, w], a new array.

    Raises:
        ValueError: another rank, sigma below 0 or not finite.
    """
    values = np.array(relevance, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"Expected a relevance map [h, w]. Received: shape {np.shape(relevance)}. "
            "Remedy: reduce_channels(R[0]) of a sample R[0] with channels."
        )
    sigma = sigma_of(sigma, None)
    if not sigma:
        return values
    # With a sigma of twice the size, a mirrored map is its mean to four digits; a larger one only takes longer.
    y, x = (min(sigma, 2.0 * size) for size in values.shape)
    return cv2.GaussianBlur(values, (0, 0), sigmaX=x, sigmaY=y, borderType=cv2.BORDER_REFLECT)


def smooth_volume(relevance: ArrayLike, sigma: float) -> np.ndarray:
    """`smooth` of a volume, along all three axes.

    Args:
        relevance: [d, h, w], any real dtype.
        sigma: the standard deviation in voxels; 0 changes nothing.

    Returns:
        float64 [d, h, w], a new array.

    Raises:
        ValueError: sigma below 0 or not finite.
    """
    values: np.ndarray = np.array(relevance, dtype=np.float64)
    sigma = sigma_of(sigma, None)
    for axis in range(3 if sigma else 0):
        ahead = np.moveaxis(values, axis, 0)
        rows = np.ascontiguousarray(ahead).reshape(len(ahead), -1)
        reach = min(sigma, 2.0 * len(ahead))
        size = 2 * round(4 * reach) + 1  # of the kernel, as OpenCV chooses it for floats
        kernel = cv2.getGaussianKernel(size, reach)
        blurred = np.asarray(cv2.sepFilter2D(rows, -1, np.ones(1), kernel, borderType=cv2.BORDER_REFLECT))
        values = np.moveaxis(blurred.reshape(ahead.shape), 0, axis)
    return np.ascontiguousarray(values)

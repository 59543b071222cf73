"""The way back through poolings, in operations that every runtime has."""

from __future__ import annotations

import tensorflow as tf

from lrp_tf.exporting.lite.windows import given_back, taken, windows_of


def max_pool_grad(
    x: tf.Tensor, y: tf.Tensor, r: tf.Tensor, size: list[int], strides: list[int], padding: str
) -> tf.Tensor:
    """As TensorFlow's MaxPoolGrad, to the bit: r goes to the first maximum of each window, in row-major order.

    Every place of the windows in turn lets pass what is left of r where it lies below the maximum, and keeps it where
    it is the maximum. Minuends are equal or one of them is 0, so that the differences are exact.

    Args:
        x: images [1, H, W, C]. y, r: the maxima and their relevance [1, h, w, C].
        size, strides: for height and width.
        padding: "SAME" or "VALID".
    """
    windows = windows_of(tuple(x.shape), size, strides, padding)
    *earlier, _ = places = taken(x, windows, fill=x.dtype.min)
    parts, left = [], r
    for place in earlier:
        # 1 where y > place, else 0. Rounding up is one instruction where a comparison would be a table of bools.
        passed = left * tf.minimum(tf.math.ceil(y - place), tf.ones([], x.dtype))
        parts.append(left - passed)
        left = passed
    # The last place has the maximum if no other has. If it is padding, nothing is left.
    parts.append(left)
    assert len(parts) == len(places)
    return given_back(parts, windows)


def avg_pool_grad(image: tuple[int, ...], r: tf.Tensor, size: list[int], strides: list[int], padding: str) -> tf.Tensor:
    """As TensorFlow's AvgPoolGrad: r is divided by how many pixels its window has, and each of these gets that much."""
    windows = windows_of(image, size, strides, padding)
    seen = tf.add_n(taken(tf.ones([1, *windows.image, 1], r.dtype), windows))
    return given_back([r / seen] * len(windows.offsets), windows)

"""Pictures -> batches for training, which depend on the seed and the epoch alone: a resumed training sees the same."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

AUGMENTATIONS = ("flip", "shift", "crop")
SHIFT = 0.125  # at most this share of the side
CROP = 0.8  # at least this share of the side is kept


def steps(count: int, batch: int) -> int:
    """Batches of one epoch."""
    return math.ceil(count / batch)


def training(
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch: int,
    first: int,
    last: int,
    seed: int,
    augment: tuple[str, ...] = (),
    fill: str = "reflect",
    scale: float = 1.0,
) -> tf.data.Dataset:
    """Batches of the epochs from `first` to before `last`, counted from 0.

    Args:
        x: uint8 [N, H, W, C]. y: [N].
        augment: some of `AUGMENTATIONS`.
        fill: what moves in at the border: "reflect", or "constant" for black.
        scale: factor on the pixels.

    Returns:
        Elements (float32 [B, H, W, C] from 0 to 255 * scale, int64 [B]).
    """
    images, labels = tf.constant(x), tf.constant(y)
    count, each = len(x), steps(len(x), batch)

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch)

    def pick(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = scale * tf.cast(tf.gather(images, indices), tf.float32)
        return moved(chosen, tf.stack([tf.cast(seed, tf.int64), step]), augment, fill), tf.gather(labels, indices)

    return tf.data.Dataset.range(first, last).flat_map(of_epoch).enumerate(first * each).map(pick).prefetch(2)


def moved(x: tf.Tensor, seed: tf.Tensor, augment: tuple[str, ...], fill: str) -> tf.Tensor:
    """Pictures float32 [B, H, W, C], each mirrored, shifted or cropped at random; one resampling for all of it."""
    if not augment:
        return x
    count, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    random = tf.random.stateless_uniform([count, 4], seed)
    flip = tf.where(random[:, 0] < 0.5, -1.0, 1.0) if "flip" in augment else tf.ones(count)
    zoom = CROP + (1 - CROP) * random[:, 1] if "crop" in augment else tf.ones(count)
    # The part that is seen, by its centre in the picture. Whole pixels, unless it is enlarged anyway.
    off = [(2 * random[:, 2 + i] - 1) * reach(side, augment, zoom) for i, side in enumerate((height, width))]
    down, right = off if "crop" in augment else [tf.round(o) for o in off]
    sides = [tf.zeros(count)] * 2
    a0, b1 = zoom * flip, zoom
    a2 = (width - 1) / 2 * (1 - a0) + right
    b2 = (height - 1) / 2 * (1 - b1) + down
    transform = tf.stack([a0, sides[0], a2, sides[0], b1, b2, *sides], axis=1)
    return keras.ops.image.affine_transform(x, transform, interpolation="bilinear", fill_mode=fill)


def reach(side: int, augment: tuple[str, ...], zoom: tf.Tensor) -> tf.Tensor:
    """How far the centre of the part that is seen may move, in pixels."""
    inside = (1 - zoom) * side / 2  # a cropped part may lie anywhere in the picture
    return inside + (SHIFT * side if "shift" in augment else 0.0)


def plain(x: np.ndarray, y: np.ndarray | None = None, batch: int = 256, scale: float = 1.0) -> tf.data.Dataset:
    """Batches in order: float32 pictures times `scale`, with their classes if these are given."""
    data = tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(batch)
    return data.map(
        lambda x, *y: (scale * tf.cast(x, tf.float32), *y) if y else scale * tf.cast(x, tf.float32)
    ).prefetch(2)

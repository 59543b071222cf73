"""Bounds of a box of inputs: checked, and shaped to the input of a step."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lrp_tf.core import linear

Bound: TypeAlias = float | npt.ArrayLike | tf.Tensor | None  # a number, one per channel, or one sample's shape


def checked_bound(bound: Bound, name: str) -> np.ndarray | None:
    """The numbers of a bound; None for those that are known in a graph only.

    Raises:
        ValueError: no numbers, or NaN or Inf among them.
    """
    if tf.is_tensor(bound) and not hasattr(bound, "numpy"):
        return None
    try:
        values = np.asarray(bound, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number or an array of numbers. Received: {name}={bound!r}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite. Expected numbers. Received: {name}={bound!r}, with NaN or Inf in it")
    return values


def shape_bound(bound: Bound, name: str, x: tf.Tensor, channel_axis: int) -> tf.Tensor:
    """`bound` shaped to broadcast against x [B, ...]: a number, one value per channel, or one sample's shape.

    Raises:
        ValueError: its shape fits none of these.
    """
    # Not through tf.cast: it would round a Python number to float32 first.
    value = tf.cast(bound, x.dtype) if tf.is_tensor(bound) else tf.constant(np.asarray(bound), x.dtype)
    rank = x.shape.rank
    channels = x.shape[channel_axis]
    if value.shape.rank == 0:
        return value
    if value.shape.rank == 1 and (channels is None or value.shape[0] == channels):
        return linear.along(value, channel_axis, rank)
    sample = x.shape[1:]
    if value.shape.rank == rank and value.shape[0] == 1:
        value = value[0]
    if value.shape.rank == rank - 1 and all(a in (1, b) or b is None for a, b in zip(value.shape, sample, strict=True)):
        return value[None]
    raise ValueError(
        f"ZBox: {name} must be a number, one value for each of {channels} channels, or an array of shape "
        f"{tuple(sample)}. Received: {name} of shape {tuple(value.shape)}"
    )

"""Interpolation as a matrix for each axis: its transpose then has a derivative, which TensorFlow's own has not."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Step
from lrp_tf.core.linear import channels_first


def repeats(step: Step) -> bool:
    """Whether a step only repeats or crops, which TensorFlow can differentiate as often as one likes."""
    if isinstance(step.op, keras.layers.CenterCrop):  # resizes images that are smaller than the crop
        pairs = zip(step.inputs[0].shape, step.outputs[0].shape, strict=True)
        return all(before is not None and after is not None and before >= after for before, after in pairs)
    return isinstance(step.op, keras.layers.UpSampling2D) and step.op.interpolation == "nearest"


def is_separable(step: Step) -> bool:
    """Whether a step interpolates rows and columns of known sizes, each by itself: it neither crops nor pads."""
    op, shape = step.op, step.inputs[0].shape
    apart = ("crop_to_aspect_ratio", "pad_to_aspect_ratio")
    if repeats(step) or isinstance(op, keras.layers.CenterCrop) or any(getattr(op, name, False) for name in apart):
        return False
    return len(shape) == 3 and None not in shape


def transposed(step: Step, x: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """The transpose of the resizing of x, applied to g in the shape of the output. In the shape of x."""
    rows, columns = (2, 3) if channels_first(step.op) else (1, 2)
    for axis in (rows, columns):
        g = tf.tensordot(g, tf.constant(_matrix(step, x, axis), g.dtype), [[axis], [0]])  # the axis is now the last
        rank = g.shape.rank
        g = tf.transpose(g, [*range(axis), rank - 1, *range(axis, rank - 1)])
    return g


def _matrix(step: Step, x: tf.Tensor, axis: int) -> np.ndarray:
    """What the step makes of an axis: [size of the output, size of the input]."""
    first, size = channels_first(step.op), x.shape[axis]
    channels, other = (1, 5 - axis) if first else (3, 3 - axis)
    with tf.init_scope():  # a constant
        # An image of one row or column, which holds another 1 in each channel.
        image = tf.reshape(tf.eye(size), [size if i in (axis, channels) else 1 for i in range(4)])
        made = tf.gather(step.call(image), 0, axis=other)[0].numpy()
    return made.T if first else made

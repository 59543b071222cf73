"""Resizing. Interpolation is a matrix for each axis: its transpose then has a derivative, as TensorFlow's has not."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Step
from lrp_tf.core.linear import channels_first
from lrp_tf.core.protocol import Propagate
from lrp_tf.core.sealing import sealed
from lrp_tf.flows.moves import Pad
from lrp_tf.flows.sums import Share, Summed


class Resample(Share):
    """Resizing and upsampling: nearest neighbours move R with the values, interpolation shares it."""

    def linear_map(self, step: Step, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor] | None:
        # TensorFlow interpolates in float32 for every input dtype, and some of its gradients accept nothing else.
        return lambda x: tf.cast(step.call(tf.cast(x, tf.float32)), x.dtype)

    def backward(self, step: Step, saved: Summed) -> Propagate:
        if not self.moves(step):
            return super().backward(step, saved)
        if is_separable(step):
            return lambda relevances, account: self.transpose(step, step.call, saved.inputs, relevances[0])
        move = Pad().backward(step, (saved.inputs, [saved.output]))
        if repeats(step):
            return move
        return lambda relevances, account: [None if r is None else sealed(r) for r in move(relevances, account)]

    def transpose(
        self, step: Step, function: Callable[..., tf.Tensor], values: list[tf.Tensor], g: tf.Tensor
    ) -> list[tf.Tensor]:
        """Two products with matrices: TensorFlow's own transpose of an interpolation has no derivative, or None."""
        if is_separable(step):
            return [transposed(step, values[0], g)]
        found = super().transpose(step, function, values, g)
        return found if repeats(step) else [sealed(r) for r in found]

    def moves(self, step: Step) -> bool:
        """Whether the step only moves values."""
        return repeats(step) or getattr(step.op, "interpolation", "") == "nearest"

    def has_offset(self, step: Step) -> bool:
        return getattr(step.op, "pad_to_aspect_ratio", False)  # the padding has fill_value


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

"""Normalisation layers: the scale 1/sigma is held constant, the rest is an affine step under Epsilon.

The identity rule (Ali et al. 2022 leave it open) is `PassThrough()`, by a composite's entry.
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import Relative, check_stabilizer, offset, ratio
from lrp_tf.core.protocol import Propagate
from lrp_tf.flows.base import Flow, Kept, PassThrough, book_division


@dataclasses.dataclass(frozen=True, repr=False)
class Centered(Flow):
    """z = (x - mean) scale + shift with mean and 1/sigma over some axes: LayerNormalization, GroupNormalization.

    R_i = x_i (c_i - mean(c)) with c = scale R / s(z): Epsilon over the contributions of x, 1/sigma held
    (Ali et al. 2022, "XAI for Transformers"). The shift absorbs its share as a bias does.

    Args:
        stabilizer: epsilon of s(z) = z + epsilon sign(z), a number >= 0 or `Relative`.
    """

    stabilizer: float | Relative = 1e-6
    divides = True

    def __post_init__(self) -> None:
        check_stabilizer(self.stabilizer)

    def enters(self, step: Step) -> tuple[int, ...]:
        return tuple(i for i in step.signals if i == 0)

    def parts(self, step: Step, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[int]]:
        """x with its groups on axes of their own, gamma and beta that broadcast to it, and the axes of the mean."""
        raise NotImplementedError

    def value(self, step: Step, x: tf.Tensor) -> tf.Tensor:
        """The output, by operations that have a second derivative: tf.nn.moments holds the mean, as its first may."""
        return tf.reshape(self._normalized(step, x)[2], tf.shape(x))

    def _normalized(self, step: Step, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, list[int]]:
        """x in its groups, scale, z, beta, and the axes of the mean."""
        x, gamma, beta, axes = self.parts(step, x)
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
        scale = gamma * tf.math.rsqrt(variance + tf.constant(step.op.epsilon, x.dtype))
        return x, scale, (x - mean) * scale + beta, beta, axes

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, _ = saved
        shape = tf.shape(inputs[0])
        x, scale, z, beta, axes = self._normalized(step, inputs[0])
        epsilon = offset(z, self.stabilizer)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            arrived = tf.reshape(relevances[0], tf.shape(x))
            g = ratio(arrived, z + epsilon, self.stabilizer)
            if account is not None:
                booked, divided, denominator, added = (tf.reshape(t, shape) for t in (arrived, g, z + epsilon, epsilon))
                book_division(account, booked, divided, denominator, added, self.stabilizer)
                account.add("bias", tf.reshape(g * beta, shape))
            c = g * scale
            r = x * (c - tf.reduce_mean(c, axes, keepdims=True))
            return [tf.reshape(r, shape), *[None] * (len(inputs) - 1)]

        return propagate


class LayerNorm(Centered):
    """keras.layers.LayerNormalization."""

    def backward(self, step: Step, saved: Kept) -> Propagate:
        if getattr(step.op, "rms_scaling", False):  # of older Keras: nothing is centered, and a scale passes R
            return PassThrough().backward(step, saved)
        return super().backward(step, saved)

    def value(self, step: Step, x: tf.Tensor) -> tf.Tensor:
        return step.call(x) if getattr(step.op, "rms_scaling", False) else super().value(step, x)

    def parts(self, step: Step, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[int]]:
        layer, rank = step.op, x.shape.rank
        axes = sorted(a % rank for a in ([layer.axis] if isinstance(layer.axis, int) else layer.axis))
        gamma, beta = (_shaped(w, x, axes) for w in (layer.gamma, layer.beta))
        return x, 1.0 if gamma is None else gamma, tf.zeros([], x.dtype) if beta is None else beta, axes


def _shaped(weight: keras.Variable | None, x: tf.Tensor, axes: list[int]) -> tf.Tensor | None:
    if weight is None:
        return None
    shape = [x.shape[i] if i in axes else 1 for i in range(x.shape.rank)]
    return tf.reshape(tf.cast(weight, x.dtype), shape)


class GroupNorm(Centered):
    """keras.layers.GroupNormalization."""

    def parts(self, step: Step, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[int]]:
        layer, rank = step.op, x.shape.rank
        axis, channels = layer.axis % rank, x.shape[layer.axis % rank]
        groups = channels if layer.groups == -1 else layer.groups
        size = tf.shape(x)
        grouped = tf.reshape(x, tf.concat([size[:axis], [groups, channels // groups], size[axis + 1 :]], 0))
        form = [1] * (rank + 1)
        form[axis : axis + 2] = [groups, channels // groups]
        one, zero = tf.ones([], x.dtype), tf.zeros([], x.dtype)
        gamma = tf.reshape(tf.cast(layer.gamma, x.dtype), form) if layer.scale else one
        beta = tf.reshape(tf.cast(layer.beta, x.dtype), form) if layer.center else zero
        return grouped, gamma, beta, [i for i in range(1, rank + 1) if i != axis]

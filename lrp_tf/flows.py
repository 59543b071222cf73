"""Relevance through everything without a kernel: sums, pooling, data movement, activations, normalisation.

A flow has the protocol of a rule (`forward`, `backward`, see rules.py). One entry of the registry makes a layer or
operation known; conservation is accounted for as in the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from lrp_tf import rules
from lrp_tf.linear import computes_as
from lrp_tf.numerics import Account, offset, vjp
from lrp_tf.rules import Propagate


class Flow:
    """Base class. `transparent`: `composites.first()` looks through it."""

    transparent = False

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        """Outputs of the step, and what `backward` needs."""
        outputs = list(keras.tree.flatten(step.call(*inputs)))
        if inputs[0].dtype.is_floating:
            # Layers with a mixed policy may cast to half precision; relevance does not.
            outputs = [tf.cast(y, inputs[0].dtype) if y.dtype.is_floating else y for y in outputs]
        return outputs, (inputs, outputs)

    def backward(self, step: Any, saved: Any) -> Propagate:
        """A function: (relevance of the outputs, account or None) -> relevance of the inputs."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward()")

    def __repr__(self) -> str:
        return type(self).__name__


@dataclasses.dataclass(frozen=True, repr=False)
class PassThrough(Flow):
    """R unchanged, for activations and other element-wise steps (Bach et al. 2015)."""

    transparent: bool = False

    def backward(self, step: Any, saved: Any) -> Propagate:
        return lambda relevances, account: list(relevances)


class Identity(PassThrough):
    """Dropout and the like, in inference mode whatever the call stored."""

    def __init__(self) -> None:
        super().__init__(transparent=True)

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        return list(inputs), None


class Move(Flow):
    """R moves with its entries: reshape, permute, concatenate, crop."""

    transparent = True

    def backward(self, step: Any, saved: Any) -> Propagate:
        inputs, _ = saved

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            # uint8 images are moved about too, and a product with integers has no transpose.
            floats = [tf.cast(x, relevances[0].dtype) for x in inputs]
            return vjp(step.call, floats, relevances[0])

        return propagate


class Pad(Move):
    """Zero padding: R moves with its entries; what lands on the padding is booked "other"."""

    def backward(self, step: Any, saved: Any) -> Propagate:
        move = super().backward(step, saved)
        ((x,), _) = saved

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            if account is not None:
                inside = step.call(tf.ones_like(x, relevances[0].dtype))
                account.add("other", relevances[0] * (1 - inside))
            return move(relevances, account)

        return propagate


class Share(Flow):
    """Epsilon(1e-6) over the true contributions of an affine step: Add, Average, average pooling.

    A constant among the arguments (x + 3) absorbs its share as a bias does.
    """

    epsilon = 1e-6

    def linear_map(self, step: Any) -> Callable[..., tf.Tensor]:
        """The map whose contributions are shared."""
        return step.call

    def backward(self, step: Any, saved: Any) -> Propagate:
        inputs, outputs = saved
        function = self.linear_map(step)
        z = outputs[0] if function == step.call else function(*inputs)
        epsilon = offset(z, self.epsilon)
        bias = function(*[tf.zeros_like(x) for x in inputs]) if step.has_constants else None

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            g = relevances[0] / (z + epsilon)
            if account is not None:
                account.add("stabilizer", g * epsilon)
                if bias is not None:
                    account.add("bias", g * bias)
            return [x * share for x, share in zip(inputs, vjp(function, inputs, g), strict=True)]

        return propagate


class Affine(Flow):
    """An affine step that no neighbour could take in (BatchNormalization after a sum, say): Epsilon(1e-6)."""

    rule = rules.Epsilon()

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        return self.rule.forward(step, inputs)

    def backward(self, step: Any, saved: Any) -> Propagate:
        return self.rule.backward(step, saved)


class WinnerTakesAll(Flow):
    """Max pooling: R goes to the first maximum of each window, in row-major order."""

    def backward(self, step: Any, saved: Any) -> Propagate:
        (x,), (y,) = saved
        return lambda relevances, account: [_max_pool_grad(step.op, x, y, relevances[0])]


class MaxAsAverage(Share):
    """Max pooling propagated as average pooling of the same windows (the LRP tutorial's choice)."""

    def linear_map(self, step: Any) -> Callable[..., tf.Tensor]:
        layer = step.op
        if type(layer) is keras.layers.GlobalMaxPooling2D:
            axes = [1, 2] if layer.data_format == "channels_last" else [2, 3]
            return lambda x: tf.reduce_mean(x, axes, keepdims=layer.keepdims)
        ksize, strides = list(layer.pool_size), list(layer.strides)
        return _channels_last(layer, lambda x: tf.nn.avg_pool2d(x, ksize, strides, layer.padding.upper()))


class GlobalWinnerTakesAll(Flow):
    """Global max pooling: R goes to the first maximum of each channel, in row-major order."""

    def backward(self, step: Any, saved: Any) -> Propagate:
        (x,), _ = saved
        first = step.op.data_format == "channels_first"
        flat = tf.transpose(x, [0, 2, 3, 1]) if first else x
        shape = tf.shape(flat)
        flat = tf.reshape(flat, [shape[0], -1, shape[3]])
        winner = tf.one_hot(tf.argmax(flat, axis=1), tf.shape(flat)[1], axis=1, dtype=x.dtype)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            r = tf.reshape(winner * tf.reshape(relevances[0], [shape[0], 1, shape[3]]), shape)
            return [tf.transpose(r, [0, 3, 1, 2]) if first else r]

        return propagate


@dataclasses.dataclass(frozen=True, repr=False)
class InputScaling(PassThrough):
    """Rescaling and Normalization: R unchanged. `affine`: (layer, x) -> the value, in x's own precision."""

    transparent: bool = True
    affine: Callable[[Any, tf.Tensor], tf.Tensor] = None  # type: ignore[assignment]

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        (x,) = inputs
        if not x.dtype.is_floating:  # uint8 images
            x = tf.cast(x, "float64" if step.op.compute_dtype == "float64" else "float32")
        return [self.affine(step.op, x)], None


def _channels_last(layer: Any, function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    if layer.data_format != "channels_first":
        return function
    return lambda x: tf.transpose(function(tf.transpose(x, [0, 2, 3, 1])), [0, 3, 1, 2])


def _max_pool_grad(layer: Any, x: tf.Tensor, y: tf.Tensor, r: tf.Tensor) -> tf.Tensor:
    first = layer.data_format == "channels_first"
    if first:
        x, y, r = (tf.transpose(t, [0, 2, 3, 1]) for t in (x, y, r))
    window = {"ksize": [1, *layer.pool_size, 1], "strides": [1, *layer.strides, 1], "padding": layer.padding.upper()}
    grad = tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=r, **window)
    return tf.transpose(grad, [0, 3, 1, 2]) if first else grad


# --- registry ----------------------------------------------------------------------------------

_REGISTRY: dict[tuple[type | str, int | None], Flow] = {}
_ACTIVATIONS: list[Callable] = []


def register(kind: type | str, flow: Flow, tensors: int | None = None) -> None:
    """Declare how relevance flows through a layer class, or through an operation.

    Args:
        kind: subclass of keras.Layer, or "ops.Add" for the operation of keras.ops.add.
        flow: an instance of `Flow`.
        tensors: the entry holds only for calls with so many tensor arguments (x * 2 has one).

    Raises:
        TypeError: `flow` is not a Flow.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flows.register expects an instance of flows.Flow. Received: {flow!r}")
    _REGISTRY[kind, tensors] = flow


def register_activation(function: Callable) -> None:
    """Declare that `function`, used as an activation, is element-wise: relevance passes it unchanged."""
    if not callable(function):
        raise TypeError(f"register_activation expects a function. Received: {function!r}")
    _ACTIVATIONS.append(function)


def lookup(step: Any) -> Flow | None:
    """The flow of a step, or None. A subclass that overrides what is computed needs an entry of its own."""
    if step.activation is not None or any(step.function is known for known in _ACTIVATIONS):
        return PassThrough()
    kind = step.kind
    for cls in kind.__mro__ if isinstance(kind, type) else [kind]:
        for key in ((cls, len(step.inputs)), (cls, None)):
            if key in _REGISTRY:
                same = isinstance(kind, str) or computes_as(kind, cls)
                return _REGISTRY[key] if same else None
    return None


def _rescale(layer: Any, x: tf.Tensor) -> tf.Tensor:
    scale, shift = (tf.convert_to_tensor(value, x.dtype) for value in (layer.scale, layer.offset))
    if scale.shape.rank and keras.config.image_data_format() == "channels_first":
        scale = tf.reshape(scale, [*scale.shape, *[1] * (3 - scale.shape.rank)])
    return x * scale + shift


def _normalize(layer: Any, x: tf.Tensor) -> tf.Tensor:
    mean, variance = layer.mean, layer.variance
    if layer.input_mean is None:
        # layer.mean is a copy of the adapted variable, which a tf.function would freeze.
        mean, variance = tf.reshape(layer.adapt_mean, mean.shape), tf.reshape(layer.adapt_variance, mean.shape)
    mean, variance = tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
    deviation = tf.maximum(tf.sqrt(variance), tf.constant(keras.config.epsilon(), x.dtype))
    return mean + x * deviation if layer.invert else (x - mean) / deviation


_ENTRIES: list[tuple[Flow, str]] = [
    (PassThrough(), "ReLU LeakyReLU PReLU ELU Softmax"),
    (Identity(), "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout GaussianNoise"),
    (Identity(), "AlphaDropout ActivityRegularization Identity"),
    (Move(), "Flatten Reshape Permute RepeatVector Cropping2D Concatenate"),
    (Pad(), "ZeroPadding2D"),
    (Move(), "ops.Reshape ops.Transpose ops.Concatenate ops.Squeeze ops.ExpandDims"),
    (Identity(), "ops.ConvertToTensor"),
    (Share(), "Add Average Subtract AveragePooling2D GlobalAveragePooling2D ops.Add ops.Subtract ops.Mean"),
    (WinnerTakesAll(), "MaxPooling2D"),
    (GlobalWinnerTakesAll(), "GlobalMaxPooling2D"),
    (Affine(), "BatchNormalization"),
    (InputScaling(affine=_rescale), "Rescaling"),
    (InputScaling(affine=_normalize), "Normalization"),
]
for _flow, _names in _ENTRIES:
    for _name in _names.split():
        register(_name if _name.startswith("ops.") else getattr(keras.layers, _name), _flow)
for _name in ("ops.Multiply", "ops.Divide", "ops.TrueDivide", "ops.Negative"):
    register(_name, Share(), tensors=1)  # h * 2, h / 2, -h

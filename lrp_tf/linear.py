"""Linear layers: for each class its kernel, bias and bias-free forward map. A new layer is one entry."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """How to read one class of linear layers.

    Attributes:
        kernel: layer -> variable or tensor w.
        forward: (layer, x, w) -> z, linear in x and linear in w, without bias and activation.
        bias: layer -> variable or tensor that broadcasts to z (or [C], see `channel_axis`), or None.
        channel_axis: layer -> axis of z that a bias of shape [C] lies on.
        scale_outputs: (layer, w, a) -> w with output channel c times a[c]; None: nothing folds in from behind.
        scale_inputs: (layer, w, a) -> w with input channel c times a[c]; None: nothing folds in from ahead.
        convolution: presets treat it as a convolution.
        elementwise: an affine step of its own (BatchNormalization): it folds into neighbours where that is exact,
            elsewhere it runs under Epsilon whatever the composite says.
    """

    kernel: Callable[[Any], tf.Tensor]
    forward: Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor]
    bias: Callable[[Any], tf.Tensor | None] = lambda layer: getattr(layer, "bias", None)
    channel_axis: Callable[[Any], int] = lambda layer: -1
    scale_outputs: Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    scale_inputs: Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    convolution: bool = False
    elementwise: bool = False


_REGISTRY: dict[type, LinearLayer] = {}


def register(layer_class: type, *, kernel: Callable, forward: Callable, **options: Any) -> None:
    """Declare `layer_class` a linear layer: every rule, composite and table then knows it.

    Args:
        layer_class: subclass of keras.Layer. A function in `layer.activation` is split off by itself.
        kernel: layer -> w.
        forward: (layer, x, w) -> z without bias; must be linear in x and in w.
        **options: the other fields of `LinearLayer`.

    Raises:
        TypeError: `layer_class` is not a class of Keras layers, or an option is unknown.
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise TypeError(f"linear.register expects a class of keras.Layer. Received: {layer_class!r}")
    _REGISTRY[layer_class] = LinearLayer(kernel=kernel, forward=forward, **options)


def lookup(op: Any) -> LinearLayer | None:
    """Entry of the nearest registered class of `op`, or None.

    A subclass that overrides what is computed is not its base class: it has no entry until it is registered itself.
    """
    for cls in type(op).__mro__:
        if cls in _REGISTRY:
            return _REGISTRY[cls] if computes_as(type(op), cls) else None
    return None


# What a subclass may override and still compute the same.
_HARMLESS = {
    *("__init__", "__repr__", "build", "get_config", "from_config", "get_build_config", "build_from_config"),
    *("compute_output_shape", "compute_output_spec", "compute_mask", "save_own_variables", "load_own_variables"),
}


def computes_as(subclass: type, cls: type) -> bool:
    """Whether `subclass` overrides no method of `cls` that the computation may go through, as `convolution_op`."""
    between = subclass.__mro__[: subclass.__mro__.index(cls)]
    overridden = {name for c in between for name, value in vars(c).items() if isinstance(value, types.FunctionType)}
    return not any(hasattr(cls, name) for name in overridden - _HARMLESS)


def along(values: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    """`values` [C] shaped to broadcast along `axis` of a tensor of that rank."""
    shape = [1] * rank
    shape[axis] = -1
    return tf.reshape(values, shape)


def _conv_axis(layer: Any) -> int:
    return 1 if layer.data_format == "channels_first" else -1


def _scale_last(layer: Any, w: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    return w * a


def _channels_last(convolve: Callable) -> Callable:
    """Run `convolve` with channels last: TensorFlow has no channels-first convolution on CPUs."""

    def run(layer: Any, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        if layer.data_format != "channels_first":
            return convolve(layer, x, w)
        rank = x.shape.rank
        z = convolve(layer, tf.transpose(x, [0, *range(2, rank), 1]), w)
        return tf.transpose(z, [0, rank - 1, *range(1, rank - 1)])

    return run


# --- dense -------------------------------------------------------------------------------------


def _dense(layer: Any, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    return tf.matmul(x, w) if x.shape.rank == 2 else tf.tensordot(x, w, 1)


register(
    keras.layers.Dense,
    kernel=lambda layer: layer.kernel,
    forward=_dense,
    scale_outputs=_scale_last,
    scale_inputs=lambda layer, w, a: w * a[:, None],
)


# --- convolutions ------------------------------------------------------------------------------


@_channels_last
def _conv(layer: Any, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    padding, strides, dilations = layer.padding.upper(), list(layer.strides), list(layer.dilation_rate)
    if padding == "CAUSAL":
        x, padding = tf.pad(x, [[0, 0], [dilations[0] * (layer.kernel_size[0] - 1), 0], [0, 0]]), "VALID"
    # Named, since the gradient of Conv3D does without a default.
    layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[layer.rank]
    if layer.groups == 1:
        return tf.nn.convolution(x, w, strides, padding, layout, dilations)
    # TensorFlow has no gradient of grouped convolutions on CPUs.
    if layer.rank == 2 and w.shape[2] == 1 and len(set(strides)) == 1:
        depthwise = tf.reshape(w, [*w.shape[:2], layer.groups, w.shape[3] // layer.groups])
        return tf.nn.depthwise_conv2d(x, depthwise, [1, *strides, 1], padding, dilations=dilations)
    groups = zip(tf.split(x, layer.groups, axis=-1), tf.split(w, layer.groups, axis=-1), strict=True)
    return tf.concat([tf.nn.convolution(xg, wg, strides, padding, layout, dilations) for xg, wg in groups], -1)


def _scale_conv_inputs(layer: Any, w: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    # Group g reads input channels g C/G ... and writes outputs g F/G ...; w is [..., C/G, F].
    per_group = tf.transpose(tf.reshape(a, [layer.groups, -1]))
    return w * tf.repeat(per_group, layer.filters // layer.groups, axis=1)


for _class in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D):
    register(
        _class,
        kernel=lambda layer: layer.kernel,
        forward=_conv,
        channel_axis=_conv_axis,
        scale_outputs=_scale_last,
        scale_inputs=_scale_conv_inputs,
        convolution=True,
    )


@_channels_last
def _depthwise(layer: Any, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    strides, dilations, one = list(layer.strides), list(layer.dilation_rate), layer.rank == 1
    if one:  # as an image of height 1; TensorFlow wants equal strides
        x, w, strides, dilations = x[:, None], w[None], strides * 2, [1, *dilations]
    z = tf.nn.depthwise_conv2d(x, w, [1, *strides, 1], layer.padding.upper(), dilations=dilations)
    return z[:, 0] if one else z


for _class in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
    register(
        _class,
        kernel=lambda layer: layer.kernel,
        forward=_depthwise,
        channel_axis=_conv_axis,
        # w is [..., C, M] and output channel c M + m.
        scale_outputs=lambda layer, w, a: w * tf.reshape(a, w.shape[-2:]),
        scale_inputs=lambda layer, w, a: w * a[:, None],
        convolution=True,
    )


# --- elementwise -------------------------------------------------------------------------------


def _batch_norm_axis(layer: Any) -> int:
    return layer.axis if isinstance(layer.axis, int) else layer.axis[0]


def _batch_norm_scale(layer: Any) -> tf.Tensor:
    variance = tf.convert_to_tensor(layer.moving_variance)
    scale = tf.math.rsqrt(variance + tf.constant(layer.epsilon, variance.dtype))
    return scale * tf.convert_to_tensor(layer.gamma) if layer.scale else scale


def _batch_norm_shift(layer: Any) -> tf.Tensor:
    shift = -tf.convert_to_tensor(layer.moving_mean) * _batch_norm_scale(layer)
    return shift + tf.convert_to_tensor(layer.beta) if layer.center else shift


register(
    keras.layers.BatchNormalization,
    kernel=_batch_norm_scale,
    bias=_batch_norm_shift,
    forward=lambda layer, x, w: x * along(w, _batch_norm_axis(layer), x.shape.rank),
    channel_axis=_batch_norm_axis,
    elementwise=True,
)

"""Linear layers and operations: for each its kernel, bias and bias-free forward map. A new one is one entry."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from lrp_tf.core.numerics import number


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """How to read one class of linear layers.

    Attributes:
        kernel: layer -> variable or tensor w. None: an operation of keras.ops whose other argument is the kernel.
        forward: (layer, x, w) -> z, linear in x and linear in w, without bias and activation.
        bias: layer -> variable or tensor that broadcasts to z (or [C], see `channel_axis`), or None.
        bias_given: (layer, w) -> the same, where the kernel tells it; None: `bias` does.
        channel_axis: layer -> axis of z that a bias of shape [C] lies on.
        transpose: (layer, g, w, shape of x) -> the transpose of x -> forward(layer, x, w), or None where TensorFlow's
            gradient has to find it; None: it always has to.
        scale_outputs: (layer, w, a) -> w with output channel c times a[c]; None: nothing folds in from behind.
        scale_inputs: (layer, w, a) -> w with input channel c times a[c]; None: nothing folds in from ahead.
        fan_in: w -> how many inputs an output sums; None: unknown, or few.
        mixes: w is [..., C, F] and sums over all C channels of x, which lie on the same axis as those of z.
        convolution: presets treat it as a convolution.
        elementwise: an affine step of its own (BatchNormalization): it folds into neighbours where that is exact,
            elsewhere it runs under Epsilon whatever the composite says.
    """

    kernel: Callable[[keras.Operation], tf.Tensor] | None
    forward: Callable[[keras.Operation, tf.Tensor, tf.Tensor], tf.Tensor]
    bias: Callable[[keras.Operation], tf.Tensor | None] = lambda layer: getattr(layer, "bias", None)
    bias_given: Callable[[keras.Operation, tf.Tensor], tf.Tensor] | None = None
    channel_axis: Callable[[keras.Operation], int] = lambda layer: -1
    transpose: Callable[[keras.Operation, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor | None] | None = None
    scale_outputs: Callable[[keras.Operation, tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    scale_inputs: Callable[[keras.Operation, tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    fan_in: Callable[[tf.Tensor], int] | None = None
    mixes: bool = False
    convolution: bool = False
    elementwise: bool = False


_REGISTRY: dict[type | str, LinearLayer] = {}


def register(layer_class: type, *, kernel: Callable, forward: Callable, **options: Any) -> None:
    """Declare `layer_class` a linear layer: every rule, composite and table then knows it.

        lrp_tf.linear.register(MyDense, kernel=lambda layer: layer.w, forward=lambda layer, x, w: x @ w)

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


def register_operation(kind: str, *, forward: Callable, **options: Any) -> None:
    """Declare an operation of two tensors linear if one of them is constant. The constant one is the kernel.

    Args:
        kind: "ops.Conv" for the operation of keras.ops.conv.
        forward: (operation, first, second) -> z.
        **options: as for `register`; they hold where the second argument is the kernel.
    """
    _REGISTRY[kind] = LinearLayer(kernel=None, forward=forward, bias=lambda op: None, **options)


def lookup_operation(kind: type | str, tensors: int, constant: tuple[int, ...]) -> LinearLayer | None:
    """Entry of an operation of keras.ops that reads a signal and a constant, which is its kernel; or None.

    Args:
        tensors: how many the operation reads.
        constant: the positions of those that are constant.
    """
    entry = _REGISTRY.get(kind) if isinstance(kind, str) else None
    if entry is None or tensors != 2 or len(constant) != 1:
        return None
    if constant == (1,):
        return entry
    if entry.convolution:  # a convolution of constants with a kernel that depends on the input
        return None
    turned = lambda op, x, w: entry.forward(op, w, x)  # noqa: E731
    return dataclasses.replace(entry, forward=turned, scale_outputs=None, scale_inputs=None)


def operations() -> set[str]:
    """The operations of keras.ops that may be linear steps."""
    return {kind for kind in _REGISTRY if isinstance(kind, str)}


def registered() -> list[tuple[type | str, LinearLayer]]:
    """All entries: (class or operation, how it is read)."""
    return list(_REGISTRY.items())


def entry(layer_class: type) -> LinearLayer | None:
    """Entry of this very class, or None."""
    return _REGISTRY.get(layer_class)


def lookup(op: object) -> LinearLayer | None:
    """Entry of the nearest registered class of `op`, or None.

    A subclass that overrides what is computed is not its base class: it has no entry until it is registered itself.
    """
    for cls in type(op).__mro__:
        if cls in _REGISTRY:
            return _REGISTRY[cls] if computes_as(type(op), cls) else None
    return None


# Methods that a subclass may override without changing what it computes.
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


def _conv_axis(layer: keras.Operation) -> int:
    return 1 if channels_first(layer) else -1


def channels_first(layer: keras.Operation) -> bool:
    """The data format of a layer, or of an operation, which may follow the global one."""
    return (layer.data_format or keras.config.image_data_format()) == "channels_first"


def each(value: int | Sequence[int], rank: int) -> list[int]:
    """One number for each of `rank` axes."""
    return [value] * rank if isinstance(value, int) else list(value)


def _scale_last(layer: keras.Operation, w: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    return w * a


def _channels_last(convolve: Callable) -> Callable:
    """Run `convolve` with channels last: TensorFlow has no channels-first convolution on CPUs."""

    def run(layer: keras.Operation, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        if not channels_first(layer):
            return convolve(layer, x, w)
        rank = x.shape.rank
        z = convolve(layer, tf.transpose(x, [0, *range(2, rank), 1]), w)
        return tf.transpose(z, [0, rank - 1, *range(1, rank - 1)])

    return run


# --- dense -------------------------------------------------------------------------------------


def _dense(layer: keras.Operation, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    return tf.matmul(x, w) if x.shape.rank == 2 else tf.tensordot(x, w, 1)


register(
    keras.layers.Dense,
    kernel=lambda layer: layer.kernel,
    forward=_dense,
    scale_outputs=_scale_last,
    scale_inputs=lambda layer, w, a: w * a[:, None],
    fan_in=lambda w: math.prod(w.shape[:-1]),
    mixes=True,
)
register(
    keras.layers.EinsumDense,
    kernel=lambda layer: layer.kernel,
    forward=lambda layer, x, w: keras.ops.einsum(layer.equation, x, w),
)
for _kind in ("ops.Matmul", "ops.Dot", "ops.Einsum", "ops.Tensordot"):
    register_operation(_kind, forward=lambda op, first, second: op.call(first, second))


# --- convolutions ------------------------------------------------------------------------------


@_channels_last
def _conv(layer: keras.Operation, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    rank = x.shape.rank - 2
    padding, strides, dilations = layer.padding.upper(), each(layer.strides, rank), each(layer.dilation_rate, rank)
    if padding == "CAUSAL":
        x, padding = tf.pad(x, [[0, 0], [dilations[0] * (w.shape[0] - 1), 0], [0, 0]]), "VALID"
    # The layout is named because the gradient of Conv3D has no default for it.
    layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[rank]
    groups = x.shape[-1] // w.shape[-2]
    if groups == 1 and rank == 2 and max(dilations) == 1:  # as tf.nn.convolution, in a third of the time to trace it
        return tf.raw_ops.Conv2D(input=x, filter=w, strides=[1, *strides, 1], padding=padding)
    if groups == 1:
        return tf.nn.convolution(x, w, strides, padding, layout, dilations)
    # TensorFlow has no gradient of grouped convolutions on CPUs.
    if rank == 2 and w.shape[2] == 1 and len(set(strides)) == 1:
        depthwise = tf.reshape(w, [*w.shape[:2], groups, w.shape[3] // groups])
        return tf.nn.depthwise_conv2d(x, depthwise, [1, *strides, 1], padding, dilations=dilations)
    pairs = zip(tf.split(x, groups, axis=-1), tf.split(w, groups, axis=-1), strict=True)
    return tf.concat([tf.nn.convolution(xg, wg, strides, padding, layout, dilations) for xg, wg in pairs], -1)


def _transposed_conv(layer: keras.Operation, g: tf.Tensor, w: tf.Tensor, shape: tf.Tensor) -> tf.Tensor | None:
    """The gradient of a plain 2-D convolution as one operation, which needs no tape and no forward pass."""
    padding = layer.padding.upper()
    if g.shape.rank != 4 or channels_first(layer) or padding not in ("SAME", "VALID"):
        return None
    strides, dilations = each(layer.strides, 2), each(layer.dilation_rate, 2)
    if max(dilations) > 1:  # TensorFlow rearranges the image for these
        return None
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=shape,
        filter=w,
        out_backprop=g,
        strides=[1, *strides, 1],
        padding=padding,
    )


def _scale_conv_inputs(layer: keras.Operation, w: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    # Group g reads input channels g C/G ... and writes outputs g F/G ...; w is [..., C/G, F].
    groups = a.shape[0] // w.shape[-2]
    return w * tf.repeat(tf.transpose(tf.reshape(a, [groups, -1])), w.shape[-1] // groups, axis=1)


@_channels_last
def _depthwise(layer: keras.Operation, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    rank = x.shape.rank - 2
    padding, strides, dilations = layer.padding.upper(), each(layer.strides, rank), each(layer.dilation_rate, rank)
    if max(strides) > 1 and max(dilations) > 1:  # TensorFlow does not support both; Keras does
        return keras.ops.depthwise_conv(x, w, strides, layer.padding, "channels_last", dilations)
    if rank == 2 and max(dilations) == 1:  # as tf.nn.depthwise_conv2d, without its constants
        return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=w, strides=[1, *strides, 1], padding=padding)
    if rank == 1:  # an image of height 1; TensorFlow needs equal strides
        x, w, strides, dilations = x[:, None], w[None], strides * 2, [1, *dilations]
    z = tf.nn.depthwise_conv2d(x, w, [1, *strides, 1], padding, dilations=dilations)
    return z[:, 0] if rank == 1 else z


def _transposed_depthwise(layer: keras.Operation, g: tf.Tensor, w: tf.Tensor, shape: tf.Tensor) -> tf.Tensor | None:
    """As `_transposed_conv`."""
    padding, strides = layer.padding.upper(), each(layer.strides, g.shape.rank - 2)
    plain = g.shape.rank == 4 and not channels_first(layer) and padding in ("SAME", "VALID")
    if not plain or len(set(strides)) > 1 or max(each(layer.dilation_rate, 2)) > 1:
        return None
    return tf.nn.depthwise_conv2d_backprop_input(shape, w, g, [1, *strides, 1], padding)


@_channels_last
def _conv_transpose(layer: keras.Operation, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    rank = x.shape.rank - 2
    output_padding = layer.output_padding if layer.output_padding is None else each(layer.output_padding, rank)
    return keras.ops.conv_transpose(
        x,
        w,
        each(layer.strides, rank),
        layer.padding,
        output_padding,
        "channels_last",
        each(layer.dilation_rate, rank),
    )


_CONVOLUTION: dict[str, Any] = {
    "forward": _conv,
    "scale_outputs": _scale_last,
    "scale_inputs": _scale_conv_inputs,
    "fan_in": lambda w: math.prod(w.shape[:-1]),
    "mixes": True,  # unless in groups
    "transpose": _transposed_conv,
}
_DEPTHWISE: dict[str, Any] = {
    "forward": _depthwise,
    "transpose": _transposed_depthwise,
    # w is [..., C, M] and output channel c M + m.
    "scale_outputs": lambda layer, w, a: w * tf.reshape(a, w.shape[-2:]),
    "scale_inputs": lambda layer, w, a: w * a[:, None],
}
_TRANSPOSED: dict[str, Any] = {  # w is [..., F, C]
    "forward": _conv_transpose,
    "scale_outputs": lambda layer, w, a: w * a[:, None],
    "scale_inputs": _scale_last,
}
for _names, _operation, _options in (
    ("Conv1D Conv2D Conv3D", "ops.Conv", _CONVOLUTION),
    ("DepthwiseConv1D DepthwiseConv2D", "ops.DepthwiseConv", _DEPTHWISE),
    ("Conv1DTranspose Conv2DTranspose Conv3DTranspose", "ops.ConvTranspose", _TRANSPOSED),
):
    _options |= {"channel_axis": _conv_axis, "convolution": True}
    register_operation(_operation, **_options)
    for _name in _names.split():
        register(getattr(keras.layers, _name), kernel=lambda layer: layer.kernel, **_options)


# --- elementwise -------------------------------------------------------------------------------


def _batch_norm_axis(layer: keras.Operation) -> int:
    return layer.axis if isinstance(layer.axis, int) else layer.axis[0]


def _batch_norm_scale(layer: keras.Operation) -> tf.Tensor:
    variance = tf.convert_to_tensor(layer.moving_variance)
    scale = tf.math.rsqrt(variance + number(layer.epsilon, variance.dtype))
    return scale * tf.convert_to_tensor(layer.gamma) if layer.scale else scale


def _batch_norm_shift(layer: keras.Operation, scale: tf.Tensor) -> tf.Tensor:
    mean = tf.cast(layer.moving_mean, scale.dtype) * scale
    return tf.cast(layer.beta, scale.dtype) - mean if layer.center else -mean


register(
    keras.layers.BatchNormalization,
    kernel=_batch_norm_scale,
    bias_given=_batch_norm_shift,
    forward=lambda layer, x, w: x * along(w, _batch_norm_axis(layer), x.shape.rank),
    channel_axis=_batch_norm_axis,
    elementwise=True,
)

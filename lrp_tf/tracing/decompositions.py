"""Operations that consist of several: what takes their place, in keras.ops.

A layer needs no entry: where neither rules nor flows know it, its own `call` is followed. This is for the operations in
it that no rule fits as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from lrp_tf.core.linear import computes_as
from lrp_tf.tracing.symbolic import NotFollowedError
from lrp_tf.tracing.unfollowed import SIZES

# (operation, *args, **kwargs) of the call -> outputs
_REGISTRY: dict[type | str, Callable] = {}


def register(kind: type | str, call: Callable) -> None:
    """Declare what a layer or operation computes, in terms of keras.ops and other layers.

        lrp_tf.expansions.register(MySwish, lambda layer, x: x * keras.ops.sigmoid(x))

    Args:
        kind: subclass of keras.Layer, or "ops.Glu" for the operation of keras.ops.glu.
        call: (layer, *args, **kwargs of its call) -> outputs; it runs on symbolic tensors.

    Raises:
        TypeError: `call` is not callable.
    """
    if not callable(call):
        raise TypeError(f"expansions.register expects a function. Received: {call!r}")
    _REGISTRY[kind] = call


def lookup(step: Any) -> Callable | None:
    """What computes the outputs of the step from its arguments, or None."""
    kind = step.kind
    for cls in kind.__mro__ if isinstance(kind, type) else [kind]:
        if cls in _REGISTRY:
            same = isinstance(cls, str) or computes_as(kind, cls)
            return functools.partial(_REGISTRY[cls], step.op) if same else None
    return None


def registered() -> list[tuple[type | str, Callable]]:
    """All entries: (class or operation, what computes it)."""
    return list(_REGISTRY.items())


def per_time_step(op: Any) -> bool:
    """Whether the layer runs another one on each time step."""
    return isinstance(op, keras.layers.TimeDistributed) and computes_as(type(op), keras.layers.TimeDistributed)


def _separable(op: Any, x: Any, depthwise: Any, pointwise: Any) -> Any:
    layout = {"data_format": op.data_format}
    x = ops.depthwise_conv(x, depthwise, op.strides, op.padding, dilation_rate=op.dilation_rate, **layout)
    return ops.conv(x, pointwise, 1, "valid", **layout)


def _attention(layer: Any, query: Any, value: Any, *args: Any, use_causal_mask: bool = False, **kwargs: Any) -> Any:
    """The call of the layer; a causal mask is made here, since the layer's own wants to know the lengths inside."""
    if use_causal_mask:
        if None in (query.shape[1], value.shape[1]):
            pairs = ops.matmul(ops.ones_like(query[..., :1]), ops.transpose(ops.ones_like(value[..., :1]), (0, 2, 1)))
        else:
            pairs = ops.ones((1, query.shape[1], value.shape[1]))
        mask = ops.cast(ops.tril(pairs), "bool")
        given = kwargs.get("attention_mask")
        kwargs["attention_mask"] = mask if given is None else ops.logical_and(ops.cast(given, "bool"), mask)
    return layer.call(query, value, *args, **kwargs)


def _dot_product_attention(
    op: Any, query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, scale: Any = None
) -> Any:
    if 1 < key.shape[2] < query.shape[2]:
        key, value = (ops.repeat(t, query.shape[2] // key.shape[2], axis=2) for t in (key, value))
    scores = ops.einsum("btnh,bsnh->bnts", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if op.is_causal:
        causal = ops.cast(ops.tril(ops.ones_like(scores)), "bool")
        mask = causal if mask is None else ops.logical_and(mask, causal)
    if mask is not None:
        scores = ops.where(mask, scores, -1e9)
    return ops.einsum("bnts,bsnh->btnh", ops.softmax(scores, axis=-1), value)


def _glu(op: Any, x: Any) -> Any:
    signal, gate = ops.split(x, 2, axis=op.axis)
    return signal * ops.sigmoid(gate)


def _layer_norm(op: Any, x: Any, gamma: Any = None, beta: Any = None) -> Any:
    centered = x if op.rms_scaling else x - ops.mean(x, op.axis, keepdims=True)
    epsilon = keras.config.epsilon() if op.epsilon is None else op.epsilon
    x = centered * ops.rsqrt(ops.var(x, op.axis, keepdims=True) + epsilon)
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


def _moments(op: Any, x: Any) -> Any:
    axes = tuple(op.axes) if isinstance(op.axes, (list, tuple)) else op.axes
    return ops.mean(x, axes, keepdims=op.keepdims), ops.var(x, axes, keepdims=op.keepdims)


def _select(op: Any, conditions: Any, choices: Any, default: Any = 0) -> Any:
    """The first choice whose condition holds."""
    found = default
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        found = ops.where(condition, choice, found)
    return found


def _fourier(x: tuple[Any, Any], axis: int) -> tuple[Any, Any]:
    """The discrete Fourier transform along the last axis or the one before, as two products with constants."""
    size = x[0].shape[axis]
    if size is None:
        raise NotFollowedError("a Fourier transform along an axis of open size", SIZES)
    angles = 2 * np.pi / size * (np.outer(np.arange(size), np.arange(size)) % size)
    waves = [wave(angles).astype(x[0].dtype) for wave in (np.cos, np.sin)]
    (rc, rs), (ic, is_) = ([ops.matmul(t, w) if axis == -1 else ops.matmul(w, t) for w in waves] for t in x)
    return rc + is_, ic - rs


def _fft2(op: Any, x: tuple[Any, Any]) -> tuple[Any, Any]:
    return _fourier(_fourier(x, -2), -1)


for _layer in (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention):
    register(_layer, _attention)
register("ops.LayerNorm", _layer_norm)
register("ops.SeparableConv", _separable)
register("ops.DotProductAttention", _dot_product_attention)
register("ops.FFT", lambda op, x: _fourier(x, -1))
register("ops.FFT2", _fft2)
register("ops.Glu", _glu)
register("ops.Moments", _moments)
register("ops.Select", _select)

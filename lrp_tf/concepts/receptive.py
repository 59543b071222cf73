"""What a position of a layer sees of the input, from kernels, strides, dilations and padding of the steps between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from lrp_tf import flows
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.linear import channels_first, each
from lrp_tf.engine.channels import Channels
from lrp_tf.flows.sums import Negation

# For each axis of a tensor bool [S, size]: which of its entries each of S positions sees.
Seen = list[np.ndarray]


def fields(graph: Graph, layer: Channels) -> tuple[np.ndarray, ...]:
    """The receptive fields of all positions of a layer, as boxes in the model's only input.

    A position (i, j) sees the intersection of the boxes of i and j. What is seen is followed back through
    convolutions, pooling, padding, cropping, upsampling and all that acts on each position alone; any other step is
    taken to see all of its input, as attention and normalisation over positions do. So a box is exact or too large,
    never too small.

    Args:
        graph: canonized.

    Returns:
        For each axis of positions int32 [size, axes of the input, 2], where the box begins and ends; of a layer without
        positions one array with size 1. Nothing where the model has several inputs or leaves sizes open.
    """
    shape = [n for n in layer.ref.shape if n is not None]
    if len(graph.inputs) != 1 or None in (*graph.inputs[0].shape, *layer.ref.shape):
        return ()
    found = []
    for axis in layer.others or [0]:  # 0: no positions
        size = shape[axis - 1] if axis else 1
        seeds: Seen = [np.ones((size, n), bool) for n in shape]
        if axis:
            seeds[axis - 1] = np.eye(size, dtype=bool)
        found.append(_boxes(_at_input(graph, layer, seeds, graph.inputs[0])))
    return tuple(found)


def _at_input(graph: Graph, layer: Channels, seeds: Seen, source: Ref) -> Seen:
    seen: dict[Ref, Seen] = {layer.ref: seeds}
    for step in reversed(graph.steps):
        above = [(ref, seen[ref]) for ref in step.outputs if ref in seen]
        if not above:
            continue
        for position, ref in enumerate(step.inputs):
            if not ref.batched or position in step.constant:
                continue
            for out, masks in above:
                back = _through(step, position, masks, out)
                seen[ref] = [a | b for a, b in zip(seen[ref], back, strict=True)] if ref in seen else back
    return seen.get(source) or [np.zeros((len(seeds[0]), n or 1), bool) for n in source.shape]


def _boxes(seen: Seen) -> np.ndarray:
    """First entry and one behind the last one that is seen, int32 [S, axes, 2]; (0, 0) where nothing is."""
    low = np.stack([mask.argmax(axis=1) for mask in seen], axis=1)
    high = np.stack([mask.shape[1] - mask[:, ::-1].argmax(axis=1) for mask in seen], axis=1)
    none = ~np.all([mask.any(axis=1) for mask in seen], axis=0)
    low[none], high[none] = 0, 0
    return np.stack([low, high], axis=-1).astype(np.int32)


def box_of(axes: Sequence[np.ndarray], at: Sequence[int]) -> np.ndarray:
    """What the position `at` sees: int [axes of the input, 2]; zeros where it sees padding alone.

    Args:
        axes: see `fields`.
    """
    parts = np.stack([field[i] for field, i in zip(axes, at, strict=True)])
    box = np.stack([parts[..., 0].max(axis=0), parts[..., 1].min(axis=0)], axis=-1)
    return box if (box[:, 0] < box[:, 1]).all() else np.zeros_like(box)


# --- one step ------------------------------------------------------------------------------------


def _through(step: Step, position: int, masks: Seen, out: Ref) -> Seen:
    """What is seen of one input of a step, given what is seen of one of its outputs."""
    shape = step.inputs[position].shape
    if None in shape or None in out.shape or len(shape) == 0:
        return _whole(shape, masks)
    if step.parts:
        return _whole(shape, masks)
    if step.linear is not None and not step.linear.elementwise:
        return _through_linear(step, masks, shape)
    name = type(step.op).__name__
    if name in _LAYERS:
        return _through_layer(step.op, masks, shape)
    if name == "Concatenate":
        return _concatenated(step, position, masks, shape)
    if _each_position_alone(step) and len(shape) == len(out.shape):
        mixed = _mixed_axes(step, len(shape))
        return [
            _any(mask, n) if i in mixed or n != mask.shape[1] else mask
            for i, (mask, n) in enumerate(zip(masks, shape, strict=True))
        ]
    return _whole(shape, masks)


def _whole(shape: Sequence[int | None], masks: Seen) -> Seen:
    """All of an input, wherever anything of the output is seen."""
    anything = np.all([mask.any(axis=1) for mask in masks], axis=0) if masks else np.ones(1, bool)
    return [np.repeat(anything[:, None], n or 1, axis=1) for n in shape]


def _any(mask: np.ndarray, size: int | None) -> np.ndarray:
    return np.repeat(mask.any(axis=1, keepdims=True), size or 1, axis=1)


def _each_position_alone(step: Step) -> bool:
    flow = flows.lookup(step)
    if step.linear is not None:  # BatchNormalization
        return True
    if type(step.op).__name__ in _JOINS:
        return True
    return isinstance(flow, (flows.PassThrough, flows.InputScaling, flows.Cast, Negation, flows.LayerNorm))


_NORMALIZING = ("LayerNormalization", "RMSNormalization", "UnitNormalization", "Softmax", "Normalize", "RMSNorm")
_OVER_CHANNELS = ("softmax", "log_softmax", "sparsemax", "sparse_softmax", "glu")
_JOINS = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide")


def _mixed_axes(step: Step, rank: int) -> set[int]:
    """Axes of a tensor's shape along which entries depend on one another."""
    name = type(step.op).__name__
    if name not in _NORMALIZING and step.activation not in _OVER_CHANNELS:
        return set()
    axis = getattr(step.op, "axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis or range(1, rank + 1))
    return {(a - 1 if a > 0 else a) % rank for a in axes}


def _concatenated(step: Step, position: int, masks: Seen, shape: Sequence[Any]) -> Seen:
    axis = step.op.axis
    axis = axis - 1 if axis > 0 else axis % len(shape)
    first = sum(ref.shape[axis] or 0 for ref in step.inputs[:position])
    return _reached([mask if i != axis else mask[:, first : first + shape[axis]] for i, mask in enumerate(masks)])


def _reached(masks: Seen) -> Seen:
    """Nothing is seen along any axis where nothing is seen along one of them: on padding, or of another input."""
    anything = np.all([mask.any(axis=1) for mask in masks], axis=0)
    return [mask & anything[:, None] for mask in masks]


# --- kernels -------------------------------------------------------------------------------------


def _through_linear(step: Step, masks: Seen, shape: Sequence[Any]) -> Seen:
    rank = len(shape)
    if type(step.op) is keras.layers.Dense and rank == len(masks):
        found = [*masks[:-1], _any(masks[-1], shape[-1])]
    elif step.entry.convolution:
        found = _convolved(step, masks, shape)
    else:
        return _whole(shape, masks)
    return found


def _convolved(step: Step, masks: Seen, shape: Sequence[Any]) -> Seen:
    op, rank = step.op, len(shape) - 1
    inner = list(shape)  # behind the padding that the step absorbed
    padding = [layer for layer in step.before if type(layer).__name__.startswith("ZeroPadding")]
    for layer in padding:
        inner = [n + a + b for n, (a, b) in zip(inner, _amounts(layer, "padding", len(shape)), strict=True)]
    axes = _spatial(op, len(shape))
    strides, dilations = each(op.strides, rank), each(op.dilation_rate, rank)
    transposed = "Transpose" in type(op).__name__
    found = [_any(mask, n) for mask, n in zip(masks, inner, strict=True)]
    for axis, kernel, stride, dilation in zip(axes, _kernel(step, rank), strides, dilations, strict=True):
        n_in, n_out = inner[axis], masks[axis].shape[1]
        if transposed:
            reach = _reach(n_out, n_in, kernel, stride, dilation, op.padding).T
        else:
            reach = _reach(n_in, n_out, kernel, stride, dilation, op.padding)
        found[axis] = masks[axis] @ reach
    for layer in reversed(padding):
        found = _unpadded(found, _amounts(layer, "padding", len(shape)))
    return found


def _spatial(op: keras.Operation, rank: int) -> list[int]:
    """The axes of a tensor's shape that positions lie on."""
    return list(range(1, rank)) if channels_first(op) else list(range(rank - 1))


def _kernel(step: Step, rank: int) -> list[int]:
    size = getattr(step.op, "kernel_size", None)
    if size is not None:
        return each(size, rank)
    return [int(n or 1) for n in step.inputs[step.constant[0]].shape[:rank]]  # an operation with a constant kernel


def _reach(n_in: int, n_out: int, kernel: int, stride: int, dilation: int, padding: str) -> np.ndarray:
    """Which of n_in entries each of n_out windows covers, bool [n_out, n_in]."""
    width = (kernel - 1) * dilation + 1
    before = 0
    if padding == "same":
        before = max((n_out - 1) * stride + width - n_in, 0) // 2
    elif padding == "causal":
        before = width - 1
    at: np.ndarray = np.arange(n_out)[:, None] * stride - before + np.arange(kernel) * dilation
    found = np.zeros((n_out, n_in), bool)
    rows, taps = np.nonzero((at >= 0) & (at < n_in))
    found[rows, at[rows, taps]] = True
    return found


# --- layers without a kernel ---------------------------------------------------------------------


def _through_layer(op: Any, masks: Seen, shape: Sequence[Any]) -> Seen:
    return _LAYERS[type(op).__name__](op, masks, shape)


def _pooled(op: Any, masks: Seen, shape: Sequence[Any]) -> Seen:
    rank, found = len(shape) - 1, list(masks)
    strides = each(op.strides if op.strides is not None else op.pool_size, rank)
    for axis, size, stride in zip(_spatial(op, len(shape)), each(op.pool_size, rank), strides, strict=True):
        found[axis] = masks[axis] @ _reach(shape[axis], masks[axis].shape[1], size, stride, 1, op.padding)
    return found


def _amounts(op: Any, name: str, rank: int) -> list[tuple[int, int]]:
    """How much a layer pads or crops at both ends of each axis of a tensor's shape."""
    given = getattr(op, name)
    pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in given]
    pairs = [tuple(given)] if rank == 2 and len(given) == 2 and isinstance(given[0], int) else pairs
    first = getattr(op, "data_format", "channels_last") == "channels_first"
    return [(0, 0), *pairs] if first else [*pairs, (0, 0)]


def _padded(op: Any, masks: Seen, shape: Sequence[Any]) -> Seen:
    return _unpadded(masks, _amounts(op, "padding", len(shape)))


def _unpadded(masks: Seen, amounts: Sequence[tuple[int, int]]) -> Seen:
    ends = zip(masks, amounts, strict=True)
    return _reached([mask[:, before : mask.shape[1] - after] for mask, (before, after) in ends])


def _cropped(op: Any, masks: Seen, shape: Sequence[Any]) -> Seen:
    amounts = _amounts(op, "cropping", len(shape))
    return [np.pad(mask, [(0, 0), ends]) for mask, ends in zip(masks, amounts, strict=True)]


def _enlarged(op: Any, masks: Seen, shape: Sequence[Any]) -> Seen:
    if getattr(op, "interpolation", "nearest") != "nearest":
        return _whole(shape, masks)
    found = list(masks)
    axes = _spatial(op, len(shape)) if hasattr(op, "data_format") else [0]
    for axis in axes:
        size = masks[axis].shape[1] // shape[axis]
        found[axis] = np.any(masks[axis].reshape(len(masks[axis]), shape[axis], size), axis=2)
    return found


def _permuted(op: Any, masks: Seen, shape: Sequence[Any]) -> Seen:
    found = list(masks)
    for to, source in enumerate(op.dims):
        found[source - 1] = masks[to]
    return found


_LAYERS: dict[str, Callable[[Any, Seen, Sequence[Any]], Seen]] = {
    **dict.fromkeys(("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool"), _pooled),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "AveragePool"), _pooled),
    **dict.fromkeys(("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"), _padded),
    **dict.fromkeys(("Cropping1D", "Cropping2D", "Cropping3D"), _cropped),
    **dict.fromkeys(("UpSampling1D", "UpSampling2D", "UpSampling3D"), _enlarged),
    "Permute": _permuted,
}

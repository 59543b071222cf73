"""What the model's own layers compute, run one by one, and how far apart two values are."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import Loop
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.propagate import Forward
from lrp_tf.tracing.symbolic import with_mask

_HALF = ("float16", "bfloat16")


def at_once(graph: Graph, function: Callable[[], Any]) -> Any:
    """The tensors that `function` returns; compiled where the model holds long loops, whose time steps would each take
    as long as a layer otherwise.
    """
    lengths = [step.args[0][0].shape[0] for step in graph.steps if isinstance(step.op, Loop)]
    if all(length is not None and length <= _FEW for length in lengths):
        return function()
    return tf.function(function, autograph=False).get_concrete_function()()


_FEW = 16  # time steps that take less than it takes to compile them


def forward_values(clone: Clone, inputs: list[tf.Tensor]) -> Forward:
    """The values of all tensors; what the backward pass needs beside them only where no loop is compiled."""
    refs: list[Ref] = []
    saved: dict[Step, Any] = {}

    def run() -> list[tf.Tensor]:
        found = clone.forward(inputs)
        refs[:] = found.values
        saved.update(found.saved if tf.executing_eagerly() else {})
        return list(found.values.values())

    return Forward(dict(zip(refs, at_once(clone.graph, run), strict=True)), saved)


def model_output(graph: Graph, inputs: list[tf.Tensor]) -> tf.Tensor:
    """The model's own output that is explained; the state of its layers does not change."""
    by_ref = dict(zip(graph.inputs, inputs, strict=True))
    x = tree.map_structure(by_ref.get, graph.input_structure)
    with keras.StatelessScope():
        return at_once(graph, lambda: tree.flatten(_called(graph.model, (x,), {}))[graph.output_index])


def _called(op: Any, args: tuple, kwargs: dict) -> Any:
    """What the layer or operation computes by itself, in inference mode."""
    if not isinstance(op, keras.Layer):
        return op.call(*_in_one_precision(args), **_in_one_precision(kwargs))
    if "training" in inspect.signature(op.call).parameters:
        kwargs = {**kwargs, "training": False}
    return op(*args, **kwargs)


def _in_one_precision(args: Any) -> Any:
    """Floats in the widest dtype among them, float32 at least.

    The variables of a layer in half precision are kept in float32. The steps were traced in float32, too: a mask of
    -1e9 would be -Inf in float16, and NaN behind a softmax.
    """
    floats = [a.dtype for a in tree.flatten(args) if tf.is_tensor(a) and a.dtype.is_floating]
    widest = max([tf.float32, *floats], key=lambda dtype: dtype.size)
    return tree.map_structure(lambda a: tf.cast(a, widest) if tf.is_tensor(a) and a.dtype.is_floating else a, args)


def reference_values(graph: Graph, inputs: list[tf.Tensor]) -> tuple[dict[Ref, tf.Tensor], tuple[str, float] | None]:
    """Run the model's own layers one by one.

    A layer that was followed runs as a whole after its parts, and its output replaces theirs.

    Returns:
        values: of every tensor. wrong: the first layer that was followed wrongly, and the relative difference; or None.
    """
    values: dict[Ref, tf.Tensor] = dict(zip(graph.inputs, inputs, strict=True))
    for step in graph.steps:
        if not step.inputs:  # the constants
            values.update(zip(step.outputs, step.call(), strict=True))
    wrong = None
    limit = tolerance(graph, half=0.1, single=1e-3, double=1e-6)
    for call in graph.calls:
        if any(ref not in values for ref in call.inputs):
            continue  # made by a layer that is run as a whole
        takes_masks = isinstance(call.op, keras.Layer) and call.op.supports_masking
        given = functools.partial(_given, values, call.masks if takes_masks else {})
        args, kwargs = tree.map_structure(given, (call.args, call.kwargs))
        with keras.StatelessScope():
            # Without the masks that Keras attaches: a layer that takes none would complain.
            found = at_once(graph, functools.partial(_called, call.op, args, kwargs))
            outputs = [tf.identity(y) for y in tree.flatten(found) if _is_tensor(y)]
        known = [(values[ref], y) for ref, y in zip(call.outputs, outputs, strict=True) if ref in values]
        off = max((relative_difference(a, b) for a, b in known), default=0.0, key=nan_last)
        if wrong is None and call.followed and not off <= limit:
            wrong = f"{call.path!r} ({type(call.op).__name__})", off
        values.update(zip(call.outputs, outputs, strict=True))
    return values, wrong


def _is_tensor(value: object) -> bool:
    """Whether an output of a layer is one: some return None, or a number, beside them."""
    return tf.is_tensor(value) or isinstance(value, (np.ndarray, keras.Variable))


def _given(values: dict[Ref, tf.Tensor], masks: dict[Ref, Ref], argument: Any) -> Any:
    """A value for a ref, with its Keras mask attached: some layers read the mask there and nowhere else."""
    if not isinstance(argument, Ref):
        return argument
    mask = values.get(masks[argument]) if argument in masks else None
    return values[argument] if mask is None else with_mask(values[argument], mask)


def tolerance(graph: Graph, *, half: float, single: float, double: float) -> float:
    """The relative difference to allow: the rules never compute in half precision, but layers of the model may."""
    if any(weight.dtype in _HALF for weight in graph.model.weights) or _computes_in_half(graph):
        return half
    return double if graph.dtype == "float64" else single


def _computes_in_half(graph: Graph) -> bool:
    return any(getattr(call.op, "compute_dtype", None) in _HALF for call in graph.calls) or (
        graph.model.compute_dtype in _HALF
    )


# --- how far apart ------------------------------------------------------------------------------


def relative_difference(value: tf.Tensor, expected: tf.Tensor, scale: float = 0.0) -> float:
    """Largest difference, relative to the largest expected value; NaN if only one has NaN at an entry.

    Args:
        scale: replaces the largest expected value where that is smaller.
    """
    if tf.is_tensor(expected) and expected.dtype.is_floating and expected.dtype.size < 4:
        value = tf.cast(value, expected.dtype)  # a mask of -1e9 is -Inf there
    value, expected = _array(value), _array(expected)
    if value.shape != expected.shape:
        return math.inf
    if not value.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.where(value == expected, 0, np.abs(value - expected))
    difference[np.isnan(value) & np.isnan(expected)] = 0
    return float(difference.max()) / max(magnitude(expected), scale, 1e-30)


def _array(value: tf.Tensor | np.ndarray) -> np.ndarray:
    """An array in float32 or float64, so that differences are exact enough."""
    if isinstance(value, np.ndarray):
        return value
    return (value if value.dtype in (tf.float32, tf.float64) else tf.cast(value, tf.float64)).numpy()


def magnitude(value: tf.Tensor | np.ndarray) -> float:
    """Largest finite absolute value."""
    value = np.abs(_array(value))
    return float(np.max(value, initial=0.0, where=np.isfinite(value)))


def nan_last(value: float) -> float:
    """A key for `max` that takes NaN for the largest value."""
    return math.inf if math.isnan(value) else value


def reason_of(error: Exception) -> str:
    """The line of an error that says why; Keras puts it second, in bold."""
    lines = [line for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    keras_own = len(lines) > 1 and lines[0].startswith("Exception encountered")
    return lines[keras_own][:200] if lines else type(error).__name__

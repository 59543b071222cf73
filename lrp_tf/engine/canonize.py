"""Rewrites the steps into the form that the rules expect; the function that is computed stays the same.

Strips a softmax or sigmoid at the output, splits built-in activations off, folds BatchNormalization, biases and padding
into linear steps, and marks what relevance never enters and which linear steps read a non-negative tensor.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import keras

from lrp_tf import flows
from lrp_tf.core import linear
from lrp_tf.core.graph import Graph, Ref, Step, UnsupportedLayerError
from lrp_tf.core.operations import ActivationFunction, InputShift, SplitTime

_STRIPPED = {"softmax", "sigmoid"}


def canonize(graph: Graph, output: int | str | None = None, nonnegative: bool = False) -> Graph:
    """A new graph, rewritten; `graph` is left as it was.

    Args:
        output: name or index of the output to explain; may be None if there is only one.
        nonnegative: no input is ever below zero.

    Raises:
        ValueError: no such output, or several and none chosen.
        UnsupportedLayerError: a step that mixes the samples of a batch.
    """
    chosen = _choose_output(graph, output)
    graph = dataclasses.replace(
        graph,
        steps=list(graph.steps),
        rewrites=[],
        aliases={},
        padded={},
        constants=set(),
        stripped=[],
        outputs=[chosen],
        output_index=graph.outputs.index(chosen),
    )
    _split_activations(graph)
    _strip_output(graph)
    _prune(graph)
    _check_samples(graph)
    _mark_constants(graph)
    _fold_addends(graph)
    _fold_behind(graph)
    _fold_ahead(graph)
    _mark_bounds(graph, nonnegative)
    graph.rewrites.sort()
    return graph


def _choose_output(graph: Graph, output: int | str | None) -> Ref:
    names, count = graph.output_names, len(graph.outputs)
    if output is None and count == 1:
        return graph.outputs[0]
    if isinstance(output, str) and graph.output_keys.count(output) == 1:
        return graph.outputs[graph.output_keys.index(output)]
    if isinstance(output, str) and names.count(output) == 1:
        return graph.outputs[names.index(output)]
    if isinstance(output, int) and not isinstance(output, bool) and -count <= output < count:
        return graph.outputs[output]
    shared = f" {names.count(output)} outputs bear this name: give the index." if output in names else ""
    raise ValueError(
        f"Model {graph.model.name!r} has {count} output(s): {graph.output_keys or names}. Expected output= one of "
        f"these names or an index. Received: output={output!r}.{shared}"
    )


def _split_activations(graph: Graph) -> None:
    steps = []
    for step in graph.steps:
        entry = linear.lookup(step.op)
        if entry is not None:  # a mask means something in training only
            step = dataclasses.replace(step, kwargs={k: v for k, v in step.kwargs.items() if k != "mask"})
        step = dataclasses.replace(step, linear=entry)
        function = getattr(step.op, "activation", None)
        if type(step.op) is keras.layers.Activation and isinstance(function, keras.Layer):
            step = dataclasses.replace(step, op=_built(function, step))
        if entry is None or function is None or function is keras.activations.linear:
            steps.append(step)
            continue
        inner = Ref(step.outputs[0].shape, step.outputs[0].dtype)
        layer = isinstance(function, keras.Layer)
        op = _built(function, step) if layer else ActivationFunction(function, step.name)
        path = f"{step.path}:{getattr(op, 'label', None) or op.name}"
        steps.append(dataclasses.replace(step, outputs=(inner,)))
        steps.append(Step(op, (inner,), {}, step.outputs, path, step.order))
    graph.steps = steps


def _built(layer: keras.Layer, step: Step) -> keras.Layer:
    """A layer that is the activation of another; Keras builds it only when the model runs."""
    if layer.built:
        return layer
    raise ValueError(
        f"Activation {layer.name!r} of layer {step.path!r} is not built. Expected a model that has been called. "
        "Remedy: call the model once on a batch of data."
    )


def _strip_output(graph: Graph) -> None:
    """Explain what goes into a final softmax or sigmoid; the clone puts it back to give the model's output."""
    producers = {ref: step for step in graph.steps for ref in step.outputs}
    _split_time_first(graph, producers)
    ref, removed = graph.outputs[0], []
    while (step := producers.get(ref)) is not None and step.activation in _STRIPPED | {"linear"}:
        removed.append(step)
        ref = step.inputs[0]
        if step.activation != "linear":
            break
    if removed and removed[-1].activation != "linear":
        graph.outputs = [ref]
        graph.stripped = list(reversed(removed))
        for step in graph.stripped:
            graph.rewrites.append((step.order, step.path, step.operation, "stripped: the value before it is explained"))


def _split_time_first(graph: Graph, producers: dict[Ref, Step]) -> None:
    """A softmax in a TimeDistributed at the output: apply it behind, to all time steps at once."""
    split = producers.get(graph.outputs[0])
    if split is None or not isinstance(split.op, SplitTime):
        return
    step = producers.get(split.inputs[0])
    if step is None or step.activation not in _STRIPPED or getattr(step.op, "axis", -1) != -1:
        return
    between = Ref(split.outputs[0].shape, split.outputs[0].dtype)
    moved = dataclasses.replace(split, args=(step.inputs[0], *split.args[1:]), outputs=(between,))
    last = dataclasses.replace(step, args=(between,), kwargs={}, outputs=split.outputs)
    graph.steps[graph.steps.index(split)] = moved
    graph.steps.insert(graph.steps.index(moved) + 1, last)
    producers.update({between: moved, split.outputs[0]: last})


def _prune(graph: Graph) -> None:
    needed, kept = {graph.outputs[0], *(ref for step in graph.stripped for ref in step.inputs[1:])}, []
    for step in reversed(graph.steps):
        if needed.intersection(step.outputs):
            kept.append(step)
            needed.update(step.inputs)
    graph.steps = kept[::-1]
    for step in graph.stripped:
        if step not in kept:  # relevance of what was stripped is that of its input
            graph.aliases[step.outputs[0]] = step.inputs[0]


def _check_samples(graph: Graph) -> None:
    """Relevance is that of a sample: none of the steps may let one depend on another."""
    for step in (*graph.steps, *graph.stripped):
        if step.mixes:
            raise UnsupportedLayerError(step.mixes)
    output = graph.outputs[0]
    if output.axis != 0:
        raise UnsupportedLayerError(
            f"The output of {graph.model.name!r} has the samples of a batch on axis {output.axis}. Expected: on the "
            "first one. Remedy: transpose it in the model."
        )
    if output.each != 1:
        raise UnsupportedLayerError(
            f"The output of {graph.model.name!r} has {output.each} rows of its first axis for each sample. Expected: "
            f"one. Remedy: reshape it in the model, keras.ops.reshape(y, (-1, {output.each}, ...))."
        )


def _mark_constants(graph: Graph) -> None:
    """What no input can change takes no relevance; with a constant kernel, an operation is a linear step."""
    for position, step in enumerate(graph.steps):
        held = tuple(i for i, ref in enumerate(step.inputs) if ref in graph.constants)
        step = dataclasses.replace(step, held=held)
        entry = linear.lookup_operation(step)
        if entry is not None and not step.inputs[held[0]].batched:
            step = dataclasses.replace(step, linear=entry)
        graph.steps[position] = step
        flow = flows.lookup(step)
        if not step.signals or (flow is not None and flow.detached):
            graph.constants.update(step.outputs)


def _fold_addends(graph: Graph) -> None:
    """linear operation -> + constant: that is its bias."""
    producers = {ref: step for step in graph.steps for ref in step.outputs}
    consumers = graph.consumers()
    for add in [s for s in graph.steps if s.kind in ("ops.Add", keras.layers.Add) and len(s.inputs) == 2]:
        if len(add.held) != 1:
            continue
        ref, constant = add.inputs[1 - add.held[0]], add.inputs[add.held[0]]
        step = producers.get(ref)
        if (
            step is None
            or step.linear is None
            or step.linear.elementwise
            or step.addend is not None
            or constant.batched
            or len(consumers[ref]) > 1
            or ref in graph.outputs
            or add.outputs[0].shape != ref.shape
        ):
            continue
        held = (*step.held, len(step.inputs))
        merged = dataclasses.replace(step, outputs=add.outputs, addend=constant, held=held)
        graph.steps.remove(step)  # to the place of the sum: what makes the constant may stand between them
        _replace(graph, add, merged)
        producers[add.outputs[0]] = merged
        graph.aliases[ref] = add.outputs[0]
        graph.rewrites.append((add.order, add.path, add.operation, f"the bias of {step.path}"))


def _replace(graph: Graph, old: Step, new: Step | None) -> None:
    position = graph.steps.index(old)
    graph.steps[position : position + 1] = [] if new is None else [new]


def _fold_behind(graph: Graph) -> None:
    """linear -> BatchNormalization: scale the outputs of the kernel."""
    producers = {ref: step for step in graph.steps for ref in step.outputs}
    consumers = graph.consumers()
    for norm in [s for s in graph.steps if s.linear is not None and s.linear.elementwise]:
        ref = norm.inputs[0]
        step = producers.get(ref)
        if (
            step is None
            or step.linear is None
            or step.linear.scale_outputs is None
            or len(consumers[ref]) > 1
            or ref in graph.outputs
            or not _same_axis(norm, step.linear.channel_axis(step.op))
        ):
            continue
        merged = dataclasses.replace(step, outputs=norm.outputs, after=(*step.after, norm.op))
        _replace(graph, step, merged)
        _replace(graph, norm, None)
        producers[norm.outputs[0]] = merged
        graph.aliases[ref] = norm.outputs[0]
        graph.rewrites.append((norm.order, norm.path, norm.operation, f"folded into {step.path}"))


def _fold_ahead(graph: Graph) -> None:
    """ZeroPadding -> linear and BatchNormalization -> linear: both are linear, so is the whole."""
    for step in reversed(list(graph.steps)):
        if _is_padding(step):
            _absorb(graph, step, lambda user: user.linear.convolution and not _has_norm(user), "absorbed into")
        elif step.linear is not None and step.linear.elementwise:
            _absorb(graph, step, functools.partial(_takes_norm, step), "folded into")


def _has_norm(step: Step) -> bool:
    """Whether a BatchNormalization was folded in from ahead: padding before that one is no zero to the kernel."""
    return any(linear.lookup(layer) is not None for layer in step.before)


def _takes_norm(norm: Step, user: Step) -> bool:
    scalable = user.linear.scale_inputs is not None and not _has_norm(user)
    return scalable and _same_axis(norm, user.linear.channel_axis(user.op))


def _absorb(graph: Graph, step: Step, fits: Any, verb: str) -> None:
    (source,), target = step.inputs, step.outputs[0]
    users = graph.consumers().get(target, [])
    if target in graph.outputs or not users or any(u.linear is None or u.linear.elementwise for u in users):
        return
    if not all(fits(user) for user in users):
        return
    for user in users:
        args, kwargs = keras.tree.map_structure(lambda a: source if a is target else a, (user.args, user.kwargs))
        _replace(graph, user, dataclasses.replace(user, args=args, kwargs=kwargs, before=(step.op, *user.before)))
    _replace(graph, step, None)
    graph.aliases[target] = source
    if _is_padding(step):
        graph.padded[target] = step
    graph.rewrites.append((step.order, step.path, step.operation, f"{verb} {', '.join(u.path for u in users)}"))


_PADDING = (keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D)


def _is_padding(step: Step) -> bool:
    return any(isinstance(step.op, cls) and linear.computes_as(type(step.op), cls) for cls in _PADDING)


def _same_axis(norm: Step, axis: int) -> bool:
    rank = len(norm.outputs[0].shape) + 1
    return norm.linear.channel_axis(norm.op) % rank == axis % rank


def _mark_bounds(graph: Graph, nonnegative: bool) -> None:
    """What bounds the values keep, and which factor of a product is a gate: what a sigmoid or softmax gave."""
    intervals = graph.bounds = dict.fromkeys(graph.inputs if nonnegative else (), (0, math.inf))
    gates: set[Ref] = set()
    scaled = set(graph.inputs)
    for position, step in enumerate(graph.steps):
        if step.kind in ("ops.Add", "ops.Subtract") and [step.inputs[i] in scaled for i in step.signals] == [True]:
            step = graph.steps[position] = dataclasses.replace(step, op=InputShift(step.op))
        known = [intervals.get(ref, flows.UNBOUNDED) for ref in step.inputs]
        flow = flows.lookup(step)
        if step.linear is not None or flow is None:
            continue
        if flow.transparent and scaled.issuperset(step.inputs[i] for i in step.signals):
            scaled.update(step.outputs)
        if flow.multiplies:
            gated = [i for i in step.signals if step.inputs[i] in gates]
            if gated and len(gated) < len(step.signals):
                graph.steps[position] = dataclasses.replace(step, held=tuple(sorted({*step.held, *gated})))
        interval = flow.interval(step, known)
        intervals.update(dict.fromkeys(step.outputs, interval))
        passed = flow.transparent and step.signals and all(step.inputs[i] in gates for i in step.signals)
        if (interval[0] >= 0 and interval[1] <= 1 + 1e-6) or passed or step.kind in ("ops.Rsqrt", "ops.Reciprocal"):
            gates.update(step.outputs)

"""Rewrites the steps into the form that the rules expect; the function that is computed stays the same.

It states facts alone: which tensors are constant, which factor of a product is a gate, what bounds values keep, which
operations are linear. What relevance enters is decided later, by the handlers that a composite assigns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import keras

from lrp_tf import flows
from lrp_tf.core import linear
from lrp_tf.core.graph import Graph, Interval, Ref, Step, UnsupportedLayerError
from lrp_tf.core.loop import body_of
from lrp_tf.core.operations import SHAPE_ONLY, STEPWISE, ActivationFunction, InputShift, SplitTime
from lrp_tf.engine import joining
from lrp_tf.engine.factors import mark_factors
from lrp_tf.engine.folds import fold_addends, fold_ahead, fold_behind

Canonizer = Callable[[Graph], Graph]

_STRIPPED = {"softmax", "sigmoid"}


def canonize(
    graph: Graph,
    outputs: Sequence[Ref],
    nonnegative: bool = False,
    passes: Iterable[Canonizer] | None = None,
) -> Graph:
    """A new graph, rewritten; `graph` is left as it was.

    Args:
        outputs: the tensors to explain, see `choose_output`; what they do not need is left out.
        nonnegative: no input is ever below zero.
        passes: functions graph -> graph, run in this order; None: `PASSES`.

    Raises:
        TypeError: a pass that returns no Graph.
        ValueError: a pass that returns a graph whose steps read tensors before they are made.
        UnsupportedLayerError: a step that mixes the samples of a batch.
    """
    first = outputs[0]
    graph = dataclasses.replace(
        graph,
        steps=list(graph.steps),
        rewrites=[],
        aliases={},
        padded={},
        constants=set(),
        stripped=[],
        outputs=list(outputs),
        output_index=graph.outputs.index(first) if first in graph.outputs else 0,
        bounds=dict.fromkeys(graph.inputs if nonnegative else (), (0, math.inf)),
    )
    for rewrite in PASSES if passes is None else passes:
        found = rewrite(graph)
        if not isinstance(found, Graph):
            name = getattr(rewrite, "__name__", repr(rewrite))
            raise TypeError(
                f"A canonizer returns the graph that it makes. Received from {name}: {type(found).__name__}. "
                "Remedy: graph = graph.copy(), change the copy, return it."
            )
        _check_order(found, rewrite)
        graph = found
    graph = check_samples(graph).copy()  # again: the passes of a user need not include the check
    graph.rewrites.sort()
    return graph


def _check_order(graph: Graph, rewrite: Canonizer) -> None:
    """Raise ValueError unless every tensor is made before it is read."""
    made = set(graph.inputs)
    for step in graph.steps:
        if not made.issuperset(step.inputs):
            raise ValueError(
                f"{step.path!r} ({step.operation}) reads a tensor that no step ahead of it makes. Expected steps in "
                f"execution order. Received: the graph that canonizer {getattr(rewrite, '__name__', rewrite)} returned."
            )
        made.update(step.outputs)
    if not made.issuperset(graph.outputs):
        raise ValueError(
            f"No step makes an output of the graph that canonizer {getattr(rewrite, '__name__', rewrite)} returned."
        )


def choose_output(graph: Graph, output: int | str | None) -> Ref:
    """The output of the model with this name or index; None: the only one.

    Raises:
        ValueError: no such output, or several and none chosen.
    """
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


def split_activations(graph: Graph) -> Graph:
    """Make the activation that a linear layer holds as an argument a step of its own."""
    graph, steps = graph.copy(), []
    for step in graph.steps:
        entry = linear.lookup(step.op)
        if entry is not None:  # masks only matter in training
            step = dataclasses.replace(step, kwargs={k: v for k, v in step.kwargs.items() if k != "mask"})
        step = dataclasses.replace(step, linear=entry)
        function = getattr(step.op, "activation", None)
        if type(step.op) is keras.layers.Activation and isinstance(function, keras.Layer):
            step = dataclasses.replace(step, op=_built(function, step))
        if entry is None or step.bare or function is None or function is keras.activations.linear:
            steps.append(step)
            continue
        inner = Ref(step.outputs[0].shape, step.outputs[0].dtype)
        layer = isinstance(function, keras.Layer)
        op = _built(function, step) if layer else ActivationFunction(function, step.name)
        path = f"{step.path}:{getattr(op, 'label', None) or op.name}"
        steps.append(dataclasses.replace(step, outputs=(inner,)))
        steps.append(Step(op, (inner,), {}, step.outputs, path, step.order))
    graph.steps = steps
    return graph


def _built(layer: keras.Layer, step: Step) -> keras.Layer:
    """The layer, which is the activation of another one. Keras builds such a layer only when the model runs.

    Raises:
        ValueError: it is not built.
    """
    if layer.built:
        return layer
    raise ValueError(
        f"Activation {layer.name!r} of layer {step.path!r} is not built. Expected a model that has been called. "
        "Remedy: call the model once on a batch of data."
    )


def strip_output(graph: Graph) -> Graph:
    """Explain the input of a final softmax or sigmoid, if there is one output. `Clone.finish` applies it again."""
    graph = graph.copy()
    if len(graph.outputs) > 1:
        return graph
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
    return graph


def _split_time_first(graph: Graph, producers: dict[Ref, Step]) -> None:
    """Move the softmax of a TimeDistributed at the output behind it, where it applies to all time steps at once."""
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


def prune(graph: Graph) -> Graph:
    """Leave out the steps that no output needs."""
    graph = graph.copy()
    needed, kept = {*graph.outputs, *(ref for step in graph.stripped for ref in step.inputs[1:])}, []
    for step in reversed(graph.steps):
        if needed.intersection(step.outputs):
            kept.append(step)
            needed.update(step.inputs)
    graph.steps = kept[::-1]
    for step in graph.stripped:
        if step not in kept:  # relevance of what was stripped is that of its input
            graph.aliases[step.outputs[0]] = step.inputs[0]
    return graph


def check_samples(graph: Graph) -> Graph:
    """Refuse steps that let one sample of a batch depend on another, since relevance is that of a sample."""
    for step in (*graph.steps, *graph.stripped):
        if step.mixes:  # it may follow from a layer that was not followed, whose shapes are Keras' guess
            raise UnsupportedLayerError(next((s.why for s in graph.steps if s.why), step.mixes))
    for output in graph.outputs:
        if output.axis != 0:
            raise UnsupportedLayerError(
                f"The output of {graph.model.name!r} has the samples of a batch on axis {output.axis}. Expected: on "
                "the first one. Remedy: transpose it in the model."
            )
        if output.each != graph.inputs[0].each:  # that of the sequences in the body of a loop, else 1
            raise UnsupportedLayerError(
                f"The output of {graph.model.name!r} has {output.each} rows of its first axis for each sample. "
                f"Expected: one. Remedy: reshape it in the model, keras.ops.reshape(y, (-1, {output.each}, ...))."
            )
    return graph


def mark_constants(graph: Graph) -> Graph:
    """Mark the tensors that no input can change, and operations whose kernel is one of them as linear."""
    graph = graph.copy()
    for position, step in enumerate(graph.steps):
        constant = tuple(i for i, ref in enumerate(step.inputs) if ref in graph.constants)
        step = dataclasses.replace(step, constant=constant, held=constant)
        entry = linear.lookup_operation(step.kind, len(step.inputs), constant)
        if entry is not None and not step.inputs[constant[0]].batched:
            step = dataclasses.replace(step, linear=entry)
        graph.steps[position] = step
        if len(step.inputs) == len({*constant, *SHAPE_ONLY.get(step.kind, ())}):
            graph.constants.update(step.outputs)
    return graph


def mark_bounds(graph: Graph) -> Graph:
    """Mark what bounds the values keep, which factors are gates, and shifts of the model's input."""
    graph = graph.copy()
    gates: set[Ref] = set()
    scaled = set(graph.inputs)  # inputs of the model, moved or scaled
    stepwise = set(graph.constants)  # a small change of an input changes nothing
    for position, step in enumerate(graph.steps):
        signals = [i for i in range(len(step.inputs)) if i not in step.constant]
        shifts = step.kind in ("ops.Add", "ops.Subtract") and [step.inputs[i] in scaled for i in signals] == [True]
        if shifts and step.outputs[0].shape == step.inputs[signals[0]].shape:  # not broadcast to a larger one
            step = graph.steps[position] = dataclasses.replace(step, op=InputShift(step.op))
        if step.kind in STEPWISE or stepwise.issuperset(step.inputs):
            stepwise.update(step.outputs)
        flow = flows.lookup(step)
        if step.linear is not None or flow is None:
            continue
        found = tuple(i for i, ref in enumerate(step.inputs) if ref in gates)
        if found:
            graph.steps[position] = dataclasses.replace(step, gates=found)
        values = [step.inputs[i] for i in signals if step.inputs[i] not in stepwise]
        if flow.transparent and scaled.issuperset(values):
            scaled.update(step.outputs)
        interval = flow.interval(step, [graph.bounds.get(ref, flows.UNBOUNDED) for ref in step.inputs])
        graph.bounds.update(dict.fromkeys(step.outputs, interval))
        if _is_gate(step, interval) or (flow.transparent and values and gates.issuperset(values)):
            gates.update(step.outputs)
    return graph


def _is_gate(step: Step, interval: Interval) -> bool:
    """Whether a step gives values in [0, 1], or scales, as 1/sigma is one."""
    bounded = interval[0] >= 0 and interval[1] <= 1 + 1e-6
    return bounded or step.kind in ("ops.Rsqrt", "ops.Reciprocal")


def canonize_bodies(graph: Graph) -> Graph:
    """Rewrite the bodies of loops by `BODY_PASSES`."""
    graph = graph.copy()
    for position, step in enumerate(graph.steps):
        body = body_of(step)
        if body is None:
            continue
        body = dataclasses.replace(body.copy(), rewrites=[], aliases={}, padded={}, stripped=[], bounds={})
        for rewrite in BODY_PASSES:
            body = rewrite(body)
            _check_order(body, rewrite)
        graph.steps[position] = dataclasses.replace(step, op=dataclasses.replace(step.op, body=body))
        graph.rewrites += [(step.order, path, operation, what) for _, path, operation, what in body.rewrites]
    return graph


# In this order, for the reasons given. A canonizer of your own usually goes at the end; see docs/extending.md.
PASSES: tuple[Canonizer, ...] = (
    split_activations,  # first: an activation must be a step before it can be stripped
    strip_output,  # before `prune`: it chooses the tensors that are explained
    prune,  # before `check_samples`: a step that no output needs may mix samples
    check_samples,  # before the folds: a step that was folded into another is no longer checked
    mark_constants,  # before `fold_addends`, which needs to know operations with a constant kernel, and constants
    fold_addends,  # before `fold_behind`: the BatchNormalization behind x @ w + b then follows a single linear step
    fold_behind,  # before `fold_ahead`: scaling the outputs of a kernel is always exact, and cheaper
    fold_ahead,  # before `mark_bounds`, which reads the tensors that are left
    mark_bounds,  # behind all that rewrite steps: it reads the tensors that are left
    mark_factors,  # likewise
    canonize_bodies,  # anywhere: a body shares no tensor with the graph around it
)

# Of what a loop runs. All outputs of a body are kept: none is stripped.
BODY_PASSES: tuple[Canonizer, ...] = (
    split_activations,
    prune,
    check_samples,
    mark_constants,
    fold_addends,
    fold_behind,
    fold_ahead,
    *joining.PASSES,  # behind the folds: what was folded into a linear step stays with it
    mark_bounds,
    mark_factors,
    canonize_bodies,
)

"""Passes that fold constants, BatchNormalization and padding into the linear steps beside them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import keras

from lrp_tf.core import linear
from lrp_tf.core.graph import Graph, Step


def fold_addends(graph: Graph) -> Graph:
    """Make the constant that is added to the output of a linear operation its bias."""
    graph = graph.copy()
    producers = {ref: step for step in graph.steps for ref in step.outputs}
    consumers = graph.consumers()
    for add in [s for s in graph.steps if s.kind in ("ops.Add", keras.layers.Add) and len(s.inputs) == 2]:
        if len(add.constant) != 1:
            continue
        ref, constant = add.inputs[1 - add.constant[0]], add.inputs[add.constant[0]]
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
        constants = (*step.constant, len(step.inputs))
        merged = dataclasses.replace(step, outputs=add.outputs, addend=constant, constant=constants, held=constants)
        graph.steps.remove(step)  # it runs where the sum ran: steps that make the constant may lie between them
        _replace(graph, add, merged)
        producers[add.outputs[0]] = merged
        graph.aliases[ref] = add.outputs[0]
        graph.rewrites.append((add.order, add.path, add.operation, f"the bias of {step.path}"))
    return graph


def _replace(graph: Graph, old: Step, new: Step | None) -> None:
    position = graph.steps.index(old)
    graph.steps[position : position + 1] = [] if new is None else [new]


def fold_behind(graph: Graph) -> Graph:
    """Fold a BatchNormalization behind a linear step into the outputs of its kernel."""
    graph = graph.copy()
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
    return graph


def fold_ahead(graph: Graph) -> Graph:
    """Fold padding and BatchNormalization ahead of linear steps into them."""
    graph = graph.copy()
    for step in reversed(list(graph.steps)):
        if _is_padding(step):
            _absorb(graph, step, lambda user: user.entry.convolution and not _has_norm(user), "absorbed into")
        elif step.linear is not None and step.linear.elementwise:
            _absorb(graph, step, functools.partial(_takes_norm, step), "folded into")
    return graph


def _has_norm(step: Step) -> bool:
    """Whether a BatchNormalization was folded in from ahead. It makes padding ahead of it differ from zero."""
    return any(linear.lookup(layer) is not None for layer in step.before)


def _takes_norm(norm: Step, user: Step) -> bool:
    scalable = user.entry.scale_inputs is not None and not _has_norm(user)
    return scalable and _same_axis(norm, user.entry.channel_axis(user.op))


def _absorb(graph: Graph, step: Step, fits: Callable[[Step], bool], verb: str) -> None:
    (source,), target = step.inputs, step.outputs[0]
    users = graph.consumers().get(target, [])
    if target in graph.outputs or not users or any(u.linear is None or u.linear.elementwise for u in users):
        return
    if not all(fits(user) for user in users):
        return
    for user in users:
        _replace(graph, user, dataclasses.replace(user.rewired(target, source), before=(step.op, *user.before)))
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
    return norm.entry.channel_axis(norm.op) % rank == axis % rank

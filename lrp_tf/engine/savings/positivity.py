"""Which tensors have relevance only where they are above zero: rules then leave out what cannot matter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras

from lrp_tf.core.graph import Constants, Graph, Ref, Step
from lrp_tf.flows.base import activation_interval

# Functions that are 0 wherever their input is not above 0.
_CUT = {"relu", "relu6"}


def _is_zero_below_zero(step: Step) -> bool:
    named = step.activation in _CUT or type(step.op) is keras.layers.ReLU
    return named and activation_interval(step)[0] == 0  # a slope or a threshold may let negative values through


def _is_plain_relu(step: Step) -> bool:
    """Whether an activation is max(x, 0) and nothing more: a threshold above 0 has the bounds of a ReLU, too."""
    return activation_interval(step) == (0, math.inf) and not getattr(step.op, "threshold", 0)


def relus(graph: Graph, handlers: dict[Step, Any]) -> dict[Step, Step]:
    """The plain ReLUs behind quiet steps -> these steps, which may have computed the ReLU for their own use."""
    makers = {ref: step for step in graph.steps for ref in step.outputs if step.quiet}
    cuts = [
        step for step in graph.steps if len(step.inputs) == 1 and step.inputs[0] in makers and _cuts(step, handlers)
    ]
    return {step: makers[step.inputs[0]] for step in cuts if _is_plain_relu(step)}


def _readers(graph: Graph, handlers: dict[Step, Any]) -> dict[Ref, list[Step]]:
    """The steps that relevance of a tensor comes from."""
    readers: dict[Ref, list[Step]] = {}
    for step in graph.steps:
        for position, ref in enumerate(step.inputs):
            if position not in step.held and not getattr(handlers[step], "detached", False):
                readers.setdefault(ref, []).append(step)
    return readers


def _cuts(step: Step, handlers: dict[Step, Any]) -> bool:
    return handlers[step].at_zero == "element" and _is_zero_below_zero(step)


def hidden(graph: Graph, handlers: dict[Step, Any]) -> list[Ref]:
    """Outputs of linear steps, or of the ReLUs behind them, whose NaN or Inf may not show in the relevance.

    Where all that reads a tensor multiplies it with what arrives, NaN and Inf show; max pooling may hide them.
    """
    readers = _readers(graph, handlers)

    def search(ref: Ref) -> list[Ref]:
        above = readers.get(ref, [])
        if above and ref not in graph.outputs:
            if all(handlers[step].at_zero == "none" for step in above):
                return []
            if all(_cuts(step, handlers) for step in above):
                return [found for step in above for found in search(step.outputs[0])]
        return [ref]

    refs = [found for step in graph.steps if step.linear is not None for found in search(step.outputs[0])]
    return list(dict.fromkeys(refs))


# Entries up to which a weight is read at every call, whether or not the relevance shows what it holds.
_SMALL = 4096


def hidden_weights(graph: Graph, handlers: dict[Step, Any]) -> list[keras.Variable | Ref]:
    """Weights, variables or constants of the graph, whose NaN or Inf may not show in the relevance or the output.

    A ReLU that is computed together with its convolution makes 0 of NaN. Kernels show in the relevance, which their
    transpose carries, unless the rule leaves the kernel out (Flat) or relevance never enters the layer (a gate).
    Biases and other small weights are all read: that is cheap.
    """
    reached = set(graph.outputs)
    for step in reversed(graph.steps):
        if reached.intersection(step.outputs) and not getattr(handlers[step], "detached", False):
            reached.update(step.inputs[i] for i in step.signals)
    constants = {ref for step in graph.steps if isinstance(step.op, Constants) for ref in step.outputs}
    found: dict[int, keras.Variable | Ref] = {}
    for step in graph.steps:
        if isinstance(step.op, keras.layers.Embedding):  # rows that are not looked up concern nobody
            continue
        shows = reached.issuperset(step.outputs) and getattr(handlers[step], "shows_kernel", False)
        layers = [weight for layer in (step.op, *step.before, *step.after) for weight in getattr(layer, "weights", [])]
        for weight in (*layers, *constants.intersection(step.inputs)):
            size = math.prod(size or 1 for size in weight.shape)
            if "float" in str(weight.dtype) and (size <= _SMALL or (step.linear is not None and not shows)):
                found[id(weight)] = weight
    return list(found.values())


def mark_quiet(graph: Graph, handlers: dict[Step, Any]) -> tuple[Graph, dict[Step, Any]]:
    """Mark the steps whose outputs have no relevance where these are negative.

    So it is behind a ReLU, if nothing above gives relevance to its zeros, as Flat and WSquare do.
    """
    readers = _readers(graph, handlers)
    # What the caller starts with may lie anywhere.
    silent: dict[Ref, bool] = dict.fromkeys(graph.outputs, False)

    def is_silent(ref: Ref) -> bool:
        """Whether zeros of this tensor have no relevance."""
        if ref not in silent:
            silent[ref] = all(map(silent_into, readers.get(ref, [])))
        return silent[ref]

    def silent_into(step: Step) -> bool:
        if handlers[step].at_zero == "none":
            return True
        moves = handlers[step].at_zero == "moves" or _cuts(step, handlers)
        return moves and all(map(is_silent, step.outputs))

    def is_quiet(ref: Ref) -> bool:
        """Whether negative values of this tensor have no relevance."""
        above = readers.get(ref, [])
        return (
            ref not in graph.outputs
            and bool(above)
            and all(_cuts(s, handlers) and is_silent(s.outputs[0]) for s in above)
        )

    steps, found = [], {}
    for step in reversed(graph.steps):  # so that the recursion is never deep
        handler = handlers[step]
        for ref in step.outputs:
            is_silent(ref)
        quiet = len(step.outputs) == 1 and is_quiet(step.outputs[0])
        step = dataclasses.replace(step, quiet=True) if quiet else step
        steps.append(step)
        found[step] = handler
    return dataclasses.replace(graph, steps=steps[::-1]), dict(reversed(found.items()))

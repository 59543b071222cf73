"""Where values and relevance are known to be >= 0 alone: rules then leave out what cannot matter."""

from __future__ import annotations

import math

import keras

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.protocol import Handler, ZeroInput
from lrp_tf.flows.base import UNBOUNDED, activation_interval

# Functions that are 0 wherever their input is not above 0.
_CUT = {"relu", "relu6"}


def reads_nonnegative(graph: Graph, step: Step) -> bool:
    """Whether the kernel of a linear step reads values that are all >= 0."""
    if step.linear is None or not step.signals:
        return False
    low, _ = graph.bounds.get(step.inputs[step.signals[0]], UNBOUNDED)
    return low >= 0


def positive_only(graph: Graph, handlers: dict[Step, Handler], starts: set[Ref]) -> set[Step]:
    """The steps whose output has no relevance where it is not above zero.

    So it is ahead of a ReLU, if nothing above the ReLU gives relevance to its zeros, as Flat and WSquare do.

    Args:
        starts: tensors that relevance may start at, wherever their values lie.
    """
    readers = relevance_readers(graph, handlers)
    zero_safe: dict[Ref, bool] = dict.fromkeys(starts, False)

    def is_zero_safe(ref: Ref) -> bool:
        """Whether zeros of this tensor have no relevance."""
        if ref not in zero_safe:
            zero_safe[ref] = all(gives_zeros_none(step) for step in readers.get(ref, []))
        return zero_safe[ref]

    def gives_zeros_none(step: Step) -> bool:
        if handlers[step].at_zero == ZeroInput.NONE:
            return True
        moves = handlers[step].at_zero == ZeroInput.MOVES or cuts(step, handlers[step])
        return moves and all(map(is_zero_safe, step.outputs))

    found = set()
    for step in reversed(graph.steps):  # so that the recursion is never deep
        for ref in step.outputs:
            is_zero_safe(ref)
        if len(step.outputs) != 1 or step.outputs[0] in starts:
            continue
        above = readers.get(step.outputs[0], [])
        if above and all(cuts(s, handlers[s]) and is_zero_safe(s.outputs[0]) for s in above):
            found.add(step)
    return found


def shared_rectifiers(graph: Graph, handlers: dict[Step, Handler]) -> dict[Step, Step]:
    """The plain ReLUs behind `positive_only` steps -> these steps, which may have computed the ReLU already."""
    makers = {ref: step for step in graph.steps for ref in step.outputs if step.marks.positive_only}
    cutting = [s for s in graph.steps if len(s.inputs) == 1 and s.inputs[0] in makers and cuts(s, handlers[s])]
    return {step: makers[step.inputs[0]] for step in cutting if _is_plain_relu(step)}


def relevance_readers(graph: Graph, handlers: dict[Step, Handler]) -> dict[Ref, list[Step]]:
    """For each tensor, the steps that hand relevance back to it."""
    readers: dict[Ref, list[Step]] = {}
    for step in graph.steps:
        for position, ref in enumerate(step.inputs):
            if position not in step.held:
                readers.setdefault(ref, []).append(step)
    return readers


def cuts(step: Step, handler: Handler) -> bool:
    """Whether a step is 0 wherever its input is not above 0, and hands back what it got."""
    return handler.at_zero == ZeroInput.ELEMENT and _is_zero_below_zero(step)


def _is_zero_below_zero(step: Step) -> bool:
    named = step.activation in _CUT or type(step.op) is keras.layers.ReLU
    return named and activation_interval(step)[0] == 0  # a slope or a threshold may let negative values through


def _is_plain_relu(step: Step) -> bool:
    """Whether an activation is max(x, 0) and nothing more: a threshold above 0 has the bounds of a ReLU, too."""
    return activation_interval(step) == (0, math.inf) and not getattr(step.op, "threshold", 0)

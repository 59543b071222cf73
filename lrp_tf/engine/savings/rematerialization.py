"""Memory: which summands need not be kept until relevance arrives, and whose denominators are best computed in turn."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lrp_tf import rules
from lrp_tf.core.graph import Graph, Step
from lrp_tf.flows.sums import Summed, is_plain_sum
from lrp_tf.rules.operators import Operator

# What these send from an output depends on that output alone. A rule of the user's own may read others.
_LOCAL = (rules.Epsilon, rules.Zero, rules.AlphaBeta, rules.ZPlus, rules.Gamma, rules.Flat, rules.WSquare)

# Of the outputs of all linear steps: smaller ones are no burden, and two convolutions at once may be faster.
_LARGE = 0.2
_UNMARKED = {"spare": None, "large": False}


def mark(graph: Graph, handlers: dict[Step, Any]) -> tuple[Graph, dict[Step, Any]]:
    """Mark, in each sum of two behind which a ReLU follows, the summand that a linear step made for it alone.

    The ReLU keeps the sum where it is above zero, and nowhere else has it relevance (`Step.quiet`): the sum less the
    other summand gives this one back. Marked too are the linear steps whose output is more than a fifth of all.
    """
    makers = {ref: step for step in graph.steps for ref in step.outputs}
    readers = graph.consumers()

    def spare(step: Step) -> int | None:
        if not step.quiet or not is_plain_sum(step) or len(step.inputs) != 2 or step.held:
            return None
        for position in (1, 0):
            ref = step.inputs[position]
            alone = readers[ref] == [step] and ref not in graph.outputs and step.inputs[0] is not step.inputs[1]
            if alone and ref in makers and _is_local(makers[ref], handlers):
                return position
        return None

    sizes = {step: math.prod(n or 1 for n in step.outputs[0].shape) for step in graph.steps if step.linear is not None}
    limit = _LARGE * sum(sizes.values())
    found = {}
    for step in graph.steps:
        marks = {"spare": spare(step), "large": sizes.get(step, 0) > limit}
        found[dataclasses.replace(step, **marks) if marks != _UNMARKED else step] = handlers[step]
    return dataclasses.replace(graph, steps=list(found)), found


def _is_local(step: Step, handlers: dict[Step, Any]) -> bool:
    rule = handlers[step]
    return step.linear is not None and type(rule) in _LOCAL and not isinstance(rule.stabilizer, rules.Relative)


def given_back(step: Step, saved: Summed, maker: Operator) -> tuple[Summed, Operator]:
    """What the sum and the step that made its spare summand have saved, with that summand as the sum less the other.

    Exact up to the rounding of the sum wherever relevance arrives.
    """
    other = saved.inputs[1 - step.spare]
    value = saved.above - other
    inputs = [value, other] if step.spare == 0 else [other, value]
    return saved._replace(inputs=inputs), maker.given(value)

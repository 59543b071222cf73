"""Memory: summands that are computed again where relevance arrives, and denominators that are computed in turn."""

from __future__ import annotations

import dataclasses
import math

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.numerics import Relative
from lrp_tf.core.protocol import Handler
from lrp_tf.flows.sums import Summed, is_plain_sum, keeps_rectified
from lrp_tf.rules.operators import Operator

# A step is memory-heavy above this share of the outputs of all linear steps. Below it memory is no burden, and two
# convolutions at once may be faster.
_HEAVY_SHARE = 0.2


def recomputed_summands(
    graph: Graph, handlers: dict[Step, Handler], positive_only: set[Step], starts: set[Ref]
) -> dict[Step, int]:
    """For each sum of two behind which a ReLU follows, the position of a summand that need not be kept.

    The ReLU keeps the sum where it is above zero, and relevance arrives nowhere else: the sum less the other summand
    gives this one again. It must be made for the sum alone, by a linear step whose rule is local.

    Args:
        starts: tensors that relevance may start at, whatever their values: they are kept.
    """
    makers = {ref: step for step in graph.steps for ref in step.outputs}
    readers = graph.consumers()
    found: dict[Step, int] = {}
    for step in positive_only:
        if not is_plain_sum(step) or len(step.inputs) != 2 or step.held or step.inputs[0] is step.inputs[1]:
            continue
        if not keeps_rectified(handlers[step]):
            continue
        for position in (1, 0):
            ref = step.inputs[position]
            alone = readers[ref] == [step] and ref not in starts and ref not in graph.outputs
            if alone and ref in makers and _is_local(makers[ref], handlers):
                found[step] = position
                break
    return found


def _is_local(step: Step, handlers: dict[Step, Handler]) -> bool:
    handler = handlers[step]
    relative = isinstance(getattr(handler, "stabilizer", None), Relative)  # it reads the whole sample
    return step.linear is not None and handler.local and not relative


def memory_heavy(graph: Graph) -> set[Step]:
    """The linear steps whose output is a great part of the outputs of all linear steps."""
    sizes = {step: math.prod(n or 1 for n in step.outputs[0].shape) for step in graph.steps if step.linear is not None}
    limit = _HEAVY_SHARE * sum(sizes.values())
    return {step for step, size in sizes.items() if size > limit}


def recompute(step: Step, saved: Summed, maker: Operator) -> tuple[Summed, Operator]:
    """What a sum and the maker of its recomputed summand saved, with that summand as the sum less the other one.

    It is exact up to the rounding of the sum wherever relevance arrives.
    """
    position = step.marks.recomputed_summand
    assert position is not None
    assert saved.rectified is not None
    other = saved.inputs[1 - position]
    value = saved.rectified - other
    inputs = [value, other] if position == 0 else [other, value]
    return dataclasses.replace(saved, inputs=inputs), maker.with_output(value)

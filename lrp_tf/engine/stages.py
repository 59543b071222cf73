"""Relevance on a part of its way: from some tensors down to others, where it can be looked at and masked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf

from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.protocol import Propagate
from lrp_tf.engine import propagate as propagation
from lrp_tf.engine.plan import Plan, reached
from lrp_tf.engine.propagate import Forward, Hook
from lrp_tf.engine.savings.recomputation import Segment


def part(plan: Plan, first: int, last: int, starts: Iterable[Ref]) -> Plan:
    """The plan of those of the steps from `first` up to `last` that relevance of `starts` reaches.

    Savings take for granted where relevance may start: here at what arrived from above, or at a part of that.
    """
    starts, steps = tuple(starts), plan.graph.steps[first:last]
    found = reached(steps, starts)
    steps = [step for step in steps if not found.isdisjoint(step.outputs)]
    return dataclasses.replace(
        plan,
        graph=dataclasses.replace(plan.graph, steps=steps),
        starts=starts,
        reached=frozenset(found),
        segments=_segments(plan, steps),
    )


def passed(
    plan: Plan,
    forward: Forward,
    relevance: Mapping[Ref, tf.Tensor],
    first: int,
    last: int,
    *,
    hook: Hook | None = None,
    propagators: Mapping[Step, Propagate] | None = None,
) -> dict[Ref, tf.Tensor]:
    """Relevance below the steps from `first` up to `last`, of that above them.

    Args:
        plan, forward: of the whole model.
        relevance: all that is on its way: of the outputs of these steps, and of tensors further down.
        hook, propagators: see `propagate`.

    Returns:
        Relevance of all tensors that steps ahead of `first` make, and of inputs of the model, that it reached.
    """
    run = part(plan, first, last, relevance)
    if not run.graph.steps:
        return dict(relevance)
    found = propagation.propagate(run, forward, relevance, hook=hook, propagators=propagators).relevance
    ended = {ref for step in plan.graph.steps[first:last] for ref in step.outputs}
    given_back = plan.positions.given_back  # to inputs, which it then reaches in another way
    return {ref: r for ref, r in found.items() if ref not in ended and (given_back or ref in run.reached)}


def _segments(plan: Plan, steps: Sequence[Step]) -> tuple[Segment, ...]:
    """The segments of a plan without other steps. The last one, whose values are at hand, stays the last, if empty."""
    if len(plan.segments) == 1:
        return (Segment(tuple(steps), tuple(plan.graph.inputs)),)
    kept, found = set(steps), []
    for segment in plan.segments:
        own = tuple(step for step in segment.steps if step in kept)
        made = {ref for step in own for ref in step.outputs}
        read = tuple(dict.fromkeys(ref for step in own for ref in step.inputs if ref not in made))
        if own or segment is plan.segments[-1]:
            found.append(Segment(own, read))
    return tuple(found)

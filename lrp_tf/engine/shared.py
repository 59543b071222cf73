"""Relevance of several plans of one canonized graph: one forward pass, shared denominators, a shared way down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.protocol import Handler, Propagate, Propagator
from lrp_tf.engine.plan import Plan
from lrp_tf.engine.propagate import Forward, scope
from lrp_tf.engine.savings import sharing
from lrp_tf.engine.savings import targets as together
from lrp_tf.engine.savings.sharing import Plans, Segment
from lrp_tf.rules import Rule
from lrp_tf.rules.operators import Operator


def forward(plans: Sequence[Plan], first: Forward) -> list[Forward]:
    """The forward pass of each plan, from that of the first one: the model's values are the same.

    Plans that do the same at a step share what it saved; rules that differ share input, kernel, output and sums.

    Args:
        plans: of one canonized graph, each of one segment.
        first: `propagate.forward` of the first plan.
    """
    known: list[list[tuple[Step, Handler, Any]]] = []
    for step in plans[0].graph.steps:
        known.append([(step, plans[0].handlers[step], first.saved[step])])
    found = [first]
    for plan in plans[1:]:
        saved: dict[Step, Any] = {}
        for step, ways in zip(plan.graph.steps, known, strict=True):
            saved[step] = _saved(step, plan.handlers[step], ways, first)
        found.append(Forward(first.values, saved))
    return found


def _saved(step: Step, handler: Handler, ways: list[tuple[Step, Handler, Any]], first: Forward) -> Any:
    """What a plan saves at a step, of what others saved there if that is possible."""
    for other, theirs, saved in ways:
        if sharing.alike((other, theirs), (step, handler)):
            return saved
    _, rule, op = ways[0]
    if type(op) is Operator and _runs_an_operator(rule) and isinstance(handler, Rule) and _runs_an_operator(handler):
        with tf.name_scope(scope(step)):
            if len(ways) == 1:
                op.share_sums()
            made = op.read_by(step, zero_bias=handler.zero_bias)
    else:
        with tf.name_scope(scope(step)):
            _, made = handler.forward(step, [first.values[ref] for ref in step.inputs])
    ways.append((step, handler, made))
    return made


def _runs_an_operator(handler: Handler) -> bool:
    return type(handler).forward is Rule.forward


def propagate(
    plans: Sequence[Plan], forwards: Sequence[Forward], initial: tf.Tensor, *, vectorized: bool
) -> list[list[tf.Tensor]]:
    """Relevance of the inputs, in the order of `Graph.inputs`, of each plan; zeros where none arrives.

    Args:
        plans, forwards: see `forward`.
        initial: relevance of the output, in its shape.
        vectorized: whether relevance that differs runs side by side where plans agree on the steps.
    """
    cut = sharing.segments([(plan.graph, plan.handlers) for plan in plans])
    graph, everyone = plans[0].graph, tuple(range(len(plans)))
    wanted = _wanted(graph.inputs, [plan.graph.steps for plan in plans], cut)
    stacks = [_Stack((everyone,), {graph.outputs[0]: initial[None]})]
    samples = tf.shape(initial)[0]
    for segment, refs in zip(cut, wanted, strict=True):
        below: list[_Stack] = []
        for group, arriving in zip(segment.groups, segment.arriving, strict=True):
            # One group after the other: they would only drive one another out of the cache.
            with tf.control_dependencies([r for stack in below[-1:] for r in stack.relevance.values()]):
                part = _Part(plans, forwards, segment, group, refs)
                below.append(_passed(_gathered(stacks, arriving), part, samples, vectorized))
        stacks = below
    return [_of_plan(stacks, number, plans[number], forwards[number]) for number in everyone]


@dataclasses.dataclass(frozen=True)
class _Stack:
    """Relevance of some tensors, [k, ...] for k classes of plans that have the same."""

    classes: tuple[Plans, ...]
    relevance: dict[Ref, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A segment for one group of plans; `wanted` is read below it."""

    plans: Sequence[Plan]
    forwards: Sequence[Forward]
    segment: Segment
    group: Plans
    wanted: frozenset[Ref]

    @property
    def classes(self) -> tuple[Plans, ...]:
        """The plans that agree above and here, for each class that arrives."""
        arriving = self.segment.arriving[self.segment.groups.index(self.group)]
        return tuple(tuple(plan for plan in one if plan in self.group) for one in arriving)

    def propagators(self) -> list[tuple[Step, Propagate]]:
        """The backward functions, with all that needs no relevance."""
        plan, forward = self.plans[self.group[0]], self.forwards[self.group[0]]
        found = []
        for position in self.segment.positions:
            step = plan.graph.steps[position]
            if not step.signals or plan.reached.isdisjoint(step.outputs):
                continue
            with tf.name_scope(scope(step)):
                back = plan.handlers[step].backward(step, forward.saved[step])
                if isinstance(back, Propagator):
                    back.precompute()
            found.append((step, back))
        return found

    def run(self, backs: list[tuple[Step, Propagate]], relevance: dict[Ref, tf.Tensor]) -> dict[Ref, tf.Tensor]:
        """Relevance that leaves the segment, from what arrives at it; what is not wanted is left out."""
        relevance, values = dict(relevance), self.forwards[self.group[0]].values
        for step, back in backs:
            arrived = [relevance.get(ref) for ref in step.outputs]
            if all(r is None for r in arrived):
                continue
            with tf.name_scope(scope(step)):
                pairs = zip(arrived, step.outputs, strict=True)
                sent = back([tf.zeros_like(values[ref]) if r is None else r for r, ref in pairs], None)
            for ref, r in zip(step.inputs, sent, strict=True):
                if r is not None:
                    relevance[ref] = relevance[ref] + r if ref in relevance else r
        return {ref: r for ref, r in relevance.items() if ref in self.wanted}


def _passed(stack: _Stack, part: _Part, samples: tf.Tensor, vectorized: bool) -> _Stack:
    """The relevance below a segment, from that above it."""
    refs = list(stack.relevance)
    with tf.control_dependencies(list(stack.relevance.values())):  # not before: one segment's memory serves the next
        backs = part.propagators()
    count = len(stack.classes)
    below: list[Ref] = []

    def one(given: list[tf.Tensor]) -> list[tf.Tensor]:
        found = part.run(backs, dict(zip(refs, given, strict=True)))
        below[:] = found
        return list(found.values())

    if count == 1 or not vectorized:
        apart = [one([stack.relevance[ref][k] for ref in refs]) for k in range(count)]
        rows = [tf.stack(values) for values in zip(*apart, strict=True)]
        return _Stack(part.classes, dict(zip(below, rows, strict=True)))
    reached = part.run(backs, {ref: r[0] for ref, r in stack.relevance.items()})  # it is asked for its shapes alone
    given = [stack.relevance[ref] for ref in refs]
    rows = together.side_by_side(one, given, samples, count, [r.dtype for r in reached.values()])
    for row, shape in zip(rows, [r.shape for r in reached.values()], strict=True):
        row.set_shape([count, *shape])
    return _Stack(part.classes, dict(zip(below, rows, strict=True)))


def _gathered(stacks: list[_Stack], classes: tuple[Plans, ...]) -> _Stack:
    """The relevance of these classes, each of which lies within one class of a stack."""
    for stack in stacks:
        if stack.classes == classes:
            return stack
    places = []
    for plans in classes:
        stack = next(s for s in stacks if any(plans[0] in held for held in s.classes))
        places.append((stack, next(k for k, held in enumerate(stack.classes) if plans[0] in held)))
    refs = dict.fromkeys(ref for stack, _ in places for ref in stack.relevance)
    return _Stack(classes, {ref: tf.stack([stack.relevance[ref][k] for stack, k in places]) for ref in refs})


def _of_plan(stacks: list[_Stack], number: int, plan: Plan, forward: Forward) -> list[tf.Tensor]:
    stack = next(s for s in stacks if any(number in held for held in s.classes))
    row = next(k for k, held in enumerate(stack.classes) if number in held)
    return [
        stack.relevance[ref][row]
        if ref in stack.relevance
        else tf.zeros_like(forward.values[ref], dtype=plan.graph.dtype)
        for ref in plan.graph.inputs
    ]


def _wanted(inputs: Sequence[Ref], steps: Sequence[Sequence[Step]], cut: Sequence[Segment]) -> list[frozenset[Ref]]:
    """For each segment the tensors whose relevance is read below it."""
    found, below = [frozenset(inputs)], set(inputs)
    for segment in reversed(cut[1:]):
        below.update(ref for of_plan in steps for p in segment.positions for ref in of_plan[p].outputs)
        found.append(frozenset(below))
    return found[::-1]

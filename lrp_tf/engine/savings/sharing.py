"""What the plans of several composites of one model share: where they agree, from the output down."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from lrp_tf.core.graph import Graph, Step
from lrp_tf.core.protocol import Handler

# Numbers of plans, in ascending order.
Plans = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps in a row that are propagated together.

    Attributes:
        positions: of the steps in `Graph.steps`, in the order of the backward pass.
        groups: the plans whose handlers agree on all of these steps. Relevance of several of them runs side by side.
        arriving: the plans that also agree on every step above, for each group: they share the relevance that arrives.
    """

    positions: tuple[int, ...]
    groups: tuple[Plans, ...]
    arriving: tuple[tuple[Plans, ...], ...]


def segments(assigned: Sequence[tuple[Graph, dict[Step, Handler]]]) -> list[Segment]:
    """The steps of one canonized graph, cut where fewer plans agree than above; in the order of the backward pass.

    A tree over the steps: plans that agree on a step and on all steps above it have the same relevance there.

    Args:
        assigned: the graph and the handlers of each plan.
    """
    kinds = _kinds(assigned)
    everyone = tuple(range(len(assigned)))
    found: list[Segment] = []
    above: tuple[Plans, ...] = (everyone,)
    positions: list[int] = []
    groups: tuple[Plans, ...] = (everyone,)
    for position in reversed(range(len(kinds))):
        finer = _refined(groups, kinds[position])
        if len(finer) > len(groups) and positions:
            found.append(_segment(positions, groups, above))
            above = _joined(above, groups)
            positions, finer = [], _refined((everyone,), kinds[position])
        positions.append(position)
        groups = finer
    return [*found, _segment(positions, groups, above)]


def same(one: object, other: object) -> bool:
    """Whether two handlers, or the values that they hold, are the same: of one class, with equal attributes."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type,call-overload]
    if isinstance(one, Handler):
        mine, others = vars(one), vars(other)
        return mine.keys() == others.keys() and all(same(mine[name], others[name]) for name in mine)
    # repr: 0.0 equals -0.0. What has no content of its own to compare, as a plan, is itself alone.
    return isinstance(one, Hashable) and bool(one == other) and repr(one) == repr(other)


def alike(one: tuple[Step, Handler], other: tuple[Step, Handler]) -> bool:
    """Whether two plans do the same at a step: the same handler, and nothing else that the savings know."""
    return one[0].marks == other[0].marks and one[0].held == other[0].held and same(one[1], other[1])


def _kinds(assigned: Sequence[tuple[Graph, dict[Step, Handler]]]) -> list[tuple[int, ...]]:
    """For each step and plan the first plan that does the same there."""
    found = []
    for steps in zip(*(graph.steps for graph, _ in assigned), strict=True):
        pairs = [(step, handlers[step]) for step, (_, handlers) in zip(steps, assigned, strict=True)]
        first: list[int] = []
        kinds = []
        for number, pair in enumerate(pairs):
            kind = next((known for known in first if alike(pairs[known], pair)), number)
            first += [number] if kind == number else []
            kinds.append(kind)
        found.append(tuple(kinds))
    return found


def _refined(groups: tuple[Plans, ...], kinds: tuple[int, ...]) -> tuple[Plans, ...]:
    """The groups, split where their plans differ at a step."""
    found: list[Plans] = []
    for group in groups:
        parts: dict[int, list[int]] = {}
        for plan in group:
            parts.setdefault(kinds[plan], []).append(plan)
        found += map(tuple, parts.values())
    return tuple(found)


def _joined(above: tuple[Plans, ...], groups: tuple[Plans, ...]) -> tuple[Plans, ...]:
    """The plans that agree on both."""
    label = {plan: number for number, group in enumerate(groups) for plan in group}
    return _refined(above, tuple(label[plan] for plan in range(len(label))))


def _segment(positions: list[int], groups: tuple[Plans, ...], above: tuple[Plans, ...]) -> Segment:
    arriving = tuple(tuple(a for a in above if not set(a).isdisjoint(group)) for group in groups)
    return Segment(tuple(positions), groups, arriving)

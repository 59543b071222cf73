"""A canonized graph with a handler on every step, and everything that follows from the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.protocol import Handler
from lrp_tf.engine.positions import Positions
from lrp_tf.engine.savings.recomputation import Segment


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What `propagate` needs to know of a model. It holds no tensors of a call, and nothing changes it.

    Attributes:
        graph: canonized, its steps marked for the savings.
        handlers: the rule or flow of every step.
        starts: the tensors that relevance may start at; by default the outputs of the graph.
        reached: the tensors that relevance from `starts` can reach.
        heads: the steps that divide the initial relevance itself, see `first_dividers`.
        hidden: tensors whose NaN or Inf may show neither in the output nor in the relevance.
        hidden_weights: weights of which the same holds.
        makers: for each tensor, the step that computes it; inputs of the model have none.
        rectifiers: the ReLUs whose output the step below may have computed, each with that step.
        positions: the constants that say where tokens are.
        segments: the steps in parts, of which all but the last are computed again in the backward pass; usually one.
    """

    graph: Graph
    handlers: dict[Step, Handler]
    starts: tuple[Ref, ...]
    reached: frozenset[Ref]
    heads: frozenset[Step]
    hidden: tuple[Ref, ...]
    hidden_weights: tuple[keras.Variable | Ref, ...]
    makers: dict[Ref, Step]
    rectifiers: dict[Step, Step]
    segments: tuple[Segment, ...]
    positions: Positions

    def every_step(self) -> list[tuple[Step, Handler]]:
        """All steps with their handlers, in execution order; those that a loop runs ahead of the loop's own."""
        found: list[tuple[Step, Handler]] = []
        for step in self.graph.steps:
            inner = inner_plan(self.handlers[step])
            found += [] if inner is None else inner.every_step()
            found.append((step, self.handlers[step]))
        return found


def inner_plan(handler: Handler) -> Plan | None:
    """The plan of what a loop runs; None: the handler runs a single operation."""
    found = getattr(handler, "plan", None)
    return found if isinstance(found, Plan) else None


def reached(steps: Iterable[Step], starts: Iterable[Ref]) -> set[Ref]:
    """The tensors that relevance of `starts` arrives at, on its way back through steps in the order of execution."""
    found = set(starts)
    for step in reversed(list(steps)):
        if not found.isdisjoint(step.outputs):
            found.update(step.inputs[i] for i in step.signals)
    return found


def first_dividers(graph: Graph, handlers: dict[Step, Handler], starts: Iterable[Ref]) -> frozenset[Step]:
    """The first steps to divide relevance on each way down from `starts`.

    Where the output is nearly 0 because its contributions cancel, relevance grows at these steps, up to 1 / epsilon
    times. That follows from the rules. Growth below them shows that the map is unsound.
    """
    undivided, found = set(starts), set()
    for step in reversed(graph.steps):
        if step.signals and not undivided.isdisjoint(step.outputs):
            if handlers[step].divides:
                found.add(step)
            else:
                undivided.update(step.inputs[i] for i in step.signals)
    return frozenset(found)

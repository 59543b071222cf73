"""A canonized graph with a handler on every step, and everything that follows from the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras

from lrp_tf.composites import Composite
from lrp_tf.core.entering import hold
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.protocol import Handler
from lrp_tf.engine.hidden import hidden_tensors, hidden_weights
from lrp_tf.engine.positions import Positions, find
from lrp_tf.engine.savings import positivity, recomputation
from lrp_tf.engine.savings.marks import mark
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


def make_plan(
    graph: Graph,
    composite: Composite,
    *,
    starts: Iterable[Ref] | None = None,
    fast: str | None = None,
    recompute: bool = False,
    positions: str | None = None,
) -> Plan:
    """The plan for a canonized graph under a composite.

    The order is fixed. The composite assigns; then each handler decides what relevance enters (`core.entering`); then
    the savings mark what they may leave out, which depends on both. Each of the last two replaces the steps, so that
    values derived from steps come last.

    Args:
        starts: tensors of the graph that relevance may start at, whatever their values; None: its outputs.
        fast: "bfloat16", "auto" or None, see `savings.bfloat16.chosen`.
        positions: "token" or None, see `positions.find`.
        recompute: keep few values of the forward pass and compute the others again, see `savings.recomputation`.

    Raises:
        UnsupportedLayerError, ValueError: see `Composite.assign`; ValueError: see `savings.bfloat16.chosen`, or a start
            that is no tensor of the graph; see also `core.entering.hold`.
    """
    first = tuple(graph.outputs if starts is None else dict.fromkeys(starts))
    known = {*graph.inputs, *(ref for step in graph.steps for ref in step.outputs)}
    if not first or not known.issuperset(first):
        raise ValueError(
            f"Relevance starts at tensors of the canonized graph (Graph.resolve finds them). Received: {list(first)}"
        )
    graph, handlers = hold(graph, composite.assign(graph))
    graph, handlers = mark(graph, handlers, first, fast)
    reached = _reached(graph, first)
    return Plan(
        graph=graph,
        handlers=handlers,
        starts=first,
        reached=reached,
        heads=first_dividers(graph, handlers, first),
        hidden=tuple(hidden_tensors(graph, handlers, first)),
        hidden_weights=tuple(hidden_weights(graph, handlers, reached)),
        makers={ref: step for step in graph.steps for ref in step.outputs},
        rectifiers=positivity.shared_rectifiers(graph, handlers),
        positions=find(graph, reached, positions),
        segments=recomputation.segments(graph) if recompute else recomputation.whole(graph),
    )


def _reached(graph: Graph, starts: Iterable[Ref]) -> frozenset[Ref]:
    found = set(starts)
    for step in reversed(graph.steps):
        if not found.isdisjoint(step.outputs):
            found.update(step.inputs[i] for i in step.signals)
    return frozenset(found)


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

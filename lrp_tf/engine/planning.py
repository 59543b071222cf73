"""Makes the plan of a canonized graph under a composite."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from lrp_tf.composites import Composite
from lrp_tf.core.entering import hold
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import EachTimeStep, body_of
from lrp_tf.core.protocol import Handler
from lrp_tf.engine.hidden import hidden_tensors, hidden_weights
from lrp_tf.engine.loop import Recurrence
from lrp_tf.engine.plan import Plan, first_dividers, inner_plan, reached
from lrp_tf.engine.positions import find
from lrp_tf.engine.savings import positivity, recomputation
from lrp_tf.engine.savings.marks import mark


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
    return _plan(graph, composite.assign(graph), first, fast, recompute, positions)


def _plan(
    graph: Graph,
    assigned: dict[Step, Handler],
    first: tuple[Ref, ...],
    fast: str | None = None,
    recompute: bool = False,
    positions: str | None = None,
) -> Plan:
    """The plan for a graph and what a composite assigned; see `make_plan`."""
    graph, handlers = hold(graph, {step: _running(step, handler) for step, handler in assigned.items()})
    graph, handlers = mark(graph, handlers, first, fast)
    within_reach = frozenset(reached(graph.steps, first))
    return Plan(
        graph=graph,
        handlers=handlers,
        starts=first,
        reached=within_reach,
        heads=first_dividers(graph, handlers, first),
        hidden=tuple(hidden_tensors(graph, handlers, first)),
        hidden_weights=(*hidden_weights(graph, handlers, within_reach), *_inner_weights(handlers)),
        makers={ref: step for step in graph.steps for ref in step.outputs},
        rectifiers=positivity.shared_rectifiers(graph, handlers),
        positions=find(graph, within_reach, positions),
        segments=recomputation.segments(graph) if recompute else recomputation.whole(graph),
    )


def _running(step: Step, handler: Handler) -> Handler:
    """The handler itself; for a loop, the one that runs the plan of the body."""
    body = body_of(step)
    if body is None or not isinstance(handler, EachTimeStep):
        return handler
    return Recurrence(step.op, _plan(body, handler.handlers, tuple(dict.fromkeys(body.outputs))))


def _inner_weights(handlers: dict[Step, Handler]) -> list[keras.Variable]:
    """The hidden weights of layers that loops run; constants that they read are those of the graph around them."""
    plans = [plan for handler in handlers.values() if (plan := inner_plan(handler)) is not None]
    return [w for plan in plans for w in plan.hidden_weights if not isinstance(w, Ref)]

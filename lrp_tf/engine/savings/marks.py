"""What the savings know of each step, decided once when a plan is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from lrp_tf.core.graph import Graph, Marks, Ref, Step
from lrp_tf.core.protocol import Handler
from lrp_tf.engine.savings import bfloat16, positivity, rematerialization, switch


def mark(
    graph: Graph, handlers: dict[Step, Handler], starts: Iterable[Ref] | None = None, fast: str | None = None
) -> tuple[Graph, dict[Step, Handler]]:
    """The graph and handlers with the `Marks` of every step.

    The order matters once: a summand can be recomputed only where relevance is known to arrive above zero alone.

    Args:
        starts: tensors that relevance may start at, whatever their values; None: the outputs of the graph.
        fast: "bfloat16", "auto" or None, see `bfloat16.chosen`.

    Raises:
        ValueError: see `bfloat16.chosen`.
    """
    choice = bfloat16.chosen(graph, handlers, fast)
    if not switch.are_on():
        return graph, handlers
    first = set(graph.outputs if starts is None else starts)
    positive_only = positivity.positive_only(graph, handlers, first)
    recomputed = rematerialization.recomputed_summands(graph, handlers, positive_only, first)
    memory_heavy = rematerialization.memory_heavy(graph)
    found: dict[Step, Handler] = {}
    for step in graph.steps:
        marks = Marks(
            savings=True,
            nonnegative=positivity.reads_nonnegative(graph, step),
            positive_only=step in positive_only,
            recomputed_summand=recomputed.get(step),
            memory_heavy=step in memory_heavy,
            bfloat16_sums=step in choice.sums,
            bfloat16_shares=step in choice.shares,
            precision=choice.texts.get(step, ""),
        )
        found[dataclasses.replace(step, marks=marks)] = handlers[step]
    return dataclasses.replace(graph, steps=list(found)), found

"""Which inputs of each step relevance enters: what the handlers decide, joined for a whole graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.protocol import Handler


def hold(graph: Graph, handlers: dict[Step, Handler]) -> tuple[Graph, dict[Step, Handler]]:
    """The graph and handlers with `Step.held` of every step, as the handlers decide in `Handler.enters`.

    An input is also held if no relevance could leave it: a constant, or a tensor whose maker holds all that it reads.
    `out_of_reach` of the graph returned lists these tensors.

    Raises:
        ValueError: a handler names a position that the step does not have.
    """
    held, ended = decide(graph, lambda step: handlers[step].enters)
    found = {dataclasses.replace(step, held=held[step]): handlers[step] for step in graph.steps}
    return dataclasses.replace(graph, steps=list(found), out_of_reach=ended), found


def decide(
    graph: Graph, enters: Callable[[Step], Callable[[Step], tuple[int, ...]]]
) -> tuple[dict[Step, tuple[int, ...]], set[Ref]]:
    """The held positions of every step, and the tensors that no relevance could leave.

    Args:
        enters: step -> `Handler.enters` of its handler.

    Raises:
        ValueError: see `hold`.
    """
    held: dict[Step, tuple[int, ...]] = {}
    ended = graph.constants.intersection(graph.inputs)  # what a body reads of the graph around it
    for step in graph.steps:
        dead = tuple(i for i, ref in enumerate(step.inputs) if ref in ended)
        entered = enters(step)(dataclasses.replace(step, held=dead))
        if not set(entered) <= set(range(len(step.inputs))):
            raise ValueError(
                f"The handler of {step.path!r} ({step.operation}) lets relevance enter the inputs {tuple(entered)}. "
                f"Expected positions in step.inputs, of which there are {len(step.inputs)}."
            )
        held[step] = tuple(i for i in range(len(step.inputs)) if i in dead or i not in entered)
        if len(held[step]) == len(step.inputs):
            ended.update(step.outputs)
    return held, ended

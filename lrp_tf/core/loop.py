"""A step that holds a graph, which runs once for each entry of the time axis: recurrent layers and scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.protocol import Handler


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """The operation of a step that runs its `body` for each time step. The step's arguments are
    (sequences, states, mask or None, captured): lists of refs, in this order in `Step.inputs`, too.

    The inputs of the body are, in this order: one entry [B, ...] of each sequence [B, T, ...], the states [B, ...], and
    what the body reads of the graph around it (`captured`: variables and arrays, unbatched). Its outputs are those of
    the time step [B, ...], then the new states. A tensor may appear several times among them, as h does in an LSTM.

    The outputs of the step are those of the body, stacked to [B, T, ...] (`stacked`) or of the last time step, and
    behind them, if `returns_states`, the last states.

    Attributes:
        layer: of Keras, or the operation that the loop is made from; for tables and messages.
        body: canonized with the graph around it.
        sequences, states: how many of each.
        backwards: the last time step runs first, and the outputs are stacked in the order of the run, as Keras does.
        stacked: see above.
        returns_states: see above.
        zeros_where_masked: the output of a masked time step is 0, not that of the last one that was not masked.
    """

    layer: object
    body: Graph
    sequences: int
    states: int
    backwards: bool = False
    stacked: bool = True
    returns_states: bool = False
    zeros_where_masked: bool = False

    @property
    def name(self) -> str:
        return getattr(self.layer, "name", self.label)

    @property
    def label(self) -> str:
        return type(self.layer).__name__


@dataclasses.dataclass(frozen=True, eq=False)
class EachTimeStep(Handler):
    """What a composite assigned to the steps of a body. `engine.loop` makes a handler of it that runs.

    Attributes:
        handlers: the rule or flow of every step of the body.
    """

    handlers: dict[Step, Handler]

    def __repr__(self) -> str:
        return "rules for each time step"


def body_of(step: Step) -> Graph | None:
    """The graph that a step holds; None: it is a single operation."""
    return step.op.body if isinstance(step.op, Loop) else None


def read_by_kernels(graph: Graph) -> set[Ref]:
    """The tensors that linear steps read, those in the bodies of loops included."""
    found = {ref for step in graph.steps if step.linear is not None for ref in step.inputs}
    for step in graph.steps:
        if isinstance(step.op, Loop):
            inner, read = step.op.body.inputs[step.op.sequences + step.op.states :], read_by_kernels(step.op.body)
            captured = step.inputs[len(step.inputs) - len(inner) :]
            found.update(outer for outer, ref in zip(captured, inner, strict=True) if ref in read)
    return found


def steps_within(graph: Graph, *, bodies_first: bool = False) -> Iterator[Step]:
    """The steps of a graph in order, those of a body behind the step that holds it, or ahead of it."""
    for step in graph.steps:
        body = body_of(step)
        within = [] if body is None else steps_within(body, bodies_first=bodies_first)
        yield from (*within, step) if bodies_first else (step, *within)

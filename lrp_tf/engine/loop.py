"""Runs a step that holds a graph for each time step, and propagates relevance through time.

Forward, one loop keeps the states alone. Backward, one loop goes from the last time step to the first, computes the
body again from the states that were kept, and hands the relevance of the states on to the time step before.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.loop import Loop
from lrp_tf.core.protocol import Handler, Propagator
from lrp_tf.engine import propagate as propagation
from lrp_tf.engine.plan import Plan
from lrp_tf.engine.propagate import Hook
from lrp_tf.engine.rows import no_row, row_of


class Given(NamedTuple):
    """The inputs of one call of a loop, time first and in the order of the run: [T, B, ...].

    Attributes:
        sequences: one entry of each is read by each time step.
        states: ahead of the first time step, [B, ...] each.
        mask: [B, T] booleans; None: every time step counts. Not transposed: oneDNN complains of booleans on some CPUs.
        captured: what the body reads of the graph around it.
        constants: what the body computes of it alone.
    """

    sequences: list[tf.Tensor]
    states: list[tf.Tensor]
    mask: tf.Tensor | None
    captured: list[tf.Tensor]
    constants: dict[Ref, tf.Tensor]

    @property
    def length(self) -> tf.Tensor:
        """How many time steps there are."""
        return tf.shape(self.sequences[0])[0]


class Run(NamedTuple):
    """What the forward loop keeps.

    Attributes:
        states: ahead of each time step, arrays of [B, ...]. Stacked, they would be kept a second time.
    """

    given: Given
    states: list[tf.TensorArray]


@dataclasses.dataclass(frozen=True, eq=False)
class Recurrence(Handler):
    """Relevance through a loop: the rules and flows of the body's plan at every time step.

    Attributes:
        loop: the operation of the step.
        plan: of the body; relevance starts at its outputs.
    """

    loop: Loop
    plan: Plan

    @property
    def divides(self) -> bool:  # type: ignore[override]
        return any(handler.divides for handler in self.plan.handlers.values())

    def __repr__(self) -> str:
        return "rules for each time step"

    def enters(self, step: Step) -> tuple[int, ...]:
        """Sequences and states whose entries relevance reaches in the body; neither the mask nor what is captured."""
        inner = self.plan.graph.inputs[: self.loop.sequences + self.loop.states]
        return tuple(i for i in super().enters(step) if i < len(inner) and inner[i] in self.plan.reached)

    # --- forward ---------------------------------------------------------------------------------

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Run]:
        loop, given = self.loop, self._given(step, inputs)
        length, new_outputs = given.length, self._refs_of_outputs()
        kept = [tf.TensorArray(s.dtype, length, element_shape=s.shape, clear_after_read=False) for s in given.states]
        made = [tf.TensorArray(self._dtype_of(ref), length, element_shape=_whole(ref)) for ref in new_outputs]
        last = [self._zeros(ref, given) for ref in new_outputs] if self._keeps_last(given) else []

        def run(i: tf.Tensor, states: list, last: list, kept: list, made: list) -> tuple:
            outputs, new = self._values(
                propagation.forward(self.plan, self.entries(given, i, states), known=given.constants)
            )
            if given.mask is not None:
                before = [tf.zeros_like(y) for y in outputs] if loop.zeros_where_masked else last
                outputs = [_where(given.mask[:, i], y, other) for y, other in zip(outputs, before, strict=True)]
                new = [_where(given.mask[:, i], s, other) for s, other in zip(new, states, strict=True)]
            kept = [array.write(i, s) for array, s in zip(kept, states, strict=True)]
            made = [array.write(i, y) for array, y in zip(made, outputs, strict=True)] if loop.stacked else made
            new = [tf.ensure_shape(s, old.shape) for s, old in zip(new, states, strict=True)]
            last = [tf.ensure_shape(y, old.shape) for y, old in zip(outputs, last, strict=True)] if last else last
            return i + 1, new, last, kept, made

        start = (tf.constant(0), given.states, last, kept, made if loop.stacked else [])
        _, states, last, kept, made = tf.while_loop(lambda i, *_: i < length, run, start)
        outputs = [_samples_first(array.stack()) for array in made] if loop.stacked else last
        return [*outputs, *(states if loop.returns_states else [])], Run(given, kept)

    def _given(self, step: Step, inputs: list[tf.Tensor]) -> Given:
        loop = self.loop
        supply = iter(tf.cast(x, self._dtype) if x.dtype.is_floating else x for x in inputs)
        sequences = [self._in_order(next(supply)) for _ in range(loop.sequences)]
        states = [next(supply) for _ in range(loop.states)]
        masked = len(inputs) > loop.sequences + loop.states + len(self._captured)
        mask = next(supply) if masked else None
        mask = tf.reverse(mask, [1]) if mask is not None and loop.backwards else mask
        captured = list(supply)
        inner = self.plan.graph.inputs
        known = dict(zip(inner[len(inner) - len(captured) :], captured, strict=True))
        return Given(sequences, states, mask, captured, propagation.constants_of(self.plan, known))

    def _in_order(self, sequence: tf.Tensor) -> tf.Tensor:
        """[B, T, ...] -> [T, B, ...], in the order of the run."""
        first = _time_first(sequence)
        return tf.reverse(first, [0]) if self.loop.backwards else first

    def entries(self, given: Given, i: tf.Tensor, states: list[tf.Tensor]) -> list[tf.Tensor]:
        """The inputs of the body at one time step."""
        return [*(x[i] for x in given.sequences), *states, *given.captured]

    def _values(self, forward: propagation.Forward) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The outputs of a time step, and the states behind it."""
        values = [forward.values[ref] for ref in self.plan.graph.outputs]
        count = len(values) - self.loop.states
        return values[:count], values[count:]

    def _keeps_last(self, given: Given) -> bool:
        """Whether the outputs of a time step are needed by the next one, or at the end."""
        return not self.loop.stacked or (given.mask is not None and not self.loop.zeros_where_masked)

    def _zeros(self, ref: Ref, given: Given) -> tf.Tensor:
        """What stands for the output ahead of the first time step: zeros."""
        samples = tf.shape(given.sequences[0])[1:2]
        if None not in ref.shape:
            zeros = tf.zeros(tf.concat([samples, ref.shape], 0), self._dtype_of(ref))
            return tf.ensure_shape(zeros, _whole(ref))
        first = propagation.forward(self.plan, self.entries(given, tf.constant(0), given.states), known=given.constants)
        return tf.zeros_like(first.values[ref])

    @property
    def _captured(self) -> list[Ref]:
        return self.plan.graph.inputs[self.loop.sequences + self.loop.states :]

    @property
    def _dtype(self) -> tf.DType:
        return tf.as_dtype(self.plan.graph.dtype)

    def _dtype_of(self, ref: Ref) -> tf.DType:
        """What the values of a tensor are computed in."""
        own = tf.as_dtype(ref.dtype)
        return self._dtype if own.is_floating else own

    def _refs_of_outputs(self) -> list[Ref]:
        graph = self.plan.graph
        return graph.outputs[: len(graph.outputs) - self.loop.states]

    # --- backward --------------------------------------------------------------------------------

    def backward(self, step: Step, saved: Run) -> Propagator:
        return _Reverse(self, step, saved)


class _Carried(NamedTuple):
    """What the backward loop hands from one time step to the one before.

    Attributes:
        outputs: relevance that a time step gives to the output of the one before; empty where none ever does.
        states: relevance of the states.
        shares: what the steps absorbed so far, [names, B]; empty without an account.
        rows: of the steps of the body, [steps, 8]; empty if nobody asked for them.
        sequences: arrays of the relevance of the entries.
    """

    outputs: list[tf.Tensor]
    states: list[tf.Tensor]
    shares: list[tf.Tensor]
    rows: list[tf.Tensor]
    sequences: list[tf.TensorArray]


@dataclasses.dataclass(frozen=True)
class _Reverse(Propagator):
    """Propagates relevance from the last time step to the first."""

    handler: Recurrence
    step: Step
    saved: Run
    hook: Hook | None = None

    def precompute(self) -> None:
        """Nothing: what a time step needs is computed again when its relevance arrives."""

    def under(self, hook: Hook) -> Propagator:
        return dataclasses.replace(self, hook=hook)

    def __call__(self, relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        loop, given, plan = self.handler.loop, self.saved.given, self.handler.plan
        count = len(plan.graph.outputs) - loop.states
        arrived = [tf.cast(r, plan.graph.dtype) for r in relevances]
        stacked = [_time_first(r) for r in arrived[:count]] if loop.stacked else []
        outputs = [] if loop.stacked else arrived[:count]
        if loop.stacked and self._hands_on:
            outputs = [tf.zeros_like(r[0]) for r in stacked]
        begin = _Carried(
            outputs=outputs,
            states=arrived[count:]
            if loop.returns_states
            else [tf.zeros_like(s, plan.graph.dtype) for s in given.states],
            shares=[] if account is None else [tf.zeros([len(Account.NAMES), self._samples(arrived)], account.dtype)],
            rows=[] if account is None or account.rows is None else [tf.stack([no_row()] * len(plan.every_step()))],
            sequences=[
                tf.TensorArray(plan.graph.dtype, given.length, element_shape=x.shape[1:]) for x in given.sequences
            ],
        )

        def run(i: tf.Tensor, carried: _Carried) -> tuple[tf.Tensor, _Carried]:
            whole = [r[i] for r in stacked]
            if carried.outputs:
                whole = [a + b for a, b in zip(whole, carried.outputs, strict=True)] if whole else carried.outputs
            return i - 1, self._one(i, whole, carried, account)

        _, end = tf.while_loop(lambda i, _: i >= 0, run, (given.length - 1, begin))
        return self._sent(end, account)

    def _one(self, i: tf.Tensor, outputs: list[tf.Tensor], carried: _Carried, account: Account | None) -> _Carried:
        """One time step.

        Args:
            outputs: relevance of its outputs.
        """
        given, plan, books = self.saved.given, self.handler.plan, _Books(self, account)
        kept = [tf.zeros_like(r) for r in carried.outputs]
        states, passed = carried.states, [tf.zeros([], plan.graph.dtype)] * len(carried.states)
        if given.mask is not None:
            live = given.mask[:, i]
            rest = [_where(live, tf.zeros_like(r), r) for r in outputs]
            if self._hands_on:
                kept = rest
            else:
                books.take("bias", rest)  # the zeros of masked outputs are a constant
            passed = [_where(live, tf.zeros_like(r), r) for r in states]
            outputs, states = ([_where(live, r, tf.zeros_like(r)) for r in part] for part in (outputs, states))
        starts: dict[Ref, tf.Tensor] = {}
        for ref, r in zip(plan.graph.outputs, [*outputs, *states], strict=True):
            starts[ref] = starts[ref] + r if ref in starts else r
        forward = propagation.forward(
            plan, self.handler.entries(given, i, [s.read(i) for s in self.saved.states]), known=given.constants
        )
        found = propagation.propagate(
            plan,
            forward,
            starts,
            hook=self.hook,
            observe=books.observe(forward) if account is not None else None,
            books=tf.float64 if account is None else account.dtype,
            rows=bool(carried.rows),
        ).relevance
        inner = plan.graph.inputs
        count = self.handler.loop.sequences
        back = [found[ref] + more for ref, more in zip(inner[count:], passed, strict=False)]
        return _Carried(
            outputs=kept,
            states=[tf.ensure_shape(r, old.shape) for r, old in zip(back, carried.states, strict=True)],
            shares=[carried.shares[0] + books.shares()] if carried.shares else [],
            rows=[carried.rows[0] + books.table()] if carried.rows else [],
            sequences=[a.write(i, found[ref]) for a, ref in zip(carried.sequences, inner[:count], strict=True)],
        )

    def _sent(self, end: _Carried, account: Account | None) -> list[tf.Tensor | None]:
        """The relevance of the step's inputs. What ends at constants is booked as that of a bias."""
        loop, plan = self.handler.loop, self.handler.plan
        found = [_samples_first(array.stack()) for array in end.sequences]
        found = [tf.reverse(r, [1]) for r in found] if loop.backwards else found
        found += end.states
        if account is not None:
            for name, share in zip(Account.NAMES, tf.unstack(end.shares[0]), strict=True):
                account.merge(name, share)
            held = [r for i, r in enumerate(found) if i in self.step.held]
            for r in [*held, *(end.outputs if self._hands_on else [])]:
                account.add("bias", r)
            if account.rows is not None:
                account.rows.update(zip((step for step, _ in plan.every_step()), tf.unstack(end.rows[0]), strict=True))
        return [None if i in self.step.held or i >= len(found) else found[i] for i in range(len(self.step.inputs))]

    @property
    def _hands_on(self) -> bool:
        """Whether masked time steps hand the relevance of their outputs on to the time step before."""
        return self.saved.given.mask is not None and not self.handler.loop.zeros_where_masked

    def _samples(self, arrived: list[tf.Tensor]) -> tf.Tensor:
        each = self.step.outputs[0].each
        rows = tf.shape(arrived[0])[0]
        return rows if each == 1 else rows // each


class _Books:
    """What the steps of one time step absorb."""

    def __init__(self, reverse: _Reverse, account: Account | None) -> None:
        self.steps = [step for step, _ in reverse.handler.plan.every_step()] if account is not None else []
        self.account = None if account is None else Account(account.batch, 0, account.dtype)
        self.rows: dict[Step, tf.Tensor] = {}

    def take(self, name: str, relevances: list[tf.Tensor]) -> None:
        """Book relevance that enters no step."""
        if self.account is not None:
            for relevance in relevances:
                self.account.add(name, relevance)

    def observe(self, forward: propagation.Forward) -> propagation.Observer:
        """What collects the accounts of the steps."""

        def observe(step: Step, arrived: list[tf.Tensor], sent: list[tf.Tensor | None], account: Account) -> None:
            assert self.account is not None
            for name, share in account.shares.items():
                self.account.merge(name, share)
            if account.rows is not None:
                self.rows |= account.rows
                given = [r for r in sent if r is not None]
                self.rows[step] = row_of(step, forward.values, arrived, given, account).stack()

        return observe

    def shares(self) -> tf.Tensor:
        """Stacked, [names, B] or [names, 1]."""
        assert self.account is not None
        nothing = tf.zeros([1], self.account.dtype)
        found = [self.account.shares.get(name, nothing) for name in Account.NAMES]
        size = tf.reduce_max([tf.shape(share)[0] for share in found])
        return tf.stack([tf.broadcast_to(share, [size]) for share in found])

    def table(self) -> tf.Tensor:
        """The rows of all steps, [steps, 8]."""
        return tf.stack([self.rows.get(step, no_row()) for step in self.steps])


def _where(mask: tf.Tensor, value: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """By sample: `value` where the mask [B] is set, else `other`."""
    return tf.where(tf.reshape(mask, [-1] + [1] * (value.shape.rank - 1)), value, other)


def _time_first(tensor: tf.Tensor) -> tf.Tensor:
    return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])


_samples_first = _time_first  # it is its own inverse


def _whole(ref: Ref) -> tf.TensorShape:
    return tf.TensorShape([None, *ref.shape])

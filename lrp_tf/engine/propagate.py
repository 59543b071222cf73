"""Runs the steps of a plan as the model does, and propagates relevance back; pure functions of plan and tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.numerics import keep_largest, shape_of
from lrp_tf.core.protocol import Propagate, Propagator, Saved
from lrp_tf.engine.plan import Plan, first_dividers
from lrp_tf.engine.positions import GivenBack, PositionAccount, account_of
from lrp_tf.engine.savings import rematerialization
from lrp_tf.engine.savings.recomputation import Segment
from lrp_tf.flows import Product
from lrp_tf.rules import Rule

# A kernel is folded at most this many linear steps ahead of its use. TensorFlow would fold all kernels first, and hold
# the copies until they are used.
_AHEAD = 4

# Called for each step that relevance reaches, in the order of the backward pass: the step, the relevance of its outputs
# before the hook, the relevance that it sends to its inputs, and its account.
Observer = Callable[[Step, list[tf.Tensor], list[tf.Tensor | None], Account], None]

# Scales or masks the relevance that arrives at an output of a step; returns the same tensor if it changes nothing.
# Giving relevance to entries that had none is a new start, which savings must know of: see `make_plan(starts=...)`.
Hook = Callable[[Step, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Forward:
    """One forward pass: the value of every tensor, and what the backward pass of each step needs."""

    values: dict[Ref, tf.Tensor]
    saved: dict[Step, Any]


class Propagated(NamedTuple):
    """What `propagate` returns.

    Attributes:
        relevance: of every tensor that it reached, of the model's inputs and of what was to be kept.
        below: what the first steps to divide sent to their inputs (`Plan.heads`), samples along the first axis.
        given_back: the sum of what inputs have of the relevance of positions, [B]; None: nothing was given back.
    """

    relevance: dict[Ref, tf.Tensor]
    below: list[tf.Tensor]
    given_back: tf.Tensor | None = None


def forward(
    plan: Plan, inputs: Iterable[tf.Tensor], *, lean: bool = False, known: Mapping[Ref, tf.Tensor] | None = None
) -> Forward:
    """Run all steps on the flat `inputs`, [B, ...] each.

    Args:
        lean: give only what `propagate` and `Clone.finish` need of a plan with several segments. Where TensorFlow runs
            step by step, nothing else is then kept; in a graph it makes no difference.
        known: tensors that need not be computed, see `constants_of`.
    """
    graph, values, saved = plan.graph, dict[Ref, tf.Tensor](), dict[Step, Any]()
    for ref, x in zip(graph.inputs, inputs, strict=True):
        # identity: two refs must never share a tensor.
        values[ref] = tf.identity(tf.cast(x, graph.dtype) if x.dtype.is_floating else x)
    values.update(known or {})
    needed = _needed(plan) if lean else set()
    for segment in plan.segments:
        found = _run(plan, segment.steps, values)
        if segment is plan.segments[-1] or not lean:
            values, saved = found.values, saved | found.saved
        else:
            values = {ref: value for ref, value in found.values.items() if ref in needed}
    return Forward(values, saved)


def constants_of(plan: Plan, captured: Mapping[Ref, tf.Tensor]) -> dict[Ref, tf.Tensor]:
    """What the steps compute from these constants alone, once for all time steps of a loop."""
    steps, found = list[Step](), set(captured)
    for step in plan.graph.steps:
        if step.inputs and found.issuperset(step.inputs):
            steps.append(step)
            found.update(step.outputs)
    values = _run(plan, steps, captured).values
    return {ref: value for ref, value in values.items() if ref not in captured}


def _needed(plan: Plan) -> set[Ref]:
    """What is read of the values of a forward pass, but for those that are computed again."""
    graph = plan.graph
    read = [ref for segment in plan.segments for ref in segment.read]
    return {*graph.inputs, *graph.outputs, *graph.constants, *read, *(r for s in graph.stripped for r in s.inputs[1:])}


def _run(plan: Plan, steps: Iterable[Step], known: Mapping[Ref, tf.Tensor]) -> Forward:
    """The values that steps compute from those that are known, and these."""
    graph, values, saved = plan.graph, dict(known), dict[Step, Any]()
    read: list[tf.Tensor] = []  # by linear steps
    for step in steps:
        if step.outputs and all(ref in values for ref in step.outputs):
            continue
        tensors = [values[ref] for ref in step.inputs]
        folded = step.linear is not None and bool(step.before or step.after)
        # The shape: TensorFlow would not fuse a ReLU with its convolution if other operations waited for the ReLU.
        read += [shape_of(tensors[0])] if folded else []
        with tf.name_scope(scope(step)):
            source = saved.get(plan.rectifiers[step]) if step in plan.rectifiers else None
            rectified = source.rectified if isinstance(source, Saved) else None
            if rectified is None:
                handler = plan.handlers[step]
                late = {"fold_no_earlier_than": read[-_AHEAD:][:1]} if isinstance(handler, Rule) and folded else {}
                outputs, saved[step] = handler.forward(step, tensors, **late)
            else:  # the very tensor: TensorFlow does not always merge two equal ReLUs
                outputs, saved[step] = [rectified], (tensors, [rectified])
        # Variables of a model with a mixed policy may have another dtype.
        outputs = [tf.cast(y, graph.dtype) if y.dtype.is_floating else y for y in outputs]
        values.update(zip(step.outputs, outputs, strict=True))
    return Forward(values, saved)


def propagators(plan: Plan, forward: Forward) -> dict[Step, Propagate]:
    """The backward function of every step; what needs no relevance is computed here, once for several targets."""
    found: dict[Step, Propagate] = {}
    for step in reversed(plan.graph.steps):
        if not step.signals:
            continue
        with tf.name_scope(scope(step)):
            found[step] = back = plan.handlers[step].backward(step, forward.saved[step])
            if isinstance(back, Propagator):
                back.precompute()
    return found


def propagate(
    plan: Plan,
    forward: Forward,
    starts: Mapping[Ref, tf.Tensor],
    *,
    hook: Hook | None = None,
    keep: Iterable[Ref] = (),
    propagators: Mapping[Step, Propagate] | None = None,
    observe: Observer | None = None,
    books: tf.DType = tf.float64,
    rows: bool = False,
) -> Propagated:
    """Relevance of the model's inputs, and of the tensors in `keep`; zeros where none arrives.

    Nothing but the result remembers the call, so that it may run in the body of a tf.while_loop or tf.map_fn. Steps
    that no relevance reaches are not run.

    Args:
        starts: tensors -> the relevance that starts there, in their shape. Where more arrives from above, both add up.
        hook: changes relevance on its way. What it takes away or adds is booked under "filter".
        propagators: of the function of this name, to share them among several targets.
        observe: called for each step that relevance reaches.
        books: dtype of the accounts that `observe` gets.
        rows: these accounts hold the rows of the steps inside of loops, too.

    Raises:
        ValueError: a start that the plan was not made for or of the wrong shape; a handler or hook that returns
            relevance of the wrong shape.
    """
    graph, samples = plan.graph, _samples(plan, forward, starts)
    relevance = {ref: tf.cast(start, graph.dtype) for ref, start in starts.items()}
    heads = plan.heads if tuple(starts) == plan.starts else first_dividers(graph, plan.handlers, starts)
    below, positions = list[tf.Tensor](), GivenBack(plan.positions)
    for step, local in _backwards(plan, forward, relevance):
        outputs = [relevance.get(ref) for ref in step.outputs]
        if all(r is None for r in outputs):
            continue
        if not step.signals:
            _observe_end(observe, step, outputs, Account(samples, dtype=books))
            continue
        pairs = zip(outputs, step.outputs, strict=True)
        arrived = [tf.zeros_like(local.values[ref]) if r is None else r for r, ref in pairs]
        account = _account(plan, step, local, samples, books, observed=observe is not None, rows=rows)
        with tf.name_scope(scope(step)):
            hooked = arrived if hook is None else [_hooked(hook, step, r, account) for r in arrived]
            hooked = _shared_with_positions(plan, step, hooked, account)
            back = propagators[step] if propagators else _late_propagator(plan, step, local.saved, hooked)
            sent = _under(hook, back)(hooked, account)
        _check_shapes(plan, step, local, sent)
        if observe is not None and account is not None:
            observe(step, arrived, sent, account)
        given = [(ref, r) for ref, r in zip(step.inputs, sent, strict=True) if r is not None]
        below += [_samples_first(r, ref) for ref, r in given] if step in heads else []
        for ref, r in given:
            relevance[ref] = relevance[ref] + r if ref in relevance else r
        positions.collect(step, account)
    for ref in (*graph.inputs, *keep):
        if ref not in relevance:
            relevance[ref] = tf.zeros_like(forward.values[ref], dtype=graph.dtype)
    return Propagated(relevance, below, positions.give(relevance))


def _account(
    plan: Plan, step: Step, local: Forward, samples: tf.Tensor, books: tf.DType, *, observed: bool, rows: bool
) -> Account | None:
    """The account of a step, if it is observed or if what positions take there is given to the tokens."""
    place = plan.positions.places.get(step)
    if place is not None and (observed or plan.positions.given_back):
        return account_of(step, place, local.values, local.saved.get(step), samples, books)
    if not observed:
        return None
    account = Account(samples, step.outputs[0].axis, books)
    account.rows = {} if rows else None
    return account


def _under(hook: Hook | None, back: Propagate) -> Propagate:
    """The backward function of a step in a pass with this hook."""
    return back.under(hook) if hook is not None and isinstance(back, Propagator) else back


def _shared_with_positions(
    plan: Plan, step: Step, relevances: list[tf.Tensor], account: Account | None
) -> list[tf.Tensor]:
    """What is left for the signal of a product with positions: half, if positions give theirs to the tokens.

    Signal and rotary factor then share as two signals do under AttnLRP. Otherwise the signal takes all, as
    beside any other constant.
    """
    place = plan.positions.places.get(step)
    if place is None or not isinstance(account, PositionAccount):
        return relevances
    if not (place.product and plan.positions.given_back and isinstance(plan.handlers[step], Product)):
        return relevances
    (half,) = [r / 2 for r in relevances]
    account.take(half)
    return [half]


def _backwards(plan: Plan, forward: Forward, relevance: Mapping[Ref, tf.Tensor]) -> Iterator[tuple[Step, Forward]]:
    """The steps in the order of the backward pass, each with the values that its segment reads and computes.

    Args:
        relevance: what has arrived at each tensor so far; the caller adds to it between two steps.
    """
    for segment in reversed(plan.segments):
        if segment is plan.segments[-1]:  # it has just been computed
            local = Forward(forward.values, dict(forward.saved))
        else:
            arrived = [relevance[ref] for step in segment.steps for ref in step.outputs if ref in relevance]
            if not arrived:
                continue
            local = _recomputed(plan, forward, segment, arrived)
        for step in reversed(segment.steps):
            yield step, local


def _recomputed(plan: Plan, forward: Forward, segment: Segment, arrived: list[tf.Tensor]) -> Forward:
    """The values of a segment, computed again.

    All of it waits for the relevance that arrives at the segment. TensorFlow would otherwise recompute all segments at
    once, and merge the result with the first forward pass, which has the same operations on the same tensors.
    """
    constants = plan.graph.constants
    known = {ref: value for ref, value in forward.values.items() if ref in constants}
    with tf.control_dependencies(arrived):
        known |= {ref: tf.identity(forward.values[ref]) for ref in segment.read if ref not in constants}
    changing = [step for step in segment.steps if not constants.issuperset(step.outputs)]
    return _run(plan, changing, known)


def largest(fraction: float, samples: tf.Tensor, spared: Iterable[Ref]) -> Hook:
    """A hook that keeps this fraction of the largest |R| of each sample at the outputs of linear steps.

    Args:
        fraction: above 0, up to 1.
        samples: how many, an int32 scalar; the first axis may hold samples times time steps.
        spared: tensors whose relevance stays as it is: those that relevance starts at.
    """
    whole = set(spared)

    def hook(step: Step, relevance: tf.Tensor) -> tf.Tensor:
        if step.linear is None or not whole.isdisjoint(step.outputs):
            return relevance
        return keep_largest(relevance, fraction, samples)

    return hook


def in_turn(first: Hook, second: Hook) -> Hook:
    """A hook that runs two hooks, one after the other."""
    return lambda step, relevance: second(step, first(step, relevance))


def scope(step: Step) -> str:
    """A name that TensorFlow accepts: profiles and traces then show the layers."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in f"lrp_{step.path}")


def _samples(plan: Plan, forward: Forward, starts: Mapping[Ref, tf.Tensor]) -> tf.Tensor:
    """How many samples there are, from starts that are checked."""
    for ref, start in starts.items():
        if ref not in plan.starts:
            raise ValueError(
                f"The plan was not made for relevance that starts at {ref}: its savings take for granted that none "
                f"does. Expected: some of {list(plan.starts)}. Remedy: make_plan(graph, composite, starts=[...])"
            )
        expected = forward.values[ref].shape
        if not start.shape.is_compatible_with(expected):
            raise ValueError(
                f"Relevance that starts at {ref} has the wrong shape. Expected: {tuple(expected)}. "
                f"Received: {tuple(start.shape)}"
            )
    if not starts:
        raise ValueError("Expected relevance that starts at one tensor at least. Received: none.")
    ref, start = next(iter(starts.items()))
    size = tf.shape(start)[ref.axis]
    return size if ref.each == 1 else size // ref.each


def _hooked(hook: Hook, step: Step, relevance: tf.Tensor, account: Account | None) -> tf.Tensor:
    changed = hook(step, relevance)
    if changed is relevance:
        return relevance
    if not changed.shape.is_compatible_with(relevance.shape):
        raise ValueError(
            f"The hook returns relevance of the wrong shape at {step.path!r} ({step.operation}). "
            f"Expected: {tuple(relevance.shape)}. Received: {tuple(changed.shape)}"
        )
    if account is not None:
        account.add("filter", relevance - changed)
    return changed


def _late_propagator(plan: Plan, step: Step, saved: dict[Step, Any], arrived: list[tf.Tensor]) -> Propagate:
    """The backward function of a step, made when relevance arrives: the memory of one layer then serves the next."""
    with tf.control_dependencies(arrived):
        if step.marks.recomputed_summand is not None:
            maker = plan.makers[step.inputs[step.marks.recomputed_summand]]
            if maker in saved:  # else it lies in another segment, which computes its output again
                saved[step], saved[maker] = rematerialization.recompute(step, saved[step], saved[maker])
        return plan.handlers[step].backward(step, saved[step])


def _check_shapes(plan: Plan, step: Step, forward: Forward, sent: list[tf.Tensor | None]) -> None:
    """Refuse relevance of the wrong shape, as of a PassThrough for a sum: the steps below would broadcast it."""
    for ref, relevance in zip(step.inputs, sent, strict=True):
        expected = forward.values[ref].shape
        if relevance is not None and not relevance.shape[1:].is_compatible_with(expected[1:]):
            raise ValueError(
                f"{plan.handlers[step]!r} gives relevance of the wrong shape to the input of {step.path!r} "
                f"({step.operation}). Expected: {tuple(expected)}, as the input. Received: "
                f"{tuple(relevance.shape)}. Remedy: a flow or rule that fits what the layer does, such as Share() for "
                "sums; see docs/extending.md."
            )


def _observe_end(observe: Observer | None, step: Step, outputs: list[tf.Tensor | None], account: Account) -> None:
    """Tell of a step that no input can change: it absorbs all that arrives."""
    if observe is None:
        return
    ending = [r for r in outputs if r is not None]
    for relevance in ending:
        account.add("bias", relevance)
    observe(step, ending, [], account)


def _samples_first(relevance: tf.Tensor, ref: Ref) -> tf.Tensor:
    rank = relevance.shape.rank
    return tf.transpose(relevance, [ref.axis, *(i for i in range(rank) if i != ref.axis)]) if ref.axis else relevance

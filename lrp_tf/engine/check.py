"""Whether an explanation can be trusted: clone against model, step by step; books of steps; independence of samples."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import body_of, steps_within
from lrp_tf.core.operations import InitialState
from lrp_tf.engine import diagnosis
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.propagate import Forward
from lrp_tf.engine.reference import (
    at_once,
    forward_values,
    magnitude,
    model_output,
    nan_last,
    reason_of,
    reference_values,
    relative_difference,
    tolerance,
)
from lrp_tf.engine.rows import total_of
from lrp_tf.engine.tables import Table


class CheckError(ValueError):
    """What is explained is not what the model computes. `check` holds all findings."""

    def __init__(self, message: str, check: Check) -> None:
        super().__init__(message)
        self.check = check


class CheckWarning(UserWarning):
    """The books of a step do not close: relevance is lost or made there, by no named mechanism. Or nothing could be
    compared, since the model itself does not run on this machine.
    """


@dataclasses.dataclass(frozen=True)
class Finding:
    """One part of a check.

    Attributes:
        name: "output", "layers", "finite", "books", "growth", "samples" or "linear".
        measured: a relative deviation; for "finite" a number of values, for "growth" a factor; NaN where only one
            side has a NaN.
        limit: the largest `measured` that passes.
        text: what was compared, or what went wrong where.
        told: False where nothing could be compared, since the model itself does not run on this machine.
    """

    name: str
    measured: float
    limit: float
    text: str
    told: bool = True

    @property
    def passed(self) -> bool:
        return bool(self.measured <= self.limit)  # NaN is no pass


@dataclasses.dataclass(frozen=True)
class Check:
    """What `Explainer.check` returns: true when all holds. `str()` draws a table.

        found = explainer.check(x, print_fn=None)
        print(found)

    Attributes:
        title: model and composite.
        findings: see `Finding`.
    """

    title: str
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return all(finding.passed for finding in self.findings)

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.passed)

    @property
    def table(self) -> Table:
        words = {True: "ok", False: "FAILED"}
        rows = [(f.name, words[f.passed] if f.told else "unknown", f.measured, f.limit, f.text) for f in self.findings]
        return Table(self.title, ("check", "result", "measured", "limit", "what it says"), rows)

    def __str__(self) -> str:
        return str(self.table)


# Layers of Keras that are followed. Tests compare them with these for every rule, so that a check of each model, which
# costs more than all else in the first call of a NASNet, would tell nothing new.
_KNOWN = {
    *("SeparableConv1D", "SeparableConv2D", "Bidirectional"),
    *("SimpleRNNCell", "GRUCell", "LSTMCell", "ConvLSTMCell", "StackedRNNCells"),
}


def concerns(graph: Graph) -> bool:
    """Whether the model has layers that were followed or registered: only a check can vouch for these."""
    known = {call.path for call in graph.calls if call.followed and _is_known(type(call.op))}
    bodies = filter(None, map(body_of, graph.steps))
    registered = any(_is_registered(step) for step in graph.steps)
    return registered or not known.issuperset(graph.followed) or any(map(concerns, bodies))


def _is_known(cls: type) -> bool:
    return cls.__module__.startswith("keras.") and cls.__name__ in _KNOWN


def _is_registered(step: Step) -> bool:
    """Whether a step is a layer that the user wrote."""
    return any(type(part.op).__module__.split(".")[0] not in ("keras", "lrp_tf") for part in step.parts or (step,))


def check(clone: Clone, inputs: list[tf.Tensor], logits: tf.Tensor, composite: str) -> Check:
    """Compare the clone with the model on the first two samples of a batch; on all where layers keep their states.

    Args:
        inputs: flat, [B, ...] each; a second sample is made from a single one.
        logits: what the compiled pass gave for `inputs`, [B, ...].
        composite: its name.
    """
    inputs = judged(clone.graph, inputs)
    count = inputs[0].shape[0]
    logits, pair = logits[:count], inputs if _keeps_states(clone.graph) else [_pair(x) for x in inputs]
    try:
        forward = forward_values(clone, pair)
        found = [
            *_outputs(clone, forward, pair, logits),
            *_backward(clone, forward, pair),
            *_linearity(list(steps_within(clone.graph)), forward, clone.graph.dtype),
        ]
    except tf.errors.OpError as error:  # compiled passes may run on machines where single operations do not
        found = [_unknown(f"single steps do not run on this machine: {reason_of(error)}")]
    order = ("output", "layers", "finite", "books", "growth", "samples", "linear")
    found.sort(key=lambda finding: order.index(finding.name))
    return Check(f"{clone.graph.model.name}, composite {composite}: check of {count} sample(s)", tuple(found))


def judged(graph: Graph, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """The samples that a check compares: the first two of a batch, all where layers keep the states of each."""
    return inputs if _keeps_states(graph) else [x[:2] for x in inputs]


def _keeps_states(graph: Graph) -> bool:
    """Whether each sample has a state of its own from the call before, so that none can be added or left out."""
    return any(isinstance(step.op, InitialState) and step.op.layer.stateful for step in steps_within(graph))


def _pair(x: tf.Tensor) -> tf.Tensor:
    """Two samples: the first two, or the only one and another made from it."""
    if x.shape[0] > 1:
        return x
    other = 0.5 * x if x.dtype.is_floating else tf.reverse(x, [x.shape.rank - 1]) if x.shape.rank > 1 else x
    return tf.concat([x, other], 0)


# --- forward -----------------------------------------------------------------------------------


def _outputs(clone: Clone, forward: Forward, pair: list[tf.Tensor], logits: tf.Tensor) -> Iterable[Finding]:
    graph, count = clone.graph, logits.shape[0]
    limit = tolerance(graph, half=0.1, single=1e-3, double=1e-6)
    try:
        model = model_output(graph, [x[:count] for x in pair])
    except Exception as error:  # whatever the user's layers raise; channels first on a CPU, for one
        yield _unknown(f"the model itself does not run on this machine: {reason_of(error)}")
        return
    values, following = reference_values(graph, pair)
    eager = relative_difference(clone.finish(clone.output(forward), forward)[:count], model)
    compiled = relative_difference(clone.finish(logits, _part(forward, count)), model)
    named, size = _first_difference(clone, forward, values, limit)
    worst = max(eager, compiled, key=nan_last)
    agrees = worst <= limit  # False for NaN
    text = "the clone's output is the model's" if agrees else "the clone's output is not the model's"
    if not agrees and eager <= limit:
        text += ": layers were changed after they were compiled (build a new Explainer), or samples depend on others"
    yield Finding("output", worst, limit, text)
    coarse = tolerance(graph, half=0.3, single=1e-2, double=1e-4)
    if following is not None:
        yield Finding("layers", following[1], limit, f"what its call() does was not followed right: {following[0]}")
    elif agrees and size <= coarse:
        yield Finding("layers", size, coarse, f"{len(values)} tensors compared" + (f"; most: {named}" if named else ""))
    else:
        text = f"the first that differs from the model's: {named}" if named else "no layer differs by itself"
        yield Finding("layers", size, limit, text)


def _unknown(text: str) -> Finding:
    return Finding("output", math.nan, 0.0, text, told=False)


def _part(forward: Forward, count: int) -> Forward:
    """The values of the first samples, for the mask that a stripped softmax may need."""
    return Forward({ref: v[:count] if ref.batched else v for ref, v in forward.values.items()}, {})


def _first_difference(
    clone: Clone, forward: Forward, values: dict[Ref, tf.Tensor], limit: float
) -> tuple[str | None, float]:
    """The first step whose output differs by more than `limit`, else the one that differs most; and the difference."""
    worst: tuple[str | None, float] = (None, 0.0)
    for step in clone.graph.steps:
        # Rounding is relative to the inputs, which may be much larger than an output where they cancel.
        scale = 1e-3 * max((magnitude(forward.values[ref]) for ref in step.inputs), default=0.0)
        for ref in step.outputs:
            if ref not in values or not step.inputs:
                continue
            off = relative_difference(forward.values[ref], values[ref], scale)
            text = f"{step.path!r} ({step.operation})"
            if not off <= limit:
                return text, off
            worst = max(worst, (text, off), key=lambda pair: pair[1])
    return worst


# --- backward ----------------------------------------------------------------------------------


def _backward(clone: Clone, forward: Forward, pair: list[tf.Tensor]) -> Iterable[Finding]:
    """Propagate relevance that starts at the first sample only: none may reach the second one."""
    logits = clone.output(forward)
    initial = tf.concat([_top(logits[0])[None], tf.zeros_like(logits[1:])], 0)
    steps: list[Step] = []

    def run() -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        books: dict[Step, tf.Tensor] = {}

        def observe(step: Step, arrived: list[tf.Tensor], sent: list[tf.Tensor | None], account: Account) -> None:
            given = [r for r in sent if r is not None]
            parts = [total_of(arrived), -total_of(given), *(-total_of([share]) for share in account.shares.values())]
            books[step] = tf.stack(
                [tf.add_n(parts), total_of(map(tf.abs, (*arrived, *given))) + total_of(map(tf.abs, parts[2:]))]
            )

        local = forward if tf.executing_eagerly() else clone.forward(pair)
        found, below, _ = clone.propagate(local, initial, observe=observe)
        steps[:] = books
        return [found[ref] for ref in clone.graph.inputs], below, list(books.values())

    relevances, below, books = at_once(clone.graph, run)
    yield _finite(clone, forward, relevances)
    yield _books(clone, {step: _part_of(*book.numpy()) for step, book in zip(steps, books, strict=True)})
    yield _growth([initial], below, relevances)
    yield _samples(clone, forward, pair, relevances)


def _top(logits: tf.Tensor) -> tf.Tensor:
    """The logits of one sample, all but the largest in absolute value set to 0: the sum of several might cancel."""
    flat = tf.reshape(logits, [-1])
    return tf.reshape(tf.one_hot(tf.argmax(tf.abs(flat)), len(flat), dtype=flat.dtype) * flat, tf.shape(logits))


def _part_of(rest: float, size: float) -> float:
    return float(abs(rest) / size if size else rest)


def _sum(tensors: Iterable[tf.Tensor]) -> float:
    return float(sum(tensor.numpy().sum(dtype=np.float64) for tensor in tensors))


def _finite(clone: Clone, forward: Forward, relevances: list[tf.Tensor]) -> Finding:
    def bad(tensor: tf.Tensor) -> int:
        return int(np.sum(~np.isfinite(tensor.numpy()))) if tensor.dtype.is_floating else 0

    counts = {step: sum(bad(forward.values[ref]) for ref in step.outputs) for step in clone.graph.steps}
    # Other steps may hold them on purpose: -Inf in a mask, the log of values that `where` leaves out.
    kernels = [counts[step] for step in counts if step.linear is not None]
    outputs = [bad(forward.values[ref]) for ref in clone.graph.outputs[:1]]
    count = sum((*kernels, *outputs, *map(bad, relevances)))
    if not count:
        return Finding("finite", 0, 0, "all values and relevances")
    began = next((step for step in counts if counts[step]), None)
    where = "in the relevance" if began is None else f"begins at the output of {began.path!r} ({began.operation})"
    return Finding("finite", count, 0, f"NaN or Inf {where}")


def _books(clone: Clone, rests: dict[Step, float]) -> Finding:
    # Contributions that cancel round by 1e-4 in float32 (MobileNetV3Small, untrained); TensorFlow resizes in it always.
    limit = 1e-6 if clone.graph.dtype == "float64" else 1e-3
    if any(step.marks.bfloat16_shares for step in clone.graph.steps):
        limit = 0.05
    if not rests:
        return Finding("books", 0.0, limit, "relevance reaches no step")
    step = max(rests, key=lambda step: nan_last(rests[step]))
    text = f"{step.path!r} ({step.operation}) under {clone.handlers[step]!r}"
    rest = rests[step]
    passed = rest <= limit
    said = f"largest rest that no share explains: {text}" if passed else f"relevance is lost or made by {text}"
    return Finding("books", rest, limit, said)


def _growth(initial: list[tf.Tensor], below: list[tf.Tensor], relevances: list[tf.Tensor]) -> Finding:
    """The factor by which relevance grew on its way, as in `Explanation.amplification`."""
    begin = max(_sum(map(tf.abs, initial)), _sum(map(tf.abs, below)))
    grown = _sum(map(tf.abs, relevances)) / begin if begin else 0.0
    absurd = grown > diagnosis.ABSURD
    text = "the map shows amplified rounding, and explains nothing" if absurd else "sum of |R| over that of the start"
    return Finding("growth", grown, diagnosis.ABSURD, text)


def _samples(clone: Clone, forward: Forward, pair: list[tf.Tensor], relevances: list[tf.Tensor]) -> Finding:
    """Whether the values of a sample, and the way of its relevance, depend on that sample alone."""
    alone, samples = forward_values(clone, [x[:1] for x in pair]), pair[0].shape[0]
    limit = 1e-6 if clone.graph.dtype == "float64" else 1e-3
    for step in clone.graph.steps:
        for ref in step.outputs:
            whole, single = forward.values[ref], alone.values[ref]
            if ref not in clone.graph.out_of_reach and ref.batched and whole.shape[0] == samples * single.shape[0]:
                scale = 1e-3 * max((magnitude(forward.values[i]) for i in step.inputs), default=0.0)
                off = relative_difference(whole[: single.shape[0]], single, scale)
                if not off <= limit:
                    return Finding("samples", off, limit, f"{step.path!r} ({step.operation}) depends on other samples")
    strayed = max((magnitude(r[1:]) for r in relevances if r.dtype.is_floating), default=0.0)
    size = max((magnitude(r[:1]) for r in relevances if r.dtype.is_floating), default=0.0)
    text = "one sample's relevance reaches another" if strayed else "each is explained by itself"
    return Finding("samples", strayed / size if size else strayed, 0.0, text)


# --- registered linear layers ------------------------------------------------------------------


def _linearity(steps: list[Step], forward: Forward, dtype: str) -> Iterable[Finding]:
    """Whether `forward` of a layer that the user registered is linear in x and in w."""
    found: dict[str, float] = {}
    for step in [part for whole in steps for part in whole.parts or (whole,)]:
        if step.linear is None or step.linear.kernel is None or not _is_registered(step) or not step.signals:
            continue
        ref = step.inputs[step.signals[0]]  # in the body of a loop no value is kept
        x = forward.values[ref] if ref in forward.values else tf.ones([2, *(n or 1 for n in ref.shape)], dtype)
        w = tf.cast(tf.convert_to_tensor(step.linear.kernel(step.op)), x.dtype)
        run, text = functools.partial(step.linear.forward, step.op), f"forward of {step.path!r} ({step.operation})"
        found[f"{text} in x"] = _additive(functools.partial(lambda run, w, x: run(x, w), run, w), x)
        found[f"{text} in w"] = _additive(functools.partial(run, x), w)
    if found:
        limit, worst = 1e-3, max(found, key=lambda text: nan_last(found[text]))
        passed = found[worst] <= limit
        yield Finding("linear", found[worst], limit, f"{worst} is linear" if passed else f"{worst} is not linear")


def _additive(function: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor) -> float:
    """The relative difference of f(a) + f(b) and f(a + b), for a and b of mixed signs; a constant part shows, too."""
    size = tf.cast(max(magnitude(value), 1e-3), value.dtype)
    a, b = (tf.random.stateless_normal(tf.shape(value), seed, dtype=value.dtype) * size for seed in ((0, 1), (0, 2)))
    parts = function(a), function(b)
    return relative_difference(function(a + b), parts[0] + parts[1], scale=max(map(magnitude, parts)))


def raise_unless_sound(found: Check) -> None:
    """Judge a check that ran by itself.

    Raises:
        CheckError: the clone does not compute what the model computes, or samples depend on one another.

    Warns:
        CheckWarning: the books of a step do not close, or nothing could be compared.
    """
    failed = [finding for finding in found.failed if finding.name != "growth"]  # every call warns of growth by itself
    wrong = [finding for finding in failed if finding.told and finding.name != "books"]
    if wrong:
        told = "; ".join(f"{finding.name}: {finding.text}" for finding in wrong)
        raise CheckError(
            f"The explanation of {found.title.split(':')[0]} does not hold. Expected: a clone that computes what the "
            f"model computes, each sample by itself. Received: {told}. Remedy: see explainer.check(x); register the "
            "layer that is named anew (docs/extending.md). check=False leaves this out.\n" + str(found),
            found,
        )
    for finding in failed:
        extent = f": {finding.measured:.2g} of it" if finding.told else ""
        warnings.warn(
            f"{finding.text}{extent} (explainer.check(x) shows more, check=False turns this off)",
            CheckWarning,
            stacklevel=4,
        )

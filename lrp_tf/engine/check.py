"""Whether an explanation can be trusted: the clone against the model, step by step; the books; the samples."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.engine import diagnosis
from lrp_tf.engine.clone import Clone, Forward
from lrp_tf.engine.tables import Table
from lrp_tf.tracing.symbolic import with_mask

_HALF = ("float16", "bfloat16")


class CheckError(ValueError):
    """What is explained is not what the model computes. `check` holds all findings."""

    def __init__(self, message: str, check: Check) -> None:
        super().__init__(message)
        self.check = check


class CheckWarning(UserWarning):
    """The books of a step do not close: relevance is lost or made there, by no named mechanism. Or: the model itself
    does not run on this machine, and nothing could be compared.
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


def concerns(graph: Graph) -> bool:
    """Whether the model has layers that were followed or registered: nothing but a check can vouch for these."""
    return bool(graph.followed) or any(_is_registered(step) for step in graph.steps)


def _is_registered(step: Step) -> bool:
    """Whether a step is a layer of the user's own."""
    return type(step.op).__module__.split(".")[0] not in ("keras", "lrp_tf")


def check(clone: Clone, inputs: list[tf.Tensor], logits: tf.Tensor, composite: str) -> Check:
    """Compare the clone with the model on the first two samples of a batch.

    Args:
        inputs: flat, [B, ...] each; of a single sample a second one is made.
        logits: what the compiled function gave for `inputs`, [B, ...].
    """
    count = min(2, inputs[0].shape[0])
    logits, pair = logits[:count], [_pair(x) for x in inputs]
    try:
        forward = clone.forward(pair)
        found = [
            *_outputs(clone, forward, pair, logits),
            *_backward(clone, forward, pair),
            *_linearity(clone.graph.steps, forward),
        ]
    except tf.errors.OpError as error:  # what is compiled may run where single operations do not
        found = [_unknown(f"single steps do not run on this machine: {_reason(error)}")]
    order = ("output", "layers", "finite", "books", "growth", "samples", "linear")
    found.sort(key=lambda finding: order.index(finding.name))
    return Check(f"{clone.graph.model.name}, composite {composite}: check of {count} sample(s)", tuple(found))


def _pair(x: tf.Tensor) -> tf.Tensor:
    """Two samples: the first two, or the only one and another made from it."""
    if x.shape[0] > 1:
        return x[:2]
    other = 0.5 * x if x.dtype.is_floating else tf.reverse(x, [x.shape.rank - 1]) if x.shape.rank > 1 else x
    return tf.concat([x, other], 0)


# --- forward -----------------------------------------------------------------------------------


def _outputs(clone: Clone, forward: Forward, pair: list[tf.Tensor], logits: tf.Tensor) -> Iterable[Finding]:
    graph, count = clone.graph, logits.shape[0]
    limit = _limit(graph, half=0.1, single=1e-3, double=1e-6)
    try:
        model = _model_output(graph, [x[:count] for x in pair])
    except Exception as error:  # whatever the user's layers raise; channels first on a CPU, for one
        yield _unknown(f"the model itself does not run on this machine: {_reason(error)}")
        return
    values, following = _reference(graph, pair)
    eager = _difference(clone.finish(clone.output(forward), forward)[:count], model)
    compiled = _difference(clone.finish(logits, _part(forward, count)), model)
    named, size = _first_difference(clone, forward, values, limit)
    worst = max(eager, compiled, key=_nan_last)
    agrees = worst <= limit  # NaN is a difference, too
    text = "the clone's output is the model's" if agrees else "the clone's output is not the model's"
    if not agrees and eager <= limit:
        text += ": layers were changed after they were compiled (build a new Explainer), or samples depend on others"
    yield Finding("output", worst, limit, text)
    coarse = _limit(graph, half=0.3, single=1e-2, double=1e-4)
    if following is not None:
        yield Finding("layers", following[1], limit, f"what its call() does was not followed right: {following[0]}")
    elif agrees and size <= coarse:
        yield Finding("layers", size, coarse, f"{len(values)} tensors compared" + (f"; most: {named}" if named else ""))
    else:
        text = f"the first that differs from the model's: {named}" if named else "no layer differs by itself"
        yield Finding("layers", size, limit, text)


def _unknown(text: str) -> Finding:
    return Finding("output", math.nan, 0.0, text, told=False)


def _reason(error: Exception) -> str:
    """The line of an error that says why; Keras puts it second, in bold."""
    lines = [line for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    keras_own = len(lines) > 1 and lines[0].startswith("Exception encountered")
    return lines[keras_own][:200] if lines else type(error).__name__


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _limit(graph: Graph, *, half: float, single: float, double: float) -> float:
    """The rules compute in float32, the layers of a model in half precision do not."""
    if any(weight.dtype in _HALF for weight in graph.model.weights) or _computes_in_half(graph):
        return half
    return double if graph.dtype == "float64" else single


def _computes_in_half(graph: Graph) -> bool:
    return any(getattr(call.op, "compute_dtype", None) in _HALF for call in graph.calls) or (
        graph.model.compute_dtype in _HALF
    )


def _part(forward: Forward, count: int) -> Forward:
    """The pass of the first samples, for a mask that a stripped softmax needs."""
    return Forward({ref: v[:count] if ref.batched else v for ref, v in forward.values.items()}, {})


def _model_output(graph: Graph, inputs: list[tf.Tensor]) -> tf.Tensor:
    """The model's own output that is explained; state that its layers keep is left as it was."""
    by_ref = dict(zip(graph.inputs, inputs, strict=True))
    x = tree.map_structure(by_ref.get, graph.input_structure)
    with keras.StatelessScope():
        return tree.flatten(_called(graph.model, (x,), {}))[graph.output_index]


def _called(op: Any, args: tuple, kwargs: dict) -> Any:
    """What the layer or operation computes by itself, in inference mode."""
    if not isinstance(op, keras.Layer):
        return op.call(*_in_one_precision(args), **_in_one_precision(kwargs))
    if "training" in inspect.signature(op.call).parameters:
        kwargs = {**kwargs, "training": False}
    return op(*args, **kwargs)


def _in_one_precision(args: Any) -> Any:
    """Floats in the widest dtype among them, float32 at least.

    The variables of a layer in half precision are kept in float32. And the steps were traced in float32: the number
    that masks there, -1e9 say, would be -Inf in float16, and NaN behind a softmax.
    """
    floats = [a.dtype for a in tree.flatten(args) if tf.is_tensor(a) and a.dtype.is_floating]
    widest = max([tf.float32, *floats], key=lambda dtype: dtype.size)
    return tree.map_structure(lambda a: tf.cast(a, widest) if tf.is_tensor(a) and a.dtype.is_floating else a, args)


def _reference(graph: Graph, inputs: list[tf.Tensor]) -> tuple[dict[Ref, tf.Tensor], tuple[str, float] | None]:
    """What the model's own layers give for each tensor; and the first layer that was followed wrongly, and how much.

    A layer that was followed is run as it is, too: its output replaces what its parts gave.
    """
    values: dict[Ref, tf.Tensor] = dict(zip(graph.inputs, inputs, strict=True))
    for step in graph.steps:
        if not step.inputs:  # the constants
            values.update(zip(step.outputs, step.call(), strict=True))
    wrong = None
    limit = _limit(graph, half=0.1, single=1e-3, double=1e-6)
    for call in graph.calls:
        if any(ref not in values for ref in call.inputs):
            continue  # made by a layer that is run as a whole
        takes_masks = isinstance(call.op, keras.Layer) and call.op.supports_masking
        given = functools.partial(_given, values, call.masks if takes_masks else {})
        args, kwargs = tree.map_structure(given, (call.args, call.kwargs))
        with keras.StatelessScope():
            # Without the masks that Keras attaches: a layer that takes none would complain.
            outputs = [tf.identity(y) for y in tree.flatten(_called(call.op, args, kwargs))]
        known = [(values[ref], y) for ref, y in zip(call.outputs, outputs, strict=True) if ref in values]
        off = max((_difference(a, b) for a, b in known), default=0.0, key=_nan_last)
        if wrong is None and call.followed and not off <= limit:
            wrong = f"{call.path!r} ({type(call.op).__name__})", off
        values.update(zip(call.outputs, outputs, strict=True))
    return values, wrong


def _given(values: dict[Ref, tf.Tensor], masks: dict[Ref, Ref], argument: Any) -> Any:
    """A value for a ref, with its Keras mask: some layers read it there and nowhere else."""
    if not isinstance(argument, Ref):
        return argument
    mask = values.get(masks[argument]) if argument in masks else None
    return values[argument] if mask is None else with_mask(values[argument], mask)


def _difference(value: tf.Tensor, expected: tf.Tensor, scale: float = 0.0) -> float:
    """Largest difference, relative to the largest expected value; NaN where one has a NaN and the other has none."""
    if tf.is_tensor(expected) and expected.dtype.is_floating and expected.dtype.size < 4:
        value = tf.cast(value, expected.dtype)  # a mask of -1e9 is -Inf there
    value, expected = _array(value), _array(expected)
    if value.shape != expected.shape:
        return math.inf
    if not value.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.where(value == expected, 0, np.abs(value - expected))
    difference[np.isnan(value) & np.isnan(expected)] = 0
    return float(difference.max()) / max(_size(expected), scale, 1e-30)


def _array(value: tf.Tensor | np.ndarray) -> np.ndarray:
    """As numbers that can be subtracted, in full precision."""
    if isinstance(value, np.ndarray):
        return value
    return (value if value.dtype in (tf.float32, tf.float64) else tf.cast(value, tf.float64)).numpy()


def _first_difference(
    clone: Clone, forward: Forward, values: dict[Ref, tf.Tensor], limit: float
) -> tuple[str | None, float]:
    """The first step whose output differs by more than `limit`, else the one that differs most; and by how much."""
    worst: tuple[str | None, float] = (None, 0.0)
    for step in clone.graph.steps:
        # Where values nearly cancel, what goes in tells how much rounding there is.
        scale = 1e-3 * max((_size(forward.values[ref]) for ref in step.inputs), default=0.0)
        for ref in step.outputs:
            if ref not in values or not step.inputs:
                continue
            off = _difference(forward.values[ref], values[ref], scale)
            text = f"{step.path!r} ({step.operation})"
            if not off <= limit:
                return text, off
            worst = max(worst, (text, off), key=lambda pair: pair[1])
    return worst


def _size(value: tf.Tensor | np.ndarray) -> float:
    """Largest finite absolute value."""
    value = np.abs(_array(value))
    return float(np.max(value, initial=0.0, where=np.isfinite(value)))


# --- backward ----------------------------------------------------------------------------------


def _backward(clone: Clone, forward: Forward, pair: list[tf.Tensor]) -> Iterable[Finding]:
    """Relevance starts at the first sample only: nothing of it may reach the second one."""
    logits = clone.output(forward)
    start = tf.stack([_top(logits[0]), tf.zeros_like(logits[1])])
    rests: dict[Step, float] = {}

    def observe(step: Step, arrived: list, sent: list, account: Account) -> None:
        shares = [float(tf.reduce_sum(share)) for share in account.shares.values()]
        sent = [r for r in sent if r is not None]
        rest = _sum(arrived) - _sum(sent) - sum(shares)
        size = _sum(map(tf.abs, arrived)) + _sum(map(tf.abs, sent)) + sum(map(abs, shares))
        rests[step] = abs(rest) / size if size else rest

    below: list[tf.Tensor] = []
    found = clone.relevance(forward, start, observe=observe, below_heads=below)
    relevances = [found[ref] for ref in clone.graph.inputs]
    yield _finite(clone, forward, relevances)
    yield _books(clone, rests)
    yield _growth([start], below, relevances)
    yield _samples(clone, forward, pair, relevances)


def _top(logits: tf.Tensor) -> tf.Tensor:
    """Of one sample: its largest value in absolute terms alone, which is no sum that may cancel."""
    flat = tf.reshape(logits, [-1])
    return tf.reshape(tf.one_hot(tf.argmax(tf.abs(flat)), len(flat), dtype=flat.dtype) * flat, tf.shape(logits))


def _sum(tensors: Iterable[tf.Tensor]) -> float:
    return float(sum(tensor.numpy().sum(dtype=np.float64) for tensor in tensors))


def _finite(clone: Clone, forward: Forward, relevances: list[tf.Tensor]) -> Finding:
    def bad(tensor: tf.Tensor) -> int:
        return int(np.sum(~np.isfinite(tensor.numpy()))) if tensor.dtype.is_floating else 0

    counts = {step: sum(bad(forward.values[ref]) for ref in step.outputs) for step in clone.graph.steps}
    # Without a kernel a step may have them on purpose: the -Inf of a mask, the log of what `where` leaves out.
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
    if any(step.marks.bfloat16 for step in clone.graph.steps):
        limit = 0.05
    if not rests:
        return Finding("books", 0.0, limit, "relevance reaches no step")
    step = max(rests, key=lambda step: _nan_last(rests[step]))
    text = f"{step.path!r} ({step.operation}) under {clone.handlers[step]!r}"
    rest = rests[step]
    passed = rest <= limit
    said = f"largest rest that no share explains: {text}" if passed else f"relevance is lost or made by {text}"
    return Finding("books", rest, limit, said)


def _growth(start: list[tf.Tensor], below: list[tf.Tensor], relevances: list[tf.Tensor]) -> Finding:
    """How many times relevance grew on its way, as `Explanation.amplification` counts it."""
    begin = max(_sum(map(tf.abs, start)), _sum(map(tf.abs, below)))
    grown = _sum(map(tf.abs, relevances)) / begin if begin else 0.0
    absurd = grown > diagnosis.ABSURD
    text = (
        "the map shows how rounding was amplified, and explains nothing"
        if absurd
        else "sum of |R| over that of the start"
    )
    return Finding("growth", grown, diagnosis.ABSURD, text)


def _samples(clone: Clone, forward: Forward, pair: list[tf.Tensor], relevances: list[tf.Tensor]) -> Finding:
    """Each sample for itself: what it gives, and where its relevance goes."""
    alone = clone.forward([x[:1] for x in pair])
    limit = 1e-6 if clone.graph.dtype == "float64" else 1e-3
    for step in clone.graph.steps:
        for ref in step.outputs:
            whole, single = forward.values[ref], alone.values[ref]
            if ref not in clone.graph.constants and ref.batched and whole.shape[0] == 2 * single.shape[0]:
                scale = 1e-3 * max((_size(forward.values[i]) for i in step.inputs), default=0.0)
                off = _difference(whole[: single.shape[0]], single, scale)
                if not off <= limit:
                    return Finding("samples", off, limit, f"{step.path!r} ({step.operation}) depends on other samples")
    strayed = max((_size(r[1:]) for r in relevances if r.dtype.is_floating), default=0.0)
    size = max((_size(r[:1]) for r in relevances if r.dtype.is_floating), default=0.0)
    text = "one sample's relevance reaches another" if strayed else "each is explained by itself"
    return Finding("samples", strayed / size if size else strayed, 0.0, text)


# --- registered linear layers ------------------------------------------------------------------


def _linearity(steps: list[Step], forward: Forward) -> Iterable[Finding]:
    """Whether `forward` of a layer that the user registered is linear in x and in w."""
    found: dict[str, float] = {}
    for step in steps:
        if step.linear is None or step.linear.kernel is None or not _is_registered(step) or not step.signals:
            continue
        x = forward.values[step.inputs[step.signals[0]]]
        w = tf.cast(tf.convert_to_tensor(step.linear.kernel(step.op)), x.dtype)
        run, text = functools.partial(step.linear.forward, step.op), f"forward of {step.path!r} ({step.operation})"
        found[f"{text} in x"] = _additive(functools.partial(lambda run, w, x: run(x, w), run, w), x)
        found[f"{text} in w"] = _additive(functools.partial(run, x), w)
    if found:
        limit, worst = 1e-3, max(found, key=lambda text: _nan_last(found[text]))
        passed = found[worst] <= limit
        yield Finding("linear", found[worst], limit, f"{worst} is linear" if passed else f"{worst} is not linear")


def _additive(function: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor) -> float:
    """How far f(a) + f(b) is from f(a + b), for a and b of mixed signs; a constant part counts, too."""
    size = tf.cast(max(_size(value), 1e-3), value.dtype)
    a, b = (tf.random.stateless_normal(tf.shape(value), seed, dtype=value.dtype) * size for seed in ((0, 1), (0, 2)))
    parts = function(a), function(b)
    return _difference(function(a + b), parts[0] + parts[1], scale=max(map(_size, parts)))


def raise_unless_sound(found: Check) -> None:
    """Raise CheckError where something else than the model is explained; warn where the books do not close."""
    failed = [finding for finding in found.failed if finding.name != "growth"]  # of which every call warns by itself
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

"""What is wrong with a result: NaN or Inf and where they began, relevance out of proportion to what it explains."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.loop import Loop, read_by_kernels
from lrp_tf.core.numerics import number, once
from lrp_tf.core.operations import Constants
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.explanation import Conservation
from lrp_tf.engine.propagate import Forward

# Relevance that grew by more than this factor has lost the score in float32. The largest factor of a sound explanation
# is about 400; see docs/conservation.md.
ABSURD = 1e6
# The largest share that may be unexplained: as much as the whole score.
UNEXPLAINED = 1.0
# The share of what relevance grew from that rounding may leave unexplained.
ROUNDING = 1e-3


class RelevanceWarning(UserWarning):
    """Relevance is out of all proportion to what it explains: the map shows amplified rounding, not the model."""


def amplification(
    relevances: list[tf.Tensor], initial: tf.Tensor, below: tf.Tensor, several: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The factor by which the relevance of each sample grew, and what it grew from; float64, [B] or [B, k].

    It grew from the sum of |initial relevance|, or from the sum of |relevance| below the last layer if that is larger:
    where the contributions to an output cancel, relevance grows at the last layer, by the rules themselves.

    Args:
        relevances: of the inputs, [B, ...] or [B, k, ...].
        initial: [B, ...], or [k, B, ...] for `several` targets.
        below: the sum of |relevance| below the last layer, [B] or [B, k].
    """
    axes = 2 if several else 1

    def size(tensor: tf.Tensor) -> tf.Tensor:
        rows = tf.concat([tf.shape(tensor)[:axes], [-1]], 0)
        return tf.cast(tf.reduce_sum(tf.abs(tf.reshape(tensor, rows)), -1), tf.float64)

    first = tf.transpose(size(initial)) if several else size(initial)
    begin = tf.maximum(first, tf.cast(below, tf.float64))
    return tf.math.divide_no_nan(tf.add_n([size(r) for r in relevances]), begin), begin


def finite(
    clone: Clone, inputs: Sequence[tf.Tensor], forward: Forward, relevances: list[tf.Tensor], each: bool
) -> tf.Tensor:
    """Whether all values of a pass are finite: a scalar, or [B] with `each`.

    Sums tell, since NaN and Inf spread. The logits alone would not do: max pooling hides NaN.
    """
    hidden = [forward.values[ref] for ref in clone.plan.hidden]
    tensors, weights = [*inputs, *relevances, clone.output(forward), *hidden], _hidden_weights(clone, forward)
    if each:
        constants = [forward.values[ref] for ref in clone.graph.out_of_reach if ref in forward.values]
        rows = tf.stack([tf.shape(inputs[0])[0], -1])  # the first axis may hold several time steps of a sample
        tensors = [t for t in tensors if t.dtype.is_floating and not any(t is c for c in constants)]
        whole = [tf.math.is_finite(tf.reduce_sum(tf.reshape(t, rows), axis=1)) for t in tensors]
        return tf.reduce_all(tf.stack(whole), axis=0) & (_all_finite(weights) if weights else True)
    return _all_finite([*tensors, *weights])


def _hidden_weights(clone: Clone, forward: Forward) -> list[tf.Tensor]:
    """The hidden weights as one flat tensor for each dtype: one sum is cheaper than hundreds."""
    hidden = clone.plan.hidden_weights
    kernels = read_by_kernels(clone.graph)
    values = {w: forward.values[w] for w in hidden if isinstance(w, Ref)}
    values |= {w: _without_infinity(value) for w, value in values.items() if w not in kernels}  # masks
    read = _variables_read()
    weights = [values[w] if isinstance(w, Ref) else read(w) for w in hidden]
    weights = [tf.reshape(w, number(-1, tf.int32, (1,))) if len(w.shape) != 1 else w for w in weights]
    sizes = {dtype: [w for w in weights if w.dtype == dtype] for dtype in {w.dtype for w in weights}}
    return [tf.concat(same, axis=0) for same in sizes.values()]


def _variables_read() -> Callable[[keras.Variable], tf.Tensor]:
    """Reads a variable of the model; where the graph has read it already, the very tensor: hundreds are read."""
    if tf.executing_eagerly():
        return tf.convert_to_tensor
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, "capture"):  # no function is traced
        return tf.convert_to_tensor
    known = {op.inputs[0].ref(): op.outputs[0] for op in graph.get_operations() if op.type == "ReadVariableOp"}

    def read(variable: keras.Variable) -> tf.Tensor:
        handle = getattr(variable.value, "handle", None)
        found = None if handle is None else known.get(graph.capture(handle).ref())
        return tf.convert_to_tensor(variable) if found is None else found

    return read


def _without_infinity(value: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_inf(value), tf.zeros_like(value), value)


def _all_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    tensors = [t for t in tensors if t.dtype.is_floating]
    wide = [tf.cast(t, tf.float32) if t.dtype.size < 4 else t for t in tensors]  # sums of halves would overflow
    sums: dict[tf.DType, list[tf.Tensor]] = {}
    for t in wide:
        sums.setdefault(t.dtype, []).append(_sum(t))
    return tf.reduce_all(tf.concat([tf.math.is_finite(tf.stack(same)) for same in sums.values()], axis=0))


def _sum(tensor: tf.Tensor) -> tf.Tensor:
    rank = tensor.shape.rank
    if rank is None:
        return tf.reduce_sum(tensor)
    axes = once(("axes", rank), lambda: tf.constant(list(range(rank)), tf.int32))
    return tf.raw_ops.Sum(input=tensor, axis=axes)


def remark(amplified: float, unexplained: float = 0.0) -> str:
    """What is absurd about the map of one target, or "".

    Args:
        amplified: see `amplification`. unexplained: see the function of this name.
    """
    if amplified > ABSURD:
        return f"the sum of |relevance| is {amplified:.3g} times the start relevance"
    if abs(unexplained) > UNEXPLAINED:
        return f"{unexplained:.3g} times the start relevance is unexplained"
    return ""


def unexplained(conservation: Conservation, begin: tf.Tensor) -> np.ndarray:
    """The share that is unexplained; 0 where rounding explains it, as for contributions that cancel in the output.

    Args:
        conservation, begin: eager tensors; see `amplification` for what relevance grew from. NumPy compares these few
            numbers, since each operation of TensorFlow waits for a thread of the network where one works beside.
    """
    start, *parts, rest = map(np.asarray, conservation)
    return np.where(np.abs(start - sum(parts)) > ROUNDING * np.asarray(begin), rest, np.zeros_like(rest))


def advise(amplified: tf.Tensor, begin: tf.Tensor, conservation: Conservation | None, composite: str) -> None:
    """Warn of the first absurd map, at the line of the user that asked for it.

    Args:
        amplified, begin: of `amplification`, eager tensors.
        composite: its name.
    """
    amplified = amplified.numpy()
    rest = np.zeros_like(amplified) if conservation is None else unexplained(conservation, begin)
    wrong = np.argwhere((amplified > ABSURD) | (np.abs(rest) > UNEXPLAINED))
    if len(wrong):
        first = tuple(wrong[0])
        warnings.warn(
            f"Sample(s) {np.unique(wrong[:, 0])[:10].tolist()}, composite {composite}: "
            f"{remark(amplified[first], rest[first])}. {ADVICE}",
            RelevanceWarning,
            stacklevel=_levels(sys._getframe()),
        )


def _levels(frame: FrameType | None) -> int:
    """The number of frames from `frame` up to the first that belongs neither to lrp_tf nor to TensorFlow."""
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("lrp_tf", "tensorflow"):
        frame, level = frame.f_back, level + 1
    return level


ADVICE = (
    "Such a map shows amplified rounding and explains nothing. Remedy: another composite, leave zero_bias out, "
    "or a larger stabilizer such as rules.Relative(0.01); report() shows where relevance grows."
)


class InputError(ValueError):
    """A sample has no relevance because its own numbers are NaN or Inf, or overflow in the model."""


def raise_where_it_began(
    clone: Clone, inputs: list[tf.Tensor], initial: tf.Tensor, relevances: list[tf.Tensor]
) -> None:
    """Look for the first NaN or Inf, step by step; return if there is none.

    Args:
        initial: the initial relevance, [B, ...].
        relevances: what the compiled pass found.

    Raises:
        ValueError: names the input, weight, layer or rule that made the first NaN or Inf. InputError: the input did.
    """
    forward = _check_forward(clone, inputs)
    _check_backward(clone, forward, initial)
    if any(map(_bad, relevances)):
        raise ValueError(
            "The relevance holds NaN or Inf, though step by step the same computation is finite: TensorFlow's "
            "optimiser changed it. Remedy: before the Explainer is built, "
            "tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True}); and please report this "
            "model as a bug."
        )


def first_bad_target(values: Iterable[tf.Tensor]) -> int:
    """The first target whose values, [B, k, ...] each, hold NaN or Inf; 0 if none do."""
    return min((int(k) for value in values for k in np.argwhere(~np.isfinite(value.numpy()))[:, 1]), default=0)


def _check_forward(clone: Clone, inputs: list[tf.Tensor]) -> Forward:
    """The forward pass, if inputs, weights and outputs of all steps are finite; else ValueError."""
    for name, x in zip(clone.graph.input_names, inputs, strict=True):
        if count := _bad(x):
            samples = np.unique(np.argwhere(~np.isfinite(x.numpy()))[:, 0])[:10].tolist()
            raise InputError(
                f"Input {name!r} holds {count} NaN or Inf value(s), in sample(s) {samples}. Expected finite numbers."
            )
    forward = clone.forward(inputs)
    for step in clone.graph.steps:
        for owner, weight in _weights(clone, step):
            if count := _bad(tf.convert_to_tensor(weight)):
                raise ValueError(
                    f"Layer {owner.path!r} ({owner.operation}): its weight {weight.path!r} holds {count} NaN or Inf "
                    "value(s). Expected finite weights. Remedy: load a checkpoint from before training diverged."
                )
        if any(_bad(forward.values[ref], infinite=_wants_finite(clone, step)) for ref in step.outputs):
            raise InputError(
                f"Layer {step.path!r} ({step.operation}) is the first whose output holds NaN or Inf, with finite "
                "inputs and weights: its values overflow. Remedy: check the range of the input."
            )
    return forward


def _check_backward(clone: Clone, forward: Forward, initial: tf.Tensor) -> None:
    """Raise ValueError if the initial relevance, or that of a step, is not finite."""
    first: list[Step] = []

    def observe(step: Step, arrived: list[tf.Tensor], sent: list[tf.Tensor | None], account: Account) -> None:
        if not first and any(_bad(r) for r in sent if r is not None):
            first.append(step)

    clone.propagate(forward, initial, observe=observe)
    if _bad(initial):
        raise ValueError("The start relevance holds NaN or Inf. Expected finite numbers.")
    if first:
        raise ValueError(
            f"Layer {first[0].path!r} ({first[0].operation}) is the first whose relevance became NaN or Inf, under "
            f"{clone.handlers[first[0]]!r}. Remedy: a larger stabilizer there, such as rules.Relative(0.01)."
        )


def _weights(clone: Clone, step: Step) -> list[tuple[Step, keras.Variable]]:
    """The weights of a step, each with the step that it belongs to: loops read theirs as constants."""
    loops = [s for s in clone.graph.steps if isinstance(s.op, Loop)] if isinstance(step.op, Constants) else []
    found = [(loop, weight) for loop in loops for weight in getattr(loop.op.layer, "weights", [])]
    own = [weight for op in (step.op, *step.before, *step.after) for weight in getattr(op, "weights", [])]
    return found + [(step, weight) for weight in own]


def _wants_finite(clone: Clone, step: Step) -> bool:
    """Whether Inf at the outputs of a step is a mistake. A step without a kernel may mean it, as in a mask of -Inf."""
    return step.linear is not None or clone.graph.outputs[0] in step.outputs


def _bad(tensor: tf.Tensor, infinite: bool = True) -> int:
    """The number of entries that are NaN, or, unless `infinite` is False, Inf."""
    if not tensor.dtype.is_floating:
        return 0
    bad = ~tf.math.is_finite(tensor) if infinite else tf.math.is_nan(tensor)
    return int(tf.reduce_sum(tf.cast(bad, tf.int64)))

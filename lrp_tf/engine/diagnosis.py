"""What is wrong with a result: where NaN or Inf began, and relevance out of all proportion to what it explains."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Step
from lrp_tf.engine.clone import Clone

# How many times relevance may grow, above which float32 leaves nothing of the score in the sum of a map. The
# largest of sound explanations is about 400; see docs/conservation.md.
ABSURD = 1e6
# The same for what is unexplained: as much as the whole score. And what rounding may leave of what relevance grew from.
UNEXPLAINED = 1.0
ROUNDING = 1e-3


class RelevanceWarning(UserWarning):
    """Relevance is out of all proportion to what it explains: the map shows rounding, and is no explanation."""


def amplification(
    relevances: list[tf.Tensor], starts: tf.Tensor, below: tf.Tensor, many: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """How many times relevance grew for each sample, [B], or [B, k] for `starts` [k, B, ...], and from what; float64.

    It begins as the sum of |start|, or as what the last layer made of it, the sum of |relevance| `below` it, where that
    is more: a start on an output whose contributions cancel grows there by what LRP says.
    """
    axes = 2 if many else 1

    def size(tensor: tf.Tensor) -> tf.Tensor:
        rows = tf.concat([tf.shape(tensor)[:axes], [-1]], 0)
        return tf.cast(tf.reduce_sum(tf.abs(tf.reshape(tensor, rows)), -1), tf.float64)

    start = tf.transpose(size(starts)) if many else size(starts)
    begin = tf.maximum(start, tf.cast(below, tf.float64))
    return tf.math.divide_no_nan(tf.add_n([size(r) for r in relevances]), begin), begin


def remark(amplified: float, unexplained: float = 0.0) -> str:
    """What is absurd about the map of one target, or "". See `unexplained` for the second."""
    if amplified > ABSURD:
        return f"the sum of |relevance| is {amplified:.3g} times the start relevance"
    if abs(unexplained) > UNEXPLAINED:
        return f"{unexplained:.3g} times the start relevance is unexplained"
    return ""


def unexplained(conservation: Any, begin: tf.Tensor) -> tf.Tensor:
    """The share that is unexplained; 0 where it is rounding, of contributions that cancel in an output near 0, say."""
    start, *parts, rest = conservation
    return tf.where(tf.abs(start - tf.add_n(parts)) > ROUNDING * begin, rest, tf.zeros_like(rest))


def advise(found: dict[str, Any], composite: str) -> None:
    """Warn of the first absurd map among those `found`, eager values by name, at the user's line."""
    amplified = found["amplification"].numpy()
    rest = np.zeros_like(amplified)
    if "conservation" in found:
        rest = unexplained(found["conservation"], found["begin"]).numpy()
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
    """How many frames up from `frame` the code begins that is neither ours nor one of TensorFlow's wrappers."""
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("lrp_tf", "tensorflow"):
        frame, level = frame.f_back, level + 1
    return level


ADVICE = (
    "Such a map shows how rounding was amplified and explains nothing. Remedy: another composite, leave zero_bias out, "
    "or a larger stabilizer such as rules.Relative(0.01); report() shows where relevance grows."
)


def raise_where_it_began(clone: Clone, inputs: list[tf.Tensor], start: tf.Tensor, relevances: list[tf.Tensor]) -> None:
    """Raise ValueError naming the input, weight, layer or rule that made the first NaN or Inf; return if none did.

    Args:
        relevances: what the compiled function found.
    """
    for name, x in zip(clone.graph.input_names, inputs, strict=True):
        if count := _bad(x):
            samples = np.unique(np.argwhere(~np.isfinite(x.numpy()))[:, 0])[:10].tolist()
            raise ValueError(
                f"Input {name!r} holds {count} NaN or Inf value(s), in sample(s) {samples}. Expected finite numbers."
            )
    forward = clone.forward(inputs)
    for step in clone.graph.steps:
        for weight in _weights(step):
            if count := _bad(tf.convert_to_tensor(weight)):
                raise ValueError(
                    f"Layer {step.path!r} ({step.operation}): its weight {weight.path!r} holds {count} NaN or Inf "
                    "value(s). Expected finite weights. Remedy: load a checkpoint from before training diverged."
                )
        if any(_bad(forward.values[ref], infinite=_wants_finite(clone, step)) for ref in step.outputs):
            raise ValueError(
                f"Layer {step.path!r} ({step.operation}) is the first whose output holds NaN or Inf, with finite "
                "inputs and weights: its values overflow. Remedy: check the range of the input."
            )
    first: list[Step] = []

    def observe(step: Step, arrived: list, sent: list, account: object) -> None:
        if not first and any(_bad(r) for r in sent if r is not None):
            first.append(step)

    clone.relevance(forward, start, observe=observe)
    if _bad(start):
        raise ValueError("The start relevance holds NaN or Inf. Expected finite numbers.")
    if first:
        raise ValueError(
            f"Layer {first[0].path!r} ({first[0].operation}) is the first whose relevance became NaN or Inf, under "
            f"{clone.handlers[first[0]]!r}. Remedy: a larger stabilizer there, rules.Relative(0.01) say."
        )
    if any(map(_bad, relevances)):
        raise ValueError(
            "The relevance holds NaN or Inf, though step by step the same computation is finite: TensorFlow's "
            "optimiser changed it. Remedy: before the Explainer is built, "
            "tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True}); and tell the makers of "
            "lrp_tf of this model."
        )


def _weights(step: Step) -> list:
    return [weight for op in (step.op, *step.before, *step.after) for weight in getattr(op, "weights", [])]


def _wants_finite(clone: Clone, step: Step) -> bool:
    """Whether Inf is no value for the outputs of a step. Without a kernel it may be meant, as the -Inf of a mask."""
    return step.linear is not None or clone.graph.outputs[0] in step.outputs


def _bad(tensor: tf.Tensor, infinite: bool = True) -> int:
    """How many entries are NaN, or Inf where that counts, too."""
    if not tensor.dtype.is_floating:
        return 0
    bad = ~tf.math.is_finite(tensor) if infinite else tf.math.is_nan(tensor)
    return int(tf.reduce_sum(tf.cast(bad, tf.int64)))

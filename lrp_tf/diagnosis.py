"""Finds where NaN or Inf began. Slow and eager: it runs only when a result is not finite."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from lrp_tf.clone import Clone
from lrp_tf.graph import Step


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
        if any(_bad(forward.values[ref]) for ref in step.outputs):
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


def _bad(tensor: tf.Tensor) -> int:
    if not tensor.dtype.is_floating:
        return 0
    return int(tf.reduce_sum(tf.cast(~tf.math.is_finite(tensor), tf.int64)))

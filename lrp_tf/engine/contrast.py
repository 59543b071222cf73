"""Contrastive starts: what speaks for a class rather than for others (Gu et al. 2018; Iwana et al. 2019).

Relevance starts as c_n z_n at every output n, and not at the target t alone. c_t = 1 and c_n = -w_n, where the weights
w of the other classes add up to 1: what is explained is z_t - sum_n w_n z_n. With `start="one"`, c itself starts.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Graph

# What a caller may pass for `contrast`: see `checked`.
Contrast: TypeAlias = str | int | None

KINDS = ("softmax", "mean")


def checked(graph: Graph, contrast: Contrast) -> tuple[str | None, int | None]:
    """The kind, "softmax", "mean", "class" or None, and the class of "class".

    Raises:
        TypeError: neither a known word nor an integer.
        ValueError: a class out of range, or an output of a single unit.
    """
    if contrast is None:
        return None, None
    shape = graph.outputs[0].shape
    classes = shape[-1] if shape else 1
    if classes == 1:
        raise ValueError(
            "contrast sets one class against others. The model has a single output unit, whose classes are its value "
            f"and its negative. Remedy: leave contrast out. Received: contrast={contrast!r}"
        )
    if isinstance(contrast, str) and contrast in KINDS:
        return contrast, None
    if isinstance(contrast, bool) or not isinstance(contrast, (int, np.integer)):
        raise TypeError(f'contrast expects "softmax", "mean", a class or None. Received: {contrast!r}')
    if contrast < 0 or (classes is not None and contrast >= classes):
        raise ValueError(
            f"contrast is out of range. Expected a class from 0 to {(classes or 0) - 1}. Received: {contrast}"
        )
    return "class", int(contrast)


def weights(kind: str, target: tf.Tensor, logits: tf.Tensor, rival: tf.Tensor | None) -> tf.Tensor:
    """The weights w of the other classes; they add up to 1 along the last axis, and the target has 0.

    "softmax": the probabilities of the others if the target did not exist; "mean": all alike; "class": 1 at `rival`.

    Args:
        target: True at the target's class, bool [..., C].
        logits: of the same shape, or of one that broadcasts to it.
        rival: int32 scalar; of "class" alone.
    """
    if kind == "softmax":
        # The lowest number, and not -Inf: its softmax is 0, too, and an infinite logit still shows as NaN.
        return tf.nn.softmax(tf.where(target, logits.dtype.min, logits))
    classes = tf.shape(target)[-1]
    if kind == "mean":
        return tf.where(target, tf.zeros([], logits.dtype), 1 / tf.cast(classes - 1, logits.dtype))
    return tf.where(target, tf.zeros([], logits.dtype), tf.one_hot(rival, classes, dtype=logits.dtype))

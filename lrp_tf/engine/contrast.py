"""Contrastive starts: what speaks for a class rather than for others (Gu et al. 2018; Iwana et al. 2019).

Relevance starts as c_n z_n at every output n, and not at the target t alone. c_t = 1 and c_n = -w_n, where the weights
w of the other classes add up to 1: what is explained is z_t - sum_n w_n z_n. With `start="one"`, c itself starts, as in
the papers but for a factor of the whole sample: z_t with Gu's uniform w, y_t (1 - y_t) with Iwana's softmax w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Graph

# What a caller may pass for `contrast`: see `checked`.
Contrast: TypeAlias = str | int | Sequence[int] | np.ndarray | tf.Tensor | None

KINDS = ("softmax", "mean")


class SameClassError(ValueError):
    """A target is the class that it is set against."""


def checked(graph: Graph, contrast: Contrast, x: tf.Tensor) -> tuple[str | None, tf.Tensor | None]:
    """The kind, "softmax", "mean", "class" or None, and the classes of "class", int32 [B], for the samples x [B, ...].

    Raises:
        TypeError: neither a known word nor integers.
        ValueError: a class out of range, not one for all or for each sample, or an output of a single unit.
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
    rival = cast("np.ndarray | tf.Tensor", contrast if tf.is_tensor(contrast) else np.asarray(contrast))
    if rival.dtype == object or not tf.as_dtype(rival.dtype).is_integer:
        raise TypeError(f'contrast expects "softmax", "mean", a class, [B] classes or None. Received: {contrast!r}')
    batch = x.shape[0]
    if len(rival.shape) > 1 or (len(rival.shape) == 1 and batch is not None and rival.shape[0] not in (None, batch)):
        raise ValueError(
            f"contrast has the wrong shape for a batch of {batch}. Expected a class for all, or [B] classes. Received: "
            f"shape {tuple(rival.shape)}"
        )
    known = rival.numpy() if hasattr(rival, "numpy") else rival  # symbolic classes: the compiled pass checks them
    if isinstance(known, np.ndarray | np.integer):
        wrong = np.ravel(known)[(np.ravel(known) < 0) | (np.ravel(known) >= (classes or np.iinfo(np.int32).max))]
        if wrong.size:
            raise ValueError(
                f"contrast is out of range. Expected a class from 0 to {(classes or 0) - 1}. Received: {wrong[0]}"
            )
    samples = tf.shape(x)[:1] if batch is None else [batch]
    return "class", tf.broadcast_to(tf.cast(rival, tf.int32), samples)


def weights(kind: str, target: tf.Tensor, logits: tf.Tensor, rival: tf.Tensor | None) -> tf.Tensor:
    """The weights w of the other classes; they add up to 1 along the last axis, and the target has 0.

    "softmax": the probabilities of the others if the target did not exist; "mean": all alike; "class": 1 at `rival`.

    Args:
        target: True at the target's class, bool [..., C].
        logits: of the same shape, or of one that broadcasts to it.
        rival: int32 [B]; of "class" alone.
    """
    if kind == "softmax":
        # The lowest number, and not -Inf: its softmax is 0, too, and an infinite logit still shows as NaN.
        return tf.nn.softmax(tf.where(target, logits.dtype.min, logits))
    classes = tf.shape(target)[-1]
    if kind == "mean":
        return tf.where(target, tf.zeros([], logits.dtype), 1 / tf.cast(classes - 1, logits.dtype))
    at_rival = tf.one_hot(rival, classes, dtype=logits.dtype)  # [B, C]
    between = [1] * (target.shape.rank - 2)  # the axes of targets or places
    at_rival = tf.reshape(at_rival, [-1, *between, classes])
    return tf.where(target, tf.zeros([], logits.dtype), at_rival)

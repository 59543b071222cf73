"""Losses on relevance, for training steps: right answers for the right reasons. See docs/training-on-relevance.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import tree

from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.targets import Initial, Inputs, Targets

__all__ = ["RelevancePenalty", "relevance_penalty"]

_MARKS = ("evidence", "artefact")
_MEASURES = ("share", "squares")
Masks = Any  # an array or tensor; for several inputs a structure of them, with None for inputs that are not judged


@dataclasses.dataclass(frozen=True)
class RelevancePenalty:
    """How much relevance lies where it may not; `relevance_penalty` makes it and describes the fields.

        penalty = lrp_tf.losses.relevance_penalty(explainer)
        share = penalty(x, masks, target=labels)

    It is called in a training step, under the tape.
    """

    explainer: Callable[..., Any]
    masks: Masks = None
    marks: str = "evidence"
    measure: str = "share"
    start: Initial = "output"
    contrast: Contrast = None

    @tf.autograph.experimental.do_not_convert  # inside a user's tf.function AutoGraph would be slow, for nothing
    def __call__(
        self, x: Inputs, masks: Masks = None, *, target: Targets = None, contrast: Contrast = None
    ) -> tf.Tensor:
        """The penalty of a batch: a scalar, the mean over its samples, which a tape may differentiate.

            loss += weight * penalty(x, masks, target=labels)

        Args:
            x: a batch, as the explainer takes it.
            masks: of each sample, [B, H, W] for images, or of the rank of x, with 1 for an axis to broadcast along;
                booleans, or numbers from 0 to 1. None: those that the penalty was made with.
            target: as in `Explainer.__call__`: the labels [B], [B, k] of them, or None, each sample's top class.
            contrast: for this call; None: that of the penalty.

        Raises:
            ValueError: no masks, or masks of a wrong shape; see also `Explainer.__call__`.
        """
        contrast = self.contrast if contrast is None else contrast
        relevances = tree.flatten(self.explainer(x, target, start=self.start, contrast=contrast))
        parts, given = [], tree.flatten(self.masks if masks is None else masks)
        _check_count(given, relevances)
        for r, mask, values in zip(relevances, given, tree.flatten(x), strict=True):
            if r is not None and mask is not None:
                parts.append(self._part(r, mask, len(values.shape), fixed=masks is None))
        if not parts:
            raise ValueError("relevance_penalty expects masks of an input that has relevance. Received: none")
        wrong, total = (tf.add_n(sums) for sums in zip(*parts, strict=True))
        return tf.reduce_mean(tf.math.divide_no_nan(wrong, total) if self.measure == "share" else wrong)

    def _part(self, r: tf.Tensor, mask: Masks, rank: int, *, fixed: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Relevance of one input of this rank that lies where it may not, and all of it: [B] or [B, k] each."""
        several = r.shape.rank - rank
        marked = _fitted(tf.cast(mask, r.dtype), r.shape[several + 1 :], fixed=fixed)
        if tf.executing_eagerly():
            _check_values(marked, r.shape[0])
        for _ in range(several):
            marked = marked[:, None]
        wrong = marked if self.marks == "artefact" else 1 - marked
        size = tf.abs(r) if self.measure == "share" else tf.square(r)
        axes = list(range(several + 1, r.shape.rank))
        return tf.reduce_sum(wrong * size, axes), tf.reduce_sum(size, axes)


def relevance_penalty(
    explainer: Callable[..., Any],
    masks: Masks = None,
    *,
    marks: str = "evidence",
    measure: str = "share",
    start: Initial = "output",
    contrast: Contrast = None,
) -> RelevancePenalty:
    """A loss for a training step: how much relevance lies where it may not.

        penalty = lrp_tf.losses.relevance_penalty(lrp_tf.Explainer(model), marks="artefact")
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(labels, model(x, training=True))
            loss = tf.reduce_mean(loss) + 1.0 * penalty(x, masks, target=labels)
        gradients = tape.gradient(loss, model.trainable_variables)

    Args:
        explainer: an `Explainer` of the model that trains, or one of `lrp_tf.gradients` that a tape can differentiate,
            as `Gradient`; it reads the weights at every call, and explains the model in inference mode.
        masks: the same for all samples, without a batch axis: [H, W] for images; None: every call has its own.
        marks: what masks mark: "evidence", where relevance may lie; "artefact", where it may not.
        measure: "share": sum |R| where it may not lie over sum |R|, from 0 to 1 whatever the scale of R, as in the
            background loss of ISNet (Bassi et al. 2024). "squares": sum R^2 where it may not lie, as in "Right for the
            Right Reasons" (Ross et al. 2017), which an explainer with small relevance meets, too.
        start, contrast: see `Explainer.__call__`. With a contrast, what speaks against other classes counts, too.

    Raises:
        TypeError: `explainer` cannot be called.
        ValueError: unknown `marks` or `measure`.
    """
    if not callable(explainer):
        raise TypeError(f"relevance_penalty expects an Explainer. Received: {explainer!r}")
    for name, value, known in (("marks", marks, _MARKS), ("measure", measure, _MEASURES)):
        if value not in known:
            raise ValueError(f"relevance_penalty expects {name} to be one of {known}. Received: {value!r}")
    return RelevancePenalty(explainer, masks, marks, measure, start, contrast)


def _check_count(given: list[Any], relevances: list[Any]) -> None:
    if len(given) == 1 and given[0] is None:
        raise ValueError(
            "relevance_penalty expects masks. Received: none. Remedy: penalty(x, masks), or "
            "relevance_penalty(explainer, masks) where they are the same for all samples"
        )
    if len(given) != len(relevances):
        raise ValueError(
            f"relevance_penalty expects masks for each of {len(relevances)} inputs, None for those that are not "
            f"judged. Received: {len(given)}"
        )


def _check_values(mask: tf.Tensor, batch: int) -> None:
    """ValueError for what a share cannot be made of; in a tf.function values are unknown."""
    low, high = float(tf.reduce_min(mask)), float(tf.reduce_max(mask))
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"relevance_penalty expects masks of booleans or numbers from 0 to 1. Received: from {low:g} to {high:g}"
        )
    if mask.shape[0] not in (1, batch):
        raise ValueError(
            f"relevance_penalty expects a mask for each of {batch} samples, or one. Received: {mask.shape[0]}"
        )


def _fitted(mask: tf.Tensor, shape: tf.TensorShape, *, fixed: bool) -> tf.Tensor:
    """A mask in the rank of a batch whose samples have this shape.

    Raises:
        ValueError: it does not broadcast to such samples.
    """
    sample = mask.shape if fixed else mask.shape[1:]
    form = list(sample)
    if len(form) == len(shape) - 1:  # no axis of channels: the last one, or the first
        last = _broadcasts(form, shape[:-1])
        form = [*form, 1] if last else [1, *form]
    if not _broadcasts(form, shape):
        batch = [] if fixed else ["B"]
        raise ValueError(
            f"relevance_penalty expects masks that fit to inputs of shape {tuple(shape)}: of shape "
            f"{(*batch, *shape[:-1])}, or of that rank with all axes. Received: {tuple(mask.shape)}"
        )
    rows = 1 if fixed else tf.shape(mask)[0]
    return tf.reshape(mask, [rows, *(-1 if n is None else n for n in form)])


def _broadcasts(form: list[int | None], shape: tf.TensorShape) -> bool:
    return len(form) == len(shape) and all(a in (1, b, None) for a, b in zip(form, shape, strict=True))

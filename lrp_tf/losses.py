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
        marked = _checked(marked, r, several)
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


def _fitted(mask: tf.Tensor, shape: tf.TensorShape, *, fixed: bool) -> tf.Tensor:
    """A mask in the rank of a batch whose samples have this shape, of which sizes may be open.

    Raises:
        ValueError: it does not broadcast to such samples.
    """
    if mask.shape.rank is None:
        raise ValueError("relevance_penalty expects masks of a known rank. Received: a tensor of unknown shape")
    sample = list(mask.shape if fixed else mask.shape[1:])
    axis = None
    if len(sample) == len(shape) - 1:  # no axis of channels: the last one, or the first
        last = _broadcasts(sample, shape[:-1])
        axis, sample = (-1, [*sample, 1]) if last else (1, [1, *sample])
    if not _broadcasts(sample, shape):
        batch = [] if fixed else ["B"]
        raise ValueError(
            f"relevance_penalty expects masks that fit to inputs of shape {tuple(shape)}: of shape "
            f"{(*batch, *shape[:-1])}, or of that rank with all axes. Received: {tuple(mask.shape)}"
        )
    mask = mask[None] if fixed else mask
    return mask if axis is None else tf.expand_dims(mask, axis)


def _broadcasts(form: list[int | None], shape: tf.TensorShape) -> bool:
    """Whether a form may broadcast to a shape; open sizes, None, are checked when they are known."""
    return len(form) == len(shape) and all(a in (1, b, None) or b is None for a, b in zip(form, shape, strict=True))


def _checked(mask: tf.Tensor, r: tf.Tensor, several: int) -> tf.Tensor:
    """The mask, if a share of relevance can be made of it; `several` axes of targets lie behind that of samples.

    Raises:
        ValueError: values beyond 0 to 1, masks for another number of samples. InvalidArgumentError for these, and for
            open sizes that differ, where a graph knows them only when it runs; XLA leaves such checks out.
    """
    batch, masks = (t.shape[0] or tf.shape(t)[0] for t in (r, mask))  # numbers where they are known
    low, high = tf.reduce_min(mask), tf.reduce_max(mask)
    checks = [
        _check((low >= 0) & (high <= 1), "masks of booleans or numbers from 0 to 1. Received: from", low, "to", high),
        _check((masks == 1) | (masks == batch), "a mask for each of", batch, "samples, or one. Received:", masks),
    ]
    if not (r.shape[several + 1 :].is_fully_defined() and mask.shape[1:].is_fully_defined()):
        shape, size = tf.shape(r)[several + 1 :], tf.shape(mask)[1:]
        fits = tf.reduce_all((size == 1) | (size == shape))
        checks.append(_check(fits, "masks that fit to inputs of shape", shape, "in this batch. Received:", size))
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(mask)


def _check(right: Any, *text: Any) -> tf.Operation | None:
    """An assertion of the graph, of booleans and numbers; made at once where they are known."""
    message = ("relevance_penalty expects", *text)
    known = [tf.get_static_value(part) if isinstance(part, tf.Tensor) else part for part in (right, *message)]
    if any(part is None for part in known):
        return tf.debugging.Assert(right, list(message))
    if not known[0]:
        raise ValueError(" ".join(part if isinstance(part, str) else f"{part:g}" for part in known[1:]))
    return None

"""The relevance that starts at the output: of a checked target and the pre-softmax values."""

from __future__ import annotations

from typing import NoReturn

import tensorflow as tf

from lrp_tf.engine import contrast
from lrp_tf.engine.contrast import SameClassError
from lrp_tf.engine.targets import Target, Targets


def initial_relevance(target: Target, logits: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor, tf.Tensor]:
    """The relevance that starts at the output.

    Args:
        logits: [B, ...].

    Returns:
        classes: int32 classes or indices; None where the relevance was given.
        relevance: in the shape of `logits`, or [k, B, ...] for [B, k] targets.
        in_range: scalar bool: targets fit sizes that only the call knows, and none is the class it is set against.
    """
    tensor: tf.Tensor = target.tensor
    kind = target.kind
    if kind in ("given", "weights"):
        tensor = tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)]) if target.several else tensor
        return None, tensor if kind == "given" else tensor * logits, tf.constant(True)
    size = tf.shape(logits)
    if target.mode == "index":
        at = tf.one_hot(tensor[:, -1], size[-1], True, False, dtype=tf.bool)
        for axis in range(logits.shape.rank - 2, 0, -1):  # outwards, an axis at a time
            here = tf.one_hot(tensor[:, axis - 1], size[axis], True, False, dtype=tf.bool)
            at = tf.expand_dims(at, 1) & tf.reshape(here, [-1, size[axis], *[1] * (at.shape.rank - 1)])
        in_range = tf.reduce_all((tensor >= 0) & (tensor < size[1:]))
        return tensor, _started(target, at, logits), in_range & _differs(target, tensor)
    values, single = tf.reshape(logits, [size[0], -1]), _single_unit(logits)
    if target.mode == "ranked":
        tensor = _classes_of_ranks(tensor, logits)
    elif target.mode in ("top", "class_or_top"):
        top = tf.cast(values[:, 0] >= 0, tf.int32) if single else tf.argmax(values, axis=-1, output_type=tf.int32)
        tensor = top if target.mode == "top" else tf.where(tensor == -1, top, tensor)
    if single:
        return tensor, _signed(tensor, values, kind, size), tf.reduce_all((tensor >= 0) & (tensor < 2))
    at = tf.one_hot(tensor, size[1], True, False, dtype=tf.bool)
    relevance = _started(target, at, values[:, None] if target.several else values)
    if target.several:
        relevance = tf.transpose(relevance, [1, 0, 2])  # not the integers: TensorFlow logs an error of oneDNN for these
    in_range = tf.reduce_all((tensor >= 0) & (tensor < size[1]))
    return tensor, relevance, in_range & _differs(target, tensor)


def refuse(target: Target, logits: tf.Tensor, received: Targets) -> NoReturn:
    """Raise what is wrong with a target that is not in range, which `received` says in the caller's words.

    Raises:
        SameClassError: a target is the class that it is set against. ValueError: no class of the model.
    """
    classes = initial_relevance(target, logits)[0]
    if target.rival is not None and classes is not None and not tf.reduce_all(differ := apart(target, classes)):
        named = classes[:, -1] if target.mode == "index" else classes
        raise SameClassError(
            "contrast is a target itself: nothing is left to explain. Expected another class. Received: both are "
            f"{int(tf.boolean_mask(named, ~differ)[0])}"
        )
    raise ValueError(f"target out of range. Expected: below {tuple(logits.shape[1:])}. Received: {received}")


def apart(target: Target, classes: tf.Tensor) -> tf.Tensor:
    """Whether targets are other classes than those they are set against: bool of their shape, [B] for indices."""
    assert target.rival is not None  # only asked of those
    if target.mode == "index":
        classes = classes[:, -1]
    return classes != (target.rival[:, None] if classes.shape.rank == 2 else target.rival)


def _differs(target: Target, classes: tf.Tensor) -> tf.Tensor | bool:
    """Whether all targets are: of another nothing would be left to explain."""
    return True if target.rival is None else tf.reduce_all(apart(target, classes))


def _started(target: Target, at: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Relevance at the target, True in `at`, and less than none at the classes that it is set against."""
    # `where`, not a product: an infinite logit of another class must not become NaN.
    values = logits if target.kind == "output" else tf.ones_like(logits)
    relevance = tf.where(at, values, tf.zeros_like(logits))
    if target.contrast is None:
        return relevance
    others = contrast.weights(target.contrast, at, logits, target.rival)
    here = tf.reduce_any(at, axis=-1, keepdims=True)  # of several places with classes, the target's alone
    return tf.where(here, relevance - others * values, relevance)


def _signed(classes: tf.Tensor, values: tf.Tensor, kind: str, size: tf.Tensor) -> tf.Tensor:
    """The relevance of a single unit [B, 1]: class 1 explains the value, class 0 its negative."""
    one = tf.ones([], values.dtype)
    signed = tf.where(classes == 1, one, -one)
    signed = tf.transpose(signed)[..., None] if classes.shape.rank == 2 else signed[:, None]
    relevance = signed * values if kind == "output" else signed * tf.ones_like(values)
    return tf.reshape(relevance, tf.concat([tf.shape(relevance)[:-2], size], axis=0))


def _classes_of_ranks(ranked: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    values = tf.reshape(logits, [tf.shape(logits)[0], -1])
    if _single_unit(logits):
        values = tf.concat([-values, values], axis=1)
    order = tf.argsort(values, axis=-1, direction="DESCENDING", stable=True)
    return tf.where(ranked < 0, tf.gather(order, tf.maximum(-ranked - 1, 0), batch_dims=1), ranked)


def _single_unit(logits: tf.Tensor) -> bool:
    """Whether `logits` come from a single output unit."""
    return logits.shape.rank == 1 or (logits.shape.rank == 2 and logits.shape[1] == 1)

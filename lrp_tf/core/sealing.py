"""Relevance refuses to be differentiated: its derivative would be wrong without a word."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util, record

_NOT_TWICE = (
    "The relevance is not differentiable: its own derivative would leave out what the rules hold constant and what the "
    "savings replace. Expected: gradients that end at the relevance. Received: a gradient through it (of the second "
    "order, or with respect to weights). Remedy: tf.stop_gradient(relevance) where it is used as a constant"
)
_SEALED = "LrpTfSealed"


def sealed(relevance: tf.Tensor, sources: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
    """`relevance`, of which no gradient can be taken: asking for one is a LookupError.

    A tape around a tf.function asks for the gradients of all that it returns: there it is an error of the call of
    `tape.gradient`, and only where the relevance itself counts.

    Args:
        sources: inputs and variables that the relevance was computed from. Where a tape asks for the gradients of none
            of them, the relevance is a constant, and no error.
    """
    if len(forwardprop_util.pack_tangents([relevance]).indices):
        _refuse()
    if tf.executing_eagerly() and not record.should_record_backprop([relevance]):
        return relevance
    with record.stop_recording():
        if tf.executing_eagerly():
            found = tf.identity(relevance)
        else:  # one gradient for all: TensorFlow's registry never frees one
            with tf.compat.v1.get_default_graph().gradient_override_map({"Identity": _SEALED}):
                found = tf.raw_ops.Identity(input=relevance)
    tf.__internal__.record_gradient(_SEALED, list(sources or [relevance]), (), [found])
    return found


def _refuse() -> None:
    raise LookupError(_NOT_TWICE)


def _asked_for() -> set[int] | None:
    """The ids of what the caller of `tape.gradient` asks for; None: unknown. TensorFlow tells no gradient function."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "imperative_grad":
        frame = frame.f_back
    sources = None if frame is None else frame.f_locals.get("sources")
    return None if sources is None else set(map(id, sources))


@tf.RegisterGradient(_SEALED)
def _refuse_unless_zero(op: Any, gradient: tf.Tensor) -> Any:
    """The gradient of an operation in a graph, or of what a tape recorded, which names the inputs that it skips."""
    if not isinstance(op, tf.Operation):
        asked, skipped = _asked_for(), op.skip_input_indices or ()
        for index, source in enumerate(op.inputs):
            # A variable is computed from nothing: it counts only where the caller asked for it.
            unasked = asked is not None and source.dtype == tf.resource and id(source) not in asked
            if index not in skipped and not unasked:
                _refuse()
        return [None] * len(op.inputs)
    if op.graph is tf.compat.v1.get_default_graph():
        _refuse()
    unused = tf.equal(gradient, tf.zeros([], gradient.dtype))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(unused), [_NOT_TWICE])]):
        # NaN where there are no assertions, as under XLA.
        return tf.where(unused, gradient, tf.constant(float("nan"), gradient.dtype))

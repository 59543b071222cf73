"""Relevance whose derivative nobody could compute refuses to be differentiated, instead of being wrong in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util, record

from lrp_tf.core.asking import asking

_NOT_TWICE = (
    "This relevance is not differentiable: XLA compiled it through max pooling or a loop; or it went through a step "
    "that crops or pads what it resizes; or it comes from a clone inside of a tf.function with both tapes around it, "
    "or from tf.gradients; or it is that of concepts; or forward mode was asked for. Expected: gradients that end at "
    "the relevance. Received: a gradient through it. Remedy: docs/training-on-relevance.md has another way for each of "
    "these; tf.stop_gradient(relevance) where it is used as a constant"
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
    refuse_forward_mode(relevance)
    if tf.executing_eagerly() and not record.should_record_backprop([relevance, *(sources or [])]):
        return relevance
    with record.stop_recording():
        if tf.executing_eagerly():
            found = tf.identity(relevance)
        else:  # one gradient for all: TensorFlow's registry never frees one
            with tf.compat.v1.get_default_graph().gradient_override_map({"Identity": _SEALED}):
                found = tf.raw_ops.Identity(input=relevance)
    tf.__internal__.record_gradient(_SEALED, list(sources or [relevance]), (), [found])
    return found


def refuse_forward_mode(relevance: tf.Tensor) -> None:
    """LookupError where a tf.autodiff.ForwardAccumulator follows the relevance."""
    if len(forwardprop_util.pack_tangents([relevance]).indices):
        _refuse()


def _refuse() -> None:
    raise LookupError(_NOT_TWICE)


@tf.RegisterGradient(_SEALED)
def _refuse_unless_zero(op: Any, gradient: tf.Tensor) -> Any:
    """The gradient of an operation in a graph, or of what a tape recorded, which names the inputs that it skips."""
    if not isinstance(op, tf.Operation):
        asked, skipped = asking(), op.skip_input_indices or ()
        sources = None if asked is None else asked.sources
        for index, source in enumerate(op.inputs):
            # A variable is computed from nothing: it counts only where the caller asked for it.
            unasked = sources is not None and source.dtype == tf.resource and id(source) not in sources
            if index not in skipped and not unasked:
                _refuse()
        return [None] * len(op.inputs)
    if op.graph is tf.compat.v1.get_default_graph():
        _refuse()
    unused = tf.equal(gradient, tf.zeros([], gradient.dtype))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(unused), [_NOT_TWICE])]):
        # NaN where there are no assertions, as under XLA.
        return tf.where(unused, gradient, tf.constant(float("nan"), gradient.dtype))

"""One pass over a batch: for each layer and channel how relevant and how active it is, and where most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from lrp_tf.engine import diagnosis, initial, passes
from lrp_tf.engine.channels import Channels
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.targets import Target

POOLINGS = ("sum", "max", "positive")


class Pooled(NamedTuple):
    """Scores of the channels of one layer, [B, C], and the flat index of the position with the largest value."""

    score: tf.Tensor
    place: tf.Tensor


class Measured(NamedTuple):
    """What a pass finds in a batch.

    Attributes:
        relevance, activation: by layer.
        logits: the pre-softmax values, [B, C].
        classes: int32 [B], the class whose relevance it is.
        finite: bool [B], whether all values of the sample are finite.
        declared: bool scalar, see `Verdict`.
    """

    relevance: Mapping[str, Pooled]
    activation: Mapping[str, Pooled]
    logits: tf.Tensor
    classes: tf.Tensor
    finite: tf.Tensor
    declared: tf.Tensor


def measuring(clone: Clone, layers: Sequence[Channels], target: Target, pooling: str) -> Callable[..., Measured]:
    """A function of the flat inputs and the target's tensors, compiled once for any batch size.

    What lies below the lowest of the layers is not computed on the way back: TensorFlow leaves it out, since nothing
    reads it.

    Args:
        target: its mode and kind, "top" or "class".
        pooling: over positions: "sum", "max", or "positive", the sum of what is above zero.
    """

    def run(*tensors: tf.Tensor) -> Measured:
        inputs = tensors[: len(clone.graph.inputs)]
        forward = clone.forward(inputs)
        logits = clone.output(forward)
        classes, begin, _ = initial.initial_relevance(target.holding(tensors[len(inputs) :]), logits)
        relevance = clone.propagate(forward, begin, keep=[layer.ref for layer in layers]).relevance
        values = [relevance[layer.ref] for layer in layers]
        active = [forward.values[layer.ref] for layer in layers]
        finite = diagnosis.finite(clone, inputs, forward, [*values, *active], each=True)
        return Measured(
            {layer.name: _pooled(by_position(layer, r), pooling) for layer, r in zip(layers, values, strict=True)},
            {layer.name: _pooled(by_position(layer, a), pooling) for layer, a in zip(layers, active, strict=True)},
            logits,
            classes,
            finite,
            tf.constant(True) & clone.as_declared(inputs),
        )

    if tf.config.functions_run_eagerly():
        return run
    signature = passes.signature(clone.graph, target)
    return tf.function(run, input_signature=signature, autograph=False).get_concrete_function()


def by_position(layer: Channels, values: tf.Tensor) -> tf.Tensor:
    """Values at a layer's tensor, [B, ...], as [B, P, C], positions in row-major order."""
    order = [0, *layer.others, layer.axis]
    values = tf.transpose(values, order) if order != sorted(order) else values
    size = tf.shape(values)
    return tf.reshape(values, tf.stack([size[0], -1, size[-1]]))


def _pooled(values: tf.Tensor, pooling: str) -> Pooled:
    """Over the positions of [B, P, C]; of equal values the first position in row-major order counts."""
    place = tf.argmax(values, axis=1, output_type=tf.int32)
    if pooling == "max":
        return Pooled(tf.reduce_max(values, axis=1), place)
    if pooling == "positive":
        values = tf.nn.relu(values)
    return Pooled(tf.reduce_sum(values, axis=1), place)

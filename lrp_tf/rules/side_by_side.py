"""A saving: several sums of few input channels by one convolution, which passes once over the many outputs."""

from __future__ import annotations

import tensorflow as tf

from lrp_tf.rules.terms import Pair

# Up to this many channels contributions are put side by side. Copies of more channels cost more than they save.
_FEW = 16


def side_by_side(x: tf.Tensor, pairs: list[Pair], channels: int) -> tuple[list[Pair], int]:
    """Pairs as one pair of more input channels where that pays; and how many pairs it holds, 1 where it does not.

    Args:
        x: the input that the x' of the pairs are shaped like.
        pairs: of kernels [..., C, F] that mix all channels.
        channels: the axis of x that channels lie on.
    """
    if len(pairs) < 2 or x.shape[channels] > _FEW:
        return pairs, 1
    if any(part is None or isinstance(part, float) or part.shape.rank != x.shape.rank for part, _ in pairs):
        return pairs, 1
    parts = tf.concat([tf.broadcast_to(part, tf.shape(x)) for part, _ in pairs], channels)
    return [(parts, tf.concat([w for _, w in pairs], -2))], len(pairs)

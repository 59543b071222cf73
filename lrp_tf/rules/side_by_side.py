"""A saving: several sums of few input channels by one convolution, which passes once over the many outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    from lrp_tf.rules.operators import Operator
    from lrp_tf.rules.terms import Pair

# Up to this many channels contributions are put side by side. Copies of more channels cost more than they save.
_FEW = 16


def side_by_side(op: Operator, pairs: list[Pair]) -> tuple[list[Pair], int]:
    """The pairs that are not empty, as one pair of more input channels where that pays; and how many it holds."""
    pairs = [(x, w) for x, w in pairs if x is not None]
    if not op.marks.savings or len(pairs) < 2 or not op.mixes or op.x.shape[op.channels] > _FEW:
        return pairs, 1
    if any(isinstance(x, float) or x.shape.rank != op.x.shape.rank for x, _ in pairs):
        return pairs, 1
    x = tf.concat([tf.broadcast_to(x, tf.shape(op.x)) for x, _ in pairs], op.channels)
    return [(x, tf.concat([w for _, w in pairs], -2))], len(pairs)

"""The softmax of an attention that is not held: relevance passes its weights on to the scores."""

from __future__ import annotations

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import number
from lrp_tf.core.protocol import Propagate, ZeroInput
from lrp_tf.flows.base import Flow, Interval, Kept, at_signals

# Masks write scores as -1e9, -3e4 in half precision. A score below this limit has a share only where its whole row is
# masked, and a row that is masked as a whole says nothing of its scores.
_MASKED = -1e4


class TaylorSoftmax(Flow):
    """R_i = x_i (R_i - s_i sum_j R_j), with s = softmax(x) (Achtibat et al. 2024, "AttnLRP", proposition 3.1).

        composites.Composite([(composites.activation("softmax"), flows.TaylorSoftmax()),
                              (None, rules.Epsilon())])

    A Taylor expansion at x: s(x) is its slope times x and a constant, which absorbs its share as a bias does. Scores
    whose s_i is 0, as those of a mask, get nothing; nor do rows that are masked as a whole.

    Raises:
        ValueError: at a step that is no softmax.
    """

    at_zero = ZeroInput.NONE

    def enters(self, step: Step) -> tuple[int, ...]:
        return tuple(i for i in step.signals if i == 0)  # not the mask

    def backward(self, step: Step, saved: Kept) -> Propagate:
        (x, *_), (s,) = saved
        axes = _axes(step, x.shape.rank)
        counts = tf.logical_and(s > number(0.0, s.dtype), x > number(_MASKED, x.dtype))

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            (arrived,) = relevances
            spread = arrived - s * tf.reduce_sum(arrived, axes, keepdims=True)
            sent = tf.where(counts, x * spread, number(0.0, x.dtype))
            if account is not None:
                account.add("bias", arrived)
                account.add("bias", -sent)
            return at_signals(step, sent)

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return 0, 1


def _axes(step: Step, rank: int) -> list[int]:
    """The axes that the softmax of a step sums over."""
    if step.activation != "softmax":
        raise ValueError(
            f"TaylorSoftmax expects a softmax. Received: {step.path!r} ({step.operation}). Remedy: give this step "
            "another flow."
        )
    axis = getattr(step.op, "axis", -1)  # an Activation has none
    if axis is None:
        return list(range(rank))
    return [a % rank for a in ([axis] if isinstance(axis, int) else axis)]

"""What each tape gets that asks for the gradient of a clone: the relevance, or for tapes further out its derivative.

By its inputs a clone has the relevance for a gradient, and by the weights the ordinary one. A tape that records while
another one takes the relevance differentiates it: as part of a start or of a loss, the values of the clone are an
ordinary function of the inputs for that tape, too.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python.eager import record

from lrp_tf.core.asking import asking

_THIRD = (
    "Two tapes ask for the gradient of one call of a clone while a third one records. Expected: one tape that takes "
    "the relevance, and one around it that differentiates it. Received: a second tape inside of the third, which may "
    "want either. Remedy: GradientTape(persistent=True) where relevance is taken several times; an Explainer where its "
    "derivative is differentiated again"
)


class Order(enum.Enum):
    """What a tape gets by the inputs.

    Attributes:
        RELEVANCE: which may be differentiated again.
        SEALED: the relevance, where nobody could tell who differentiates it again.
        ORDINARY: the gradient of the values.
        NOTHING: no tape watches the inputs.
    """

    RELEVANCE = enum.auto()
    SEALED = enum.auto()
    ORDINARY = enum.auto()
    NOTHING = enum.auto()


class Orders:
    """Who asked for the gradient of one call of a clone so far.

    Args:
        inputs: of the call.
    """

    def __init__(self, inputs: Sequence[tf.Tensor]) -> None:
        self._place = _place()
        self._watched = record.should_record_backprop(inputs) or not record.could_possibly_record()
        self._asker: int | None = None  # the tape that got the relevance last
        self._differentiated: int | None = None  # the tape that took the relevance while another one recorded

    def next(self, weights: Sequence[tf.Variable]) -> tuple[Order, list[tf.Variable]]:
        """What whoever asks now gets by the inputs, and the weights that it may want the gradient of.

        Raises:
            LookupError: a second tape asks while a third one records.
        """
        who = asking()
        if _place() is not self._place:
            if self._place is None:  # batch_jacobian, or a tf.function that asks a tape of an eager call
                ordinary = who is not None and self._differentiated not in (None, who.tape)
            else:  # a tape around the tf.function that made the call, unless the one that asked before asks again
                ordinary = self._asker is not None and (who is None or who.tape != self._asker)
            return Order.ORDINARY if ordinary else Order.SEALED, list(weights)
        wanted = [v for v in weights if who is None or who.wants(v)]
        if who is None:  # tf.gradients
            return Order.SEALED if self._watched else Order.NOTHING, wanted
        if self._differentiated not in (None, who.tape):
            if record.could_possibly_record():
                raise LookupError(_THIRD)
            return Order.ORDINARY, wanted
        if not self._watched:
            return Order.NOTHING, wanted
        self._asker = who.tape
        if record.could_possibly_record():
            self._differentiated = who.tape
        return Order.RELEVANCE, wanted


def _place() -> tf.Graph | None:
    """The graph that operations are added to; None in eager mode."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

"""Steps that hand on gradients: the derivative itself, and what guided backpropagation and deconvnets make of a ReLU.

What gradients are compared with LRP by (`lrp_tf.gradients`). They conserve nothing: what a step adds to or takes from
the sum of relevance is booked as "other".
"""

from __future__ import annotations

import keras
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import vjp
from lrp_tf.core.protocol import Propagate
from lrp_tf.flows.base import Flow, Kept, lookup, replaced, scatter
from lrp_tf.flows.moves import Cast, Gather, Lookup
from lrp_tf.flows.normalization import Centered
from lrp_tf.flows.resizing import Resample


class Derivative(Flow):
    """R_i = sum_j (dy_j / dx_i) R_j, the gradient of a step of any kind.

    Integers that are values, as those of uint8 images, count as floats; indices have no derivative.
    """

    def enters(self, step: Step) -> tuple[int, ...]:
        known, dtypes = lookup(step), [tf.as_dtype(ref.dtype) for ref in step.inputs]
        values = () if known is None or isinstance(known, (Lookup, Gather)) else known.enters(step)
        return tuple(i for i in step.signals if dtypes[i].is_floating or (dtypes[i].is_integer and i in values))

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Kept]:
        known = lookup(step)  # which keeps the precision where a layer would cast to half of it
        outputs, _ = super().forward(step, inputs) if known is None else known.forward(step, inputs)
        return outputs, (inputs, outputs)

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, outputs = saved

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            sent = scatter(step, step.signals, self.derivative(step, inputs, outputs, relevances))
            if account is not None:
                _book_change(step, account, relevances, sent)
            return sent

        return propagate

    def derivative(
        self, step: Step, inputs: list[tf.Tensor], outputs: list[tf.Tensor], relevances: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The relevance of each signal from that of the outputs."""
        kept = [i for i, y in enumerate(outputs) if y.dtype.is_floating]
        dtype = relevances[kept[0]].dtype if kept else tf.float32
        values = [tf.cast(inputs[i], dtype) for i in step.signals]
        if not kept:
            return [tf.zeros_like(x) for x in values]
        known = lookup(step)
        if isinstance(known, Cast):
            return [relevances[0]]

        def function(*xs: tf.Tensor) -> list[tf.Tensor]:
            if isinstance(known, Centered) and len(inputs) == 1:
                return [known.value(step, *xs)]
            found = keras.tree.flatten(step.call(*replaced(inputs, step.signals, xs)))
            return [found[i] for i in kept]

        if isinstance(known, Resample):
            return known.transpose(step, lambda *xs: function(*xs)[0], values, relevances[0])
        return vjp(function, values, [relevances[i] for i in kept])


class Guided(Derivative):
    """A ReLU in guided backpropagation: the derivative, of R above zero alone (Springenberg et al. 2015)."""

    def derivative(
        self, step: Step, inputs: list[tf.Tensor], outputs: list[tf.Tensor], relevances: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        return super().derivative(step, inputs, outputs, [tf.nn.relu(r) for r in relevances])


class Deconvolved(Derivative):
    """A ReLU in a deconvnet: max(R, 0), whatever the input was (Zeiler and Fergus 2014)."""

    def derivative(
        self, step: Step, inputs: list[tf.Tensor], outputs: list[tf.Tensor], relevances: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        return [tf.nn.relu(relevances[0]) if i == 0 else tf.zeros_like(inputs[i]) for i in step.signals]


def _book_change(step: Step, account: Account, arrived: list[tf.Tensor], sent: list[tf.Tensor | None]) -> None:
    for r in arrived:
        if r.dtype.is_floating:
            account.add("other", r)
    for ref, r in zip(step.inputs, sent, strict=True):
        if r is not None:
            axes = [i for i in range(r.shape.rank) if i != ref.axis]
            axes.insert(account.axis, ref.axis)  # a transposition moves the samples
            account.add("other", -(tf.transpose(r, axes) if account.axis != ref.axis else r))

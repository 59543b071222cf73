"""Functions of several entries that are no sums: norms, logsumexp, products over an axis, angles, remainders."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import Relative, check_stabilizer, offset, ratio, vjp
from lrp_tf.core.protocol import Propagate, ZeroInput
from lrp_tf.flows.base import UNBOUNDED, Flow, Interval, Kept, book_division, replaced, scatter
from lrp_tf.flows.moves import Detached, Move
from lrp_tf.flows.sums import Quotient, shared_equally


@dataclasses.dataclass(frozen=True, repr=False)
class Homogeneous(Flow):
    """y = f(x) with f(c x) = c f(x) for c > 0, as norms have it.

    R_i = x_i (df/dx_i) R / s(y), with s(y) = y + epsilon sign(y). It conserves: the sum of x_i df/dx_i is y (Euler).
    Of the Euclidean norm and of hypot: R_i = x_i^2 / y R / s(y). A divisor gets no relevance, so that in
    x / norm(x) all goes to the numerator. A norm of order 0 counts entries: relevance ends there, booked as "bias".

    Args:
        stabilizer: epsilon, a number >= 0 or `Relative`.
    """

    stabilizer: float | Relative = 1e-6
    at_zero = ZeroInput.NONE
    divides = True

    def __post_init__(self) -> None:
        check_stabilizer(self.stabilizer)

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, (y,) = saved
        if getattr(step.op, "ord", None) == 0:
            return Detached().backward(step, saved)
        epsilon = offset(y, self.stabilizer, step.outputs[0].axis)
        values = [inputs[i] for i in step.signals]
        # Where y is 0, all x are 0 or none matters. The slope does not exist there: it is computed beside that point.
        zero = tf.cast(tf.equal(y, 0), y.dtype)
        lifted = vjp(lambda *xs: _spread(step, xs, y), [tf.zeros_like(x) for x in values], zero)
        safe = [x + tf.cast(mark > 0, x.dtype) for x, mark in zip(values, lifted, strict=True)]
        function = lambda *xs: step.call(*replaced(inputs, step.signals, xs))  # noqa: E731

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            g = ratio(relevances[0], y + epsilon, self.stabilizer)
            shares = [x * share for x, share in zip(values, vjp(function, safe, g), strict=True)]
            if account is not None:
                book_division(account, relevances[0], g, y + epsilon, epsilon, self.stabilizer)
                if step.has_constants:
                    account.add("bias", g * y)
                    for share in shares:
                        account.add("bias", -share)
            return scatter(step, step.signals, shares)

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return 0, math.inf


def _spread(step: Step, xs: tuple[tf.Tensor, ...], y: tf.Tensor) -> tf.Tensor:
    """For each entry of y, the sum of the entries of `xs` that it is computed from."""
    if len(xs) == 1 and hasattr(step.op, "axis"):
        return keras.ops.sum(xs[0], axis=step.op.axis, keepdims=step.op.keepdims)
    return tf.add_n([tf.broadcast_to(x, tf.shape(y)) for x in xs])


class SoftMaximum(Flow):
    """logsumexp and logaddexp, smooth maxima: R_i = p_i R, with p the softmax of the summands.

    p_i is the slope dy/dx_i, and the sum of all p_i is 1. An entry far above the others gets all relevance, as with a
    maximum. The share of a constant is booked as "bias".
    """

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, _ = saved
        values = [inputs[i] for i in step.signals]
        function = lambda *xs: step.call(*replaced(inputs, step.signals, xs))  # noqa: E731

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            shares = vjp(function, values, relevances[0])
            if account is not None and step.has_constants:
                account.add("bias", relevances[0])
                for share in shares:
                    account.add("bias", -share)
            return scatter(step, step.signals, shares)

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return (max(low for low, _ in intervals), math.inf) if not step.has_constants else UNBOUNDED


class ProductOver(Flow):
    """The product of the entries along axes: they share R equally, as the factors of x * y do."""

    def backward(self, step: Step, saved: Kept) -> Propagate:
        (x,), _ = saved
        axis, rank = step.op.axis, x.shape.rank
        axes = [a % rank for a in ([axis] if isinstance(axis, int) else axis)]
        kept = tf.concat([[1] if a in axes else tf.shape(x)[a : a + 1] for a in range(rank)], 0)
        count = tf.cast(tf.reduce_prod(tf.gather(tf.shape(x), axes)), x.dtype)
        ones = tf.ones_like(x)
        return lambda relevances, account: [ones * tf.reshape(relevances[0] / count, kept)]

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        ((low, high),) = intervals
        if low >= 0:
            return 0, 1 if high <= 1 else math.inf
        return (-1, 1) if (low, high) >= (-1, -1) and high <= 1 else UNBOUNDED


class Angle(Flow):
    """arctan2(x, y), which no scale of x and y changes: the signals share R equally, as those of a product do."""

    def backward(self, step: Step, saved: Kept) -> Propagate:
        return shared_equally(step, saved[0], step.signals)

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return -math.pi, math.pi


class Remainder(Quotient):
    """x mod y: R goes to x; y is held, as a divisor is."""

    transparent = False
    at_zero = ZeroInput.UNKNOWN

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return UNBOUNDED


class Ranked(Move):
    """The largest entries, in order, get R. Relevance that arrives at their indices is booked as "bias"."""

    def __init__(self) -> None:
        super().__init__(moved=(0,))

    def backward(self, step: Step, saved: Kept) -> Propagate:
        (x,), (_, indices) = saved
        rows = tf.shape(x)[-1]

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            r = relevances[0]
            if account is not None and relevances[1].dtype.is_floating:
                account.add("bias", relevances[1])
            chosen = tf.one_hot(indices, rows, dtype=r.dtype)  # [..., k, entries]
            return [tf.reduce_sum(chosen * r[..., None], axis=-2)]

        return propagate


class Replacement(Flow):
    """slice_update(x, start, updates): R goes to the entry that the output shows, of x or of the updates."""

    at_zero = ZeroInput.MOVES

    def _arguments(self, step: Step) -> tuple[dict[str, Any], dict[str, list[int]]]:
        """The arguments by name, and the positions in `step.inputs` of each."""
        names = ("inputs", "start_indices", "updates")
        given = dict(zip(names, step.args, strict=False)) | step.kwargs
        return given, {name: [i for i, ref in enumerate(step.inputs) if ref is given[name]] for name in names}

    def enters(self, step: Step) -> tuple[int, ...]:
        tensors = self._arguments(step)[1]
        places = (tensors["inputs"][0], tensors["updates"][-1])
        return tuple(i for i in places if i in step.signals)

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, _ = saved
        given, tensors = self._arguments(step)
        start = inputs[tensors["start_indices"][0]] if tensors["start_indices"] else given["start_indices"]
        start = [tf.cast(n, tf.int32) for n in (tf.unstack(start) if tf.is_tensor(start) else start)]

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            (r,) = relevances
            size = tf.shape(inputs[tensors["updates"][-1]])
            inner = tf.slice(r, start, size)
            ends = [tf.shape(r)[i] - n - size[i] for i, n in enumerate(start)]
            around = r - tf.pad(inner, [[n, end] for n, end in zip(start, ends, strict=True)])
            found: list[tf.Tensor | None] = [None] * len(inputs)
            for name, part in (("inputs", around), ("updates", inner)):
                place = tensors[name][0 if name == "inputs" else -1]
                if place in step.signals:
                    found[place] = part
                elif account is not None:
                    account.add("bias", part)
            return found

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return min(low for low, _ in intervals), max(high for _, high in intervals)

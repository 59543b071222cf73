"""Savings: for each rule the cheaper way to the same denominators, from what is known about the step.

A shortcut takes (rule, step, op, terms). It gives the terms with their denominators, or a propagator of its own, or
None where nothing can be saved. It changes no number beyond rounding, and `engine.savings.switched_off` leaves it out.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import Relative, negative, number, offset, positive, ratio
from lrp_tf.core.protocol import Propagator
from lrp_tf.rules.base import Rule, at_signal, denominator_of, shortcut_for
from lrp_tf.rules.kernels import present
from lrp_tf.rules.lrp import AlphaBeta, Epsilon, Flat, Gamma, Magnitude, WSquare, Zero, ZPlus
from lrp_tf.rules.operators import Operator
from lrp_tf.rules.terms import Denominator, Term

Pairs = list[tuple[Term, Denominator]]

# From this fan-in on, compute z+ as z - z-. With fewer summands a convolution is cheap, and the books close better.
_LARGE_FAN_IN = 512


@shortcut_for(Epsilon, Zero)
def by_the_rectified_output(rule: Rule, step: Step, op: Operator, terms: list[Term]) -> Pairs | None:
    """s(z) = relu(z) + epsilon where relevance arrives only above zero: the ReLU's own output, so z is not kept."""
    rectified, epsilon = op.rectified, rule.stabilizer
    if rectified is None:
        return None
    relative = isinstance(epsilon, Relative)  # to all of z
    stabilized = None if relative else lambda: rectified + epsilon
    return [(terms[0], Denominator(lambda: op.output, epsilon, sign=1, stabilized=stabilized, filled=True))]


@shortcut_for(AlphaBeta)
def by_the_other_sign(rule: AlphaBeta, step: Step, op: Operator, terms: list[Term]) -> Pairs | None:
    """z+ = z - z- saves a convolution.

    Relevance arrives only where z > 0. There z - z- adds two positive numbers and never cancels, whereas z- = z - z+
    would lose a small z- altogether.
    """
    rectified = op.rectified
    if len(terms) < 2 or rectified is None or not _has_large_fan_in(op):
        return by_one_sign(rule, step, op, terms)
    gains, losses = terms

    @functools.cache
    def below() -> tf.Tensor:
        return op.total(losses.pairs, losses.bias)

    return [
        (gains, Denominator(lambda: rectified - below(), rule.stabilizer, sign=1, filled=True)),
        (losses, Denominator(below, rule.stabilizer, sign=-1)),
    ]


@shortcut_for(ZPlus, WSquare, Magnitude)
def by_one_sign(rule: Rule, step: Step, op: Operator, terms: list[Term]) -> Pairs | None:
    """z + (b + epsilon) where the sign is known: TensorFlow adds a bias together with the convolution."""
    stabilizer = rule.stabilizer
    if isinstance(stabilizer, Relative):
        return None
    if op.marks.bfloat16_sums:  # which hold it rounded: the books know by s(z) = epsilon that there is nothing to share
        stabilizer = float(tf.bfloat16.as_numpy_dtype(stabilizer))

    def stabilized(term: Term, sign: int) -> tf.Tensor:
        epsilon = _as_bias(op, sign * stabilizer)
        return op.sum(term.pairs, term.bias + epsilon if present(term.bias) else epsilon)

    def denominator(term: Term) -> Denominator:
        sign = -1 if term.weight < 0 else 1
        total = functools.partial(op.total, term.pairs, term.bias)
        # Where z + b > 0, one of the contributions or the bias is above 0, and the term has them all.
        filled = op.positive_only and sign > 0 and isinstance(rule, (AlphaBeta, ZPlus, Magnitude))
        in_one = functools.partial(stabilized, term, sign)
        return Denominator(total, stabilizer, sign=sign, stabilized=in_one, filled=filled)

    return [(term, denominator(term)) for term in terms]


@shortcut_for(Gamma)
def by_the_boost(rule: Gamma, step: Step, op: Operator, terms: list[Term]) -> Pairs | None:
    """Both branches from z and the boost z+ = x+ w+ + x- w- + b+, which they share.

    Where z > 0 the sum is z + gamma z+; where z < 0 it is z + gamma z- with z- = z - z+. Nothing cancels in either.
    """
    gamma, stabilizer = float(rule.gamma), rule.stabilizer
    up, down = terms = _in_fewer_passes(op, gamma, terms)

    if isinstance(stabilizer, Relative):
        if not op.positive_only:
            return None
        term = dataclasses.replace(up, where=None)
        return [(term, denominator_of(op, term, stabilizer))]
    epsilon = _as_bias(op, stabilizer)

    @functools.cache
    def boost() -> tf.Tensor:
        gains = [(x, w) for x, w in [(op.positive, op.w_positive), (op.negative, op.w_negative)] if x is not None]
        rest = gamma * positive(op.b) + epsilon
        if op.shares_sums:  # z+ serves every gamma
            return gamma * op.sum(gains) + rest
        return op.sum([(x, gamma * w) for x, w in gains], rest)

    if op.positive_only:  # the branch z < 0 gets no relevance, and none arrives at z = 0
        term = dataclasses.replace(up, where=None)
        total = functools.cache(lambda: op.total(term.pairs, term.bias))
        # In bfloat16 z + gamma z+ would cancel where gamma is small; z is at hand in float32.
        apart = op.marks.bfloat16_sums or op.shares_sums
        stabilized = (lambda: op.rectified + boost()) if apart else (lambda: positive(total()) + stabilizer)
        return [(term, Denominator(total, stabilizer, sign=1, stabilized=stabilized))]
    z = op.explained

    def above() -> tf.Tensor:
        return positive(z) + boost()

    def below() -> tf.Tensor:
        return (1 + gamma) * negative(z) - boost()

    totals = [functools.partial(op.total, term.pairs, term.bias) for term in terms]
    return [
        (up, Denominator(totals[0], stabilizer, sign=1, stabilized=above)),
        (down, Denominator(totals[1], stabilizer, sign=-1, stabilized=below)),
    ]


def _in_fewer_passes(op: Operator, gamma: float, terms: list[Term]) -> list[Term]:
    """The terms with w + gamma w- as min(w, (1 + gamma) w).

    w + gamma w+ stays: TensorFlow takes max(w, (1 + gamma) w) for a leaky ReLU, whatever the factor.
    """
    (_, slow), *_ = terms[1].pairs
    fast = tf.minimum(op.w, (1 + gamma) * op.w)
    return [dataclasses.replace(t, pairs=[(x, fast if w is slow else w) for x, w in t.pairs]) for t in terms]


@shortcut_for(Flat)
def by_a_box_filter(rule: Flat, step: Step, op: Operator, terms: list[Term]) -> Propagator | Pairs | None:
    """Every channel sees and gets the same: a filter of ones over the sum of the channels."""
    return _BoxFilter(step, op, rule.stabilizer) if op.mixes else by_one_sign(rule, step, op, terms)


@dataclasses.dataclass(frozen=True)
class _BoxFilter(Propagator):
    step: Step
    op: Operator
    stabilizer: float | Relative

    def __call__(self, relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        op, axis = self.op, self.op.channels
        seen, epsilon = self._seen
        g = ratio(tf.reduce_sum(relevances[0], axis, keepdims=True), seen + epsilon, self.stabilizer)
        if account is not None:
            nothing = tf.zeros_like(seen)  # an output that sees only padding has nothing to share
            account.add("other", g * tf.where(seen == 0, epsilon, nothing))
            account.add("stabilizer", g * tf.where(seen == 0, nothing, epsilon))
        part = op.transpose_at(_first_channel(op, op.x), g, self._box)
        return at_signal(self.step, tf.broadcast_to(part, tf.shape(op.x)))

    def precompute(self) -> None:
        self._seen  # noqa: B018

    @functools.cached_property
    def _box(self) -> tf.Tensor:
        return tf.ones_like(self.op.w[..., :1, :1])

    @functools.cached_property
    def _seen(self) -> tuple[tf.Tensor, tf.Tensor]:
        """How many inputs each output sees, and the stabiliser of that number."""
        op = self.op
        seen = op.forward(_first_channel(op, op.ones()), self._box) * op.x.shape[op.channels]
        return seen, offset(seen, self.stabilizer)


def _first_channel(op: Operator, x: tf.Tensor) -> tf.Tensor:
    return tf.gather(x, [0], axis=op.channels)


def _has_large_fan_in(op: Operator) -> bool:
    return op.entry.fan_in is not None and op.entry.fan_in(op.w) >= _LARGE_FAN_IN


def _as_bias(op: Operator, value: float) -> tf.Tensor:
    """A number in the form of a bias: TensorFlow adds it together with the convolution."""
    shape = [1] * op.z.shape.rank
    shape[op.channels] = op.z.shape[op.channels] or 1
    return number(value, op.z.dtype, tuple(shape))

"""LRP rules for linear steps, written once for all of them.

A rule is a list of `Term`s: each is a set of contributions x' w' whose sum, with a share of the bias, is the
denominator over which the relevance of the output is shared out,

    R_i = sum over terms of  weight * x'_i sum_j w'_ij R_j / s(sum x' w' + bias)_j.

Conventions follow Montavon et al. 2019, "Layer-wise relevance propagation: an overview".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.core import linear
from lrp_tf.core.numerics import Account, Relative, check_stabilizer, negative, offset, positive, ratio
from lrp_tf.rules.operators import Denominator, Operator, Term, present

__all__ = [
    "AlphaBeta",
    "Epsilon",
    "Flat",
    "Gamma",
    "Magnitude",
    "Operator",
    "Pass",
    "Relative",
    "Rule",
    "Term",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "negative",
    "positive",
]

Propagate = Callable[[list[tf.Tensor], Account | None], list[tf.Tensor]]

WHEN_EMPTY = ("absorb", "magnitude", "uniform")  # what becomes of relevance that a term has nothing to share for


class Rule:
    """Base class. A rule of your own overrides `terms` (three lines), or `backward` for anything else.

    `forward` and `backward` are the protocol that flows share: `backward` does what needs no relevance (it runs once
    for any number of targets) and returns the function that propagates. What that function would rather compute late,
    for the sake of memory, its attribute `prepare`, if it has one, computes at once: where several targets share it.
    """

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    at_zero = "unknown"  # "none": an input that is zero has no relevance, see `zeros`
    shows_kernel = False  # NaN or Inf in the kernel shows in the relevance, see `zeros`
    divides = True  # as flows that share in proportion do

    def __post_init__(self) -> None:
        check_stabilizer(self.stabilizer)
        if self.when_empty not in WHEN_EMPTY:
            raise ValueError(f"when_empty expects one of {WHEN_EMPTY}. Received: {self.when_empty!r}")

    @property
    def fallback(self) -> Rule | None:
        """The rule for outputs that a term has nothing to share for; None: their relevance is absorbed as "other"."""
        if self.when_empty == "magnitude":
            return Magnitude(self.stabilizer, self.zero_bias)
        return Flat(self.stabilizer) if self.when_empty == "uniform" else None

    def terms(self, op: Operator) -> list[Term]:
        """The rule as terms of x, w, b of `op`. `op.b` is 0.0 with `zero_bias`, `op.bias` never."""
        raise NotImplementedError(f"{type(self).__name__} defines neither terms() nor backward()")

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Operator]:
        """Outputs of the step, and what `backward` needs."""
        position = step.signals[0] if step.signals else 0  # all that it reads may be held
        x, rest = inputs[position], [t for i, t in enumerate(inputs) if i != position]
        if not x.dtype.is_floating:
            x = tf.cast(x, "float64" if step.op.compute_dtype == "float64" else "float32")
        kernel = rest.pop(0) if step.linear.kernel is None else None
        op = Operator(
            step, x, zero_bias=self.zero_bias, kernel=kernel, addend=None if step.addend is None else inputs[-1]
        )
        return [op.output], op

    def backward(self, step: Any, op: Operator) -> Propagate:
        """A function: (relevance of the outputs, account or None) -> relevance of the inputs."""
        terms = [dataclasses.replace(t, pairs=[(x, w) for x, w in t.pairs if x is not None]) for t in self.terms(op)]
        pairs = [(term, Denominator(op, term, self.stabilizer)) for term in terms]
        z = op.output if op.b is op.bias else op.z
        fallback = self.fallback
        hand_on = None if fallback is None else fallback.backward(step, op)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            total = None
            masked = False
            left = []  # for the fallback
            for term, denominator in pairs:
                relevance = relevances[0]
                # Not before relevance arrives, and large ones one after the other: the memory of one serves the next.
                with tf.control_dependencies([total] if op.large and total is not None else relevances):
                    stabilized = denominator.stabilized
                    if term.where is not None:
                        relevance = tf.where(term.where(z), relevance, tf.zeros([], relevance.dtype))
                        masked = True
                    if hand_on is not None:
                        empty, nothing = stabilized == denominator.epsilon, tf.zeros([], relevance.dtype)
                        left.append(term.weight * tf.where(empty, relevance, nothing))
                        relevance = tf.where(empty, nothing, relevance)
                g = ratio(relevance, stabilized, self.stabilizer)
                if term.weight != 1.0:  # of g, which needs no memory of its own
                    g = tf.constant(term.weight, g.dtype) * g
                part = op.share(term.pairs, g)
                total = part if total is None else total + part
                if account is not None:
                    _book(account, term, term.weight * relevance, g, denominator)
            if masked and (account is not None or hand_on is not None):
                covered = functools.reduce(tf.logical_or, [term.where(z) for term, _ in pairs])
                uncovered = tf.where(covered, tf.zeros_like(relevances[0]), relevances[0])
                left.append(uncovered)
                if hand_on is None:
                    account.add("other", uncovered)
            if left and hand_on is not None:
                total += hand_on([tf.add_n(left)], account)[step.signals[0]]
            return _at_signal(step, tf.zeros_like(op.x) if total is None else total)

        propagate.prepare = lambda: [d.stabilized for _, d in pairs] + getattr(hand_on, "prepare", list)()
        return propagate

    def __repr__(self) -> str:
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        shown = [_short(getattr(self, f.name)) for f in fields if f.metadata.get("always")]
        rest = [f for f in fields if not f.metadata.get("always") and getattr(self, f.name) != f.default]
        shown += [f"{f.name}={_short(getattr(self, f.name))}" for f in rest]
        return f"{type(self).__name__}({', '.join(shown)})"


def _at_signal(step: Any, relevance: tf.Tensor) -> list[tf.Tensor | None]:
    """Relevance for each input of the step: none for a kernel or bias that stands among them."""
    return [None if i in step.held else relevance for i in range(len(step.inputs))]


def _short(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    shape = getattr(value, "shape", ())
    return f"<array {tuple(shape)}>" if shape else repr(value)


def _book(account: Account, term: Term, relevance: tf.Tensor, g: tf.Tensor, denominator: Denominator) -> None:
    if present(term.bias):
        account.add("bias", g * term.bias)
    # An empty denominator has nothing to share: sum x' w' g is 0 whatever g is. So too where 0 / 0 was taken as 0.
    empty = (denominator.total if term.one_sided else denominator.stabilized) == 0
    empty = tf.broadcast_to(empty, tf.shape(relevance))
    zeros = tf.zeros_like(relevance)
    account.add("other", tf.where(empty, relevance, zeros))
    account.add("stabilizer", tf.where(empty, zeros, g * denominator.epsilon))


def _always(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"always": True})


# Of rules that multiply by x, as long as they have no fallback: the uniform one gives relevance to zeros.
_NONE_AT_ZERO = property(lambda rule: "none" if rule.when_empty == "absorb" else "unknown")


@dataclasses.dataclass(frozen=True, repr=False)
class Epsilon(Rule):
    """R_i = x_i sum_j w_ij R_j / s(z_j), with the bias in z (Bach et al. 2015, eq. 58)."""

    epsilon: float | Relative = _always(1e-6)
    zero_bias: bool = False
    at_zero = "none"
    shows_kernel = True

    def __post_init__(self) -> None:
        check_stabilizer(self.epsilon, "epsilon")

    @property
    def stabilizer(self) -> float | Relative:  # type: ignore[override]
        return self.epsilon

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(op.x, op.w)], op.b, sign=int(op.quiet))]


@dataclasses.dataclass(frozen=True, repr=False)
class Zero(Rule):
    """LRP-0: Epsilon with nothing but the stabiliser (Montavon et al. 2019, sec. 10.2.1)."""

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    at_zero = "none"
    shows_kernel = True

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(op.x, op.w)], op.b, sign=int(op.quiet))]


@dataclasses.dataclass(frozen=True, repr=False)
class AlphaBeta(Rule):
    """alpha times the positive contributions less beta times the negative ones (Bach et al. 2015, eq. 60).

    Signed inputs are split: x+ w+ and x- w- are the positive contributions. alpha - beta must be 1.

    Args:
        when_empty: what becomes of the relevance r_j (alpha R_j or -beta R_j) of an output j whose positive or negative
            part is exactly empty, because no contribution has that sign and the bias gives nothing either.
            "absorb": it ends there, and the books call it "other".
            "magnitude": |x_i w_ij| r_j / s(sum_i |x_i w_ij| + |b_j|), so that the contributions of the other sign take
            it over; where all of these are 0 as well, as for "uniform".
            "uniform": r_j / s(n_j) for each of the n_j inputs that the output sees, as `Flat` does.
            An output that sees nothing but padding keeps absorbing.
    """

    alpha: float = _always(2.0)
    beta: float = _always(1.0)
    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    at_zero = _NONE_AT_ZERO
    shows_kernel = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(
                "AlphaBeta expects alpha >= 0, beta >= 0 and alpha - beta = 1, so that relevance is conserved. "
                f"Received: alpha={self.alpha!r}, beta={self.beta!r}"
            )

    def terms(self, op: Operator) -> list[Term]:
        totals = (None, None)
        if self.alpha and self.beta and op.quiet and op.many:
            # Relevance arrives only where z > 0. There z+ = z - z- adds two positive numbers and never cancels, whereas
            # z- = z - z+ would lose a small z- altogether.
            totals = (lambda: op.explained - op.total_negative, lambda: op.total_negative)
        terms = []
        if self.alpha:
            pairs = [(op.positive, op.w_positive), (op.negative, op.w_negative)]
            terms.append(Term(pairs, positive(op.b), float(self.alpha), one_sided=True, sign=1, total=totals[0]))
        if self.beta:
            pairs = [(op.positive, op.w_negative), (op.negative, op.w_positive)]
            terms.append(Term(pairs, negative(op.b), -float(self.beta), one_sided=True, sign=-1, total=totals[1]))
        return terms


@dataclasses.dataclass(frozen=True, repr=False)
class ZPlus(Rule):
    """AlphaBeta(1, 0): positive contributions only (Montavon et al. 2017, deep Taylor decomposition)."""

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    at_zero = _NONE_AT_ZERO
    shows_kernel = True

    def terms(self, op: Operator) -> list[Term]:
        return AlphaBeta(1.0, 0.0).terms(op)


@dataclasses.dataclass(frozen=True, repr=False)
class Gamma(Rule):
    """Positive contributions weigh 1 + gamma where z > 0, negative ones where z < 0; z = 0 gives 0.

    The generalised rule of Andeol et al. 2021; for x >= 0 and z > 0 the classic one (Montavon et al. 2019).

    Args:
        when_empty: what becomes of relevance at z = 0, in the words of `AlphaBeta`.
    """

    gamma: float = _always(0.25)
    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    at_zero = _NONE_AT_ZERO
    shows_kernel = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise ValueError(f"Gamma expects gamma >= 0. Received: gamma={self.gamma!r}")

    def terms(self, op: Operator) -> list[Term]:
        gamma = float(self.gamma)
        # w + gamma w+ and w + gamma w-, in few passes. Never max(w, (1 + gamma) w) for the first: TensorFlow takes that
        # for a leaky ReLU whatever the factor.
        up, down = op.w + gamma * op.w_positive, tf.minimum(op.w, (1 + gamma) * op.w)
        bias_up, bias_down = op.b + gamma * positive(op.b), op.b + gamma * negative(op.b)
        pairs_up, pairs_down = [(op.positive, up), (op.negative, down)], [(op.positive, down), (op.negative, up)]
        if op.quiet:
            return [Term(pairs_up, bias_up, sign=1)]
        z = op.explained

        @functools.cache
        def boost(epsilon: float) -> tf.Tensor:
            return op.boosted(gamma, epsilon)

        # s(z + gamma z+) where z > 0, and s(z + gamma z-) with z- = z - z+ where z < 0: nothing cancels in either.
        return [
            Term(pairs_up, bias_up, where=lambda z: z > 0, sign=1, stabilized=lambda e: positive(z) + boost(e)),
            Term(
                pairs_down,
                bias_down,
                where=lambda z: z < 0,
                sign=-1,
                stabilized=lambda e: (1 + gamma) * negative(z) - boost(e),
            ),
        ]


@dataclasses.dataclass(frozen=True, repr=False)
class Flat(Rule):
    """Uniform over the inputs that the output sees (Lapuschkin et al. 2019); no bias, padding does not count."""

    stabilizer: float | Relative = 1e-6

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(1.0, tf.ones_like(op.w))], one_sided=True, sign=1)]

    def backward(self, step: Any, op: Operator) -> Propagate:
        if not op.mixes:
            return super().backward(step, op)
        # Every channel sees and gets the same: a box filter over the sum of the channels.
        axis, box = op.channels, tf.ones_like(op.w[..., :1, :1])
        seen = op.forward(op.channel(op.ones()), box) * op.x.shape[axis]
        epsilon = offset(seen, self.stabilizer)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            g = ratio(tf.reduce_sum(relevances[0], axis, keepdims=True), seen + epsilon, self.stabilizer)
            if account is not None:
                nothing = tf.zeros_like(g)  # an output that sees only padding has nothing to share
                account.add("other", tf.where(seen == 0, g * epsilon, nothing))
                account.add("stabilizer", tf.where(seen == 0, nothing, g * epsilon))
            part = op.transpose_at(op.channel(op.x), g, box)
            return _at_signal(step, tf.broadcast_to(part, tf.shape(op.x)))

        return propagate


@dataclasses.dataclass(frozen=True, repr=False)
class Magnitude(Rule):
    """|x w| over the sum of |x w| and |b|; where that is 0, as Flat. The fallback of `when_empty="magnitude"`."""

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "uniform"

    def terms(self, op: Operator) -> list[Term]:
        x = op.x if op.nonnegative else tf.abs(op.x)
        return [Term([(x, tf.abs(op.w))], tf.abs(op.b) if present(op.b) else 0.0, one_sided=True, sign=1)]


@dataclasses.dataclass(frozen=True, repr=False)
class WSquare(Rule):
    """w^2 over the sum of w^2 (Montavon et al. 2017); no bias, padding does not count."""

    stabilizer: float | Relative = 1e-6
    shows_kernel = True

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(1.0, tf.square(op.w))], one_sided=True, sign=1)]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ZBox(Rule):
    """x w - low w+ - high w- over its sum, for inputs in a box (Montavon et al. 2017); the bias cancels.

    Args:
        low, high: bounds of the step's own input: numbers, one per channel, or arrays shaped as one sample.
            (The presets take bounds of the model's input and carry them to the step.)
    """

    low: Any = _always(None)
    high: Any = _always(None)
    stabilizer: float | Relative = 1e-6
    shows_kernel = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is None or self.high is None:
            raise ValueError(
                "ZBox expects low and high, the bounds of its input, as in ZBox(low=0.0, high=1.0). "
                f"Received: low={self.low!r}, high={self.high!r}"
            )
        low, high = (_checked_bound(bound, name) for name, bound in self._pair())
        comparable = low is not None and high is not None and (low.shape == high.shape or 0 in (low.ndim, high.ndim))
        if comparable and (low > high).any():
            raise ValueError(
                f"low lies above high. Expected bounds with low <= high everywhere. Received: low={_short(self.low)}, "
                f"high={_short(self.high)}. Remedy: low is the least value of the input, high the greatest."
            )

    def bounds(self, op: Operator) -> tuple[tf.Tensor, tf.Tensor]:
        """low and high, broadcast over one sample: [1, ...]."""
        axis = op.entry.channel_axis(op.layer)
        return tuple(shape_bound(bound, name, op.x, axis) * op.ones() for name, bound in self._pair())

    def _pair(self) -> list[tuple[str, Any]]:
        return [("low", self.low), ("high", self.high)]

    def terms(self, op: Operator) -> list[Term]:
        low, high = self.bounds(op)
        # (x - low) w+ and (x - high) w-: both >= 0 for x in the box, so that nothing cancels.
        return [Term([(op.x - low, positive(op.w)), (op.x - high, negative(op.w))], one_sided=True)]


def _checked_bound(bound: Any, name: str) -> np.ndarray | None:
    """The numbers of a bound; None for those that are known in a graph only."""
    if tf.is_tensor(bound) and not hasattr(bound, "numpy"):
        return None
    try:
        values = np.asarray(bound, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number or an array of numbers. Received: {name}={bound!r}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite. Expected numbers. Received: {name}={bound!r}, with NaN or Inf in it")
    return values


def shape_bound(bound: Any, name: str, x: tf.Tensor, channel_axis: int) -> tf.Tensor:
    """`bound` shaped to broadcast against x [B, ...]: a number, one value per channel, or one sample's shape.

    Raises:
        ValueError: its shape fits none of these.
    """
    # Not through tf.cast: it would round a Python number to float32 first.
    value = tf.cast(bound, x.dtype) if tf.is_tensor(bound) else tf.constant(np.asarray(bound), x.dtype)
    rank = x.shape.rank
    channels = x.shape[channel_axis]
    if value.shape.rank == 0:
        return value
    if value.shape.rank == 1 and (channels is None or value.shape[0] == channels):
        return linear.along(value, channel_axis, rank)
    sample = x.shape[1:]
    if value.shape.rank == rank and value.shape[0] == 1:
        value = value[0]
    if value.shape.rank == rank - 1 and all(a in (1, b) or b is None for a, b in zip(value.shape, sample, strict=True)):
        return value[None]
    raise ValueError(
        f"ZBox: {name} must be a number, one value for each of {channels} channels, or an array of shape "
        f"{tuple(sample)}. Received: {name} of shape {tuple(value.shape)}"
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Pass(Rule):
    """R unchanged. Only for steps whose input and output have the same shape. It divides by nothing to stabilise."""

    stabilizer: float | Relative = 1e-6

    def backward(self, step: Any, op: Operator) -> Propagate:
        if op.x.shape[1:] != op.z.shape[1:]:
            raise ValueError(
                f"Pass expects a step whose input and output have the same shape. Received: {step.path!r}, "
                f"{tuple(op.x.shape[1:])} -> {tuple(op.z.shape[1:])}. Remedy: give this step another rule."
            )
        return lambda relevances, account: _at_signal(step, relevances[0])

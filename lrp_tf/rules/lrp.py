"""The rules of LRP, each as its formula (Montavon et al. 2019, "Layer-wise relevance propagation: an overview").

x input, w kernel, b bias, z = x w + b; x+ = max(x, 0) is `op.positive`, x- = min(x, 0) is `op.negative`, and so for w.
s(z) = z + epsilon sign(z) with sign(0) = +1. A term shares R_j out in proportion to its contributions:

    R_i = weight * x'_i sum_j w'_ij R_j / s(sum_i x'_i w'_ij + bias)_j
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import Relative, check_stabilizer, negative, positive
from lrp_tf.core.protocol import Propagate, ZeroInput
from lrp_tf.rules.base import Rule, at_signal, short
from lrp_tf.rules.boxes import Bound, checked_bound, shape_bound
from lrp_tf.rules.kernels import present
from lrp_tf.rules.operators import Operator
from lrp_tf.rules.terms import Term

# Epsilon's denominator is z, which may cancel: in bfloat16 it is none.
_SHARES = frozenset({"shares"})
_BOTH = frozenset({"sums", "shares"})


def _both_unless_emptiness_counts(rule: Rule) -> frozenset[str]:
    """Sums, too, where nothing but the size of the denominator matters: that one is empty shows in float32 alone."""
    return _BOTH if rule.when_empty == "absorb" else _SHARES


def _always(default: Any) -> Any:
    """A field that `repr` shows by its value, without its name, even where it is the default."""
    return dataclasses.field(default=default, metadata={"always": True})


@dataclasses.dataclass(frozen=True, repr=False)
class Epsilon(Rule):
    """R_i = x_i sum_j w_ij R_j / s(z_j) (Bach et al. 2015, eq. 58).

        explainer = lrp_tf.Explainer(model, rules.Epsilon(0.01))

    The bias is part of z_j.
    """

    epsilon: float | Relative = _always(1e-6)
    zero_bias: bool = False
    at_zero = ZeroInput.NONE
    shows_kernel = True
    local = True
    bears_bfloat16 = _SHARES

    def __post_init__(self) -> None:
        check_stabilizer(self.epsilon, "epsilon")

    @property
    def stabilizer(self) -> float | Relative:  # type: ignore[override]
        return self.epsilon

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(op.x, op.w)], op.b)]


@dataclasses.dataclass(frozen=True, repr=False)
class Zero(Rule):
    """LRP-0, R_i = x_i sum_j w_ij R_j / s(z_j) (Montavon et al. 2019).

        explainer = lrp_tf.Explainer(model, rules.Zero())

    It is Epsilon with nothing but the stabiliser.
    """

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    at_zero = ZeroInput.NONE
    shows_kernel = True
    local = True
    bears_bfloat16 = _SHARES

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(op.x, op.w)], op.b)]


class _WithFallback(Rule):
    """A rule that multiplies by x; `when_empty` names the rule for what its terms have nothing to share for."""

    shows_kernel = True

    @property
    def fallback(self) -> Rule | None:
        if self.when_empty == "magnitude":
            return Magnitude(self.stabilizer, self.zero_bias)
        return Flat(self.stabilizer) if self.when_empty == "uniform" else None

    @property
    def at_zero(self) -> ZeroInput:  # type: ignore[override]
        """An input of zero has relevance from the uniform fallback alone."""
        return ZeroInput.NONE if self.when_empty == "absorb" else ZeroInput.UNKNOWN


@dataclasses.dataclass(frozen=True, repr=False)
class AlphaBeta(_WithFallback):
    """alpha times the positive contributions less beta times the negative ones (Bach et al. 2015, eq. 60).

        R_i = alpha (x+ w+ + x- w-) / s(sum ... + b+)  -  beta (x+ w- + x- w+) / s(sum ... + b-)

    alpha - beta must be 1, so that relevance is conserved.

        composites.Composite([(composites.convolutions(), rules.AlphaBeta(alpha=2, beta=1)),
                              (None, rules.Epsilon())])

    Args:
        when_empty: what becomes of the relevance r_j (alpha R_j or -beta R_j) of an output j whose positive or negative
            part is exactly empty, because no contribution has that sign and the bias gives nothing either.
            "absorb": it ends there, and the books call it "other".
            "magnitude": |x_i w_ij| r_j / s(sum_i |x_i w_ij| + |b_j|), so that the contributions of the other sign take
            it over; where all of these are 0 as well, as for "uniform".
            "uniform": r_j / s(n_j) for each of the n_j inputs that the output sees, as `Flat` does.
            An output that sees nothing but padding keeps absorbing.

    Raises:
        ValueError: alpha or beta below 0, or alpha - beta is not 1.
    """

    alpha: float = _always(2.0)
    beta: float = _always(1.0)
    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    local = True
    bears_bfloat16 = property(_both_unless_emptiness_counts)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(
                "AlphaBeta expects alpha >= 0, beta >= 0 and alpha - beta = 1, so that relevance is conserved. "
                f"Received: alpha={self.alpha!r}, beta={self.beta!r}"
            )

    def terms(self, op: Operator) -> list[Term]:
        gains = [(op.positive, op.w_positive)]
        if op.negative is not None:
            gains.append((op.negative, op.w_negative))
        terms = [Term(gains, positive(op.b), weight=float(self.alpha), one_sided=True)]
        if self.beta:
            losses = [(op.positive, op.w_negative), (op.negative, op.w_positive)]
            terms.append(Term(losses, negative(op.b), weight=-float(self.beta), one_sided=True))
        return terms


@dataclasses.dataclass(frozen=True, repr=False)
class ZPlus(_WithFallback):
    """AlphaBeta(1, 0): R_i = (x+ w+ + x- w-) / s(sum ... + b+).

        composites.Composite([(composites.convolutions(), rules.ZPlus()),
                              (None, rules.Epsilon())])

    The rule of deep Taylor decomposition (Montavon et al. 2017).
    """

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    local = True
    bears_bfloat16 = property(_both_unless_emptiness_counts)

    def terms(self, op: Operator) -> list[Term]:
        return AlphaBeta(1.0, 0.0).terms(op)


@dataclasses.dataclass(frozen=True, repr=False)
class Gamma(_WithFallback):
    """Positive contributions weigh 1 + gamma where z > 0, negative ones where z < 0; z = 0 gives 0.

        z > 0:  R_i = x+ (w + gamma w+) + x- (w + gamma w-)  over its sum + (b + gamma b+)
        z < 0:  R_i = x+ (w + gamma w-) + x- (w + gamma w+)  over its sum + (b + gamma b-)

    The generalised rule of Andeol et al. 2021; for x >= 0 and z > 0 the classic one (Montavon et al. 2019).

        composites.Composite([(composites.convolutions(), rules.Gamma(gamma=0.25)),
                              (None, rules.Epsilon())])

    Args:
        when_empty: what becomes of relevance at z = 0, in the words of `AlphaBeta`.

    Raises:
        ValueError: gamma below 0.
    """

    gamma: float = _always(0.25)
    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "absorb"
    local = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise ValueError(f"Gamma expects gamma >= 0. Received: gamma={self.gamma!r}")

    @property
    def bears_bfloat16(self) -> frozenset[str]:  # type: ignore[override]
        """The shortcut adds gamma z+ to z, so that nothing cancels; it has none for `Relative`."""
        return _SHARES if isinstance(self.stabilizer, Relative) else _both_unless_emptiness_counts(self)

    def terms(self, op: Operator) -> list[Term]:
        gamma = float(self.gamma)
        up, down = op.w + gamma * op.w_positive, op.w + gamma * op.w_negative
        bias_up, bias_down = op.b + gamma * positive(op.b), op.b + gamma * negative(op.b)
        return [
            Term([(op.positive, up), (op.negative, down)], bias_up, where=lambda z: z > 0),
            Term([(op.positive, down), (op.negative, up)], bias_down, where=lambda z: z < 0),
        ]


@dataclasses.dataclass(frozen=True, repr=False)
class Flat(Rule):
    """R_i = sum_j R_j / s(n_j): uniform over the n_j inputs that an output sees (Lapuschkin et al. 2019).

        composites.Composite([(composites.first_convolution(), rules.Flat()),
                              (None, rules.Epsilon())])

    The bias takes no part, and padding does not count.
    """

    stabilizer: float | Relative = 1e-6
    local = True

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(1.0, tf.ones_like(op.w))], one_sided=True)]


@dataclasses.dataclass(frozen=True, repr=False)
class Magnitude(_WithFallback):
    """R_i = |x_i w_ij| R_j / s(sum |x w| + |b|); where that is 0, as Flat. For `when_empty="magnitude"`."""

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    when_empty: str = "uniform"
    shows_kernel = False

    def terms(self, op: Operator) -> list[Term]:
        x = op.x if op.nonnegative else tf.abs(op.x)
        return [Term([(x, tf.abs(op.w))], tf.abs(op.b) if present(op.b) else 0.0, one_sided=True)]


@dataclasses.dataclass(frozen=True, repr=False)
class WSquare(Rule):
    """R_i = sum_j w_ij^2 R_j / s(sum_i w_ij^2) (Montavon et al. 2017).

        composites.Composite([(composites.first_convolution(), rules.WSquare()),
                              (None, rules.Epsilon())])

    No bias takes part, and padding does not count.
    """

    stabilizer: float | Relative = 1e-6
    shows_kernel = True
    local = True
    bears_bfloat16 = _BOTH

    def terms(self, op: Operator) -> list[Term]:
        return [Term([(1.0, tf.square(op.w))], one_sided=True)]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ZBox(Rule):
    """x w - low w+ - high w- over its sum, for inputs in a box (Montavon et al. 2017); the bias cancels.

        R_i = (x - low) w+ + (x - high) w-  over its sum

    Both summands are >= 0 for x in the box, so that nothing cancels.

        composites.Composite([(composites.first(), rules.ZBox(low=0.0, high=1.0)),
                              (None, rules.Epsilon())])

    Args:
        low, high: bounds of the step's own input: numbers, one per channel, or arrays shaped as one sample.
            (The presets take bounds of the model's input and carry them to the step.)

    Raises:
        ValueError: a bound is missing or no finite number, or low lies above high.
    """

    low: Bound = _always(None)
    high: Bound = _always(None)
    stabilizer: float | Relative = 1e-6
    shows_kernel = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is None or self.high is None:
            raise ValueError(
                "ZBox expects low and high, the bounds of its input, as in ZBox(low=0.0, high=1.0). "
                f"Received: low={self.low!r}, high={self.high!r}"
            )
        low, high = checked_bound(self.low, "low"), checked_bound(self.high, "high")
        if low is None or high is None or not (low.shape == high.shape or 0 in (low.ndim, high.ndim)):
            return  # cannot be compared here
        if (low > high).any():
            raise ValueError(
                f"low lies above high. Expected bounds with low <= high everywhere. Received: low={short(self.low)}, "
                f"high={short(self.high)}. Remedy: low is the least value of the input, high the greatest."
            )

    def bounds(self, op: Operator) -> tuple[tf.Tensor, tf.Tensor]:
        """low and high, broadcast over one sample: [1, ...]."""
        low = shape_bound(self.low, "low", op.x, op.channels)
        high = shape_bound(self.high, "high", op.x, op.channels)
        return low * op.ones(), high * op.ones()

    def terms(self, op: Operator) -> list[Term]:
        low, high = self.bounds(op)
        return [Term([(op.x - low, positive(op.w)), (op.x - high, negative(op.w))], one_sided=True)]


@dataclasses.dataclass(frozen=True, repr=False)
class Pass(Rule):
    """R_i = R_i, only for steps whose input and output have the same shape.

        entries = [(composites.of_type(keras.layers.DepthwiseConv2D), rules.Pass()),
                   (None, rules.Epsilon())]

    It divides by nothing that needs a stabiliser.
    """

    stabilizer: float | Relative = 1e-6

    def backward(self, step: Step, op: Operator) -> Propagate:
        if op.x.shape[1:] != op.z.shape[1:]:
            raise ValueError(
                f"Pass expects a step whose input and output have the same shape. Received: {step.path!r}, "
                f"{tuple(op.x.shape[1:])} -> {tuple(op.z.shape[1:])}. Remedy: give this step another rule."
            )
        return lambda relevances, account: at_signal(step, relevances[0])


@dataclasses.dataclass(frozen=True, repr=False)
class Jacobian(Rule):
    """R_i = sum_j w_ij R_j, the gradient: no rule of LRP, but what `lrp_tf.gradients` compares them with.

    It divides by nothing to stabilise and conserves nothing: the change of the sum of relevance is booked as "other".
    """

    stabilizer: float | Relative = 1e-6
    shows_kernel = True
    local = True
    divides = False

    def backward(self, step: Step, op: Operator) -> Propagate:
        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            sent = op.share([(1.0, op.w)], relevances[0])
            if account is not None:
                account.add("other", relevances[0])
                account.add("other", -sent)
            return at_signal(step, sent)

        return propagate

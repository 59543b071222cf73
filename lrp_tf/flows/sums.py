"""Sums and products: relevance is shared in proportion to the contributions."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from lrp_tf import rules
from lrp_tf.core.account import Account
from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.numerics import Relative, check_stabilizer, offset, ratio, vjp
from lrp_tf.core.protocol import Handler, Propagate, Saved, ZeroInput
from lrp_tf.flows.base import (
    UNBOUNDED,
    Flow,
    Interval,
    Kept,
    aligned,
    book_division,
    hull,
    numbers,
    replaced,
    scatter,
    unbroadcast,
)


@dataclasses.dataclass(frozen=True)
class Summed(Saved):
    """What a sum keeps. `rectified` is relu(output) if relevance arrives only where the output is above zero."""

    inputs: list[tf.Tensor]
    output: tf.Tensor
    rectified: tf.Tensor | None


@dataclasses.dataclass(frozen=True, repr=False)
class Share(Flow):
    """Epsilon over the true contributions of an affine step: Add, Average, average pooling.

    R_i = c_i R / s(z), where z is the sum of the contributions c_i. A constant among the arguments (x + 3) absorbs its
    share as a bias does.

    Args:
        bounds: how the bounds of the output follow from those of the inputs: "sum", "difference", "hull", "sign" (what
            is >= 0 stays so), or "", unknown.
        stabilizer: epsilon of s(z) = z + epsilon sign(z), a number >= 0 or `Relative`.
    """

    bounds: str = dataclasses.field(default="", repr=False)
    stabilizer: float | Relative = 1e-6
    at_zero = ZeroInput.NONE
    divides = True

    def __post_init__(self) -> None:
        check_stabilizer(self.stabilizer)

    def linear_map(self, step: Step, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor] | None:
        """The map whose contributions are shared; None: the step's own."""
        return None

    def has_offset(self, step: Step) -> bool:
        """Whether the map is affine and not linear."""
        return step.has_constants

    def parts(self, step: Step) -> int:
        """The number of signals, each of which alone makes the whole sum; 1 for a sum of their contributions."""
        return 1

    def transpose(
        self, step: Step, function: Callable[..., tf.Tensor], values: list[tf.Tensor], g: tf.Tensor
    ) -> list[tf.Tensor]:
        """The transpose of the map `function` at `values`, applied to g."""
        return vjp(function, values, g)

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Summed]:
        outputs, (inputs, _) = super().forward(step, inputs)
        # Only z above zero matters: relu(z), which the ReLU behind the step reuses, is kept instead of z.
        above = step.marks.positive_only and keeps_rectified(self)
        return outputs, Summed(inputs, outputs[0], tf.nn.relu(outputs[0]) if above else None)

    def backward(self, step: Step, saved: Summed) -> Propagate:
        inputs, output = saved.inputs, saved.output if saved.rectified is None else saved.rectified
        signals = step.signals
        dtype = output.dtype if output.dtype in (tf.float32, tf.float64) else tf.float32  # for uint8 images
        dtype = dtype if output.dtype.is_floating else tf.float64  # for positions counted from an integer mask
        inputs = [x if x.dtype.is_floating or i in step.held else tf.cast(x, dtype) for i, x in enumerate(inputs)]
        call = self.linear_map(step, inputs)
        z = output if call is None else call(*inputs)
        z = z if z.dtype.is_floating else tf.cast(z, dtype)
        function = lambda *values: (call or step.call)(*replaced(inputs, signals, values))  # noqa: E731
        values = [inputs[i] for i in signals]
        if saved.rectified is None:
            epsilon = offset(z, self.stabilizer, step.outputs[0].axis)
        else:
            epsilon = tf.constant(self.stabilizer, z.dtype)
        parts = self.parts(step)
        plain = step.marks.savings and is_plain_sum(step)  # then no transpose needs to be traced

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            relevance = tf.cast(relevances[0], z.dtype)
            g = ratio(relevance, z + epsilon, self.stabilizer)
            if account is not None:
                book_division(account, relevance, g, z + epsilon, epsilon, self.stabilizer)
                if self.has_offset(step):
                    offset_alone = function(*[tf.zeros_like(x) for x in values])
                    account.add("bias", tf.math.multiply_no_nan(offset_alone, g))  # a mask may add -Inf
            shares = (
                [g] * len(values) if plain else self.transpose(step, function, values, g / parts if parts > 1 else g)
            )
            found = [tf.cast(x * share, relevances[0].dtype) for x, share in zip(values, shares, strict=True)]
            return scatter(step, signals, found)

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        if self.bounds == "difference":
            return _difference(step, intervals)
        intervals = [*intervals, *((n, n) for n in numbers(step))]
        if self.bounds == "sum":
            return sum(low for low, _ in intervals), sum(high for _, high in intervals)
        if self.bounds == "sign":
            return (0, math.inf) if all(low >= 0 for low, _ in intervals) else UNBOUNDED
        return hull(intervals) if self.bounds == "hull" else UNBOUNDED


def _difference(step: Step, intervals: list[Interval]) -> Interval:
    """Bounds of a - b, either of which may be a number."""
    known = iter(intervals)
    flat = [a for a in keras.tree.flatten(step.args) if isinstance(a, (Ref, int, float))]
    if len(flat) != 2:  # given by keyword
        return UNBOUNDED
    (low, high), (least, most) = ((float(a), float(a)) if isinstance(a, (int, float)) else next(known) for a in flat)
    return low - most, high - least


def keeps_rectified(handler: Handler) -> bool:
    """Whether a flow needs no more of its sum z than relu(z): a `Relative` stabiliser needs all of z."""
    if not isinstance(handler, Share) or isinstance(handler.stabilizer, Relative):
        return False
    own = type(handler)
    return own.linear_map is Share.linear_map and own.forward is Share.forward and own.backward is Share.backward


def is_plain_sum(step: Step) -> bool:
    """Whether a step adds tensors of one shape. The relevance of each is then its value times a common factor."""
    if step.kind not in ("ops.Add", keras.layers.Add):
        return False
    shapes = {step.outputs[0].shape, *(step.inputs[i].shape for i in step.signals)}
    return len(shapes) == 1 and None not in step.outputs[0].shape


@dataclasses.dataclass(frozen=True, repr=False)
class Contraction(Share):
    """A product that sums, of two signals: matmul, einsum, Dot. They share R equally, each in proportion.

    z_j = sum_i x_i w_ij with x and w both signals: R_i = x_i sum_j w_ij R_j / (2 s(z_j)), and likewise for w.

    Args:
        gates: which factors are held and leave all to the other one, see `factors`: by default a gate, as the weights
            of an attention are one.
    """

    gates: str = "held"
    at_zero = ZeroInput.UNKNOWN

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gates(self.gates)

    def enters(self, step: Step) -> tuple[int, ...]:
        return factors(step, self.gates)

    def has_offset(self, step: Step) -> bool:
        return False

    def parts(self, step: Step) -> int:
        return len(step.signals)

    def linear_map(self, step: Step, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor] | None:
        layer = step.op
        if not getattr(layer, "normalize", False):
            return None
        # Dot(normalize=True): the norms are held constant.
        axes = layer.axes if isinstance(layer.axes, (list, tuple)) else [layer.axes] * 2
        dot = keras.layers.Dot(layer.axes, name="dot")
        scales = [
            tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axis, keepdims=True), 1e-12))
            for x, axis in zip(inputs, axes, strict=True)
        ]
        return lambda *values: dot.call([x * scale for x, scale in zip(values, scales, strict=True)])


GATES = ("held", "share", "activated")
BY_VALUE = ("proportional", "absolute")  # of products alone


def check_gates(gates: str, known: tuple[str, ...] = GATES) -> None:
    """Raise ValueError unless `gates` is one of those that are known."""
    if gates not in known:
        raise ValueError(f"gates expects one of {known}. Received: {gates!r}")


def factors(step: Step, gates: str) -> tuple[int, ...]:
    """The signals of a product that take relevance; all, if every one of them would be held.

    Args:
        gates: "held": a gate is held (in [0, 1] by a sigmoid or softmax, or a scale by rsqrt or reciprocal).
            "share", "proportional", "absolute": it shares as a signal does; what only weighs is held (scales, masks,
            the function f in x f(x)).
            "activated": gates are held, what only weighs, and what an activation function gave, as in silu(g) u.
    """
    known = {"held": [step.gates], "activated": [step.activated, step.gates, step.scales]}
    weights = known.get(gates, [step.scales])
    for first in range(len(weights)):  # where nothing else is left, what an activation gave is a signal
        held = {i for positions in weights[first:] for i in positions}
        if others := tuple(i for i in step.signals if i not in held):
            return others
    return tuple(step.signals)


def shared_equally(step: Step, inputs: list[tf.Tensor], positions: list[int]) -> Propagate:
    """R / n for each of the n inputs at `positions`."""

    def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        r = relevances[0] / len(positions) if len(positions) > 1 else relevances[0]
        return scatter(step, positions, [unbroadcast(step, r, inputs[i]) for i in positions])

    return propagate


@dataclasses.dataclass(frozen=True, repr=False)
class Product(Flow):
    """An element-wise product: several signals share R equally, a constant gets none.

    Args:
        gates: which factors are held and leave all to the other ones, see `factors`: by default gates, in [0, 1] by a
            sigmoid or softmax, as in LRP-all of Arras et al. 2019. With "share" (LRP-half) a gate g and its signal v
            get half each; with "proportional" (LRP-prop) R_g = g R / s(g + v), and with "absolute" (LRP-abs)
            R_g = |g| R / s(|g| + |v|), and likewise for v.
        stabilizer: epsilon of s(z) = z + epsilon sign(z) for the last two, a number >= 0 or `Relative`.
    """

    gates: str = "held"
    stabilizer: float | Relative = 1e-6
    transparent = True
    at_zero = ZeroInput.MOVES

    def __post_init__(self) -> None:
        check_gates(self.gates, (*GATES, *BY_VALUE))
        check_stabilizer(self.stabilizer)

    @property
    def divides(self) -> bool:  # type: ignore[override]
        """|g| + |v| does not cancel."""
        return self.gates == "proportional"

    def with_stabilizer(self, stabilizer: float | Relative) -> Flow:
        return super().with_stabilizer(stabilizer) if self.gates in BY_VALUE else self

    def enters(self, step: Step) -> tuple[int, ...]:
        """None, if gates are held and what they weigh is a constant of each sample, such as a state to begin with."""
        found = factors(step, self.gates)
        held = self.gates == "held" and set(found) <= set(step.gates)
        weighed = set(step.constant) - {*step.scales, *step.gates}
        return () if held and any(step.inputs[i].batched for i in weighed) else found

    def backward(self, step: Step, saved: Kept) -> Propagate:
        signals = step.signals
        by_value = self.gates in BY_VALUE and len(signals) > 1 and not set(signals).isdisjoint(step.gates)
        return self._by_value(step, saved) if by_value else shared_equally(step, saved[0], signals)

    def _by_value(self, step: Step, saved: Kept) -> Propagate:
        inputs, (y,) = saved
        signals = step.signals
        values = [aligned(step, inputs[i], y.shape.rank) for i in signals]
        values = [tf.abs(v) for v in values] if self.gates == "absolute" else values
        total = functools.reduce(lambda a, b: a + b, values)
        epsilon = offset(total, self.stabilizer, step.outputs[0].axis)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            g = ratio(relevances[0], total + epsilon, self.stabilizer)
            if account is not None:
                book_division(account, relevances[0], g, total + epsilon, epsilon, self.stabilizer)
            found = [unbroadcast(step, v * g, inputs[i]) for i, v in zip(signals, values, strict=True)]
            return scatter(step, signals, found)

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        low, high = 1.0, 1.0
        for a, b in (*intervals, *((n, n) for n in numbers(step))):
            ends = [0.0 if 0 in (p, q) else p * q for p in (low, high) for q in (a, b)]
            low, high = min(ends), max(ends)
        return low, high


class Negation(Product):
    """-x: R unchanged."""

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        ((low, high),) = intervals
        return -high, -low


class Quotient(Product):
    """x / y: R goes to the numerator; the denominator is held constant like the scale of a normalisation.

    With `gates="held"` and a gate as numerator, R goes to the denominator.
    """

    def enters(self, step: Step) -> tuple[int, ...]:
        return super().enters(step)[:1]

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        divisors = numbers(step)
        if len(intervals) == 1 and len(divisors) == 1 and not isinstance(step.args[0], (int, float)) and divisors[0]:
            low, high = sorted(end / divisors[0] for end in intervals[0])
            return low, high
        positive = all(low >= 0 for low, _ in intervals) and all(n >= 0 for n in divisors)
        return (0, math.inf) if positive else UNBOUNDED


@dataclasses.dataclass(frozen=True, repr=False)
class Affine(Flow):
    """Epsilon for an affine step that folds into no neighbour, for example BatchNormalization after a sum.

    Args:
        stabilizer: epsilon of s(z) = z + epsilon sign(z), a number >= 0 or `Relative`.
    """

    stabilizer: float | Relative = 1e-6
    divides = True

    def __post_init__(self) -> None:
        check_stabilizer(self.stabilizer)

    @property
    def rule(self) -> rules.Epsilon:
        return rules.Epsilon(self.stabilizer)

    def enters(self, step: Step) -> tuple[int, ...]:
        return self.rule.enters(step)

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], rules.Operator]:
        return self.rule.forward(step, inputs)

    def backward(self, step: Step, saved: rules.Operator) -> Propagate:
        return self.rule.backward(step, saved)


class Winner(Flow):
    """Element-wise maximum or minimum: R goes to the first of the inputs that gave the value."""

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, (y,) = saved

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            left = relevances[0]
            found: list[tf.Tensor | None] = []
            for i, x in enumerate(inputs):
                part = tf.where(
                    tf.equal(tf.cast(aligned(step, x, y.shape.rank), y.dtype), y), left, tf.zeros_like(left)
                )
                left -= part
                if i in step.held:
                    found.append(None)
                    if account is not None:
                        account.add("bias", part)
                else:
                    found.append(unbroadcast(step, part, x))
            if account is not None and numbers(step):
                account.add("bias", left)
            return found

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return hull([*intervals, *((n, n) for n in numbers(step))])

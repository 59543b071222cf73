"""Sums and products: relevance is shared in proportion to the contributions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from lrp_tf import rules
from lrp_tf.core.account import Account
from lrp_tf.core.numerics import offset, vjp
from lrp_tf.core.protocol import Propagate, Saved
from lrp_tf.flows.base import UNBOUNDED, Flow, Interval, aligned, hull, numbers, replaced, scatter, unbroadcast
from lrp_tf.flows.moves import Pad


@dataclasses.dataclass(frozen=True)
class Summed(Saved):
    """What a sum keeps. rectified: its output where that is above zero, 0 elsewhere; None where all of it matters."""

    inputs: list[tf.Tensor]
    output: tf.Tensor
    rectified: tf.Tensor | None


@dataclasses.dataclass(frozen=True, repr=False)
class Share(Flow):
    """Epsilon(1e-6) over the true contributions of an affine step: Add, Average, average pooling.

    A constant among the arguments (x + 3) absorbs its share as a bias does.

    Args:
        bounds: how the bounds of the output follow from those of the inputs: "sum", "hull", "sign" (what is >= 0 stays
            so), or "", unknown.
    """

    bounds: str = ""
    epsilon = 1e-6
    at_zero = "none"
    divides = True

    def linear_map(self, step: Any, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor] | None:
        """The map whose contributions are shared; None: the step's own."""
        return None

    def has_offset(self, step: Any) -> bool:
        """Whether the map is affine and not linear."""
        return step.has_constants and not self.multiplies

    def _quiet(self, step: Any) -> bool:
        return step.marks.positive_only and type(self).linear_map is Share.linear_map

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        outputs, (inputs, _) = super().forward(step, inputs)
        # Of z what is above zero matters: the ReLU's own output, so that z need not be kept.
        return outputs, Summed(inputs, outputs[0], tf.nn.relu(outputs[0]) if self._quiet(step) else None)

    def backward(self, step: Any, saved: Summed) -> Propagate:
        inputs, output = saved.inputs, saved.output if saved.rectified is None else saved.rectified
        signals = step.signals
        dtype = tf.float64 if getattr(step.op, "compute_dtype", None) == "float64" else tf.float32  # of uint8 images
        inputs = [x if x.dtype.is_floating or i in step.held else tf.cast(x, dtype) for i, x in enumerate(inputs)]
        call = self.linear_map(step, inputs)
        z = output if call is None else call(*inputs)
        function = lambda *values: (call or step.call)(*replaced(inputs, signals, values))  # noqa: E731
        values = [inputs[i] for i in signals]
        epsilon = tf.constant(self.epsilon, z.dtype) if self._quiet(step) else offset(z, self.epsilon)
        parts = len(signals) if self.multiplies else 1
        plain = is_plain_sum(step)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            g = relevances[0] / (z + epsilon)
            if account is not None:
                account.add("stabilizer", g * epsilon)
                if self.has_offset(step):
                    account.add("bias", g * function(*[tf.zeros_like(x) for x in values]))
            shares = [g] * len(values) if plain else vjp(function, values, g / parts if parts > 1 else g)
            return scatter(step, signals, [x * share for x, share in zip(values, shares, strict=True)])

        return propagate

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        intervals = [*intervals, *((n, n) for n in numbers(step))]
        if self.bounds == "sum":
            return sum(low for low, _ in intervals), sum(high for _, high in intervals)
        if self.bounds == "sign":
            return (0, math.inf) if all(low >= 0 for low, _ in intervals) else UNBOUNDED
        return hull(intervals) if self.bounds == "hull" else UNBOUNDED


def is_plain_sum(step: Any) -> bool:
    """Whether a step adds tensors of one shape: relevance of each is then its own value times what is common."""
    if step.kind not in ("ops.Add", keras.layers.Add):
        return False
    shapes = {step.outputs[0].shape, *(step.inputs[i].shape for i in step.signals)}
    return len(shapes) == 1 and None not in step.outputs[0].shape


class Resample(Share):
    """Resizing and upsampling: nearest neighbours move R with the values, interpolation shares it."""

    def linear_map(self, step: Any, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor] | None:
        # TensorFlow interpolates in float32 whatever it is given, and some of its gradients take nothing else.
        return lambda x: tf.cast(step.call(tf.cast(x, tf.float32)), x.dtype)

    def backward(self, step: Any, saved: Any) -> Propagate:
        if self.moves(step):
            return Pad().backward(step, (saved.inputs, [saved.output]))
        return super().backward(step, saved)

    def moves(self, step: Any) -> bool:
        """Whether the step only moves values."""
        if isinstance(step.op, keras.layers.CenterCrop):  # what is smaller than the crop is resized
            pairs = zip(step.inputs[0].shape, step.outputs[0].shape, strict=True)
            return all(before is not None and after is not None and before >= after for before, after in pairs)
        return step.op.interpolation == "nearest"

    def has_offset(self, step: Any) -> bool:
        return getattr(step.op, "pad_to_aspect_ratio", False)  # with fill_value


class Contraction(Share):
    """A product that sums, of two signals: matmul, einsum, Dot. They share R equally, each in proportion.

    A gate, as the weights of an attention, is held constant and leaves all to the other.
    """

    multiplies = True
    at_zero = "unknown"

    def linear_map(self, step: Any, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor] | None:
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


class Product(Flow):
    """An element-wise product. A gate or a constant is held, R goes to the signal; several signals share it equally."""

    multiplies = True
    transparent = True
    at_zero = "moves"

    def backward(self, step: Any, saved: Any) -> Propagate:
        inputs, _ = saved
        signals = self.takers(step)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            r = relevances[0] / len(signals) if len(signals) > 1 else relevances[0]
            return scatter(step, signals, [unbroadcast(step, r, inputs[i]) for i in signals])

        return propagate

    def takers(self, step: Any) -> list[int]:
        """Positions of the inputs that relevance goes to."""
        return step.signals

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        low, high = 1.0, 1.0
        for a, b in (*intervals, *((n, n) for n in numbers(step))):
            ends = [0.0 if 0 in (p, q) else p * q for p in (low, high) for q in (a, b)]
            low, high = min(ends), max(ends)
        return low, high


class Negation(Product):
    """-x: R unchanged."""

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        ((low, high),) = intervals
        return -high, -low


class Quotient(Product):
    """x / y: R goes to the numerator; the denominator is held constant like the scale of a normalisation."""

    def takers(self, step: Any) -> list[int]:
        return step.signals[:1]

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        divisors = numbers(step)
        if len(intervals) == 1 and len(divisors) == 1 and not isinstance(step.args[0], (int, float)) and divisors[0]:
            low, high = sorted(end / divisors[0] for end in intervals[0])
            return low, high
        positive = all(low >= 0 for low, _ in intervals) and all(n >= 0 for n in divisors)
        return (0, math.inf) if positive else UNBOUNDED


class Affine(Flow):
    """An affine step that no neighbour could take in (BatchNormalization after a sum, say): Epsilon(1e-6)."""

    rule = rules.Epsilon()
    divides = True

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        return self.rule.forward(step, inputs)

    def backward(self, step: Any, saved: Any) -> Propagate:
        return self.rule.backward(step, saved)


class Winner(Flow):
    """Element-wise maximum or minimum: R goes to the first of the inputs that gave the value."""

    def backward(self, step: Any, saved: Any) -> Propagate:
        inputs, (y,) = saved

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            left, found = relevances[0], []
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

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        return hull([*intervals, *((n, n) for n in numbers(step))])

"""Signed stabiliser, positive and negative parts, and the account of what a step absorbs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util, record

Number = float | tf.Tensor


@dataclasses.dataclass(frozen=True)
class Relative:
    """A stabiliser relative to the activations: `fraction` times the root mean square of the
    denominator over each sample (all axes but the first).

    An absolute epsilon swallows the relevance of nets with tiny activations; a relative one does not.
    """

    fraction: float = 0.25

    def __post_init__(self) -> None:
        if not self.fraction >= 0:
            raise ValueError(f"Relative expects a fraction >= 0. Received: {self.fraction!r}")

    def __repr__(self) -> str:
        return f"Relative({self.fraction:g})"


def check_stabilizer(value: float | Relative, name: str = "stabilizer") -> None:
    """Raise ValueError unless `value` is a number >= 0 or a `Relative`."""
    if isinstance(value, Relative):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number >= 0 or rules.Relative(fraction). Received: {name}={value!r}")


def sign(z: tf.Tensor) -> tf.Tensor:
    """+1 where z >= 0 (zero included), -1 elsewhere."""
    one = tf.ones([], z.dtype)
    return tf.where(z >= 0, one, -one)


def offset(z: tf.Tensor, stabilizer: float | Relative) -> tf.Tensor:
    """The signed stabiliser epsilon * sign(z) that s(z) adds to z."""
    if isinstance(stabilizer, Relative):
        # The batch axis stays: no sample may change its neighbour's epsilon.
        axes = list(range(1, z.shape.rank))
        mean_square = tf.reduce_mean(tf.square(z), axis=axes, keepdims=True)
        return tf.constant(stabilizer.fraction, z.dtype) * tf.sqrt(mean_square) * sign(z)
    # tf.constant and not tf.cast: a cast to float64 would go through float32.
    return tf.constant(stabilizer, z.dtype) * sign(z)


def stabilize(z: tf.Tensor, stabilizer: float | Relative) -> tf.Tensor:
    """s(z) = z + epsilon * sign(z), with sign(0) = +1."""
    return z + offset(z, stabilizer)


def ratio(relevance: tf.Tensor, denominator: tf.Tensor, stabilizer: float | Relative) -> tf.Tensor:
    """relevance / denominator; where only a vanishing stabiliser stands in the denominator, 0 / 0 is 0."""
    if isinstance(stabilizer, Relative) or stabilizer == 0:
        return tf.math.divide_no_nan(relevance, denominator)
    return relevance / denominator


def positive(value: Number) -> Number:
    """max(value, 0), for tensors and plain numbers."""
    return max(value, 0.0) if isinstance(value, float) else tf.nn.relu(value)


def negative(value: Number) -> Number:
    """min(value, 0), for tensors and plain numbers."""
    return min(value, 0.0) if isinstance(value, float) else tf.minimum(value, tf.zeros([], value.dtype))


def sample_sum(value: tf.Tensor, batch: tf.Tensor | None = None, dtype: tf.DType = tf.float64) -> tf.Tensor:
    """Sum over each sample, computed in `dtype`. Shape [B].

    Args:
        batch: B, where the first axis of `value` holds B times T time steps.
    """
    value = tf.cast(value, dtype)
    if dtype != tf.float64:
        # One axis at a time: partial sums stay short, so that rounding does not grow with the size of the sample
        # where the runtime adds one entry after another.
        for _ in range(value.shape.rank - 1):
            value = tf.reduce_sum(value, axis=-1)
    rows = tf.shape(value)[0] if batch is None else batch
    return tf.reduce_sum(tf.reshape(value, tf.stack([rows, -1])), axis=1)


def keep_largest(relevance: tf.Tensor, fraction: float, batch: tf.Tensor) -> tf.Tensor:
    """`relevance` where |R| is among the largest `fraction` of its sample, else 0. At least one entry, ties are kept.

    Args:
        batch: number of samples B; the first axis may hold B times T time steps.
    """
    integer = tf.int64 if relevance.dtype == tf.float64 else tf.int32
    # As integers the bits of floats >= 0 have the order of the floats.
    rows = tf.reshape(tf.bitcast(tf.abs(relevance), integer), tf.stack([batch, -1]))
    wanted = tf.math.ceil(tf.constant(fraction, tf.float64) * tf.cast(tf.shape(rows)[1], tf.float64) - 1e-9)
    wanted = tf.maximum(tf.cast(wanted, tf.int32), 1)

    def bisect(bit: tf.Tensor, threshold: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        higher = threshold | tf.bitwise.left_shift(tf.ones([], integer), bit)
        enough = tf.reduce_sum(tf.cast(rows >= higher, tf.int32), axis=1, keepdims=True) >= wanted
        return bit - 1, tf.where(enough, higher, threshold)

    first = tf.constant(8 * integer.size - 2, integer)
    lowest = tf.zeros(tf.stack([batch, 1]), integer)
    _, threshold = tf.while_loop(lambda bit, _: bit >= 0, bisect, (first, lowest))
    kept = tf.reshape(rows >= threshold, tf.shape(relevance))
    return tf.where(kept, relevance, tf.zeros_like(relevance))


def vjp(
    function: Callable[..., Any], inputs: list[tf.Tensor], gradients: tf.Tensor | list[tf.Tensor]
) -> list[tf.Tensor]:
    """Vector-Jacobian product of `function` at `inputs`: the transpose, where the function is linear.

    Inside a tf.function the unused forward value is pruned from the graph.
    """
    # identity: the same tensor may stand at two places (Add([h, h])) and must count at each.
    inputs = [tf.identity(x) for x in inputs]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    # Some operations of TensorFlow know float32 only, and so do their gradients.
    gradients = tf.nest.map_structure(lambda g, y: tf.cast(g, y.dtype), gradients, outputs)
    return tape.gradient(outputs, inputs, gradients, unconnected_gradients=tf.UnconnectedGradients.ZERO)


_NOT_TWICE = (
    "The relevance is not differentiable: its own derivative would leave out what the rules hold constant and what the "
    "savings replace. Expected: gradients that end at the relevance. Received: a gradient through it (of the second "
    "order, or with respect to weights). Remedy: tf.stop_gradient(relevance) where it is used as a constant"
)
_SEALED = "LrpTfSealed"


def sealed(relevance: tf.Tensor, sources: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
    """`relevance`, of which no gradient can be taken: asking for one is a LookupError.

    A tape around a tf.function asks for the gradients of all that it returns: there it is an error of the call of
    `tape.gradient`, and only where the relevance itself counts.

    Args:
        sources: inputs and variables that the relevance was computed from. Where a tape asks for the gradients of none
            of them, the relevance is a constant, and no error.
    """
    if len(forwardprop_util.pack_tangents([relevance]).indices):
        _refuse()
    if tf.executing_eagerly() and not record.should_record_backprop([relevance]):
        return relevance
    with record.stop_recording():
        if tf.executing_eagerly():
            found = tf.identity(relevance)
        else:  # one gradient for all, since TensorFlow's registry keeps each for ever
            with tf.compat.v1.get_default_graph().gradient_override_map({"Identity": _SEALED}):
                found = tf.raw_ops.Identity(input=relevance)
    tf.__internal__.record_gradient(_SEALED, list(sources or [relevance]), (), [found])
    return found


def _refuse() -> None:
    raise LookupError(_NOT_TWICE)


def _asked_for() -> set[int] | None:
    """The ids of what the caller of `tape.gradient` asks for; None: unknown. TensorFlow tells no gradient function."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "imperative_grad":
        frame = frame.f_back
    sources = None if frame is None else frame.f_locals.get("sources")
    return None if sources is None else set(map(id, sources))


@tf.RegisterGradient(_SEALED)
def _refuse_unless_zero(op: Any, gradient: tf.Tensor) -> Any:
    """The gradient of an operation in a graph, or of what a tape recorded, which names the inputs that it skips."""
    if not isinstance(op, tf.Operation):
        asked, skipped = _asked_for(), op.skip_input_indices or ()
        for index, source in enumerate(op.inputs):
            variable = asked is not None and source.dtype == tf.resource  # which nothing computes
            if index not in skipped and (not variable or id(source) in asked):
                _refuse()
        return [None] * len(op.inputs)
    if op.graph is tf.compat.v1.get_default_graph():
        _refuse()
    unused = tf.equal(gradient, tf.zeros([], gradient.dtype))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(unused), [_NOT_TWICE])]):
        # NaN where there are no assertions, as under XLA.
        return tf.where(unused, gradient, tf.constant(float("nan"), gradient.dtype))


class Account:
    """What one step absorbed, per sample, by named mechanisms; each a tensor of shape [B], float64 unless told.

    `bias`: sum of R b / s(z). `stabilizer`: sum of R epsilon sign(z) / s(z). `other`: named mechanisms
    only, see docs/conservation.md. `filter`: what a relevance filter dropped.
    """

    NAMES = ("bias", "stabilizer", "other", "filter")

    def __init__(self, batch: tf.Tensor | None = None, axis: int = 0, dtype: tf.DType = tf.float64) -> None:
        self.batch, self.axis, self.dtype = batch, axis, dtype  # axis: that the samples lie on
        self.shares: dict[str, tf.Tensor] = {}

    def add(self, name: str, values: tf.Tensor) -> None:
        """Book the sum of `values` over each sample under `name`."""
        if name not in self.NAMES:
            raise ValueError(f"An account has the shares {self.NAMES}. Received: {name!r}")
        if self.axis:
            values = tf.transpose(values, [self.axis, *(i for i in range(values.shape.rank) if i != self.axis)])
        share = sample_sum(values, self.batch, self.dtype)
        self.shares[name] = self.shares[name] + share if name in self.shares else share

"""Signed stabiliser, positive and negative parts, sums over samples, transposes."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Number: TypeAlias = float | tf.Tensor


@dataclasses.dataclass(frozen=True)
class Relative:
    """A stabiliser relative to the activations.

        explainer = lrp_tf.Explainer(model, rules.Epsilon(rules.Relative(0.25)))

    epsilon = fraction * sqrt(mean(z^2)), with the mean over all entries of the denominator z in one sample. An absolute
    epsilon absorbs the relevance of nets with tiny activations; a relative one does not.

    Raises:
        ValueError: a fraction below 0.
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


# For each graph the names of the operations that `once` has made. Names, not tensors, which would keep the graph alive.
_MADE: weakref.WeakKeyDictionary[tf.Graph, dict[tuple, str]] = weakref.WeakKeyDictionary()


def once(key: tuple, make: Callable[[], tf.Tensor]) -> tf.Tensor:
    """`make()`, the first output of an operation that waits for nothing; one for each key in the graph of the caller.

    TensorFlow takes as long to trace and optimise a constant as a convolution, and merges equal ones in the end.
    """
    if tf.executing_eagerly():
        return make()
    graph = tf.compat.v1.get_default_graph()
    made = _MADE.setdefault(graph, {})
    if key not in made:
        with graph.control_dependencies(None):
            made[key] = make().op.name
    return graph.get_operation_by_name(made[key]).outputs[0]


def number(value: float, dtype: tf.DType, shape: tuple[int, ...] = ()) -> tf.Tensor:
    """A constant that holds one number, in this shape."""
    # repr: 0.0 equals -0.0.
    return once((repr(value), dtype, shape), lambda: tf.constant(np.full(shape, value, dtype.as_numpy_dtype), dtype))


def shape_of(x: tf.Tensor) -> tf.Tensor:
    """tf.shape(x)."""
    if not tf.is_symbolic_tensor(x) or x.graph is not tf.compat.v1.get_default_graph():
        return tf.shape(x)
    return once(("shape", x.name), lambda: tf.shape(x))


def sign(z: tf.Tensor) -> tf.Tensor:
    """+1 where z >= 0 (zero included), -1 elsewhere."""
    return _signed(1.0, z)


def _signed(value: float, z: tf.Tensor) -> tf.Tensor:
    """value * sign(z)."""
    return tf.where(z >= number(0.0, z.dtype), number(value, z.dtype), number(-value, z.dtype))


def offset(z: tf.Tensor, stabilizer: float | Relative, axis: int = 0) -> tf.Tensor:
    """The signed stabiliser epsilon * sign(z) that s(z) adds to z.

    Args:
        axis: that the samples lie on; a `Relative` is relative to each.
    """
    if isinstance(stabilizer, Relative):
        return relative_epsilon(z, stabilizer, axis) * sign(z)
    return _signed(float(stabilizer), z)


def relative_epsilon(z: tf.Tensor, stabilizer: Relative, axis: int = 0) -> tf.Tensor:
    """epsilon of each sample, without a sign; it broadcasts to z."""
    # The batch axis stays: no sample may change its neighbour's epsilon.
    axes = [i for i in range(z.shape.rank) if i != axis]
    mean_square = tf.reduce_mean(tf.square(z), axis=axes, keepdims=True)
    return tf.constant(stabilizer.fraction, z.dtype) * tf.sqrt(mean_square)


def stabilize(z: tf.Tensor, stabilizer: float | Relative) -> tf.Tensor:
    """s(z) = z + epsilon * sign(z), with sign(0) = +1."""
    return z + offset(z, stabilizer)


def ratio(relevance: tf.Tensor, denominator: tf.Tensor, stabilizer: float | Relative) -> tf.Tensor:
    """relevance / denominator; 0 / 0 is 0, which occurs only with a stabiliser that can vanish."""
    if isinstance(stabilizer, Relative) or stabilizer == 0:
        return tf.math.divide_no_nan(relevance, denominator)
    return relevance / denominator


def positive(value: Number) -> Number:
    """max(value, 0), for tensors and plain numbers."""
    return max(value, 0.0) if isinstance(value, float) else tf.nn.relu(value)


def negative(value: Number) -> Number:
    """min(value, 0), for tensors and plain numbers."""
    return min(value, 0.0) if isinstance(value, float) else tf.minimum(value, number(0.0, value.dtype))


# Up to this many values are added in their own dtype; one after another, the rounding of float32 stays below 1e-6 of
# the sum of their magnitudes.
_BLOCK = 256


def partial_sums(
    value: tf.Tensor, dtype: tf.DType = tf.float64, *, factor: tf.Tensor | float = 1.0, samples: int = 0
) -> tf.Tensor:
    """Sums over short blocks along one axis of `value`, in `dtype`: no copy of a large tensor in float64.

    The rank stays, the axis gets shorter. Sums over a sample are the same as of `value`, up to rounding. `value` itself
    where there is no such axis.

    Args:
        factor: what the sums are to be multiplied with. The axis is one along which it does not vary.
        samples: the axis of the samples, which stays.
    """
    if not value.dtype.is_floating or value.dtype.size < 4:  # too coarse to add in
        return value
    axis, size = _blocks(value.shape, tf.convert_to_tensor(factor).shape, samples)
    if size == 1:
        return value
    if size == value.shape[axis]:
        return tf.cast(tf.reduce_sum(value, axis, keepdims=True), dtype)
    shape = tf.shape(value)
    blocks = [shape[:axis], [value.shape[axis] // size, size], shape[axis + 1 :]]
    return tf.cast(tf.reduce_sum(tf.reshape(value, tf.concat(blocks, 0)), axis + 1), dtype)


def _blocks(shape: tf.TensorShape, factor: tf.TensorShape, samples: int) -> tuple[int, int]:
    """The axis that can be summed in the longest blocks, and their size; (0, 1) if there is none."""
    found, rank = (1, 0), shape.rank or 0
    if rank < 3 or factor.rank is None:  # a matrix is small
        return 0, 1
    varies = {axis + rank - factor.rank for axis, size in enumerate(factor) if size != 1}
    for axis, size in enumerate(shape):
        if size and axis != samples and axis not in varies:
            found = max(found, (max(k for k in range(1, min(size, _BLOCK) + 1) if size % k == 0), axis))
    return found[1], found[0]


def sample_sum(value: tf.Tensor, batch: tf.Tensor | None = None, dtype: tf.DType = tf.float64) -> tf.Tensor:
    """Sum over each sample, in `dtype` but for short partial sums. Shape [B].

    Args:
        batch: B, where the first axis of `value` holds B times T time steps.
    """
    value = tf.cast(partial_sums(value, dtype), dtype)
    if dtype != tf.float64:
        # One axis at a time: partial sums stay short, so that rounding does not grow with the size of the sample
        # where the runtime adds one entry after another.
        for _ in range(value.shape.rank - 1):
            value = tf.reduce_sum(value, axis=-1)
    rows = tf.shape(value)[0] if batch is None else batch
    return tf.reduce_sum(tf.reshape(value, tf.stack([rows, -1])), axis=1)


def keep_largest(relevance: tf.Tensor, fraction: float, batch: tf.Tensor) -> tf.Tensor:
    """`relevance` where |R| is among the largest `fraction` of its sample, else 0; one entry at least, ties are kept.

    Args:
        batch: number of samples B; the first axis may hold B times T time steps.
    """
    integer = tf.int64 if relevance.dtype == tf.float64 else tf.int32
    # The bits of floats >= 0, read as integers, sort as the floats do.
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
    # identity: a tensor that is passed twice, as in Add([h, h]), must get a gradient at each place.
    inputs = [tf.identity(x) for x in inputs]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    # Some operations of TensorFlow accept float32 alone, and so do their gradients.
    gradients = tf.nest.map_structure(lambda g, y: tf.cast(g, y.dtype), gradients, outputs)
    return tape.gradient(outputs, inputs, gradients, unconnected_gradients=tf.UnconnectedGradients.ZERO)

"""Several targets of one image at once: small batches leave a machine idle, whose kernels and weights they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import tensorflow as tf

from lrp_tf.core.graph import Graph
from lrp_tf.core.loop import body_of

Nested: TypeAlias = "tf.Tensor | list[Nested] | dict[str, Nested]"
Signature: TypeAlias = "tf.DType | list[Signature] | dict[str, Signature]"

# Relevance of at most this many samples, targets counted, is on its way at once. More gains little and holds the
# temporaries of each.
_AT_ONCE = 8


def vectorizes(graph: Graph) -> bool:
    """Whether targets go side by side: with savings, where TensorFlow compiles its functions and loops over no time.

    TensorFlow cannot vectorize such a loop. Nor can targets become samples of it: a larger batch rounds in another way,
    and where contributions to a state cancel, what is computed again must have the bits of what was kept.
    """
    if any(body_of(step) is not None for step in graph.steps):
        return False
    return any(step.marks.savings for step in graph.steps) and not tf.config.functions_run_eagerly()


def in_groups(
    function: Callable[[tf.Tensor], Mapping[str, Nested]], initial: tf.Tensor, signature: Mapping[str, Signature]
) -> dict[str, Nested]:
    """`tf.map_fn` of a function over the targets, several targets at a time.

    Args:
        function: of one target [B, ...]; it runs operations of TensorFlow alone.
        initial: [k, B, ...].
        signature: dtypes of the tensors that the function returns.

    Returns:
        What the function returns for each target, stacked along a new first axis, [k, ...].
    """
    count, batch = tf.shape(initial)[0], tf.maximum(tf.shape(initial)[1], 1)
    groups = -(-count // tf.clip_by_value(_AT_ONCE // batch, 1, count))
    size = -(-count // groups)  # of equal groups: the last repeats a target or two
    rows = tf.minimum(tf.range(groups * size), count - 1)
    grouped = tf.gather(initial, tf.reshape(rows, tf.stack([groups, size])))

    def run(group: tf.Tensor) -> dict[str, Nested]:
        # An operation that cannot be vectorized runs in a loop of its own; TensorFlow need not warn about that.
        return dict(tf.vectorized_map(function, group, fallback_to_while_loop=True, warn=False))

    found = tf.map_fn(run, grouped, fn_output_signature=dict(signature))
    return tf.nest.map_structure(lambda values: _ungrouped(values, count), found)


def side_by_side(
    function: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    stacked: list[tf.Tensor],
    batch: tf.Tensor,
    count: int,
    signature: list[tf.DType],
) -> list[tf.Tensor]:
    """A function of relevance [B, ...] on `count` of them, [count, B, ...] each: so many at a time as `_AT_ONCE` says.

    Args:
        function: it runs operations of TensorFlow alone.
        batch: B, a scalar.
        signature: dtypes of what the function returns.
    """
    divisors = tf.constant([n for n in range(1, count + 1) if count % n == 0])
    size = tf.reduce_max(tf.where(divisors * batch <= _AT_ONCE, divisors, 1))  # a group repeats nothing
    grouped = [tf.reshape(x, tf.concat([[count // size, size], tf.shape(x)[1:]], 0)) for x in stacked]
    for given, x in zip(grouped, stacked, strict=True):
        given.set_shape([None, None, *x.shape[1:]])

    def run(group: list[tf.Tensor]) -> list[tf.Tensor]:
        return list(tf.vectorized_map(function, group, fallback_to_while_loop=True, warn=False))

    # One after the other: several at once would only drive one another out of the cache.
    found = tf.map_fn(run, grouped, fn_output_signature=signature, parallel_iterations=1)
    return [tf.reshape(x, tf.concat([[count], tf.shape(x)[2:]], 0)) for x in found]


def _ungrouped(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """[groups, size, ...] as [k, ...], without what was repeated."""
    return tf.reshape(values, tf.concat([[-1], tf.shape(values)[2:]], 0))[:count]

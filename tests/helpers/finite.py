"""Derivatives of relevance along a direction, by a tape and by central finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
Loss = Callable[[list[tf.Tensor]], tf.Tensor]


def difference(function: Callable[[float], float], step: float) -> float:
    """The derivative at 0, of fourth order."""
    near, far = ((function(h) - function(-h)) / (2 * h) for h in (step, 2 * step))
    return (4 * near - far) / 3


def directions(values: Sequence[tf.Tensor], seed: int) -> list[np.ndarray]:
    """Random ones; an entry of exactly 0 stays: it may lie on a kink, as a masked step or what padding added does."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=v.shape) * (np.asarray(v) != 0) for v in values]


def along(gradients: Sequence[tf.Tensor | None], direction: Sequence[np.ndarray]) -> float:
    """The derivative along a direction; None is a gradient of 0."""
    pairs = zip(gradients, direction, strict=True)
    return sum(float(np.sum(np.asarray(tf.convert_to_tensor(g)) * d)) for g, d in pairs if g is not None)


def agree(
    analytic: float, function: Callable[[float], float], tolerance: float, what: str, steps: Sequence[float]
) -> None:
    """Fail unless differences come to the derivative: a step fits that is below the kinks and above rounding."""
    found = []
    for step in steps:
        found.append(difference(function, step))
        if abs(found[-1] - analytic) <= tolerance * max(abs(analytic), abs(found[-1]), 1e-9):
            return
    raise AssertionError(f"by {what}: the tape says {analytic!r}, the differences {found!r}")


def check_derivatives(
    loss: Loss,
    x: Sequence[np.ndarray],
    weights: Sequence[keras.Variable],
    tolerance: float = 1e-6,
    steps: Sequence[float] = STEPS,
) -> tuple[float, float]:
    """Compare the gradient of `loss` by x and by weights with differences. Returns both derivatives.

    Args:
        loss: of the inputs; a scalar, in float64.
        x: the inputs; integers and booleans stay.
    """
    inputs = [tf.constant(v) for v in x]
    floats = [i for i, v in enumerate(inputs) if v.dtype.is_floating]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([inputs[i] for i in floats])
        tape.watch([w.value for w in weights])
        value = loss(inputs)
    by_x, by_weights = tape.gradient(value, [[inputs[i] for i in floats], [w.value for w in weights]])
    at, ahead = [inputs[i] for i in floats], [w.numpy() for w in weights]
    ways = directions(at, 3), directions(ahead, 4)

    def moved_x(t: float) -> float:
        moved = list(inputs)
        for i, way in zip(floats, ways[0], strict=True):
            moved[i] = inputs[i] + t * way
        return float(loss(moved))

    def moved_weights(t: float) -> float:
        for w, v, way in zip(weights, ahead, ways[1], strict=True):
            w.assign(v + t * way)
        moved = float(loss(inputs))
        for w, v in zip(weights, ahead, strict=True):
            w.assign(v)
        return moved

    found = along(by_x, ways[0]), along(by_weights, ways[1])
    agree(found[0], moved_x, tolerance, "x", steps)
    agree(found[1], moved_weights, tolerance, "weights", steps)
    return found


def weighed(relevances: Sequence[tf.Tensor | None]) -> tf.Tensor:
    """A scalar in which every entry counts, and not alike; and not linear in them."""
    rng = np.random.default_rng(5)
    parts = [tf.constant(rng.normal(size=r.shape)) * tf.cast(r, "float64") for r in relevances if r is not None]
    return tf.add_n([tf.reduce_sum(part + 0.1 * tf.square(part)) for part in parts])

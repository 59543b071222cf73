"""Choices by sign as arithmetic: LiteRT's quick library knows no tables of bools, which cost ten times as much."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from lrp_tf.exporting.lite.nodes import Node, Value


def chosen(node: Node, tensor: Callable[[Value], tf.Tensor]) -> tf.Tensor | None:
    """SelectV2 by the sign of a tensor, if it chooses between a value and 0, or between two numbers; else None.

    What is left out may be any finite number: 0 times it is 0.
    """
    condition, yes, no = node.inputs
    if node.type != "SelectV2" or tf.as_dtype(node.attributes.get("dtype", tf.float32)) != tf.float32:
        return None
    compared = _compared(condition.node)
    if compared is None or condition.shape != node.shapes[0]:
        return None
    z, above, complement = compared
    if complement:  # where z is not strictly on this side
        yes, no = no, yes
    first, last = _number(yes), _number(no)
    if 0 in (first, last) and (first is None or last is None):
        kept = yes if last == 0 else no
        if kept.shape != node.shapes[0]:
            return None
        value, side = tensor(kept), _side(tensor(z), above)
        return value * side if last == 0 else value - value * side
    if first is None or last is None:
        return None
    step = np.float32(first) - np.float32(last)
    if np.float32(last) + step != np.float32(first):  # it would not be exact
        return None
    return np.float32(last) + step * _side(tensor(z), above)


def _compared(node: Node) -> tuple[Value, bool, bool] | None:
    """(z, above 0 or below, complement) of a comparison of z with 0; None: it is none."""
    found = {
        "Greater": (True, False),
        "Less": (False, False),
        "GreaterEqual": (False, True),
        "LessEqual": (True, True),
    }.get(node.type)
    if found is None or node.inputs[0].constant or _number(node.inputs[1]) != 0:
        return None
    return node.inputs[0], *found


def _side(z: tf.Tensor, above: bool) -> tf.Tensor:
    """1 where z is above 0 (or below it), else 0: rounded up, what is above 0 is at least 1."""
    return tf.minimum(tf.math.ceil(tf.nn.relu(z if above else -z)), 1.0)


def _number(value: Value) -> float | None:
    """The number that all entries of a constant have; None: there is none."""
    return None if not value.constant else uniform(value.array)


def uniform(array: np.ndarray) -> float | None:
    """The number that all entries of an array of floats have; None: they differ."""
    if not array.size or array.dtype.kind != "f" or (array.size > 1 and not (array == array.flat[0]).all()):
        return None
    return float(array.flat[0])

"""Options of the methods as a caller gave them -> checked values: numbers, words, baselines and fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Graph, Ref

# What a baseline or a fill may be: see `filled`.
Fill: TypeAlias = float | np.ndarray | tf.Tensor | Sequence | Mapping | Callable[[Any], Any]
_Number = TypeVar("_Number", int, float)


def at_least(least: _Number, value: _Number, name: str) -> _Number:
    """A number of the type of `least`, or an integer.

    Raises:
        ValueError: below `least`, or no such number.
    """
    kinds = (int, np.integer) if isinstance(least, int) else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < float("inf"):
        kind = "an integer" if isinstance(least, int) else "a number"
        raise ValueError(f"{name} expects {kind} of at least {least}. Received: {value!r}")
    return value


def chosen(value: str, known: Sequence[str], name: str) -> str:
    """One of some words.

    Raises:
        ValueError: another.
    """
    if value not in known:
        raise ValueError(f"{name} expects one of {', '.join(known)}. Received: {value!r}")
    return value


def filled(graph: Graph, fill: Fill, inputs: list[tf.Tensor], name: str) -> list[tf.Tensor]:
    """Values that replace each input, in its shape and dtype.

    Args:
        fill: a number for all; an array that broadcasts to a sample, or [B, ...]; a structure of these as the model's
            inputs; or a function of the batch, as NumPy arrays in that structure, that returns one of these.

    Raises:
        ValueError: another structure or shape, NaN or Inf.
    """
    structure, by_ref = graph.input_structure, dict(zip(graph.inputs, inputs, strict=True))
    if callable(fill):
        if not tf.executing_eagerly():
            raise ValueError(
                f"{name} is a function of arrays. Expected a call outside of tf.function. Received: a graph."
            )
        fill = fill(tree.map_structure(lambda ref: by_ref[ref].numpy(), structure))
    if isinstance(structure, Ref) or isinstance(fill, (int, float, np.number)):
        values: list[Any] = [fill] * len(inputs)
    else:
        found: dict[Ref, Any] = {}
        try:
            tree.map_structure_up_to(structure, found.__setitem__, structure, fill)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} expects a number, or the structure of the model's inputs. Received: {type(fill).__name__}"
            ) from error
        values = [found[ref] for ref in graph.inputs]
    names = graph.input_names
    return [_of_shape(v, x, f"{name} of {n}") for v, x, n in zip(values, inputs, names, strict=True)]


def _of_shape(value: Any, x: tf.Tensor, name: str) -> tf.Tensor:
    if tf.is_tensor(value) and not hasattr(value, "numpy"):
        raise ValueError(f"{name} expects values. Received: {value}, a tensor of a graph that has none yet")
    found = np.asarray(value)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{name} expects numbers. Received: {value!r}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite. Received: NaN or Inf")
    sample, whole = tuple(x.shape[1:]), tuple(x.shape)
    expected = whole if found.ndim == len(whole) else sample
    # A size that is not known yet is checked when it is.
    sizes = zip(reversed(found.shape), reversed(expected), strict=False)
    if found.ndim > len(expected) or not all(size in (1, other) or other is None for size, other in sizes):
        raise ValueError(
            f"{name} has the wrong shape. Expected: one that broadcasts to a sample, {sample}, or to the batch, "
            f"{whole}. Received: {found.shape}"
        )
    return tf.broadcast_to(tf.cast(tf.constant(found), x.dtype), tf.shape(x))

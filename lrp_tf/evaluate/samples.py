"""Arrays and streams -> batches of numbered samples, with their classes and masks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from lrp_tf.engine import streams
from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.protocol import Array

# Values for all samples, or a function that takes a batch as the stream gave it.
Given: TypeAlias = Array | Callable[[Any], Array] | None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples as they were given: x [B, ...] float, target int64 [B] or None, masks bool [B, *positions] or None."""

    x: np.ndarray
    target: np.ndarray | None
    masks: np.ndarray | None
    ids: np.ndarray

    def digest(self) -> str:
        """Identifies what it holds."""
        return digest(self.x, self.target, self.masks)


def batches(x: Array | Iterable, target: Given, masks: Given, size: int) -> Iterator[Batch]:
    """Batches of at most `size` samples; the batches of a stream that are larger are split.

    Raises:
        TypeError: no numbers, no arrays. ValueError: targets or masks that are fewer or more than the samples.
    """
    first = 0
    for element in [x] if is_array(x) else streams.batches(x, None):
        inputs: Array = element[0] if isinstance(element, tuple) else element
        if not is_array(inputs):
            raise TypeError(
                f"x expects an array, or a stream of arrays or of tuples that begin with one. Received: a stream of "
                f"{type(inputs).__name__}. Remedy: np.asarray"
            )
        count = len(inputs)
        chosen, shown = (_of(given, element, first, count, name) for given, name in _named(target, masks))
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            values = protocol.floats(inputs[part])
            classes = None if chosen is None else protocol.targets(chosen[part], len(values))
            seen = None if shown is None else np.asarray(shown[part]).astype(bool)
            yield Batch(values, classes, seen, np.arange(first + part.start, first + part.stop))
        first += count
    for given, name in _named(target, masks):
        if given is not None and not callable(given) and np.ndim(given) and len(given) != first:
            raise ValueError(f"{name} must have a value for each sample. Expected: {first}. Received: {len(given)}")


def _named(target: Given, masks: Given) -> tuple[tuple[Given, str], tuple[Given, str]]:
    return (target, "target"), (masks, "masks")


def _of(given: Given, element: Any, first: int, count: int, name: str) -> Array | None:
    """What was given for the samples first to first + count, [count, ...]."""
    if given is None:
        return None
    found = np.asarray(given(element) if callable(given) else given)
    if found.ndim == 0:
        return np.broadcast_to(found, (count,))
    if not callable(given):
        found = found[first : first + count]
    if len(found) != count:
        raise ValueError(
            f"{name} must have a value for each sample. Expected: {first + count}. Received: {first + len(found)}"
        )
    return found


def is_array(x: Array | Iterable) -> bool:
    """Whether x is one array of all samples, and not a stream of batches."""
    return isinstance(x, (np.ndarray, tf.Tensor)) or (hasattr(x, "__array__") and hasattr(x, "shape"))


def digests(x: Array | Iterable, target: Given, masks: Given) -> dict[str, str]:
    """Identifies what was given; a stream is not read twice, and its batches tell (`Batch.digest`)."""
    given = {"target": target, "masks": masks}
    found = {name: "a function" if callable(value) else digest(value) for name, value in given.items()}
    found["target"] = "predicted" if target is None else found["target"]
    return found | {"data": digest(x) if is_array(x) else "a stream"}


def digest(*values: Array | None) -> str:
    """Identifies arrays by their content."""
    found = hashlib.sha256()
    for value in values:
        if value is None:
            found.update(b"none")
            continue
        array = np.asarray(value)
        found.update(f"{array.dtype}{array.shape}".encode())
        for row in np.atleast_1d(array):  # one by one: the array may lie on disk
            found.update(np.ascontiguousarray(row).tobytes())
    return found.hexdigest()[:16]

"""Streams of samples -> batches, prefetched where TensorFlow can; memory stays constant."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree


def batches(dataset: Iterable, size: int | None) -> Iterator[Any]:
    """Batches of a dataset of samples; its own elements where `size` is None.

    Args:
        dataset: a `tf.data.Dataset`, or any iterable of (structures of) arrays.
    """
    if isinstance(dataset, tf.data.Dataset):
        batched: tf.data.Dataset = dataset if size is None else dataset.batch(size)
        return iter(batched.prefetch(tf.data.AUTOTUNE))
    return iter(dataset) if size is None else _stacked(iter(dataset), size)


def checked(dataset: Iterable, check: Callable[[Any], Any]) -> Iterable:
    """The dataset of what `check` returns for each element before it joins a batch.

    Of a `tf.data.Dataset` it sees the `element_spec` alone.
    """
    if isinstance(dataset, tf.data.Dataset):
        check(dataset.element_spec)
        return dataset
    return map(check, dataset)


def _stacked(samples: Iterator, size: int) -> Iterator[Any]:
    while group := list(itertools.islice(samples, size)):
        yield tree.map_structure(_stack, *group)


def _stack(*values: Any) -> np.ndarray:
    arrays = [np.asarray(value) for value in values]
    if len(shapes := {array.shape for array in arrays}) > 1:
        raise ValueError(
            f"map(batch=...) puts samples of one shape together. Received: {sorted(shapes)}. Remedy: batch=1, or "
            "samples resized to one shape"
        )
    return np.stack(arrays)


def checked_size(value: int | np.integer | None, name: str) -> int | None:
    """A number of samples.

    Raises:
        ValueError: neither an integer of at least 1 nor None.
    """
    if value is None:
        return None
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} expects a number of samples, at least 1, or None. Received: {value!r}")
    return int(value)

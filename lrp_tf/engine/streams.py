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


def checked(dataset: Iterable, check: Callable[[Any], object]) -> Iterable:
    """The dataset; `check` sees each element before it joins a batch, or the `element_spec` of a `tf.data.Dataset`."""
    if isinstance(dataset, tf.data.Dataset):
        check(dataset.element_spec)
        return dataset
    return _each_checked(dataset, check)


def _each_checked(samples: Iterable, check: Callable[[Any], object]) -> Iterator[Any]:
    for sample in samples:
        check(sample)
        yield sample


def _stacked(samples: Iterator, size: int) -> Iterator[Any]:
    while group := list(itertools.islice(samples, size)):
        yield tree.map_structure(lambda *values: np.stack(values), *group)


def checked_size(value: int | None, name: str) -> int | None:
    """A number of samples.

    Raises:
        ValueError: neither an integer of at least 1 nor None.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} expects a number of samples, at least 1, or None. Received: {value!r}")
    return value

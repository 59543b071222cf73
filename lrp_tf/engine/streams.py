"""Streams of samples -> batches. Work goes on ahead of what is asked for; memory stays constant."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree


def batches(dataset: Iterable, size: int | None) -> Iterator[Any]:
    """Batches of a dataset of samples, or the elements as they are where `size` is None.

    Args:
        dataset: a `tf.data.Dataset`, or any iterable of (structures of) arrays.
    """
    if isinstance(dataset, tf.data.Dataset):
        dataset = dataset if size is None else dataset.batch(size)
        return iter(dataset.prefetch(tf.data.AUTOTUNE))
    return iter(dataset) if size is None else _stacked(iter(dataset), size)


def checked(dataset: Iterable, check: Callable[[Any], Any]) -> Iterable:
    """The dataset, whose elements are checked before they are put together: of a `tf.data.Dataset` their form."""
    if isinstance(dataset, tf.data.Dataset):
        check(dataset.element_spec)
        return dataset
    return _each_checked(dataset, check)


def _each_checked(samples: Iterable, check: Callable[[Any], Any]) -> Iterator[Any]:
    for sample in samples:
        check(sample)
        yield sample


def _stacked(samples: Iterator, size: int) -> Iterator[Any]:
    while group := list(itertools.islice(samples, size)):
        yield tree.map_structure(lambda *values: np.stack(values), *group)

"""Data sets -> numbered batches, of which a run may leave out those that it has or that others take."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Graph
from lrp_tf.engine import streams, targets


class Batch(NamedTuple):
    """Samples `first`, `first` + 1, … of a data set.

    Attributes:
        number: of the batch, from 0.
        first: id of its first sample.
        size: how many samples it has.
        x: in the structure of the model's inputs; None where the batch was left out.
        labels: [B, ...] as the data set gave them, or None.
        failed: row -> why that sample could not be read; x holds NaN there.
        identity: what tells the batch from others without reading it; "" if only its content does.
        stamp: changes whenever anyone writes or replaces one of its files, even with the same content; "" if there are
            none.
    """

    number: int
    first: int
    size: int
    x: Any
    labels: np.ndarray | None
    failed: Mapping[int, str] = MappingProxyType({})
    identity: str = ""
    stamp: str = ""


@runtime_checkable
class Numbered(Protocol):
    """A data set that numbers its batches itself, such as `ImageFiles`.

    Attributes:
        settings: what has to be the same where a run is resumed or merged; of values that JSON knows.
        files: (path, relative) of each sample, which the file of a reference keeps.
    """

    settings: Mapping[str, Any]
    files: Sequence[tuple[str, str]]

    def numbered(self, size: int, mine: Callable[[int], bool], known: Callable[[int], str]) -> Iterator[Batch]:
        """The batches; see `batches`."""


def batches(
    graph: Graph, dataset: Any, size: int, mine: Callable[[int], bool], known: Callable[[int], str]
) -> Iterator[Batch]:
    """The batches of a data set, in its order.

    Args:
        dataset: a tuple of arrays (x, labels), one array x, a `tf.data.Dataset`, or an iterable; of samples or
            batches, with labels behind each or without.
        size: of batches that are made of arrays and of single samples; batches stay as they are.
        mine: number of a batch -> whether it is needed. Arrays are not read for the others.
        known: number of a batch -> the stamp under which its `identity` is enough; "": it has to be read.

    Raises:
        TypeError: nothing that can be iterated; a list [x, labels].
        ValueError: no samples; x and labels differ in length.
    """
    _require_no_list_of_arrays(graph, dataset)
    if isinstance(dataset, Numbered):
        found = dataset.numbered(size, mine, known)
    elif _is_array(dataset) or (isinstance(dataset, tuple) and len(dataset) == 2):
        x, labels = dataset if isinstance(dataset, tuple) else (dataset, None)
        found = _of_arrays(x, labels, size, mine)
    else:
        found = _of_stream(graph, dataset, size, mine)
    first = next(found, None)
    if first is None:
        raise ValueError("The data set holds no samples. Expected at least one.")
    yield from itertools.chain([first], found)


def _require_no_list_of_arrays(graph: Graph, dataset: Any) -> None:
    """Raise TypeError for [x, labels]: as an iterable of batches, x is one batch and the labels are the next one."""
    if not isinstance(dataset, list) or len(dataset) != 2 or not _is_array(dataset[0]):
        return
    x, labels = dataset
    if not isinstance(labels, Sequence) and not _is_array(labels):
        return
    one_each = 0 < len(labels) == len(x) and np.ndim(labels[0]) == 0
    if one_each and len(x.shape) == len(graph.inputs[0].shape) + 1:
        raise TypeError(
            "Expected a tf.data.Dataset, arrays (x, labels), or an iterable of batches. Received: a list of "
            f"{list(x.shape)} and {len(labels)} numbers. Remedy: a tuple, (x, labels)"
        )


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _of_arrays(x: Any, labels: Any, size: int, wanted: Callable[[int], bool]) -> Iterator[Batch]:
    count = len(tree.flatten(x)[0])
    lengths = {len(leaf) for leaf in tree.flatten(x)} | ({count} if labels is None else {len(labels)})
    if len(lengths) > 1:
        raise ValueError(f"Expected as many labels as samples. Received: arrays of lengths {sorted(lengths)}")
    for number, first in enumerate(range(0, count, size)):
        part = slice(first, min(first + size, count))
        if not wanted(number):
            yield Batch(number, first, part.stop - first, None, None)
            continue
        some = tree.map_structure(lambda leaf, part=part: np.asarray(leaf[part]), x)
        yield Batch(number, first, part.stop - first, some, None if labels is None else np.asarray(labels[part]))


def _of_stream(graph: Graph, dataset: Any, size: int, wanted: Callable[[int], bool]) -> Iterator[Batch]:
    if not isinstance(dataset, Iterable):
        raise TypeError(
            "Expected a tf.data.Dataset, arrays (x, labels), or an iterable of batches. "
            f"Received: {type(dataset).__name__}"
        )
    if isinstance(dataset, tf.data.Dataset):
        single, elements = _single(graph, dataset.element_spec), dataset
    else:
        rest = iter(dataset)
        ahead = list(itertools.islice(rest, 1))
        single, elements = bool(ahead) and _single(graph, ahead[0]), itertools.chain(ahead, rest)
    first = 0
    for number, element in enumerate(streams.batches(elements, size if single else None)):
        x = targets.without_labels(graph, element)
        labels = element[1] if x is not element and len(element) > 1 else None
        count = len(tree.flatten(x)[0])
        if wanted(number):
            yield Batch(number, first, count, x, None if labels is None else np.asarray(labels))
        else:
            yield Batch(number, first, count, None, None)
        first += count


def _single(graph: Graph, element: Any) -> bool:
    """Whether an element, or its `element_spec`, is one sample and no batch."""
    leaf = tree.flatten(targets.without_labels(graph, element))[0]
    return len(np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape) == len(graph.inputs[0].shape)

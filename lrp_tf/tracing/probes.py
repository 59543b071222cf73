"""Runs a step on numbers that tell the samples of a batch apart, to see where the samples go."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Ref, Step

MIXES = "computes over the samples of a batch, where each must be explained on its own"
REMEDY = "leave the first axis out of it"


class MixedSamplesError(Exception):
    """What a step does to the samples, and the remedy."""

    def __init__(self, what: str = MIXES, remedy: str = REMEDY) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy


def rank_of(ref: Ref) -> int:
    return len(ref.shape) + ref.batched


_FIRST_ID = 1 << 20  # above the numbers of a model, and exact in single precision
_BATCHES = (3, 2, 4, 5, 7, 9, 16)
_UNKNOWN = (4, 16, 12, 7, 60)  # tried for sizes that only the call knows


def places_moved_to(step: Step, outputs: list[Any], size: int | None) -> list[tuple[int, int]]:
    """Moves the numbers of the samples as the step moves their entries, and finds them again.

    See `samples.places_behind`.
    """
    here = (step.inputs[0].axis, step.inputs[0].each)
    if _is_behind_the_first_axis(step):
        return [here] * len(outputs)
    seen: dict[int, list[tuple[int, int]]] = {}
    for batch, unknown in _sizes(step, outputs, size):
        if batch in seen:
            continue
        try:
            found = _run(step, {ref: _ids(ref, batch, unknown) for ref in step.inputs})
        except Exception:  # a size that does not fit
            continue
        seen[batch] = [_find(ids, batch, here[0]) for ids in found]
        if seen[batch] == [here] * len(found) or len(seen) == 2:
            break
    places = list(seen.values()) or [[here] * len(outputs)]
    if places[0] != places[-1]:  # two samples may fill one row, where three cannot
        raise MixedSamplesError
    return places[0]


def _is_behind_the_first_axis(step: Step) -> bool:
    """Whether it is plain that the step leaves the first axis alone, so that nothing needs to be moved."""
    name, op, x = type(step.op).__name__, step.op, step.inputs[0]
    if any(ref.axis or not ref.batched or ref.each != x.each for ref in step.inputs):
        return False
    if name == "Transpose":
        return bool(op.axes) and op.axes[0] == 0
    if name == "Reshape":
        shape = op.newshape
        known = isinstance(shape, (tuple, list)) and shape[0] == -1 and -1 not in shape[1:] and None not in x.shape
        return known and math.prod(shape[1:]) == math.prod(n or 0 for n in x.shape)
    if name == "GetItem":
        key = step.args[1] if len(step.args) > 1 else step.kwargs["key"]
        return isinstance(key, tuple) and bool(key) and key[0] == slice(None) and len(step.inputs) == 1
    if name in ("Concatenate", "Split", "Flip", "Roll", "Repeat", "Stack", "ExpandDims"):
        rank = rank_of(x) + (name in ("Stack", "ExpandDims"))
        return isinstance(op.axis, int) and op.axis % rank != 0
    return False


def _sizes(step: Step, outputs: list[Any], size: int | None) -> Iterator[tuple[int, int]]:
    """Sizes to try, of the batch and of what else is unknown."""
    batches = [size] if size else [*_BATCHES, *outputs[0].shape[:1]]
    unknown = any(None in ref.shape for ref in step.inputs)
    return ((batch, n) for batch in batches if batch for n in (_UNKNOWN if unknown else (1,)))


def _whole_shape(ref: Ref, batch: int, unknown: int) -> list[int]:
    sizes = [*([ref.rows] if ref.batched else []), *ref.shape]
    shape = [unknown if n is None else n for n in sizes]
    if ref.batched:
        shape[ref.axis] = batch * ref.each
    return shape


def _along_axis(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape([-1 if a == axis else 1 for a in range(rank)])


def _ids(ref: Ref, batch: int, unknown: int) -> np.ndarray:
    """The number of its sample for each entry; 0 for what is constant."""
    shape = _whole_shape(ref, batch, unknown)
    if not ref.batched:
        return np.zeros(shape, "float32" if ref.dtype.startswith(("float", "bfloat")) else ref.dtype)
    ids = np.repeat(_FIRST_ID + np.arange(batch, dtype="float32"), ref.each)
    return np.broadcast_to(_along_axis(ids, ref.axis, len(shape)), shape)


def _run(step: Step, values: dict[Ref, np.ndarray]) -> list[np.ndarray]:
    with tf.init_scope():
        args, kwargs = step.bind([tf.constant(values[ref]) for ref in step.inputs])
        return [np.asarray(y) for y in tree.flatten(step.op.call(*args, **kwargs))]


def _find(ids: np.ndarray, batch: int, axis: int) -> tuple[int, int]:
    """The axis that the samples lie on, and how many of its entries each has, one after another."""
    known = (ids >= _FIRST_ID) & (ids < _FIRST_ID + batch)
    if not known.any():
        return 0, 1
    for place in sorted(range(ids.ndim), key=lambda a: (a != 0, a != axis)):
        each, rest = divmod(ids.shape[place], batch)
        if rest or each < 1:
            continue
        expected = _FIRST_ID + np.arange(ids.shape[place]) // each
        own = np.all(~known | (ids == _along_axis(expected, place, ids.ndim)))
        pattern = np.moveaxis(known, place, 0).reshape(batch, -1)
        if own and np.all(pattern == pattern[:1]):  # else it would matter which place in the batch a sample has
            return place, each
    raise MixedSamplesError


def try_some(step: Step, size: int | None) -> None:
    """Try an unknown operation on random samples: MixedSamplesError if one depends on the others."""
    if (
        any(None in ref.shape or ref.each > 1 for ref in step.inputs)
        or sum(math.prod(n or 1 for n in ref.shape) for ref in step.inputs) > 1 << 20
    ):
        return  # `Explainer.check` still compares the samples
    rng, batch = np.random.default_rng(0), size or 3

    def drawn(ref: Ref, count: int) -> np.ndarray:
        shape = _whole_shape(ref, count, 1)
        return rng.random(shape).astype("float32" if ref.dtype.startswith(("float", "bfloat")) else ref.dtype)

    kept = batch // 2  # the first or last one might not depend on the others, as in a running sum
    one = {ref: drawn(ref, batch) for ref in step.inputs}
    other = {ref: drawn(ref, batch) if ref.batched else x for ref, x in one.items()}
    for ref in other:
        if ref.batched:
            other[ref][kept] = one[ref][kept]
    try:
        pairs = _run(step, one), _run(step, other)
    except Exception:
        return
    for before, after in zip(*pairs, strict=True):
        apart = before.shape[:1] == (batch,) and before.dtype.kind in "biuf"
        if not apart or not np.allclose(before[kept], after[kept], rtol=1e-4, atol=1e-6, equal_nan=True):
            raise MixedSamplesError

"""What every evaluation works on: any `explain(x, target) -> relevance` and any `predict(x) -> scores`, checked."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

# Arrays, or tensors that `np.asarray` reads.
Array: TypeAlias = Any
# What makes probabilities of scores.
Link: TypeAlias = Literal["softmax", "sigmoid"] | Callable[[np.ndarray], np.ndarray] | None


class Explain(Protocol):
    """An explainer of any library: relevance of x's shape, or without the axis of channels, for one class a sample."""

    def __call__(self, x: np.ndarray, target: np.ndarray, /) -> Array: ...


class Predict(Protocol):
    """A classifier: scores [B, C] of inputs [B, ...]; pre-softmax values (logits) unless its user knows better."""

    def __call__(self, x: np.ndarray, /) -> Array: ...


class UndefinedMetricWarning(UserWarning):
    """A metric has no value for some samples; they are NaN in its result, and tables leave them out of n."""


def inputs(x: Array, name: str = "x") -> np.ndarray:
    """x as an array of floats, [B, ...].

    Raises:
        TypeError: no numbers. ValueError: no batch axis, an empty batch, NaN or Inf.
    """
    return finite(floats(x, name), name)


def floats(x: Array, name: str = "x") -> np.ndarray:
    """x as an array of floats, [B, ...], that may hold NaN and Inf.

    Raises:
        TypeError: no numbers. ValueError: no batch axis, an empty batch.
    """
    values = np.asarray(x)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers. Received: {values.dtype} of shape {values.shape}")
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    if values.ndim < 2 or len(values) == 0:
        raise ValueError(f"{name} must be a batch, [B, ...], of at least one sample. Received: shape {values.shape}")
    return values


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """The same values.

    Raises:
        ValueError: NaN or Inf, with the number of the first sample that holds it.
    """
    if not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        raise ValueError(
            f"{name} must be finite. Received: NaN or Inf in {len(wrong)} of {len(values)} samples, first in number "
            f"{wrong[0]}"
        )
    return values


def targets(target: Array, batch: int) -> np.ndarray:
    """int64 [batch] classes of one class for all, or of one for each sample.

    Raises:
        TypeError: no integers. ValueError: another shape, a negative class.
    """
    values = np.asarray(target)
    if values.dtype.kind not in "iu":
        raise TypeError(f"target must be an integer or [B] integers. Received: {target!r}")
    if values.shape not in ((), (batch,)):
        raise ValueError(f"target expects a class or {(batch,)} classes. Received: shape {values.shape}")
    if (values < 0).any():
        raise ValueError(f"target expects classes from 0 on. Received: {values.min()}")
    return np.broadcast_to(values, (batch,)).astype(np.int64)


def relevance(values: Array, x: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """Relevance in x's floating dtype, float32 at least, of x's shape, or without its axis of channels.

    Raises:
        ValueError: another shape, NaN or Inf.
    """
    found = np.asarray(values)
    shapes: Sequence[tuple[int, ...]] = [x.shape]
    if channel_axis is not None:
        shapes = [x.shape, tuple(np.delete(x.shape, channel_axis).tolist())]
    if found.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"relevance has the wrong shape. Expected: {expected}. Received: {found.shape}")
    # Half precision would lose relevance of 1e-9, and take 1e5 for Inf.
    return finite(found.astype(np.result_type(x.dtype, np.float32), copy=False), "relevance")


def channels(x: np.ndarray, channel_axis: int | None) -> int | None:
    """The axis of channels counted from the front; None if there are none, as in features [B, F].

    Raises:
        ValueError: the axis of the batch, or beyond the axes of x.
    """
    if x.ndim == 2 or channel_axis is None:
        return None
    if not -x.ndim <= channel_axis < x.ndim or channel_axis % x.ndim == 0:
        raise ValueError(f"channel_axis expects an axis behind the batch of x, {x.shape}. Received: {channel_axis}")
    return channel_axis % x.ndim


def numbers(ids: Array | None, batch: int) -> np.ndarray:
    """int64 [batch], the number of each sample in its data set; None: 0, 1, 2, ...

    Raises:
        TypeError: no integers. ValueError: another shape, a negative number.
    """
    found = np.arange(batch) if ids is None else np.asarray(ids)
    if found.dtype.kind not in "iu":
        raise TypeError(f"ids expects integers. Received: {found.dtype}")
    if found.shape != (batch,) or (found < 0).any():
        raise ValueError(f"ids has the wrong shape. Expected: {(batch,)} from 0 on. Received: {found.shape}")
    return found.astype(np.int64)


def scores(values: Array, batch: int, *, unchecked: bool = False) -> np.ndarray:
    """Scores [batch, C] as float64.

    Args:
        unchecked: they may hold NaN and Inf.

    Raises:
        ValueError: another shape, NaN or Inf.
    """
    found = np.asarray(values)
    if found.ndim != 2 or len(found) != batch:
        raise ValueError(f"predict must return scores [B, C]. Expected: ({batch}, C). Received: {found.shape}")
    found = found.astype(np.float64)
    return found if unchecked else finite(found, "the scores of predict")


def linked(scores: np.ndarray, link: Link) -> np.ndarray:
    """Probabilities [B, C] of scores.

    Raises:
        ValueError: an unknown link; one that gives another shape, NaN or Inf.
    """
    if link == "softmax":
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)
    if link == "sigmoid":
        return np.exp(-np.logaddexp(0, -scores))
    if not callable(link):
        raise ValueError(f'link expects "softmax", "sigmoid", None or a function of scores. Received: {link!r}')
    found = finite(np.asarray(link(scores), np.float64), "what link returns")
    if found.shape != scores.shape:
        raise ValueError(f"link must return probabilities. Expected: shape {scores.shape}. Received: {found.shape}")
    return found


def of_target(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The score of each sample's target, [B], of scores [B, C].

    Raises:
        ValueError: a target that is no class of the scores.
    """
    if target.max() >= values.shape[1]:
        raise ValueError(f"target is out of range. Expected: below {values.shape[1]}. Received: {target.max()}")
    return values[np.arange(len(values)), target]


def generators(seed: int, ids: np.ndarray, purpose: str) -> list[np.random.Generator]:
    """Random numbers for each sample, by a seed, the sample's id and a purpose, such as the metric's name.

    Raises:
        TypeError: a seed that is no integer. ValueError: a negative one.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed expects an integer. Received: {seed!r}")
    if seed < 0:
        raise ValueError(f"seed expects an integer from 0 on. Received: {seed}")
    name = zlib.crc32(purpose.encode())
    return [np.random.default_rng([seed, name, int(i)]) for i in ids]

"""Stability: do maps stay when the input hardly changes?

Read these with care. A constant explanation, which tells nothing, is perfectly stable, and a map that follows a model
whose decisions jump is right to jump. Stability ranks neither right above wrong nor wrong above right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np

from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.metric import metric

_AGARWAL = "Agarwal et al. 2022"
_LEAST = 1e-6  # in place of denominators that are zero


def _neighbours(case: Case, radius: float, runs: int) -> Iterator[np.ndarray]:
    """`runs` times samples with uniform noise, up to `radius` of the range of each sample's values: [B, ...]."""
    if not is_whole(runs) or runs < 1 or radius <= 0:
        raise ValueError(
            f"stability expects a whole number of runs >= 1 and radius > 0. Received: runs={runs}, radius={radius}"
        )
    numbers = case.generators("stability")
    reach = radius * np.array([np.ptp(x.astype(np.float64)) for x in case.x])
    for _ in range(runs):
        noise = [r * g.uniform(-1, 1, case.x[0].shape) for r, g in zip(reach, numbers, strict=True)]
        yield (case.x + np.stack(noise)).astype(case.x.dtype)


def _norms(values: np.ndarray) -> np.ndarray:
    """The Euclidean length of each sample, [B]."""
    return np.linalg.norm(values.reshape(len(values), -1), axis=1)


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The length of the relative change of all entries, [B]."""
    before = before.astype(np.float64)
    return _norms((before - after) / np.where(before == 0, _LEAST, before))


@metric("stability", better="lower", paper="Yeh et al. 2019")
def max_sensitivity(case: Case, *, radius: float = 0.1, runs: int = 10, relative: bool = True) -> np.ndarray:
    """The largest change of the relevance, as a length, among samples near by.

    A constant explanation is perfectly stable, and a model that jumps makes right maps jump: this says nothing about
    right or wrong.

    Args:
        radius: of uniform noise, as a share of the range of each sample's values. runs: how many samples near by.
        relative: to the length of the relevance, so that its scale does not matter; False: as in the paper.
    """
    own = case.relevance.astype(np.float64)
    change = np.max([_norms(case.explained(x) - own) for x in _neighbours(case, radius, runs)], axis=0)
    length = _norms(own)
    return np.divide(change, length, out=np.full(len(case), np.nan), where=length > 0) if relative else change


def _relative(case: Case, below: Callable[[np.ndarray], np.ndarray], radius: float, runs: int) -> np.ndarray:
    """The largest relative change of the relevance over `below`(x), [B], of samples x near by of the same top class."""
    own = case.predictions.argmax(axis=1)
    found = []
    for x in _neighbours(case, radius, runs):
        change = below(x)
        ratio = _change(case.relevance, case.explained(x)) / np.where(change == 0, _LEAST, change)
        found.append(np.where(np.asarray(case.predict(x)).argmax(axis=1) == own, ratio, -np.inf))
    most = np.max(found, axis=0)
    return np.where(most >= 0, most, np.nan)


@metric("stability", better="lower", paper=_AGARWAL)
def relative_input_stability(case: Case, *, radius: float = 0.1, runs: int = 10) -> np.ndarray:
    """The largest relative change of the relevance over the relative change of the input, among samples near by.

    Only those with the same top class count; NaN if there are none. Entries that are exactly zero count as 1e-6, and
    then outweigh all others. A constant explanation is perfectly stable: this says nothing about right or wrong.

    Args:
        radius: of uniform noise, as a share of the range of each sample's values. runs: how many samples near by.
    """
    return _relative(case, lambda x: _change(case.x, x), radius, runs)


@metric("stability", better="lower", paper=_AGARWAL)
def relative_output_stability(case: Case, *, radius: float = 0.1, runs: int = 10) -> np.ndarray:
    """The largest relative change of the relevance over the change of all scores, as a length.

    Args and warnings as `relative_input_stability`.
    """
    own = case.predictions
    return _relative(case, lambda x: _norms(own - np.asarray(case.predict(x), np.float64)), radius, runs)


@metric("stability", better="lower", paper=_AGARWAL, needs=("model",))
def relative_representation_stability(
    case: Case, *, layer: str | None = None, radius: float = 0.1, runs: int = 10
) -> np.ndarray:
    """The largest relative change of the relevance over the relative change of what a hidden layer gives.

    Args:
        layer: its name; None: what the last layer with weights reads. Others and warnings as
            `relative_input_stability`.
    """
    hidden = _hidden(case, layer)
    own = hidden(case.x)
    return _relative(case, lambda x: _change(own, hidden(x)), radius, runs)


def _hidden(case: Case, name: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """What a layer gives, [B, ...]; or what the last one with weights reads."""
    model = case.model
    assert model is not None  # as Metric checked
    try:
        layer = [found for found in model.layers if found.weights][-1] if name is None else model.get_layer(name)
        part = keras.Model(model.inputs[0], layer.input if name is None else layer.output)
    except (ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"relative_representation_stability expects a functional or sequential model, and layer= one of its own "
            f"layers. Received: {model.name!r}, layer={name!r} ({error})"
        ) from error
    return lambda x: keras.ops.convert_to_numpy(part(x, training=False))

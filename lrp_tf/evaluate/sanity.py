"""Sanity: do maps depend on what the model learned, and on the class? Metrics of cases that hold the model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np

from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.copies import randomized
from lrp_tf.evaluate.metric import metric
from lrp_tf.evaluate.randomization import explained, maps_of
from lrp_tf.evaluate.similarity import similarity

_ADEBAYO = "Adebayo et al. 2018"


def _mean(values: list[np.ndarray]) -> np.ndarray:
    """The mean over the layers where the similarity is defined; NaN where it never is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as it should be
        return np.nanmean(values, axis=0)


@metric("sanity", better="lower", paper=_ADEBAYO, needs=("model",), name="randomization_top_down", order="top_down")
@metric("sanity", better="lower", paper=_ADEBAYO, needs=("model",), name="randomization_bottom_up", order="bottom_up")
@metric("sanity", better="lower", paper=_ADEBAYO, needs=("model",), name="randomization_independent")
def parameter_randomization(
    case: Case,
    *,
    order: str = "independent",
    how: str = "permute",
    kind: str = "spearman",
    absolute: bool = True,
    stages: int | None = None,
) -> np.ndarray:
    """Similarity of the maps of the model and of copies with random layers, the mean over the layers.

    It tells that a map depends on the weights, not that it is right. A stage whose map has one value counts only with
    SSIM. The whole curve is `evaluate.randomization`.

    Args:
        order, how, stages: see `evaluate.randomized`. kind, absolute: see `evaluate.similarity`.
    """
    found = explained(case, order=order, how=how, stages=stages)
    return _mean([similarity(case.positions, maps, kind=kind, absolute=absolute) for _, maps in found])


@metric("sanity", better="lower", paper="Hedström et al. 2024", needs=("model",))
def randomization_smooth(
    case: Case,
    *,
    noise: float = 0.1,
    runs: int = 8,
    order: str = "bottom_up",
    how: str = "permute",
    kind: str = "spearman",
    absolute: bool = True,
    stages: int | None = None,
) -> np.ndarray:
    """Smooth parameter randomisation (sMPRT): similarity of mean maps over noisy samples, before and after.

    Args:
        noise: standard deviation, as a share of the range of each sample's values. runs: how many noisy samples.
        order, how, stages: see `evaluate.randomized`. kind, absolute: see `evaluate.similarity`.
    """
    maps = _mean_maps(case, noise, runs)
    own, found = maps(case), explained(case, order=order, how=how, stages=stages, maps=maps)
    return _mean([similarity(own, other, kind=kind, absolute=absolute) for _, other in found])


def _mean_maps(case: Case, noise: float, runs: int) -> Callable[[Case], np.ndarray]:
    """Gives the mean map of an explainer over noisy samples, the same ones for every explainer."""
    if not is_whole(runs) or runs < 1 or noise < 0:
        raise ValueError(
            f"sMPRT expects a whole number of runs >= 1 and noise >= 0. Received: runs={runs}, noise={noise}"
        )
    scale = [noise * np.ptp(x) for x in case.x]
    pairs = list(zip(scale, case.generators("randomization_smooth"), strict=True))
    shifts = [np.stack([s * numbers.normal(size=case.x[0].shape) for s, numbers in pairs]) for _ in range(runs)]
    return lambda of: np.mean(
        [dataclasses.replace(of, relevance=of.explained(of.x + s)).positions for s in shifts], axis=0
    )


@metric("sanity", better="higher", paper="Hedström et al. 2024", needs=("model",))
def randomization_efficient(case: Case, *, how: str = "permute", bins: int = 100, absolute: bool = False) -> np.ndarray:
    """Efficient parameter randomisation (eMPRT): the rise of the map's complexity once all layers are random.

    (H' - H) / H with H the entropy of a histogram of the relevance; H = 0 has no rise.

    Args:
        how: see `evaluate.randomized`. bins: of the histogram, from the least relevance to the most.
        absolute: of absolute values.
    """
    assert case.model is not None  # as Metric checked
    assert case.rebuild is not None
    *_, (_, model) = randomized(case.model, how=how, seed=case.seed, x=case.x)
    last = maps_of(dataclasses.replace(case, explain=case.rebuild(model)))
    before, after = (_entropies(np.abs(m) if absolute else m, bins) for m in (case.positions, last))
    return np.divide(after - before, before, out=np.full(len(case), np.nan), where=before > 0)


def _entropies(maps: np.ndarray, bins: int) -> np.ndarray:
    """Entropy of a histogram of each map's values, in nats."""
    counts = np.array([np.histogram(m, bins=bins)[0] for m in maps])
    share = counts / counts.sum(axis=1, keepdims=True)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)


@metric("sanity", better="lower", paper="Sixt et al. 2020")
def random_logit(case: Case, *, kind: str = "spearman", absolute: bool = True) -> np.ndarray:
    """Similarity of the maps of the target and of another class, drawn at random for each sample.

    Args:
        kind, absolute: see `evaluate.similarity`; the paper takes kind="ssim".
    """
    classes = case.predictions.shape[1]
    if classes < 2:
        raise ValueError("random_logit expects a classifier of at least two classes. Received: one")
    drawn = np.array([g.integers(classes - 1) for g in case.generators("random_logit")])
    other = dataclasses.replace(case, relevance=case.explained(case.x, drawn + (drawn >= case.target)))
    return similarity(case.positions, other.positions, kind=kind, absolute=absolute)

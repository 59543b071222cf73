"""Does relevance say what the score depends on? Features are removed or added, and the score is watched.

A feature is a region of positions with all its channels (`region`: its sides, see `regions.Grid`; by default 1/28 of
the shorter side; 1 for single positions); Quantus takes each channel's value as one. What is removed is filled, see
`perturb`. Where features come one after another, `features_in_step` of them do so at once: by default one, or as many
as it takes for 100 steps. Each step asks for the scores of all samples together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.correlation import pearson, spearman
from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.features import Features, ascending, bounded, rows
from lrp_tf.evaluate.fills import FillLike
from lrp_tf.evaluate.metric import metric
from lrp_tf.evaluate.protocol import Link
from lrp_tf.evaluate.regions import ranks


def _positive(name: str, value: int) -> int:
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} expects a positive integer. Received: {value!r}")
    return value


# Sides of the regions that count as one feature.
Region: TypeAlias = int | tuple[int, ...] | None


@metric("faithfulness", better="higher", paper="Bhatt et al. 2020")
def faithfulness_correlation(
    case: Case, *, runs: int = 100, size: int | None = None, fill: FillLike = "black", region: Region = None
) -> np.ndarray:
    """Over random sets of features: Pearson's correlation of their relevance and of the fall of the score without them.

    Args:
        runs: sets. size: features in a set; by default 224 or a quarter of all, whichever is less.
    """
    features = Features.of(case, fill, region)
    size = features.size("size", max(1, min(224, features.count // 4)) if size is None else size)
    generators = case.generators("faithfulness_correlation")
    sets = (features.random(generators, size) for _ in range(_positive("runs", runs)))
    return pearson(*features.effects(sets))


@metric("faithfulness", better="higher", paper="Ancona et al. 2018")
def sensitivity_n(
    case: Case,
    *,
    sizes: Sequence[int] | None = None,
    runs: int = 32,
    fill: FillLike = "black",
    region: Region = None,
) -> np.ndarray:
    """As `faithfulness_correlation`, for sets of n features, and averaged over n.

    Quantus correlates over the samples of a batch instead, the relevance of a step's features with the fall of the
    score since the first step. For one n the paper's definition is its faithfulness correlation.

    Args:
        sizes: the n; by default 8 from 1 to 80 % of all features, evenly spaced in their logarithm. An n for which the
            correlation is not defined is left out.
    """
    features, generators = Features.of(case, fill, region), case.generators("sensitivity_n")
    found = []
    for size in _sizes(features, sizes):
        sets = (features.random(generators, size) for _ in range(_positive("runs", runs)))
        found.append(pearson(*features.effects(sets)))
    return _mean_of_defined(np.array(found))


def _sizes(features: Features, sizes: Sequence[int] | None) -> list[int]:
    """The n of `sensitivity_n`, checked."""
    if sizes is not None:
        if len(sizes) == 0:
            raise ValueError("sizes expects at least one number of features. Received: none")
        return [features.size("sizes", n) for n in sizes]
    return np.unique(np.geomspace(1, max(1, 0.8 * features.count), 8).round().astype(int)).tolist()


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = np.isfinite(values)
    total, count = np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


@metric("faithfulness", better="higher", paper="Alvarez-Melis & Jaakkola 2018")
def faithfulness_estimate(
    case: Case, *, features_in_step: int | None = None, fill: FillLike = "black", region: Region = None
) -> np.ndarray:
    """Pearson's correlation of the relevance of features and of the fall of the score without each of them.

    Args:
        features_in_step: removed at once, neighbours in the order of relevance.
    """
    features = Features.of(case, fill, region)
    return pearson(*features.effects(features.steps(ascending(-features.relevance), features_in_step)))


@metric("faithfulness", better="higher", paper="Arya et al. 2019")
def monotonicity(
    case: Case,
    *,
    features_in_step: int | None = None,
    strict: bool = False,
    fill: FillLike = "black",
    region: Region = None,
) -> np.ndarray:
    """Features with positive relevance are added to an empty input, least first: the share of steps that lower nothing.

    Args:
        strict: the paper's test: 1 if no step lowers the score, else 0. Quantus 0.6.0 fills features with what they
            are filled with already, and so finds 1 for every map.
    """
    scores, added = _growing(Features.of(case, fill, region), features_in_step)
    risen, steps = ((np.diff(scores, axis=0) >= 0) & added).sum(axis=0), added.sum(axis=0)
    share = np.divide(risen, steps, out=np.full(len(case), np.nan), where=steps > 0)
    return np.floor(share) if strict else share


def _growing(features: Features, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores from the empty input on, [steps + 1, B], and which samples a step adds features to, bool [steps, B]."""
    positive = features.relevance > 0
    order = ascending(np.where(positive, features.relevance, np.inf))  # those that are not added come last
    present, added = np.zeros_like(positive), []
    scores = [features.case.scores(features.without(~present))]
    for group in features.steps(order, size):
        more = rows(group, features.count) & positive
        if not more.any():
            break
        present |= more
        added.append(more.any(axis=1))
        scores.append(features.case.scores(features.without(~present)))
    return np.stack(scores), np.array(added, bool).reshape(-1, len(positive))


@metric("faithfulness", better="higher", paper="Nguyen & Martinez 2020")
def monotonicity_correlation(
    case: Case,
    *,
    features_in_step: int | None = None,
    runs: int = 10,
    low: float | None = None,
    high: float | None = None,
    region: Region = None,
) -> np.ndarray:
    """Spearman's correlation of the |R| of features and of how far the score moves if they are filled at random.

    How far: the mean square of the change over `runs` values, uniform between `low` and `high` (by default the least
    and largest value of the sample; Quantus: 0 and 1, 100 runs). One value fills all features of a step.
    """
    features, generators = Features.of(case, region=region), case.generators("monotonicity_correlation")
    magnitude, totals, moved = np.abs(features.relevance), [], []
    for group in features.steps(ascending(magnitude), features_in_step):
        removed, squares = rows(group, features.count), np.zeros(len(case))
        for _ in range(_positive("runs", runs)):
            values = _uniform(case.x, generators, low, high)
            squares += (case.scores(features.set_to(values, removed)) - case.score) ** 2
        totals.append(np.take_along_axis(magnitude, group, axis=1).sum(axis=1))
        moved.append(squares / runs)
    return spearman(np.stack(totals, axis=1), np.stack(moved, axis=1))


def _uniform(
    x: np.ndarray, generators: Sequence[np.random.Generator], low: float | None, high: float | None
) -> np.ndarray:
    """A random number for each sample between two bounds, by default its own, [B, 1, ...]."""
    inner = tuple(range(1, x.ndim))
    least = x.min(axis=inner, keepdims=True).astype(np.float64) if low is None else low
    largest = x.max(axis=inner, keepdims=True).astype(np.float64) if high is None else high
    part = np.array([generator.uniform() for generator in generators])
    return least + part.reshape(-1, *[1] * len(inner)) * (largest - least)


def _squares(case: Case, side: int, runs: int) -> Iterator[np.ndarray]:
    """Random squares of positions, bool [B, *positions], each from another place of each sample."""
    shape, generators = case.positions.shape[1:], case.generators("infidelity")
    for _ in range(runs):
        found = np.zeros(case.positions.shape, bool)
        for mask, generator in zip(found, generators, strict=True):
            corner = [generator.integers(full - side + 1) for full in shape]
            mask[tuple(slice(first, first + side) for first in corner)] = True
        yield found


def _tiles(case: Case, side: int) -> Iterator[np.ndarray]:
    """The squares that the positions divide into, row by row, each with those before it."""
    shape = case.positions.shape[1:]
    found = np.zeros(case.positions.shape, bool)
    for corner in np.ndindex(*[-(-full // side) for full in shape]):
        found[(slice(None), *[slice(i * side, (i + 1) * side) for i in corner])] = True
        yield found.copy()


@metric("faithfulness", better="lower", paper="Yeh et al. 2019")
def infidelity(
    case: Case,
    *,
    runs: int = 100,
    side: int | None = None,
    fill: FillLike = "black",
    gradient: bool = False,
    scaled: bool = True,
    tiles: bool = False,
) -> np.ndarray:
    """The mean of (β I·Φ - fall of the score)² over random squares of positions that are filled; I: what changed there.

    Args:
        side: of a square; by default 1/7 of the shorter side.
        gradient: relevance is Φ, in units of a gradient, and I·Φ = Σ (x - filled) R. Otherwise R is in units of the
            score, as LRP's, and I·Φ is the sum of R in the square.
        scaled: β >= 0 is the best for each sample, so that the scale of a map does not count; otherwise 1.
        tiles: squares side by side, each left filled when the next is. Quantus: side=4, gradient, tiles, not scaled.
    """
    shortest = min(case.positions.shape[1:])
    side = bounded("side", max(1, round(shortest / 7)) if side is None else side, shortest, "the shorter side")
    squares = _tiles(case, side) if tiles else _squares(case, side, _positive("runs", runs))
    a, b = _said_and_fell(Features.of(case, fill), squares, gradient)
    return (((_best_scale(a, b) if scaled else 1) * a - b) ** 2).mean(axis=1)


def _said_and_fell(features: Features, squares: Iterator[np.ndarray], gradient: bool) -> tuple[np.ndarray, np.ndarray]:
    """What relevance says of each square, and the fall of the score with it filled; both [B, squares]."""
    case, said, fell = features.case, [], []
    for square in squares:
        x = features.keeping(~square)
        said.append(_change(case, x) if gradient else (case.positions * square).reshape(len(case), -1).sum(axis=1))
        fell.append(case.score - case.scores(x))
    return np.stack(said, axis=1), np.stack(fell, axis=1)


def _best_scale(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The factor of at least 0 that brings each row of a nearest to that of b, [B, 1]."""
    power = (a * a).sum(axis=1)
    return np.divide((a * b).sum(axis=1), power, out=np.zeros(len(a)), where=power > 0).clip(min=0)[:, None]


def _change(case: Case, x: np.ndarray) -> np.ndarray:
    """Σ (x - other x) R of each sample, [B]."""
    found = case.relevance.astype(np.float64)
    if found.ndim < case.x.ndim and case.channel_axis is not None:
        found = np.expand_dims(found, case.channel_axis)
    return ((case.x.astype(np.float64) - x) * found).reshape(len(case), -1).sum(axis=1)


@metric("faithfulness", better="higher", paper="Rieger & Hansen 2020")
def irof(
    case: Case, *, fill: FillLike = "mean", segments: int = 100, scaled: bool = True, link: Link = None
) -> np.ndarray:
    """Superpixels (SLIC) are filled, the most relevant first: the area over the curve of the class's probability.

    Superpixels of equal relevance come in random order. NaN for a picture that is a single one, such as noise, and
    where the probability is 0 from the start.

    Args:
        segments: about as many superpixels; relevance is averaged over each.
        scaled: the curve begins with the input as it is, and the area lies in (-∞, 1]. Otherwise as Quantus: number of
            superpixels less the area from the first filled one on; pictures with more superpixels score higher.
        link: what makes probabilities of scores, see `perturb`; None: those that `predict` knows, else the softmax.

    Raises:
        ValueError: samples that are no pictures. ImportError: scikit-image is not installed.
    """
    place, features, start = _ranks(case, segments), Features.of(case, fill), case.probability(case.x, link)
    counts = place.reshape(len(case), -1).max(axis=1) + 1
    curve = [start, *(case.probability(features.keeping(place > step), link) for step in range(counts.max()))]
    values = np.stack(curve, axis=1) / np.where(start > 0, start, np.nan)[:, None]
    areas = np.array([_trapezoid(row[0 if scaled else 1 : n + 1]) for row, n in zip(values, counts, strict=True)])
    return np.where(counts < 2, np.nan, 1 - areas / counts if scaled else counts - areas)


def _trapezoid(curve: np.ndarray) -> float:
    return float((curve[1:] + curve[:-1]).sum() / 2)


def _ranks(case: Case, segments: int) -> np.ndarray:
    """The superpixel of each position, numbered from the most relevant one on, [B, rows, columns].

    Raises:
        ValueError: samples that are no pictures, fewer than two superpixels asked for.
    """
    if not is_whole(segments) or segments < 2:
        whole = "" if is_whole(segments) else ", a whole number"
        raise ValueError(f"segments expects at least 2{whole}. Received: {segments!r}")
    if case.positions.ndim != 3 or case.channel_axis is None:
        raise ValueError(f"irof expects pictures, [B, rows, columns, channels]. Received: {case.x.shape}")
    slic, found = optional("skimage.segmentation").slic, []
    pictures = np.moveaxis(case.x, case.channel_axis, -1)
    for x, relevance, generator in zip(pictures, case.positions, case.generators("irof"), strict=True):
        labels = np.unique(slic(x.astype(np.float64), n_segments=segments, start_label=0), return_inverse=True)[1]
        means = np.bincount(labels.ravel(), relevance.ravel()) / np.bincount(labels.ravel())
        found.append(ranks(means[None], "morf", [generator])[0][labels].reshape(relevance.shape))
    return np.stack(found)


@metric("faithfulness", better="higher", paper="Dasgupta et al. 2022", over_batch=True)
def sufficiency(case: Case, *, threshold: float = 0.6) -> np.ndarray:
    """Of the samples of the batch with a similar map: the share whose predicted class is the same.

    Similar: a distance of |R| (Euclidean, each position divided by its standard deviation over the batch) of at most
    `threshold` of the largest one. NaN where no map is similar (Quantus: 0).
    """
    found = np.abs(case.positions).reshape(len(case), -1)
    deviation = found.std(axis=0)
    found = found[:, deviation > 0] / deviation[deviation > 0]
    distance = np.stack([np.linalg.norm(found - row, axis=1) for row in found])
    similar = distance <= threshold * distance.max()
    np.fill_diagonal(similar, False)
    predicted = case.predictions.argmax(axis=1)
    same = (similar & (predicted[:, None] == predicted)).sum(axis=1)
    count = similar.sum(axis=1)
    return np.divide(same, count, out=np.full(len(case), np.nan), where=count > 0)

"""What clusters, prototypes, outliers and top concepts find of a planted mark: recall and precision, and a control."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from lrp_tf.concepts.clusters import Clusters, spectral
from lrp_tf.concepts.planted.marks import Mark, Planted
from lrp_tf.concepts.planted.nets import CONCEPTS
from lrp_tf.concepts.prototypes import Prototypes, prototypes
from lrp_tf.concepts.vectors import concept_vectors, shares
from lrp_tf.explainer import Explainer

PROTOTYPES, COVARIANCE = 8, "tied"  # of each class; one covariance for all of a class, as samples are few
AT_MOST = 500  # samples of a class that are clustered
OUTLIERS = 0.05  # share of the class, the least likely ones
PAIRS = 200  # samples with and without the mark that tell which channel is the mark's
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Found:
    """How well one method finds the marked samples among those of their class.

    Attributes:
        method: "clusters" of maps, "prototypes" of concept vectors, "outliers" among these, the "top concept".
        groups: how many groups it makes of the class.
        recall: share of the marked samples that lie in groups which are marked for the most part, as somebody finds
            them who looks at all groups; among the outliers; whose most relevant channel is that of the mark.
        precision: share of those groups, outliers, samples with that channel, that is marked; 0 where there are none.
        control_recall, control_precision: the same for the same pictures, explained by a net that was trained without
            the mark.
        rank: of the class among all classes, by how clearly they fall into groups, 1 the clearest; None: the method
            has no such measure, or all samples are marked.
    """

    method: str
    groups: int
    recall: float
    precision: float
    control_recall: float
    control_precision: float
    rank: int | None


class Seen(NamedTuple):
    """Samples of the class that has the mark, as they are shown.

    Attributes:
        samples: which of the data, [M]. maps: their relevance, [M, H, W]. clusters: of the maps.
        on_mark: the share of |relevance| on the mark's pixels, of marked samples; elsewhere: of the others of the class
            and of other classes on the same pixels. Medians; NaN where there are none.
        channel: that of the mark, see `channel_of`.
    """

    samples: np.ndarray
    maps: np.ndarray
    clusters: Clusters
    on_mark: float
    elsewhere: float
    channel: int


def find(explainer: Explainer, control: Explainer, data: Planted, mark: Mark, seed: int) -> tuple[list[Found], Seen]:
    """What the methods find in the training pictures of each class, explained for that class.

    Args:
        explainer: of the net that was trained on `data`. control: of one that was trained without the mark.
    """
    classes = np.unique(data.labels).tolist()
    index = {label: _some(data, label, seed) for label in classes}
    own = index[data.label]
    marked = data.marked[own]
    maps = {label: maps_of(explainer, data.x[index[label]], label) for label in classes}
    groups = {label: spectral(maps[label], seed=seed) for label in classes}
    vectors = {label: _vectors(explainer, data, index[label]) for label in classes}
    mixtures = _mixtures(vectors, seed)
    # The smaller the second eigenvalue, the less joins the groups; the more the mixture gains, the clearer it is.
    gap = _rank({label: -float(group.eigenvalues[1]) for label, group in groups.items()}, data.label)
    gain = _rank({label: _gain(mixtures, vectors, label) for label in classes}, data.label)
    beside = maps_of(control, data.x[own], data.label)
    other = _mixtures({data.label: _vectors(control, data, own)}, seed)
    channel, theirs = (channel_of(e, data, mark) for e in (explainer, control))
    tops = [
        (_top(v) == c).astype(int) for v, c in ((vectors[data.label], channel), (_vectors(control, data, own), theirs))
    ]
    strange = [_outliers(v, seed) for v in (vectors[data.label], _vectors(control, data, own))]
    pairs = {
        "clusters": (groups[data.label].labels, spectral(beside, seed=seed).labels, gap),
        "prototypes": (mixtures[data.label].assigned, other[data.label].assigned, gain),
        "outliers": (*strange, None),
        "top concept": (*tops, None),
    }
    found = []
    for method, (ours, controls, rank) in pairs.items():
        given = method in ("outliers", "top concept")
        fits = [fit(labels, marked, [1] if given else None) for labels in (ours, controls)]
        found.append(Found(method, len(np.unique(ours)), *fits[0], *fits[1], None if marked.all() else rank))
    on, off = _on_mark(data, mark, index, maps)
    return found, Seen(own, maps[data.label], groups[data.label], on, off, channel)


def maps_of(explainer: Explainer, x: np.ndarray, label: int) -> np.ndarray:
    """Relevance of pixels, channels summed, [N, H, W]."""
    parts = [np.asarray(explainer(x[i : i + BATCH], label)).sum(axis=-1) for i in range(0, len(x), BATCH)]
    return np.concatenate(parts)


def channel_of(explainer: Explainer, data: Planted, mark: Mark) -> int:
    """The channel whose share of the |relevance| rises most when samples of the class get the mark."""
    plain = data.x[(data.labels == data.label) & ~data.marked]
    plain = plain if len(plain) else data.x[data.labels != data.label]  # all of the class have it already
    pairs = plain[:PAIRS], mark(plain[:PAIRS])
    without, with_it = (np.abs(shares(concept_vectors(explainer, x, data.label, layer=CONCEPTS))) for x in pairs)
    return int((with_it - without).mean(axis=0).argmax())


def _some(data: Planted, label: int, seed: int) -> np.ndarray:
    """At most `AT_MOST` samples of a class: all that are marked if they fit, the share of them as it is else."""
    places = np.flatnonzero(data.labels == label)
    if len(places) <= AT_MOST:
        return places
    return np.sort(np.random.default_rng(seed).permutation(places)[:AT_MOST])


def _vectors(explainer: Explainer, data: Planted, index: np.ndarray) -> np.ndarray:
    return concept_vectors(explainer, data.x[index], data.labels[index], layer=CONCEPTS, batch=BATCH)


def _mixtures(vectors: dict[int, np.ndarray], seed: int) -> Prototypes:
    labels = np.concatenate([np.full(len(v), label) for label, v in vectors.items()])
    return prototypes(
        np.concatenate(list(vectors.values())), labels, PROTOTYPES, covariance=COVARIANCE, folds=0, seed=seed
    )


def _gain(mixtures: Prototypes, vectors: dict[int, np.ndarray], label: int) -> float:
    """By how much the mixture is likelier than a single Gaussian, for each sample."""
    one = prototypes(vectors[label], np.full(len(vectors[label]), label), 1, covariance=COVARIANCE, folds=0)[label]
    return float(mixtures[label].likelihood.mean() - one.likelihood.mean())


def _rank(values: dict[int, float], label: int) -> int:
    return 1 + sum(value > values[label] for value in values.values())


def _top(vectors: np.ndarray) -> np.ndarray:
    return np.abs(vectors).argmax(axis=1)


def _outliers(vectors: np.ndarray, seed: int) -> np.ndarray:
    """1 for the samples that are least likely under mixtures fitted without them, else 0."""
    labels = np.zeros(len(vectors), np.int64)
    likelihood = prototypes(vectors, labels, PROTOTYPES, covariance=COVARIANCE, seed=seed)[0].likelihood
    count = max(1, round(OUTLIERS * len(vectors)))
    return np.isin(np.arange(len(vectors)), np.argsort(likelihood)[:count]).astype(int)


def fit(labels: np.ndarray, marked: np.ndarray, chosen: list[int] | None = None) -> tuple[float, float]:
    """Recall and precision of the marked samples by groups.

    Args:
        labels: the group of each sample, [M]. marked: bool [M].
        chosen: the groups; None: all that are marked for the most part.
    """
    if chosen is None:
        chosen = [group for group in np.unique(labels).tolist() if marked[labels == group].mean() > 0.5]
    inside = np.isin(labels, chosen)
    hits = float((inside & marked).sum())
    return hits / max(int(marked.sum()), 1), hits / max(int(inside.sum()), 1)


def _on_mark(
    data: Planted, mark: Mark, index: dict[int, np.ndarray], maps: dict[int, np.ndarray]
) -> tuple[float, float]:
    """Medians of the share of |R| on the mark's pixels: of marked samples, and of all others."""
    on, off = [], []
    for label, places in index.items():
        size = np.abs(maps[label])
        region = mark.region(data.x[places])
        share = (size * region).sum(axis=(1, 2)) / np.maximum(size.sum(axis=(1, 2)), 1e-12)
        on.append(share[data.marked[places]])
        off.append(share[~data.marked[places]])
    return tuple(float(np.median(v)) if len(v := np.concatenate(part)) else float("nan") for part in (on, off))  # type: ignore[return-value]

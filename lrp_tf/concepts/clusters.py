"""Clusters of explanations (SpRAy, Lapuschkin et al. 2019): strategies of a model, as groups of alike maps."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lrp_tf.concepts.threads import EXTRA, threads_for
from lrp_tf.concepts.vectors import shares
from lrp_tf.core.counts import whole
from lrp_tf.engine.tables import Table
from lrp_tf.evaluate.extras import optional

_DENSE = 1500  # samples up to which all eigenvalues are computed, which never fails to converge


@dataclasses.dataclass(frozen=True)
class Clusters:
    """What `spectral` found.

        found.labels, found.members(0), found.gaps

    Attributes:
        labels: the cluster of each sample, int [N], the largest cluster first.
        eigenvalues: the smallest ones of the graph's Laplacian, ascending; a gap behind the n-th speaks for n clusters.
        points: where each sample lies in the space of the first eigenvectors, [N, n].
    """

    labels: np.ndarray
    eigenvalues: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def gaps(self) -> np.ndarray:
        """By how much each eigenvalue exceeds the one before it; `gaps[n - 1]` speaks for n clusters."""
        return np.diff(self.eigenvalues)

    def members(self, cluster: int) -> np.ndarray:
        """Indices of the samples of a cluster, int [M]; ValueError for a number that there is not."""
        whole("cluster", cluster, 0, len(self) - 1)
        return np.flatnonzero(self.labels == cluster)

    def table(self) -> Table:
        """A row for each cluster: its samples and their share; below it the first eigenvalues."""
        counts = np.bincount(self.labels)
        rows = [(number, int(count), float(count / len(self.labels))) for number, count in enumerate(counts)]
        gap = f"eigenvalues {', '.join(f'{value:.3f}' for value in self.eigenvalues[: len(self) + 3])} ..."
        return Table("", ("cluster", "samples", "share"), rows, (gap,))


def spectral(
    values: np.ndarray,
    n: int | None = None,
    *,
    neighbours: int | None = None,
    largest: int = 8,
    pixels: int = 14,
    normalize: bool = True,
    seed: int = 0,
) -> Clusters:
    """Spectral clustering of maps or concept vectors.

        found = concepts.clusters.spectral(maps)       # of the samples of one class
        found.labels, found.gaps

    The graph joins each sample with its nearest neighbours. Needs scikit-learn (extra `concepts`).

    Args:
        values: relevance maps [N, H, W] or [N, H, W, C], whose channels are summed; or vectors [N, C].
        n: how many clusters; None: where the gap between two eigenvalues is largest, 1 to `largest`. One cluster means
            that nothing separates the samples.
        neighbours: of each sample in the graph; None: twice the logarithm of their number, 4 or more.
        pixels: larger maps are averaged over windows, down to about so many pixels a side: a cluster is to be of maps
            that are alike, not of maps that are equal pixel by pixel.
        normalize: divide each map by the sum of its absolute values.
        seed: of the assignment.

    Raises:
        ValueError: other shapes, fewer than three samples, as many clusters or neighbours as samples,
            or numbers of them that are not whole, NaN or Inf.
        ImportError: scikit-learn is missing.
    """
    flat = flattened(values, pixels)
    count = len(flat)
    if count < 3:
        raise ValueError(f"spectral expects three samples or more. Received: {count}")
    n = n if n is None else whole("n", n, 1, count - 1)
    near = neighbours if neighbours is not None else min(count - 1, max(4, round(2 * math.log(count))))
    near, largest = whole("neighbours", near, 1, count - 1), whole("largest", largest, 1)
    flat = shares(flat) if normalize else flat
    wanted = min(count - 1, max(largest, n or 1) + 1)
    eigenvalues, vectors = _spectrum(flat, near, wanted)
    chosen = n if n is not None else int(np.argmax(np.diff(eigenvalues))) + 1
    points = vectors[:, :chosen]
    if chosen == 1:
        return Clusters(np.zeros(count, np.int64), eigenvalues, points)
    with threads_for(count):
        means = optional("sklearn.cluster", EXTRA).KMeans(chosen, n_init=10, random_state=seed).fit(points)
    order = np.argsort(-np.bincount(means.labels_, minlength=chosen), kind="stable")
    return Clusters(np.argsort(order)[means.labels_].astype(np.int64), eigenvalues, points)


def _spectrum(flat: np.ndarray, neighbours: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest eigenvalues of the normalised Laplacian, and the eigenvectors of the random walk, [N, wanted]."""
    with threads_for(len(flat)):
        graph = optional("sklearn.neighbors", EXTRA).kneighbors_graph(flat, neighbours)
    graph = graph.maximum(graph.T)  # a neighbour of either: no sample stays alone
    laplacian, roots = optional("scipy.sparse.csgraph", EXTRA).laplacian(graph, normed=True, return_diag=True)
    if len(flat) <= _DENSE:
        values, vectors = np.linalg.eigh(laplacian.toarray())
    else:
        # Around a number below zero: the matrix itself has no inverse.
        start = np.random.default_rng(0).uniform(size=len(flat))
        values, vectors = optional("scipy.sparse.linalg", EXTRA).eigsh(laplacian, wanted, sigma=-1e-2, v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    return np.maximum(values[:wanted], 0), vectors[:, :wanted] / roots[:, None]


def flattened(values: np.ndarray, pixels: int) -> np.ndarray:
    """Maps [N, H, W(, C)] or vectors [N, C] -> [N, features]: channels summed, averaged over windows."""
    values = np.asarray(values, np.float64)
    if values.ndim not in (2, 3, 4) or not values.size:
        raise ValueError(f"expected maps [N, H, W] or [N, H, W, C], or vectors [N, C]. Received: {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite numbers. Received: NaN or Inf")
    whole("pixels", pixels, 1)
    if values.ndim == 2:
        return values
    maps = values.sum(axis=3) if values.ndim == 4 else values
    for axis in (1, 2):
        windows = np.array_split(np.arange(maps.shape[axis]), min(pixels, maps.shape[axis]))
        maps = np.stack([maps.take(window, axis=axis).mean(axis=axis) for window in windows], axis=axis)
    return maps.reshape(len(maps), -1)

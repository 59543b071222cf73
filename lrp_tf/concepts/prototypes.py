"""Prototypes (PCX, Dreyer et al. 2024): a Gaussian mixture for each class over the relevance of concepts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrp_tf.concepts.threads import EXTRA, threads_for
from lrp_tf.concepts.vectors import shares
from lrp_tf.core.counts import is_whole, whole
from lrp_tf.engine.tables import Table
from lrp_tf.evaluate.extras import optional

COVARIANCES = ("diag", "full", "tied", "spherical")
_FLOOR = 1e-2  # of a class's mean variance, which is added to each variance: rare channels have next to none


@dataclasses.dataclass(frozen=True)
class ClassPrototypes:
    """The prototypes of one class.

        found[3].means, found[3].coverage

    Attributes:
        mixture: scikit-learn's GaussianMixture, of vectors divided by `scale`.
        scale: a number, that all vectors of the class were divided by.
        members: indices of the training vectors of the class, [M].
        assigned: the prototype that each of them belongs to, [M].
        likelihood: log-likelihood of each, by mixtures that were not fitted to it, [M], see `prototypes`.
    """

    mixture: Any
    scale: float
    members: np.ndarray
    assigned: np.ndarray
    likelihood: np.ndarray

    def __len__(self) -> int:
        return self.mixture.n_components

    @property
    def means(self) -> np.ndarray:
        """The prototypes, [n, C], in the units of the vectors."""
        return self.mixture.means_ * self.scale

    @property
    def coverage(self) -> np.ndarray:
        """The share of the class's training vectors that belongs to each prototype, [n]."""
        return np.bincount(self.assigned, minlength=len(self)) / len(self.assigned)


class Prototypes(Mapping[int, ClassPrototypes]):
    """Prototypes of several classes: a mapping from class to `ClassPrototypes`, made by `prototypes`.

        found.typicality(vectors, labels)       # 0 to 100
        found.samples(3, prototype=0, n=8)      # indices of training vectors

    Attributes:
        normalize: whether vectors are divided by the sum of their absolute values.
    """

    def __init__(self, classes: dict[int, ClassPrototypes], vectors: np.ndarray, normalize: bool) -> None:
        self._classes, self._vectors, self.normalize = classes, vectors, normalize

    def __getitem__(self, label: int) -> ClassPrototypes:
        if label not in self._classes:
            raise KeyError(f"expected one of the classes {sorted(self._classes)}. Received: {label!r}")
        return self._classes[label]

    def __iter__(self) -> Any:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __repr__(self) -> str:
        return f"<Prototypes of {len(self)} classes: {', '.join(f'{k}: {len(v)}' for k, v in self._classes.items())}>"

    def log_likelihood(self, vectors: np.ndarray, labels: Any) -> np.ndarray:
        """How likely each vector is under the mixture of its class, [N].

            found.log_likelihood(vectors, labels)

        Args:
            vectors: [N, C]. labels: the class of each, [N], or one for all: the predicted one, as a rule.

        Raises:
            ValueError: other shapes, a class without prototypes, NaN or Inf.
        """
        return self._each(vectors, labels, lambda of, v: of.mixture.score_samples(v / of.scale))

    def typicality(self, vectors: np.ndarray, labels: Any) -> np.ndarray:
        """How typical each vector is of its class, [N]: the percentage of the class's training vectors less likely.

            found.typicality(vectors, predicted)     # 50: as likely as the median of its class; 0: an outlier

        Args and errors as `log_likelihood`.
        """

        def percentile(of: ClassPrototypes, v: np.ndarray) -> np.ndarray:
            ordered = np.sort(of.likelihood)
            return 100 * np.searchsorted(ordered, of.mixture.score_samples(v / of.scale)) / len(ordered)

        return self._each(vectors, labels, percentile)

    def outliers(self, vectors: np.ndarray, labels: Any, *, below: float = 1.0) -> np.ndarray:
        """Indices of the vectors whose typicality is below a percentage, the least likely first.

            found.outliers(vectors, predicted, below=5)

        Args and errors as `log_likelihood`; ValueError for a percentage out of range, too.
        """
        if not 0 < below <= 100:
            raise ValueError(f"below expects a percentage above 0 and up to 100. Received: {below}")
        typical, likelihood = self.typicality(vectors, labels), self.log_likelihood(vectors, labels)
        order = np.argsort(likelihood, kind="stable")
        return order[typical[order] < below]

    def nearest(self, vectors: np.ndarray, labels: Any) -> np.ndarray:
        """The prototype of its class that each vector belongs to most probably, int [N].

            found.nearest(vectors, predicted)

        Args and errors as `log_likelihood`.
        """
        return self._each(vectors, labels, lambda of, v: of.mixture.predict(v / of.scale)).astype(np.int64)

    def samples(self, label: int, prototype: int, n: int = 8) -> np.ndarray:
        """Indices of the training vectors of a prototype that lie closest to it, the closest first; n at most.

            found.samples(3, prototype=0, n=8)

        Raises:
            KeyError: a class without prototypes. ValueError: no prototype of this number; n that is no whole number
                of at least 1.
        """
        of = self[label]
        whole("prototype", prototype, 0, len(of) - 1)
        n = whole("n", n, 1)
        members = of.members[of.assigned == prototype]
        distance = np.linalg.norm(self._vectors[members] - of.means[prototype], axis=1)
        return members[np.argsort(distance, kind="stable")][:n]

    def table(self, top: int = 3) -> Table:
        """A row for each prototype: class, share of its samples, channels of the largest |relevance|.

            print(found.table())

        Args:
            top: channels that are named.

        Raises:
            ValueError: top is no whole number of at least 0.
        """
        top = whole("top", top)
        rows = []
        for label, of in self._classes.items():
            for number, (mean, share) in enumerate(zip(of.means, of.coverage, strict=True)):
                channels = np.argsort(-np.abs(mean), kind="stable")[:top]
                told = ", ".join(f"{channel}: {mean[channel]:.3g}" for channel in channels)
                rows.append((label, number, float(share), int((of.assigned == number).sum()), told))
        return Table("", ("class", "prototype", "share", "samples", "channels: relevance"), rows)

    def _each(self, vectors: np.ndarray, labels: Any, of: Any) -> np.ndarray:
        """A number for each vector, by the prototypes of its class."""
        vectors = _checked(vectors, self._vectors.shape[1])
        labels = np.broadcast_to(np.asarray(labels), (len(vectors),)) if np.ndim(labels) == 0 else np.asarray(labels)
        _require_labels(labels, len(vectors))
        if unknown := sorted(set(labels.tolist()) - set(self._classes)):
            raise ValueError(f"labels expects the classes {sorted(self._classes)}. Received: {unknown[:10]}")
        vectors = shares(vectors) if self.normalize else vectors
        found = np.zeros(len(vectors))
        for label in np.unique(labels):
            chosen = labels == label
            found[chosen] = of(self._classes[int(label)], vectors[chosen])
        return found


def prototypes(
    vectors: np.ndarray,
    labels: np.ndarray,
    n: int | Sequence[int] | np.ndarray = 4,
    *,
    covariance: str = "diag",
    normalize: bool = True,
    folds: int = 5,
    seed: int = 0,
) -> Prototypes:
    """For each class, a Gaussian mixture over the relevance of concepts; its components are the prototypes.

        vectors = concepts.concept_vectors(explainer, x, labels, layer="conv2")
        found = concepts.prototypes(vectors, labels, n=(1, 2))

    Needs scikit-learn (extra `concepts`).

    Args:
        vectors: relevance of each channel, [N, C], for the class that `labels` names.
        labels: int [N].
        n: prototypes of each class; several numbers: of these the one with the least Bayesian information criterion.
        covariance: of the components, as in scikit-learn. "full" wants many more samples than channels.
        normalize: divide each vector by the sum of its absolute values, so that shares are compared, not scores.
        folds: the training vectors' likelihoods, which `typicality` compares with, come from mixtures that were
            fitted without them, in so many folds. 0: from the mixture itself, which likes the vectors that it was
            fitted to better than others; new ones then look less typical than they are.
        seed: of the fits and the folds.

    Raises:
        ValueError: other shapes, NaN or Inf, an unknown covariance, a class with fewer vectors than 2 n.
        ImportError: scikit-learn is missing.
    """
    vectors = _checked(vectors)
    labels = np.asarray(labels)
    _require_labels(labels, len(vectors))
    wanted = np.atleast_1d(np.asarray(n))
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer) or wanted.min() < 1:
        raise ValueError(f"n expects a positive integer or several. Received: {n!r}")
    numbers = tuple(wanted.tolist())
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance expects one of {list(COVARIANCES)}. Received: {covariance!r}")
    if not is_whole(folds) or folds < 0 or folds == 1:
        raise ValueError(f"folds expects 0, or a whole number from 2. Received: {folds!r}")
    counts = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))
    if few := {label: count for label, count in counts.items() if count < 2 * max(numbers)}:
        raise ValueError(
            f"prototypes expects {2 * max(numbers)} vectors of each class or more, for n = {max(numbers)}. Received: "
            f"{few} (class: vectors). Remedy: a smaller n, or leave these classes out"
        )
    vectors = shares(vectors) if normalize else vectors
    found = {}
    with threads_for(max(counts.values())):
        for label in counts:
            members = np.flatnonzero(labels == label)
            found[int(label)] = _of_class(vectors[members], members, numbers, covariance, folds, seed)
    return Prototypes(found, vectors, normalize)


def _of_class(
    vectors: np.ndarray, members: np.ndarray, numbers: tuple[int, ...], covariance: str, folds: int, seed: int
) -> ClassPrototypes:
    # Shares of relevance are small; scikit-learn's own floor of variances expects values around 1.
    scale = float(np.sqrt(vectors.var(axis=0).mean())) or 1.0
    scaled = vectors / scale
    fits = [_fit(scaled, number, covariance, seed) for number in numbers]
    best = min(fits, key=lambda fit: fit.bic(scaled)) if len(fits) > 1 else fits[0]
    likelihood = best.score_samples(scaled)
    if folds:
        parts = np.random.default_rng(seed).permutation(len(scaled)) % min(folds, len(scaled))
        for part in np.unique(parts):
            kept = scaled[parts != part]
            number = min(best.n_components, len(kept))
            likelihood[parts == part] = _fit(kept, number, covariance, seed).score_samples(scaled[parts == part])
    return ClassPrototypes(best, scale, members, best.predict(scaled), likelihood)


def _fit(vectors: np.ndarray, n: int, covariance: str, seed: int) -> Any:
    mixture = optional("sklearn.mixture", EXTRA).GaussianMixture(
        n, covariance_type=covariance, reg_covar=_FLOOR, n_init=3, max_iter=500, random_state=seed
    )
    return mixture.fit(vectors)


def _checked(vectors: np.ndarray, channels: int | None = None) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    wanted = "C" if channels is None else channels
    if vectors.ndim != 2 or not vectors.size or (channels is not None and vectors.shape[1] != channels):
        raise ValueError(f"vectors expects [N, {wanted}]. Received: {list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors expects finite numbers. Received: NaN or Inf")
    return vectors


def _require_labels(labels: np.ndarray, count: int) -> None:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels expects integers [{count}]. Received: {labels.dtype} {list(labels.shape)}")

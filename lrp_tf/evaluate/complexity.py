"""How many features a map names: the fewer, the easier it is to read."""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.metric import metric


def _shares(case: Case) -> np.ndarray:
    """|R| of each position as a share of all, [B, N]; NaN where a map is empty."""
    found = np.abs(case.positions).reshape(len(case), -1)
    total = found.sum(axis=1, keepdims=True)
    return np.divide(found, total, out=np.full_like(found, np.nan), where=total > 0)


def _entropy(case: Case) -> np.ndarray:
    shares = _shares(case)
    return -(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum(axis=1)


@metric("complexity", better="higher", paper="Chalasani et al. 2020")
def sparseness(case: Case) -> np.ndarray:
    """The Gini index of |R|: 0 where all positions have the same, near 1 where one has all.

    Σ_i (2i - N - 1) a_i / (N Σ a) of the sorted a = |R|. Quantus adds 1e-7 to each a.
    """
    shares = np.sort(_shares(case), axis=1)
    count = shares.shape[1]
    return ((2 * np.arange(1, count + 1) - count - 1) * shares).sum(axis=1) / count


@metric("complexity", better="lower", paper="Bhatt et al. 2020")
def complexity(case: Case) -> np.ndarray:
    """The entropy of |R| / Σ|R|, in nats: 0 where one position has all, log N where all have the same."""
    return _entropy(case)


@metric("complexity", better="lower", paper="Bhatt et al. 2020")
def effective_pixels(case: Case) -> np.ndarray:
    """The effective number of positions, exp of the entropy of |R|: n where n positions share the relevance equally."""
    return np.exp(_entropy(case))


@metric("complexity", better="lower", paper="Nguyen & Martinez 2020")
def effective_complexity(case: Case, *, epsilon: float = 1e-5) -> np.ndarray:
    """The number of positions whose |R| exceeds `epsilon` of the sample's largest.

    Quantus divides by the largest of the whole batch.
    """
    found = np.abs(case.positions).reshape(len(case), -1)
    largest = found.max(axis=1, keepdims=True)
    counted = (found > epsilon * largest).sum(axis=1).astype(np.float64)
    return np.where(largest[:, 0] > 0, counted, np.nan)

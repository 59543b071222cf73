"""Intervals of means by the bootstrap, and ranks over samples: Friedman's test, Nemenyi's critical difference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lrp_tf.evaluate.extras import optional

# Above, the bias of the percentile method is negligible for a mean, and BCa's jackknife takes n² steps.
_BCA_UP_TO = 1000
_ROUNDING = 1e-12  # of the largest value
_AT_ONCE = 2_000_000  # numbers that a bootstrap holds in memory


def interval(
    values: np.ndarray, seed: Sequence[int], *, confidence: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """The bootstrap interval of the mean of values [n]: BCa (Efron 1987); above 1000 values by percentiles.

    Give differences of pairs for a paired interval.

    Args:
        seed: of the resamples.

    Returns:
        Its ends: NaN for fewer than two values, the least and largest one if they differ by rounding alone.
    """
    if len(values) < 2:
        return math.nan, math.nan
    # SciPy gives NaN for values that hardly differ, and for tiny ones.
    scale = float(np.abs(values).max())
    if np.ptp(values) <= _ROUNDING * scale:
        return float(values.min()), float(values.max())
    found = optional("scipy.stats").bootstrap(
        (values / scale,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // len(values)),
        confidence_level=confidence,
        method="BCa" if len(values) <= _BCA_UP_TO else "percentile",
        random_state=np.random.default_rng(list(seed)),
    )
    return float(found.confidence_interval.low) * scale, float(found.confidence_interval.high) * scale


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Ranks of methods over samples; rank 1 is the best (Demšar 2006).

    Attributes:
        mean: mean rank of each method, [M].
        n: samples that were ranked: those with a value for every method.
        statistic: Friedman's chi-squared, corrected for ties. p: its probability if all methods are alike. Both NaN
            for fewer than three methods, or where all methods are tied in every sample.
        critical_difference: methods whose mean ranks differ by less cannot be told apart by Nemenyi's test, which
            allows for all pairs at once.
        alpha: the level of that test.
    """

    mean: np.ndarray
    n: int
    statistic: float
    p: float
    critical_difference: float
    alpha: float


def ranks(values: np.ndarray, *, higher: bool = True, alpha: float = 0.05) -> Ranks:
    """Ranks of values [M, n]; samples that are NaN for a method are left out. Ties share their mean rank.

    Values that differ by rounding alone, as correlations of 1 do, are tied.
    """
    stats = optional("scipy.stats")
    values = values[:, ~np.isnan(values).any(axis=0)]
    methods, n = values.shape
    if n == 0:
        return Ranks(np.full(methods, np.nan), 0, math.nan, math.nan, math.nan, alpha)
    parts, powers = np.frexp(values)
    values = np.ldexp(np.round(parts, 12), powers)
    placed = stats.rankdata(-values if higher else values, axis=0)
    statistic = p = math.nan
    if methods > 2 and np.ptp(placed, axis=0).any():
        statistic, p = map(float, stats.friedmanchisquare(*placed))
    return Ranks(placed.mean(axis=1), n, statistic, p, critical_difference(methods, n, alpha), alpha)


def critical_difference(methods: int, n: int, alpha: float = 0.05) -> float:
    """Nemenyi's: q sqrt(M (M + 1) / 6 n), where q is the quantile of the Studentized range over sqrt(2)."""
    if methods < 2 or n < 1:
        return math.nan
    q = float(optional("scipy.stats").studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * n))


def groups(mean: np.ndarray, difference: float) -> list[tuple[int, ...]]:
    """The largest groups of methods whose mean ranks span less than `difference`: indices, the best first."""
    order = np.argsort(mean, kind="stable")
    found: list[tuple[int, ...]] = []
    reached = 0
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and mean[order[last + 1]] - mean[order[first]] < difference:
            last += 1
        if last > first and last + 1 > reached:
            found.append(tuple(int(i) for i in order[first : last + 1]))
            reached = last + 1
    return found

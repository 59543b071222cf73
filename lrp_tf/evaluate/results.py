"""What was measured: values of every sample, means with intervals, differences in pairs, ranks."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import NamedTuple

import numpy as np

from lrp_tf.evaluate import statistics
from lrp_tf.evaluate.metric import Metric
from lrp_tf.evaluate.record import Failure
from lrp_tf.evaluate.statistics import Ranks


class Row(NamedTuple):
    """One method by one metric.

    Attributes:
        metric: its name. better: "higher", "lower" or "".
        method: the explainer.
        n: samples with a value; the other values are means over these.
        mean, low, high: the mean and its bootstrap interval.
        reference: the method that this one is set against.
        difference, difference_low, difference_high: mean of this minus reference, in pairs, and its interval; NaN for
            the reference itself.
        pairs: samples with a value for both.
        rank: mean rank over the samples with a value for all methods, 1 is the best; NaN if neither is better.
    """

    metric: str
    better: str
    method: str
    n: int
    mean: float
    low: float
    high: float
    reference: str
    difference: float
    difference_low: float
    difference_high: float
    pairs: int
    rank: float


@dataclasses.dataclass(frozen=True)
class Results:
    """What `compare` found; see `Comparison` for the attributes."""

    methods: tuple[str, ...]
    metrics: dict[str, Metric]
    values: np.ndarray
    target: np.ndarray
    failures: tuple[Failure, ...] = ()
    seed: int = 0
    reference: str | None = None
    confidence: float = 0.95
    resamples: int = 2000
    samples: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.values.shape[2]

    def of(self, method: str, metric: str) -> np.ndarray:
        """The values of one method by one metric, [n].

        Raises:
            ValueError: an unknown name.
        """
        return self._of_metric(metric)[self._index(method)]

    def _of_metric(self, metric: str) -> np.ndarray:
        if metric not in self.metrics:
            raise ValueError(f"unknown metric. Expected one of {list(self.metrics)}. Received: {metric!r}")
        return self.values[:, list(self.metrics).index(metric)]

    def _index(self, method: str) -> int:
        if method not in self.methods:
            raise ValueError(f"unknown method. Expected one of {list(self.methods)}. Received: {method!r}")
        return self.methods.index(method)

    def best(self, metric: str) -> str:
        """The method of the best mean, over the samples that have a value for all methods if there are some.

        The first method where neither direction is better, or nothing has a value.
        """
        values, better = self._of_metric(metric), self.metrics[metric].better
        whole = ~np.isnan(values).any(axis=0)
        means = [_mean(row[whole] if whole.any() else row) for row in values]
        if better is None or np.isnan(means).all():
            return self.methods[0]
        return self.methods[int(np.nanargmax(means) if better == "higher" else np.nanargmin(means))]

    def difference(self, method: str, other: str, metric: str) -> tuple[float, float, float, int]:
        """Mean of `method` minus `other` over the samples that have both, the ends of its interval, and how many."""
        pairs = self.of(method, metric) - self.of(other, metric)
        pairs = pairs[~np.isnan(pairs)]
        return _mean(pairs), *self._interval(pairs, f"{metric}/{method}/{other}"), len(pairs)

    def _interval(self, values: np.ndarray, purpose: str) -> tuple[float, float]:
        seeds = (self.seed, zlib.crc32(purpose.encode()))  # independent of what else is compared
        return statistics.interval(values, seeds, confidence=self.confidence, resamples=self.resamples)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The summary: a row for each metric and method."""
        return [row for metric in self.metrics for row in self._rows(metric)]

    def _rows(self, metric: str) -> list[Row]:
        reference = self.reference or self.best(metric)
        better = self.metrics[metric].better
        places = self.ranks(metric).mean if better else np.full(len(self.methods), np.nan)
        found = []
        for method, place in zip(self.methods, places, strict=True):
            values = self.of(method, metric)
            values = values[~np.isnan(values)]
            difference = self.difference(method, reference, metric)
            if method == reference:
                difference = np.nan, np.nan, np.nan, len(values)
            ends = self._interval(values, f"{metric}/{method}")
            mean = (len(values), _mean(values), *ends)
            found.append(Row(metric, better or "", method, *mean, reference, *difference, float(place)))
        return found

    def ranks(self, metric: str) -> Ranks:
        """Ranks of the methods over the samples that have a value for all, with Friedman's test and Nemenyi's.

        Raises:
            ValueError: a metric of which neither more nor less is better.
        """
        values, better = self._of_metric(metric), self.metrics[metric].better
        if better is None:
            raise ValueError(f"ranks expects a metric with a direction. Received: {metric!r}, which has none")
        return statistics.ranks(values, higher=better == "higher", alpha=1 - self.confidence)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")

"""What tuning found: the ranking of the choosing half, one comparison on the other half, and what follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lrp_tf.composites import Composite
from lrp_tf.evaluate.statistics import interval
from lrp_tf.evaluate.tuning.search import Tried
from lrp_tf.evaluate.tuning.space import Axis, Value


class Ranked(NamedTuple):
    """A candidate as the choosing half saw it.

    Attributes:
        rank: 1 is the best; 0: it was not reached.
        name: its settings or its preset. composite: its text.
        n: samples with a value. mean, low, high: of the metric, with its bootstrap interval.
        sparseness: mean of the Gini index of |R|.
        round: of halving, the last that it took part in.
    """

    rank: int
    name: str
    composite: str
    n: int
    mean: float
    low: float
    high: float
    sparseness: float
    round: int


class Reported(NamedTuple):
    """A candidate on the reporting half: n samples, mean with interval, mean sparseness."""

    name: str
    n: int
    mean: float
    low: float
    high: float
    sparseness: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """What `tune` found; see `Tuning` for the attributes."""

    metric: str
    better: str
    ranking: tuple[Ranked, ...]
    best: Reported
    default: Reported
    difference: float
    low: float
    high: float
    pairs: int
    keep_default: bool
    composite: Composite
    winner: Composite
    chosen_ids: tuple[int, ...]
    reported_ids: tuple[int, ...]
    axes: tuple[Axis, ...]
    settings: Mapping[str, Mapping[str, Value]]
    values: Mapping[str, tuple[list[int], np.ndarray]]
    report: Mapping[str, np.ndarray]
    seed: int
    confidence: float
    unreached: tuple[str, ...]
    archive: Mapping[str, object]

    @property
    def verdict(self) -> str:
        """What follows, in words."""
        found = f"{self.best.name} against {self.default.name} on the {self.pairs} samples that did not choose"
        if self.best.name == self.default.name:
            return f"Keep the default: no candidate was better than {self.default.name} on the samples that choose."
        if math.isnan(self.difference):
            return f"Keep the default: there is no sample with a value for both. ({found})"
        ends = f"{self.difference:+.4f}, {self.confidence:.0%} interval {self.low:+.4f} to {self.high:+.4f}"
        if math.isnan(self.low):
            return f"Keep the default: one sample has no interval. ({found}: {self.difference:+.4f})"
        if not self.keep_default:
            return f"Use {self.best.name}: {found}: {ends}, which excludes 0."
        why = "which holds 0" if self.low <= 0 <= self.high else "so the default is the better one"
        return f"Keep the default: {found}: {ends}, {why}."


def varying(axes: tuple[Axis, ...]) -> list[Axis]:
    """The axes with several values."""
    return [axis for axis in axes if len(axis.values) > 1]


def ranked(tried: list[Tried], seed: int, confidence: float) -> tuple[Ranked, ...]:
    """The rows of the ranking."""
    rows = []
    for place, one in enumerate(tried, 1):
        known = one.values[0][~np.isnan(one.values[0])]
        low, high = interval(known, [seed, place], confidence=confidence)
        sparse = one.mean(1) if len(one.values) > 1 else math.nan
        rows.append(
            Ranked(
                place if len(known) else 0,
                one.candidate.name,
                str(one.candidate.composite),
                len(known),
                one.mean(),
                low,
                high,
                sparse,
                one.round,
            )
        )
    return tuple(rows)


def report_of(name: str, values: np.ndarray, seed: int, confidence: float) -> Reported:
    """The row of a candidate on the reporting half, from values [metrics, n]."""
    known = values[0][~np.isnan(values[0])]
    low, high = interval(known, [seed, 0], confidence=confidence)
    sparse = values[-1][~np.isnan(values[-1])]
    mean = float(known.mean()) if len(known) else math.nan
    return Reported(name, len(known), mean, low, high, float(sparse.mean()) if len(sparse) else math.nan)


def compared(best: np.ndarray, default: np.ndarray, seed: int, confidence: float) -> tuple[float, float, float, int]:
    """Mean of best minus default over samples with a value for both [n], its interval, and how many these are."""
    differences = (best - default)[~np.isnan(best - default)]
    if not len(differences):
        return math.nan, math.nan, math.nan, 0
    low, high = interval(differences, [seed, 1], confidence=confidence)
    return float(differences.mean()), low, high, len(differences)

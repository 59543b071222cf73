"""The order in which candidates and samples are tried: all on all, or by halves where the budget is too small."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lrp_tf.evaluate.metric import Metric
from lrp_tf.evaluate.record import Record
from lrp_tf.evaluate.tuning.clock import Clock
from lrp_tf.evaluate.tuning.judge import Judge
from lrp_tf.evaluate.tuning.space import Candidate

_RESERVED = 0.5  # of the budget at most is kept for the half that reports
_REPORT = 1_000_000  # number of its first batch in the record
_SLACK = 1.2  # what is left must last for a little more than the times so far say


@dataclasses.dataclass
class Tried:
    """What is known of a candidate.

    Attributes:
        ids: numbers of the samples that it was judged on, in order. values: [metrics, n] of them.
        round: the last round of halving that it took part in, from 0 on.
    """

    candidate: Candidate
    ids: list[int]
    values: np.ndarray
    round: int = 0

    def mean(self, row: int = 0) -> float:
        """Over the samples with a value; NaN if there is none."""
        known = self.values[row][~np.isnan(self.values[row])]
        return float(known.mean()) if len(known) else math.nan


def chosen(
    candidates: Sequence[Candidate], ids: np.ndarray, judge: Judge, record: Record, clock: Clock, batch: int,
    reporting: int,
) -> list[Tried]:  # fmt: skip
    """The candidates as the choosing half ranks them, the best first; those without any value last.

    All candidates are judged on a first batch. If the budget suffices for all of them on all samples, that is what
    follows. Otherwise half of them are dropped whenever the number of samples has doubled (successive halving, Jamieson
    & Talwalkar 2016). A batch that time does not suffice for counts nothing, unless it is the first one.

    Args:
        ids: numbers of the samples, in the order that they are taken. batch: how many at a time.
        reporting: samples of the other half, which need time, too.
    """
    metrics = len(judge.metrics)
    tried = {c.name: Tried(c, [], np.empty((metrics, 0))) for c in candidates}
    alive, seen, level = list(candidates), 0, 0
    parts = [ids[first : first + batch] for first in range(0, len(ids), batch)]
    halving = False
    checkpoint = 2 * len(parts[0])
    per_value = 0.0  # seconds for a candidate and a sample
    for number, part in enumerate(parts):
        before = clock.spent
        known = record.batch(number, judge.samples.digest(part), len(part))
        reserve = _reserve(clock, per_value, reporting)
        found = judge.values(alive, part, known, clock, reserve)
        if number and len(found) < len(alive):
            break
        for name, values in found.items():
            tried[name].ids += part.tolist()
            tried[name].values = np.concatenate([tried[name].values, values], axis=1)
        seen += len(part)
        if number == 0:
            per_value = (clock.spent - before) / max(len(found) * len(part), 1)
            alive = [candidate for candidate in alive if candidate.name in found]
            needed = _SLACK * per_value * (len(alive) * (len(ids) - seen) + 2 * reporting)
            halving = bool(clock.decide("halving", bool(needed > clock.left)))
            per_value = float(clock.decide("seconds_per_value", per_value))
        if halving and (number == 0 or seen >= checkpoint) and len(alive) > 2:
            checkpoint = 2 * seen
            level += 1
            alive = _better_half(alive, tried, judge.metric)
            for candidate in alive:
                tried[candidate.name].round = level
    return ordered(list(tried.values()), judge.metric)


def reported(
    pair: Sequence[Candidate], ids: np.ndarray, judge: Judge, record: Record, clock: Clock, batch: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Values [metrics, n] of each of two candidates on the reporting half, and the numbers of its samples.

    A batch that the budget does not suffice for is left out, but never the first one: without it there is no result.
    """
    found: list[list[np.ndarray]] = [[] for _ in pair]
    used: list[int] = []
    for number, first in enumerate(range(0, len(ids), batch)):
        part = ids[first : first + batch]
        known = record.batch(_REPORT + number, judge.samples.digest(part), len(part))
        endless = Clock(None, None) if number == 0 else clock
        values = judge.values(pair, part, known, endless)
        if len(values) < len({candidate.name for candidate in pair}):
            break
        used += part.tolist()
        for rows, candidate in zip(found, pair, strict=True):
            rows.append(values[candidate.name])
    return [np.concatenate(rows, axis=1) for rows in found], np.asarray(used, np.int64)


def ordered(tried: Sequence[Tried], metric: Metric) -> list[Tried]:
    """The best first: by round, then by mean."""
    return sorted(tried, key=lambda one: (-len(one.ids), _rank(one.mean(), metric)))


def _better_half(alive: Sequence[Candidate], tried: dict[str, Tried], metric: Metric) -> list[Candidate]:
    """The better half of the candidates, in their order."""
    ranked = sorted(alive, key=lambda c: _rank(tried[c.name].mean(), metric))
    kept = {candidate.name for candidate in ranked[: math.ceil(len(ranked) / 2)]}
    return [candidate for candidate in alive if candidate.name in kept]


def _rank(mean: float, metric: Metric) -> tuple[bool, float]:
    """Sorts the better one first, and what has no value last."""
    return math.isnan(mean), -mean if metric.better == "higher" else mean


def _reserve(clock: Clock, per_value: float, reporting: int) -> float:
    """Seconds that are kept for the half that reports."""
    return 0.0 if clock.budget is None else min(_SLACK * per_value * 2 * reporting, _RESERVED * clock.budget)

"""Pairs of maps → means with intervals, and how a kind of pair differs from adversarial ones."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lrp_tf.evaluate.statistics import interval

FIELDS = ("attack", "composite", "kind", "label", "target")
ADVERSARIAL = "adversarial"


@dataclasses.dataclass(frozen=True)
class Pair:
    """How two maps differ: that of an original for its class, and one that `kind` names, see `controls.KINDS`.

    Attributes:
        attack: its name. source: the number of the original in its data set.
        label: the class of the original. target: the class that the attack aims at.
        composite: that made the maps.
        measures: of `Shift`.
    """

    attack: str
    source: int
    label: int
    target: int
    composite: str
    kind: str
    measures: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """A measure of a group of pairs.

    Attributes:
        group: what its pairs have in common, such as {"attack": "lbfgs", "composite": "epsilon", "kind": "noise"}.
        measure: its name. mean, low, high: with its bootstrap interval.
        originals, pairs: that have a value.
        difference, difference_low, difference_high: adversarial minus this kind, of the same originals, attacks and
            targets; NaN for the adversarial kind itself, and where groups are not by kind.
        difference_originals: that have a value of both kinds.
    """

    group: dict[str, str | int]
    measure: str
    mean: float
    low: float
    high: float
    originals: int
    pairs: int
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    difference_originals: int = 0


def summarize(
    pairs: Iterable[Pair],
    *,
    by: Sequence[str] = ("attack", "composite", "kind"),
    measures: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Means of each group, with 95 % bootstrap intervals over originals.

        rows = adversarial.summarize(pairs)
        rows = adversarial.summarize(pairs, by=("attack", "composite", "kind", "target"), measures=["left_top_10"])

    Pairs of one original, attacked for several targets, are not independent. Their values are averaged first, and then
    originals are drawn, so that an interval is not narrower than what is known.

    Args:
        by: what makes a group, some of `FIELDS`.
        measures: names; None: all that the pairs have.
        seed: of the resamples.

    Returns:
        In the order in which groups first come, and of `measures`.

    Raises:
        ValueError: no pairs, an unknown field or measure. ImportError: SciPy is not installed.
    """
    pairs = list(pairs)
    if not pairs:
        raise ValueError("summarize expects at least one pair of maps. Received: none")
    if unknown := [field for field in by if field not in FIELDS]:
        raise ValueError(f"by expects some of {FIELDS}. Received: {unknown}")
    names = list(pairs[0].measures) if measures is None else list(measures)
    if lacking := sorted({name for pair in pairs for name in names if name not in pair.measures}):
        raise ValueError(f"measures expects names that all pairs have. Received: {lacking}")
    groups: dict[tuple[str | int, ...], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[tuple(getattr(pair, field) for field in by)].append(pair)
    twins = {_identity(pair): pair for pair in pairs if pair.kind == ADVERSARIAL}
    if len(twins) < sum(pair.kind == ADVERSARIAL for pair in pairs):
        raise ValueError("summarize expects one adversarial pair of each attack, source, target and composite")
    rows = []
    for key, members in groups.items():
        group = dict(zip(by, key, strict=True))
        compared = "kind" in by and group["kind"] != ADVERSARIAL
        for name in names:
            values = [(pair.source, pair.measures[name]) for pair in members]
            mean, low, high, originals, count = _of(values, seed)
            gaps = []
            if compared:
                met = [(pair, twins[_identity(pair)]) for pair in members if _identity(pair) in twins]
                gaps = [(pair.source, twin.measures[name] - pair.measures[name]) for pair, twin in met]
            rows.append(Row(group, name, mean, low, high, originals, count, *_of(gaps, seed)[:4]))
    return rows


def _identity(pair: Pair) -> tuple[str, int, int, str]:
    """What a pair has in common with its adversarial twin."""
    return pair.attack, pair.source, pair.target, pair.composite


def _of(values: list[tuple[int, float]], seed: int) -> tuple[float, float, float, int, int]:
    """Mean and interval over originals, how many of them, and of how many values; NaN values are left out."""
    found: dict[int, list[float]] = defaultdict(list)
    for source, value in values:
        if not math.isnan(value):
            found[source].append(value)
    if not found:
        return math.nan, math.nan, math.nan, 0, 0
    # In the order of originals: the resamples, and so the interval, do not depend on the order of pairs.
    each = np.array([np.mean(found[source]) for source in sorted(found)])
    low, high = interval(each, [seed, len(each)])
    return float(each.mean()), low, high, len(each), sum(map(len, found.values()))

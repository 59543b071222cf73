"""What `tune` chose against the best preset and against every method that is no LRP, problem by problem."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lrp_tf import composites
from lrp_tf.evaluate.benchmark.methods import BASELINES, GRADIENTS, OTHERS
from lrp_tf.evaluate.benchmark.results import Results, interval
from lrp_tf.evaluate.benchmark.tuned import DEFAULT


class Against(NamedTuple):
    """A method `tuned` on one problem, by one metric. Differences are tuned less the other, in pairs of seeds.

    Attributes:
        mean: of tuned.
        preset: the one with the largest mean over the seeds, in hindsight. over_preset, low, high: the difference, with
            the interval of Student's t.
        other: the gradient or baseline with the largest mean. over_other, other_low, other_high: the same.
    """

    net: str
    problem: str
    background: str
    metric: str
    method: str
    mean: float
    preset: str
    over_preset: float
    low: float
    high: float
    other: str
    over_other: float
    other_low: float
    other_high: float

    @property
    def not_worse(self) -> bool:
        """Whether the interval of the difference to the best preset reaches 0; one seed has none."""
        return bool(self.high >= 0)

    @property
    def worse(self) -> bool:
        """Whether that interval lies below 0; one seed has none."""
        return bool(self.high < 0)

    @property
    def best(self) -> bool:
        """Whether the mean is above that of every method that is no LRP."""
        return bool(self.over_other > 0)


def against(found: Results) -> list[Against]:
    """A row for each method `tuned`, metric, net and problem; where there is a preset, or else a gradient or baseline.

    Presets and gradients are those under the contrast of the method `tuned`; baselines know no classes.
    """
    rows = []
    for method in _tuned(found):
        presets = [f"{name}{_contrast(method)}" for name in composites.PRESETS]
        others = [*(f"{name}{_contrast(method)}" for name in (*GRADIENTS, *OTHERS)), *BASELINES]
        for metric in found.metrics:
            for net in found.nets:
                for where in found.problems:
                    own = _values(found, net, where, metric, method)
                    preset, less = _less(found, net, where, metric, own, presets)
                    other, rest = _less(found, net, where, metric, own, others)
                    rows.append(Against(net, *where, metric, method, interval(own)[0], preset, *less, other, *rest))
    return rows


def _tuned(found: Results) -> list[str]:
    """The methods that were chosen for each net."""
    return list(dict.fromkeys(name for cell in found.cells for name in cell.tuned))


def _contrast(method: str) -> str:
    return "".join(method.partition(" contrast ")[1:])


def _values(found: Results, net: str, where: tuple[str, str], metric: str, method: str) -> np.ndarray:
    """The values of all seeds."""
    return np.array([cell.of(method, metric) for cell in found.of(net, *where)])


def _less(
    found: Results, net: str, where: tuple[str, str], metric: str, own: np.ndarray, names: Iterable[str]
) -> tuple[str, tuple[float, float, float]]:
    """The best of some methods by its mean, and the mean of `own` less that method, with its interval; "": none."""
    best, less, top = "", interval([]), -np.inf
    for name in names:
        values = _values(found, net, where, metric, name)
        if np.isfinite(values).any() and (mean := float(np.nanmean(values))) > top:
            differences = own - values
            best, top, less = name, mean, interval(differences[np.isfinite(differences)])
    return best, less


def markdown(found: Results) -> list[str]:
    """Heading, words and a table of differences for each method `tuned`; nothing if there is none."""
    rows = against(found)
    parts = []
    for method in _tuned(found):
        mine = [row for row in rows if row.method == method]
        parts += [f"## {method} against the best preset and every other method", _words(found, method)]
        parts += [_counts(found, mine), _differences(found, mine)]
    return parts


def _words(found: Results, method: str) -> str:
    choices = [cell.tuned[method] for cell in found.cells if method in cell.tuned]
    least, most = (f(choice.candidates for choice in choices) for f in (min, max))
    count = f"{least}" if least == most else f"{least} to {most}"
    kept = sum(choice.keep_default for choice in choices)
    return (
        f"{method}: for each net `tune` chose one of {count} composites, by SRG on half of the explained samples, "
        "without masks; it is the best one there (`winner`). All methods are judged on the other half. The best preset "
        "and the best other method (gradients and baselines) are those with the largest mean on that half, in "
        "hindsight. Differences are in pairs of seeds. not worse: the interval of the difference to the best preset "
        "reaches 0, counted where there is one, which takes two seeds. above: the mean is above that of every gradient "
        f"and baseline. SRG of the choice on the other half is not significantly above that of {DEFAULT} for {kept} of "
        f"{len(choices)} nets, where `tune` would advise to keep that one.{_positive(found, method)}"
    )


def _positive(found: Results, method: str) -> str:
    """What the metrics of positive relevance are means over."""
    named = [metric for metric in found.metrics if metric.endswith("R+")]
    if not named:
        return ""
    cells = [cell for cell in found.cells if method in cell.tuned]
    lacks = sum(max(cell.undefined.get(method, {}).get(metric, 0) for metric in named) for cell in cells)
    return (
        f" {' and '.join(named)} are means over the samples that have positive relevance by the method: {method} has "
        f"none for {lacks} of {sum(cell.explained for cell in cells)} samples."
    )


def _counts(found: Results, rows: list[Against]) -> str:
    lines = [
        "| metric | net | problems | not worse than the best preset | above every other method |",
        f"|{'---|' * 5}",
    ]
    for metric in found.metrics:
        for net in (*found.nets, "all"):
            if net == "all" and len(found.nets) == 1:
                continue
            some = [row for row in rows if row.metric == metric and net in (row.net, "all")]
            reaches = _count([row.not_worse for row in some if row.not_worse or row.worse], len(some))
            best = _count([row.best for row in some if np.isfinite(row.over_other)], len(some))
            lines.append(f"| {metric} | {net} | {len(some)} | {reaches} | {best} |")
    return "\n".join(lines)


def _count(known: list[bool], of: int) -> str:
    """How many of the problems where it is known; of how many, if it is not known of all `of`."""
    if not known:
        return "–"
    return f"{sum(known)}" if len(known) == of else f"{sum(known)} of {len(known)}"


def _differences(found: Results, rows: list[Against]) -> str:
    columns = [
        "metric",
        "net",
        "problem",
        "tuned",
        "best preset",
        "tuned less preset",
        "best other",
        "tuned less other",
    ]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        shown = [row.metric, row.net, f"{row.problem} {row.background}", f"{row.mean:.3f}"]
        shown += [row.preset, _difference(row.over_preset, row.high, row.worse)]
        shown += [row.other, _difference(row.over_other, row.other_high, False)]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def _difference(mean: float, high: float, worse: bool) -> str:
    """With half of its interval; bold: worse than the best preset."""
    if not np.isfinite(mean):
        return "–"
    text = f"{mean:+.3f}" + (f" ±{high - mean:.3f}".replace("±0.", "±.") if np.isfinite(high) else "")
    return f"**{text}**" if worse else text

"""A comparison as pictures: bars with intervals, and the diagram of critical differences."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lrp_tf.evaluate import statistics
from lrp_tf.evaluate.results import Results, Row
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

_BEST, _ALIKE, _APART = "#1f4e79", "#6fa8dc", "#c9ced6"
_ACROSS = 4  # panels in a row
_DPI = 120


def bars(path: str | os.PathLike, comparison: Results) -> Path:
    """Means with their intervals, a panel for each metric; methods in the order of the first metric."""
    path = require_format(path)
    panels = list(comparison.metrics)
    order = _order([row for row in comparison.rows if row.metric == panels[0]])
    columns = min(_ACROSS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = 0.08 * max(map(len, order)) + 0.3
    size = names + 2.6 * columns, (0.24 * len(order) + 0.9) * rows + 0.35
    drawing = Figure(figsize=size, dpi=_DPI, facecolor="white", layout="constrained")
    axes = drawing.subplots(rows, columns, squeeze=False, sharey=True)
    for index, place in enumerate(axes.flat):
        if index >= len(panels):
            place.set_axis_off()
            continue
        found = {row.method: row for row in comparison.rows if row.metric == panels[index]}
        _panel(place, [found[name] for name in order], panels[index])
    kinds = ((_BEST, "reference"), (_ALIKE, "difference to it: interval holds 0"), (_APART, "differs from it"))
    handles = [Patch(color=colour, label=label) for colour, label in kinds]
    drawing.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return write_figure(path, drawing)


def _order(rows: list[Row]) -> list[str]:
    """The methods, the best last: it is drawn at the top of upright axes that begin below."""
    sign = 1 if rows[0].better == "lower" else -1
    ranked = sorted(rows, key=lambda row: (math.isnan(row.mean), sign * row.mean)) if rows[0].better else rows
    return [row.method for row in ranked][::-1]


def _panel(axes: Axes, rows: list[Row], metric: str) -> None:
    places = np.arange(len(rows))
    means = np.asarray([row.mean for row in rows])
    ends = np.asarray([[row.low, row.high] for row in rows])
    arms = np.abs(np.nan_to_num(ends - means[:, None])).T
    axes.barh(places, np.nan_to_num(means), color=[_colour(row) for row in rows], height=0.72)
    axes.errorbar(np.nan_to_num(means), places, xerr=arms, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for place, row in zip(places, rows, strict=True):
        if not row.n:
            axes.text(0, float(place), " no value", va="center", fontsize=7, **TEXT_STYLE)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [row.method for row in rows], fontsize=8, **TEXT_STYLE)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    counts = sorted({row.n for row in rows})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    better = f"{rows[0].better} is better, " if rows[0].better else ""
    axes.set_title(f"{metric}\n{better}{n}", fontsize=8, **TEXT_STYLE)


def _colour(row: Row) -> str:
    if row.method == row.reference:
        return _BEST
    alike = math.isnan(row.difference_low) or row.difference_low <= 0 <= row.difference_high
    return _ALIKE if alike else _APART


def critical_difference(path: str | os.PathLike, comparison: Results, metric: str) -> Path:
    """Mean ranks on a line, the best to the left; bars join what Nemenyi's test cannot tell apart."""
    path = require_format(path)
    ranks = comparison.ranks(metric)
    if math.isnan(ranks.critical_difference):
        raise ValueError(f"expected two methods and a sample that has a value for both. Received: n = {ranks.n}")
    count = len(comparison.methods)
    joined = statistics.groups(ranks.mean, ranks.critical_difference)
    half = math.ceil(count / 2)
    depth = 1.2 + 0.45 * len(joined) + half  # rows of text below the line
    drawing = Figure(figsize=(7, 0.24 * depth + 0.75), dpi=_DPI, facecolor="white", layout="constrained")
    axes = drawing.subplots()
    axes.set_axis_off()
    axes.set_xlim(1 - 0.45 * (count - 1), count + 0.45 * (count - 1))
    axes.set_ylim(-depth, 2.6)
    axes.plot([1, count], [0, 0], color="black", linewidth=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, 0.25], color="black", linewidth=1)
        axes.text(tick, 0.35, str(tick), ha="center", va="bottom", fontsize=7)
    axes.plot([1, 1 + ranks.critical_difference], [1.7, 1.7], color="black", linewidth=2)
    words = f"critical difference {ranks.critical_difference:.2f} ({metric}, n = {ranks.n}, level {ranks.alpha:.2g})"
    axes.text(1, 1.85, words, ha="left", va="bottom", fontsize=8, **TEXT_STYLE)
    order = np.argsort(ranks.mean, kind="stable")
    for place, index in enumerate(order):
        left = place < half
        down = -(1.2 + 0.45 * len(joined) + (place if left else count - 1 - place))
        edge = 1 - 0.05 * (count - 1) if left else count + 0.05 * (count - 1)
        axes.plot([ranks.mean[index], ranks.mean[index], edge], [0, down, down], color="0.35", linewidth=0.8)
        words = f"{comparison.methods[index]}  {ranks.mean[index]:.2f}"
        axes.text(edge, down, f"{words} " if left else f" {words}", ha="right" if left else "left", va="center",
                  fontsize=8, **TEXT_STYLE)  # fmt: skip
    for level, group in enumerate(joined):
        ends = [ranks.mean[group[0]] - 0.03, ranks.mean[group[-1]] + 0.03]
        axes.plot(ends, [-0.45 * (level + 1)] * 2, color=_BEST, linewidth=3, solid_capstyle="round")
    return write_figure(path, drawing)

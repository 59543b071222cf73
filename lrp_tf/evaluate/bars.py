"""A comparison as pictures: bars with intervals, and the diagram of critical differences."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lrp_tf.evaluate import statistics
from lrp_tf.evaluate.results import Results, Row
from lrp_tf.evaluate.tables import counts, ordered
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

_BEST, _ALIKE, _APART = "#1f4e79", "#6fa8dc", "#c9ced6"
_ACROSS = 4  # panels in a row
_DPI = 120


def bars(path: str | os.PathLike, comparison: Results) -> Path:
    """Means with their intervals, a panel for each metric; methods in the order of the first metric."""
    path = require_format(path)
    panels = list(comparison.metrics)
    ranked = ordered([row for row in comparison.rows if row.metric == panels[0]])
    order = [row.method for row in ranked][::-1]  # upright axes begin below
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
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_yticks(places, [row.method for row in rows], fontsize=8, **TEXT_STYLE)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    better = f"{rows[0].better} is better, " if rows[0].better else ""
    axes.set_title(f"{metric}\n{better}n = {counts(rows)}", fontsize=8, **TEXT_STYLE)


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
    joined = statistics.groups(ranks.mean, ranks.critical_difference)
    axes, edge, first = _ranked_axes(comparison.methods, len(joined))
    words = f"critical difference {ranks.critical_difference:.2f} ({metric}, n = {ranks.n}, level {ranks.alpha:.2g})"
    axes.plot([1, 1 + ranks.critical_difference], [1.7, 1.7], color="black", linewidth=2)
    axes.text(1, 1.85, words, ha="left", va="bottom", fontsize=8, **TEXT_STYLE)
    order = np.argsort(ranks.mean, kind="stable")
    for place, index in enumerate(order):
        left = place < math.ceil(len(order) / 2)
        down = first - (place if left else len(order) - 1 - place)
        end = 1 - edge if left else len(order) + edge
        axes.plot([ranks.mean[index], ranks.mean[index], end], [0, down, down], color="0.35", linewidth=0.8)
        words = f"{comparison.methods[index]}  {ranks.mean[index]:.2f}"
        axes.text(end, down, f"{words} " if left else f" {words}", ha="right" if left else "left", va="center",
                  fontsize=8, **TEXT_STYLE)  # fmt: skip
    for level, group in enumerate(joined):
        ends = [ranks.mean[group[0]] - edge / 8, ranks.mean[group[-1]] + edge / 8]
        axes.plot(ends, [-0.45 * (level + 1)] * 2, color=_BEST, linewidth=3, solid_capstyle="butt")
    figure = axes.figure
    assert isinstance(figure, Figure)
    return write_figure(path, figure)


def _ranked_axes(methods: Sequence[str], groups: int) -> tuple[Axes, float, float]:
    """Axes with the line of ranks and room for names; how far lines reach beyond it, and the place of the first name.

    Lengths across are ranks; down, rows of text.
    """
    count = len(methods)
    line, beside = 4.2, 0.075 * max(map(len, methods)) + 0.75  # inches
    first = -(1.2 + 0.45 * groups)
    depth = -first + math.ceil(count / 2)
    drawing = Figure(figsize=(line + 2 * beside, 0.24 * depth + 0.75), dpi=_DPI, facecolor="white")
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    inch = (count - 1) / line
    axes.set_xlim(1 - beside * inch, count + beside * inch)
    axes.set_ylim(-depth, 3)
    axes.plot([1, count], [0, 0], color="black", linewidth=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, 0.25], color="black", linewidth=1)
        if count <= 12 or tick % 5 == 0 or tick == 1:
            axes.text(tick, 0.35, str(tick), ha="center", va="bottom", fontsize=7)
    return axes, 0.12 * inch, first

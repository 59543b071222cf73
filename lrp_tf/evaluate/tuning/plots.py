"""What tuning found as pictures: faithfulness against sparseness, and a contour over two parameters."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf.evaluate.tuning.findings import Findings, Ranked, varying
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

_BEST, _DEFAULT, _FRONT, _OTHER = "#c0392b", "#1f4e79", "#6fa8dc", "#c9ced6"
_DPI = 120
_NAMED = 6  # points of the front that have room for a name


def pareto(path: str | os.PathLike, found: Findings) -> Path:
    """The metric against sparseness on the samples that choose; what nothing beats in both is joined by a line."""
    path = require_format(path)
    rows = [row for row in found.ranking if row.n and not np.isnan([row.mean, row.sparseness]).any()]
    drawing = Figure(figsize=(6.4, 4.4), dpi=_DPI, facecolor="white", layout="constrained")
    axes = drawing.subplots()
    most = max((row.n for row in rows), default=0)
    dropped = [row for row in rows if row.n < most]
    whole = [row for row in rows if row.n == most]
    front = _front(whole, found.better)
    _points(axes, dropped, _OTHER, f"dropped on fewer than {most} samples", marker="x")
    _points(axes, [row for row in whole if row not in front], _OTHER, "another is better in both")
    _points(axes, front, _FRONT, "none is better in both", line=True)
    special = [(found.best.name, _BEST, "best"), (found.default.name, _DEFAULT, "default")]
    for name, colour, label in special:
        _points(axes, [row for row in rows if row.name == name], colour, f"{label}: {name}", size=60)
    for row in [row for row in front if row.name not in (found.best.name, found.default.name)][:_NAMED]:
        axes.annotate(row.name, (row.sparseness, row.mean), xytext=(4, -9), textcoords="offset points", fontsize=6)
    axes.set_xlabel("sparseness (Gini index of |R|)", fontsize=9)
    axes.set_ylabel(f"{found.metric} ({found.better} is better)", fontsize=9, **TEXT_STYLE)
    if found.better == "lower":
        axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"means of the {len(found.chosen_ids)} samples that choose", fontsize=9)
    axes.tick_params(labelsize=8)
    drawing.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return write_figure(path, drawing)


def _points(
    axes: Axes, rows: list[Ranked], colour: str, label: str, *, size: int = 22, marker: str = "o", line: bool = False
) -> None:
    if not rows:
        return
    rows = sorted(rows, key=lambda row: row.sparseness)
    x, y = [row.sparseness for row in rows], [row.mean for row in rows]
    axes.scatter(x, y, s=size, color=colour, marker=marker, label=label, zorder=3 if size > 22 else 2)
    if line:
        axes.plot(x, y, color=colour, linewidth=1, zorder=1)


def _front(rows: list[Ranked], better: str) -> list[Ranked]:
    """Those that no other one beats in both, or in one without losing in the other."""
    sign = 1 if better == "higher" else -1

    def beats(one: Ranked, other: Ranked) -> bool:
        gain, sparser = sign * (one.mean - other.mean), one.sparseness - other.sparseness
        return gain >= 0 and sparser >= 0 and (gain > 0 or sparser > 0)

    return [row for row in rows if not any(beats(other, row) for other in rows)]


def contour(path: str | os.PathLike, found: Findings) -> Path:
    """The metric over the two parameters that vary, filled between the points that were reached."""
    path = require_format(path)
    axes_of = varying(found.axes)
    if len(axes_of) != 2 or not all(axis.numeric for axis in axes_of):
        names = [axis.name for axis in axes_of]
        raise ValueError(f"a contour expects exactly two parameters with several numbers. Received: {names}")
    across, up = axes_of
    means = {row.name: row for row in found.ranking}
    values = np.full((len(up.values), len(across.values)), np.nan)
    counts = np.zeros(values.shape, int)
    for name, settings in found.settings.items():
        if settings and name in means and means[name].n:
            place = up.values.index(settings[up.name]), across.values.index(settings[across.name])
            values[place], counts[place] = means[name].mean, means[name].n
    drawing = Figure(figsize=(5.8, 4.6), dpi=_DPI, facecolor="white", layout="constrained")
    plot = drawing.subplots()
    order = [np.argsort([float(v) for v in axis.values]) for axis in (across, up)]  # type: ignore[arg-type]
    values, counts = values[np.ix_(order[1], order[0])], counts[np.ix_(order[1], order[0])]
    # By rank, evenly: 0 has no place on a logarithmic axis.
    masked = np.ma.masked_invalid(values)
    if min(masked.shape) > 1 and masked.count():
        filled = plot.contourf(masked, levels=12, cmap="viridis")
        drawing.colorbar(filled, ax=plot, label=f"{found.metric} ({found.better} is better)")
    _ticks(plot, across, order[0], up, order[1])
    most = counts.max() if counts.size else 0
    for (row, column), mean in np.ndenumerate(values):
        if not np.isnan(mean):
            mark = "" if counts[row, column] == most else f"\nn={counts[row, column]}"
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
            plot.text(column, row, f"{mean:.3f}{mark}", ha="center", va="center", fontsize=6, bbox=box)
    plot.set_title(f"means of up to {most} samples that choose; white: not reached", fontsize=8)
    return write_figure(path, drawing)


def _ticks(plot: Axes, across: object, first: np.ndarray, up: object, second: np.ndarray) -> None:
    for axis, order, set_ticks, set_label in (
        (across, first, plot.set_xticks, plot.set_xlabel),
        (up, second, plot.set_yticks, plot.set_ylabel),
    ):
        texts = [f"{axis.values[i]:g}" for i in order]  # type: ignore[attr-defined]
        set_ticks(range(len(order)), texts, fontsize=8)
        set_label(axis.name, fontsize=9, **TEXT_STYLE)  # type: ignore[attr-defined]
    plot.set_xlim(-0.5, len(first) - 0.5)
    plot.set_ylim(-0.5, len(second) - 0.5)

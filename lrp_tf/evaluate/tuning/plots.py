"""What tuning found as pictures: faithfulness against sparseness, and a contour over two parameters."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf.evaluate.tuning.findings import Findings, Ranked, varying
from lrp_tf.evaluate.tuning.space import Axis, Value, written
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

_BEST, _DEFAULT, _FRONT, _OTHER = "#c0392b", "#1f4e79", "#6fa8dc", "#c9ced6"
_DPI = 120
_WRITTEN = 60  # points of a contour that have room for their value
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
    _numbered(axes, front, found)
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


def _numbered(axes: Axes, front: list[Ranked], found: Findings) -> None:
    """Ranks beside points of the front, and in the legend what they are: names of neighbours would overlap."""
    places = {row.name: place for place, row in enumerate(found.ranking, 1)}
    rows = [row for row in front if row.name not in (found.best.name, found.default.name)][:_NAMED]
    for row in rows:
        place = str(places[row.name])
        axes.annotate(
            place, (row.sparseness, row.mean), xytext=(0, 6), textcoords="offset points", fontsize=7, ha="center"
        )
        axes.plot([], [], linestyle="none", label=f"{place}: {row.name}")


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
    drawing = Figure(figsize=(5.8, 4.6), dpi=_DPI, facecolor="white", layout="constrained")
    plot = drawing.subplots()
    reached = {row.name: row for row in found.ranking if row.n}
    points = [(found.settings[name], row) for name, row in reached.items() if found.settings[name]]
    scales = [_scale(axis, [settings[axis.name] for settings, _ in points]) for axis in axes_of]
    x, y = ([float(scale(settings[axis.name])) for settings, _ in points]
            for axis, (scale, _) in zip(axes_of, scales, strict=True))  # fmt: skip
    means, most = [row.mean for _, row in points], max((row.n for _, row in points), default=0)
    if len(set(x)) > 1 and len(set(y)) > 1 and len(points) > 3:
        filled = plot.tricontourf(x, y, means, levels=12, cmap="viridis")
        drawing.colorbar(filled, ax=plot, label=f"{found.metric} ({found.better} is better)")
    few = len(points) <= _WRITTEN
    plot.scatter(x, y, s=6, color="black", alpha=0.6)
    for (_, row), across, up in zip(points, x, y, strict=True):
        if few or row.name == found.best.name:
            text = f"{row.mean:.3f}" if row.n == most else f"{row.mean:.3f}\nn={row.n}"
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
            plot.text(across, up, text, ha="center", va="center", fontsize=6, bbox=box)
    for axis, (_, ticks), side in zip(axes_of, scales, (plot.xaxis, plot.yaxis), strict=True):
        side.set_ticks(ticks[0], ticks[1], fontsize=8)
        side.set_label_text(axis.name, fontsize=9, **TEXT_STYLE)
    plot.use_sticky_edges = False  # room for the numbers at the edges
    plot.margins(0.1)
    plot.set_title(f"means of up to {most} samples that choose", fontsize=8)
    return write_figure(path, drawing)


def _scale(axis: Axis, reached: list[Value]) -> tuple[Callable[[Value], float], tuple[list[float], list[str]]]:
    """Value -> its place on the page, and the ticks.

    The values of a grid lie at equal distances: 0 has no place on a logarithmic axis. What a search found between them
    lies by its logarithm or as it is.
    """
    if set(reached) <= set(axis.values):
        order = sorted(axis.values, key=lambda value: float(value))  # type: ignore[arg-type]
        return lambda value: float(order.index(value)), ([float(i) for i in range(len(order))],
                                                         [written(value) for value in order])  # fmt: skip
    assert axis.bounds is not None
    log = math.log10 if axis.bounds[2] else float
    ticks = [float(value) for value in axis.values if not axis.bounds[2] or value > 0]  # type: ignore[arg-type,operator]
    return lambda value: log(float(value)), ([log(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])

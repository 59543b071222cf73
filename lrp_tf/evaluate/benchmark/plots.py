"""A benchmark as a picture: dots with intervals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf.evaluate.benchmark.methods import BASELINES
from lrp_tf.evaluate.benchmark.nets import LEARNT
from lrp_tf.evaluate.benchmark.results import Results
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

_COLOURS = ("#1f4e79", "#c0392b", "#16a085", "#8e44ad")
_DPI = 120


def dots(path: str | os.PathLike, found: Results, metric: str) -> Path:
    """A panel for each problem (down) and background (across); methods below one another.

    Raises:
        ValueError: an unknown metric or format.
    """
    path = require_format(path)
    if metric not in found.metrics:
        raise ValueError(f"metric expects one of {list(found.metrics)}. Received: {metric!r}")
    problems, backgrounds = (list(dict.fromkeys(names)) for names in zip(*found.problems, strict=True))
    side = 0.07 * max(map(len, found.methods)) + 0.3
    height = (0.17 * len(found.methods) + 0.55) * len(problems) + 0.7
    drawing = Figure(figsize=(side + 2.5 * len(backgrounds), height), dpi=_DPI, facecolor="white", layout="constrained")
    places = drawing.subplots(len(problems), len(backgrounds), squeeze=False, sharex=True, sharey=True)
    for across, background in enumerate(backgrounds):
        for down, problem in enumerate(problems):
            axes = places[down, across]
            if (problem, background) not in found.problems:
                axes.set_axis_off()
                continue
            _panel(axes, found, problem, background, metric)
    handles, labels = places[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    seeds = len(found.of(found.nets[0], *found.problems[0]))
    words = f"{found.title}: {metric}, mean of {seeds} seeds"
    words += f", {found.confidence:.0%} intervals" if seeds > 1 else ""
    words += "" if all(cell.learnt for cell in found.cells) else f"\nhollow: some nets get less than {LEARNT:g} right"
    drawing.suptitle(words, fontsize=9, **TEXT_STYLE)
    return write_figure(path, drawing)


def _panel(axes: Axes, found: Results, problem: str, background: str, metric: str) -> None:
    rows = np.arange(len(found.methods))[::-1]
    known = [row for row, method in zip(rows, found.methods, strict=True) if method in BASELINES]
    if known:
        axes.axhspan(min(known) - 0.5, max(known) + 0.5, color="0.94", linewidth=0)
    apart = np.linspace(0.15, -0.15, len(found.nets)) if len(found.nets) > 1 else [0.0]
    for net, shift, colour in zip(found.nets, apart, _COLOURS * len(found.nets), strict=False):
        every = [found.row(net, problem, background, metric, method) for method in found.methods]
        means = np.array([row.mean for row in every])
        ends = np.array([[row.low, row.high] for row in every])
        arms = np.nan_to_num(np.abs(ends - means[:, None])).T
        learnt = all(cell.learnt for cell in found.of(net, problem, background))
        axes.errorbar(means, rows + shift, xerr=arms, fmt="o", markersize=3.2, elinewidth=1, color=colour, label=net,
                      markerfacecolor=colour if learnt else "white")  # fmt: skip
    if metric.startswith(("precision", "mass")):
        axes.axvline(found.of(found.nets[0], problem, background)[0].chance, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1.02)
    axes.set_yticks(rows, found.methods, fontsize=7, **TEXT_STYLE)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{problem}, {background}", fontsize=8)

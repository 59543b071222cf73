"""Shifts of ranks as pictures; matplotlib is imported with this module."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf.evaluate.adversarial.controls import KINDS
from lrp_tf.evaluate.adversarial.shifts import Row
from lrp_tf.evaluate.adversarial.tables import SHORT
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

COLOURS = {
    "adversarial": "#c0392b",
    "noise": "#7fb3d5",
    "noise_same_class": "#1f618d",
    "other_class": "#e67e22",
    "other_image": "#27ae60",
    "chance": "#7f8c8d",
}
LABELS = {
    "left_top": "share of the top {} % that leaves it",
    "unmoved_top": "share of the top {} % whose rank stays",
    "shift_top": "mean shift of the top {} %, share of all ranks",
}
_DPI = 120
EDGES = np.linspace(0, 1, 41)  # of the bins of a histogram


def histogram(path: str | os.PathLike, shifts: Mapping[str, np.ndarray], *, title: str = "") -> Path:
    """Save how many components move how far: a line for each kind of pair.

    Args:
        path: file to write, see `heatmap.save`.
        shifts: of kinds, `by_component` of all their pairs, as shares of the number of components; each is one array of
            any shape.
        title: text above.

    Returns:
        `path`.

    Raises:
        ValueError: nothing to draw, an unknown kind or format.
    """
    path = require_format(path)
    if not shifts or any(not np.size(values) for values in shifts.values()):
        raise ValueError("histogram expects shifts of at least one pair for each kind. Received: none")
    drawing = Figure(figsize=(7, 4), dpi=_DPI, facecolor="white", layout="constrained")
    axes = drawing.subplots()
    for kind in _known(shifts):
        far = np.abs(np.asarray(shifts[kind], np.float64)).ravel()
        counts = np.histogram(far, EDGES)[0] / far.size
        axes.stairs(
            np.maximum(counts, 1e-9), EDGES, color=COLOURS[kind], linewidth=2.2 if kind == "adversarial" else 1.4,
            linestyle="--" if kind == "chance" else "-", label=f"{SHORT[kind]}, mean {far.mean():.3f}",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 1)
    axes.set_xlim(0, 1)
    axes.set_xlabel("absolute shift of rank, as a share of all components", fontsize=9)
    axes.set_ylabel("share of components", fontsize=9)
    axes.set_title(title, fontsize=9, **TEXT_STYLE)
    _plain(axes)
    axes.legend(fontsize=8, frameon=False)
    return write_figure(path, drawing)


def by_composite(path: str | os.PathLike, rows: Sequence[Row], measure: str, *, title: str = "") -> Path:
    """Save a measure with its intervals: a panel for each attack, composites side by side, kinds in colours.

    Args:
        path: file to write, see `heatmap.save`.
        rows: of groups by attack, composite and kind, see `summarize`.
        measure: its name.
        title: text above.

    Returns:
        `path`.

    Raises:
        ValueError: no row of that measure, an unknown format.
    """
    path = require_format(path)
    chosen = [row for row in rows if row.measure == measure]
    if not chosen:
        raise ValueError(f"measure expects one of {sorted({row.measure for row in rows})}. Received: {measure!r}")
    attacks = list(dict.fromkeys(str(row.group["attack"]) for row in chosen))
    composites = list(dict.fromkeys(str(row.group["composite"]) for row in chosen))
    kinds = _known({str(row.group["kind"]): None for row in chosen})
    width = max(5.0, 1.1 + 0.16 * len(composites) * (len(kinds) + 2))
    drawing = Figure(figsize=(width, 0.9 + 3.1 * len(attacks)), dpi=_DPI, facecolor="white", layout="constrained")
    for axes, attack in zip(drawing.subplots(len(attacks), 1, squeeze=False)[:, 0], attacks, strict=True):
        _panel(axes, [row for row in chosen if row.group["attack"] == attack], composites, kinds)
        axes.set_title(attack, fontsize=9, loc="left", **TEXT_STYLE)
        axes.set_ylabel(label_of(measure), fontsize=8)
    drawing.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    if title:
        drawing.suptitle(title, fontsize=10, **TEXT_STYLE)
    return write_figure(path, drawing)


def _panel(axes: Axes, rows: Sequence[Row], composites: Sequence[str], kinds: Sequence[str]) -> None:
    for i, kind in enumerate(kinds):
        found = {str(row.group["composite"]): row for row in rows if row.group["kind"] == kind}
        there = [j for j, name in enumerate(composites) if name in found]
        x = np.array(there) + (i - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        rows_of = [found[composites[j]] for j in there]
        mean, low, high = (np.array([getattr(row, of) for row in rows_of]) for of in ("mean", "low", "high"))
        reach = np.nan_to_num(np.stack([mean - low, high - mean]).clip(min=0))
        axes.errorbar(x, mean, reach, fmt="o", color=COLOURS[kind], markersize=4.5, elinewidth=1.4, label=SHORT[kind])
    axes.set_xticks(range(len(composites)), [name.replace("_", "_\u200b") for name in composites], fontsize=8)
    for j in range(1, len(composites)):
        axes.axvline(j - 0.5, color="0.9", linewidth=1, zorder=0)
    axes.set_xlim(-0.5, len(composites) - 0.5)
    axes.grid(axis="y", color="0.92")
    if all(row.mean >= 0 for row in rows):
        axes.set_ylim(bottom=0)
    _plain(axes)


def label_of(measure: str) -> str:
    """A measure in words."""
    if measure.startswith("absolute_"):
        return f"{label_of(measure.removeprefix('absolute_'))}, ranked by |relevance|"
    kind, _, share = measure.rpartition("_")
    if kind in LABELS:
        return LABELS[kind].format(share)
    return {"spearman": "Spearman correlation of ranks", "unmoved": "share of components whose rank stays"}.get(
        measure, measure
    )


def _known(kinds: Mapping[str, object]) -> list[str]:
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"kinds expects some of {list(KINDS)}. Received: {unknown}")
    return [kind for kind in KINDS if kind in kinds]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)

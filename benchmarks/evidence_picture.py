"""Relevance of tokens by several methods, as rows of one picture; evidence is named in bold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lrp_tf import heatmap


@dataclasses.dataclass(frozen=True)
class Panel:
    """One text.

    Attributes:
        words: of its tokens. evidence: bool, one for each token. rows: method -> relevance of each token.
    """

    title: str
    words: list[str]
    evidence: np.ndarray
    rows: dict[str, np.ndarray]


def draw(path: Path, panels: list[Panel]) -> None:
    """Write the panels one below another; every row has its own scale, and white is zero."""
    heights = [len(panel.rows) for panel in panels]
    figure = Figure(figsize=(9.6, 0.24 * sum(heights) + 1.1 * len(panels)), layout="constrained")
    column = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(column, panels, strict=True):
        colours = [heatmap.to_rgb(row[None], cmap="bwr") for row in panel.rows.values()]
        axes.imshow(np.concatenate(colours), aspect="auto", interpolation="nearest")
        axes.set_title(panel.title, fontsize=9, loc="left")
        axes.set_yticks(range(len(panel.rows)), list(panel.rows), fontsize=8)
        axes.set_xticks(range(len(panel.words)), panel.words, fontsize=7, rotation=60, ha="right")
        for label, known in zip(axes.get_xticklabels(), panel.evidence, strict=True):
            label.set(weight="bold" if known else "normal", color="black" if known else "0.45")
        axes.tick_params(length=0)
        for border in (np.arange(len(panel.words) + 1) - 0.5).tolist():
            axes.axvline(border, color="white", linewidth=0.6)
        for border in (np.arange(len(panel.rows) + 1) - 0.5).tolist():
            axes.axhline(border, color="white", linewidth=2)
        axes.spines[:].set_visible(False)
    heatmap.atomic(path, lambda file: figure.savefig(file, dpi=110))

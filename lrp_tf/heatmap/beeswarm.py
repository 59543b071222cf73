"""Relevance of tabular features over many samples: a dot for each sample and feature."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import require_finite
from lrp_tf.heatmap.files import DPI, empty_figure, require_format, write_figure
from lrp_tf.heatmap.layout import LABEL, TITLE, number
from lrp_tf.heatmap.sheets import frame
from lrp_tf.heatmap.tables import feature
from lrp_tf.heatmap.texts import TEXT_STYLE, width, wrapped

LOW_TO_HIGH = LinearSegmentedColormap.from_list("low_to_high", ["#1478e6", "#8c3fb4", "#f5145a"])
WIDE, ROW, BAR, MARGIN = 640, 40, 90, 14  # pixels: the dots, the height of a row, the bar of colours, beside the dots
DIAMETERS = (7.0, 6.0, 5.0, 4.0)  # of a dot: the largest at which no dot covers another
DRAWN = 5000  # samples; of more, every so many are drawn
_ENDS = (5, 95)  # percentiles of a feature's values that have the colours at the ends


def beeswarm(
    path: str | os.PathLike,
    relevance: ArrayLike,
    values: ArrayLike,
    names: Sequence[str] | None = None,
    title: str = "",
    top: int = 20,
    *,
    cmap: str | Colormap = LOW_TO_HIGH,
) -> Path:
    """Save a beeswarm: a row for each feature, largest mean |R| first, and in it a dot for each sample.

        heatmap.beeswarm("patients.beeswarm.png", explainer(x, target=1), x, ["age", "dose"])

    A dot lies at its relevance: right of the line it speaks for the target. Its colour is the value of the feature,
    from low to high among all samples; the lowest and highest twentieth share the colours at the ends. Dots lie
    above one another where they would cover others; of a row with too many for that, the height is their density. The
    same arrays give the same picture.

    Args:
        path: file to write, see `save`.
        relevance: of several samples, [N, F].
        values: of the features, [N, F].
        names: of the features; None numbers them from 0.
        title: text above, may have several lines.
        top: how many features to draw; a line below tells how many others there are.
        cmap: colours from low to high.

    Returns:
        `path`.

    Raises:
        ValueError: other or different shapes, NaN or Inf, not as many names as features, top below 1.
        OSError: the folder does not exist or cannot be written.
    """
    require_format(path)
    relevance, values = np.asarray(relevance, np.float64), np.asarray(values, np.float64)
    _check(relevance, values, names, top)
    # matplotlib has no axis for 1e-320, hence relevance in units of its power of ten.
    largest = float(np.abs(relevance).max())
    unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
    x = relevance / unit
    size = np.abs(x).mean(axis=0)
    order = np.argsort(-size, kind="stable")
    order, rest = order[:top], order[top:]
    drawn = np.unique(np.linspace(0, len(x) - 1, min(len(x), DRAWN)).round().astype(int))
    notes = [f"{len(rest)} more features, sum of their mean |R| {number(unit * size[rest].sum())}"] if len(rest) else []
    notes += [f"{len(drawn)} of {len(x)} samples are drawn"] if len(drawn) < len(x) else []
    shades = np.stack([_shades(values[:, i])[drawn] for i in order], axis=1)
    features = [feature(i, names, None) for i in order]
    return write_figure(path, _figure(x[np.ix_(drawn, order)], shades, features, unit, cmap, title, "; ".join(notes)))


def placed(x: np.ndarray, diameter: float, height: float) -> np.ndarray | None:
    """Where dots lie above and below the middle of their row: as near to it as they can without covering another.

    Args:
        x: [N], their places along the row. height: of the row; all in one unit.

    Returns:
        Offsets [N]; None: the row has no room for them.
    """
    offsets = _offsets(np.arange(max(1, int(height / diameter) - 1 | 1))) * diameter
    taken: list[list[float]] = [[] for _ in offsets]  # sorted, for each level
    found = np.zeros(len(x))
    for i in _order(len(x)):
        here = float(x[i])
        for level, others in enumerate(taken):
            place = bisect.bisect(others, here)
            near = others[max(place - 1, 0) : place + 1]
            if all(abs(here - other) >= diameter for other in near):
                others.insert(place, here)
                found[i] = offsets[level]
                break
        else:
            return None
    return found


def packed(x: np.ndarray, diameter: float, height: float) -> np.ndarray:
    """The same for rows without room: dots in columns of one diameter, the fullest of which fills the height."""
    order = _order(len(x))
    column = np.floor(x / diameter)[order]
    sort = np.argsort(column, kind="stable")
    _, begin, counts = np.unique(column[sort], return_index=True, return_counts=True)
    found = np.empty(len(x))
    found[order[sort]] = _offsets(np.arange(len(x)) - np.repeat(begin, counts))
    return found * min(diameter, (height - diameter) / max(counts.max() - 1, 1))


def _offsets(levels: np.ndarray) -> np.ndarray:
    """0, 1, -1, 2, -2, ..."""
    return (levels + 1) // 2 * np.where(levels % 2, 1.0, -1.0)


def _order(count: int) -> np.ndarray:
    """The order in which dots are placed; from left to right they would form slanted chains."""
    return np.random.default_rng(0).permutation(count)


def _check(relevance: np.ndarray, values: np.ndarray, names: Sequence[str] | None, top: int) -> None:
    """Raise ValueError for what `beeswarm` refuses."""
    if relevance.ndim != 2 or relevance.shape != values.shape or not relevance.size:
        raise ValueError(
            "Expected relevance and values of several samples, both [N, F]. Received: "
            f"{relevance.shape} and {values.shape}"
        )
    require_finite(relevance, "relevance")
    require_finite(values, "values")
    if names is not None and len(names) != relevance.shape[1]:
        raise ValueError(f"Expected {relevance.shape[1]} names, one for each feature. Received: {len(names)}")
    if top < 1:
        raise ValueError(f"Expected top of at least 1. Received: {top!r}")


def _figure(
    x: np.ndarray, shades: np.ndarray, features: list[str], unit: float, cmap: str | Colormap, title: str, note: str
) -> Figure:
    """The dots [N, F] in their rows, the bar of colours, title and note; see `_draw`."""
    left = round(max(width(text, LABEL) for text in features) * DPI) + 20
    wide = left + WIDE + BAR
    title = wrapped(title, (wide - 20) / DPI, TITLE)
    above, below = 10 + (19 * (title.count("\n") + 1) if title else 0), 48 + (18 if note else 0)
    tall = above + ROW * max(len(features), 3) + below  # fewer rows leave no room for the bar of colours
    drawing = empty_figure(wide, tall)
    drawing.text(0.5, 1 - 8 / tall, title, ha="center", va="top", fontsize=TITLE, **TEXT_STYLE)
    drawing.text(0.5, 6 / tall, note, ha="center", va="bottom", fontsize=LABEL, **TEXT_STYLE)
    high = (tall - above - below) / tall
    _draw(drawing.add_axes((left / wide, below / tall, WIDE / wide, high)), x, shades, features, unit, cmap)
    _bar(drawing.add_axes(((left + WIDE + 16) / wide, below / tall, 10 / wide, high)), cmap)
    return drawing


def _draw(
    axes: Axes, x: np.ndarray, shades: np.ndarray, features: list[str], unit: float, cmap: str | Colormap
) -> None:
    """The dots [N, F], and the features as labels.

    Args:
        x: relevance in units of `unit`.
        shades: see `_shades`.
    """
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    room = ((high - low) or 1.0) * MARGIN / (WIDE - 2 * MARGIN)
    low, high = low - room, high + room
    pixels = (x - low) / (high - low) * WIDE
    diameter, offsets = _placed(pixels)
    for f in range(len(features)):
        axes.axhline(f, color="0.85", linewidth=0.8, zorder=1)
        axes.scatter(
            x[:, f],
            f - offsets[f] / ROW,
            s=(0.95 * diameter * 72 / DPI) ** 2,
            c=shades[:, f],
            vmin=0,
            vmax=1,
            cmap=cmap,
            linewidths=0,
            zorder=3,
            rasterized=x.size > DRAWN,  # in vector formats, which would be huge
        )
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=2)
    axes.set_xlim(low, high)
    axes.set_ylim(max(len(features), 3) - 0.5, -0.5)
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    axes.set_xticks(ticks, [number(tick * unit) for tick in ticks], fontsize=LABEL, **TEXT_STYLE)
    axes.set_yticks(np.arange(len(features)), features, fontsize=LABEL, **TEXT_STYLE)
    axes.set_xlabel("relevance: left against the target, right for it", fontsize=LABEL, **TEXT_STYLE)
    frame(axes)
    axes.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def _placed(pixels: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The diameter of all dots, and their offsets [F][N], for places [N, F]."""
    for diameter in DIAMETERS:
        found = []
        for row in pixels.T:
            offsets = placed(row, diameter, ROW - 4)
            if offsets is None and diameter > DIAMETERS[-1]:
                break
            found.append(packed(row, diameter, ROW - 4) if offsets is None else offsets)
        else:
            break
    return diameter, found


def _shades(values: np.ndarray) -> np.ndarray:
    """Values as shares of the way from low to high, 0 to 1; 0.5 where all are alike."""
    values = values / (np.abs(values).max() or 1.0)  # the difference of huge ones would overflow
    for ends in (_ENDS, (0, 100)):
        low, high = np.percentile(values, ends)
        if high > low:
            return np.clip((values - low) / (high - low), 0, 1)
    return np.full(len(values), 0.5)


def _bar(axes: Axes, cmap: str | Colormap) -> None:
    """The colours of values, from low to high."""
    axes.imshow(np.linspace(1, 0, 256)[:, None], aspect="auto", cmap=cmap, vmin=0, vmax=1)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 255], ["high", "low"], fontsize=LABEL, **TEXT_STYLE)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("value of the feature", fontsize=LABEL, **TEXT_STYLE)
    axes.yaxis.set_label_position("right")
    for spine in axes.spines.values():
        spine.set_visible(False)

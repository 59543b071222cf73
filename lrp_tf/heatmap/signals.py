"""Relevance of 1-D signals: the line in the colours of its relevance."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import Paint, Scale, Show, require_finite
from lrp_tf.heatmap.files import DPI, empty_figure, require_format, write_figure
from lrp_tf.heatmap.layout import BAR, LABEL, TITLE, Bar
from lrp_tf.heatmap.sheets import draw_bar, frame
from lrp_tf.heatmap.texts import TEXT_STYLE, wrapped

CHANNELS = 16
WIDTH, LEFT, RIGHT = 900, 70, 20
STRIP = 0.08  # of the height of a panel
DENSE = 800  # From this many points on, the grey edges of the line would cover one another, and the line with them.
COLUMNS = WIDTH - LEFT - RIGHT  # pixels of a panel from left to right
LONG = 4 * COLUMNS  # From this many points on, a column of pixels shows the range of several points.


def signal(
    path: str | os.PathLike,
    relevance: ArrayLike,
    values: ArrayLike,
    *,
    x: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
    scale: Scale = None,
    cmap: str | Colormap | None = None,
    gamma: float = 1.0,
    symmetric: bool = True,
    show: Show = "signed",
    colorbar: bool = False,
    unit: str = "",
) -> Path:
    """Save a signal, each point in the colour of its relevance, with a strip of the same colours below.

        lrp_tf.heatmap.signal("ecg.png", R[0], ecg[0], names=["lead I", "lead II"])

    Args:
        path: file to write, see `save`.
        relevance: one sample, [T] or [T, C].
        values: the signal, of the same shape; each channel has its panel, up to 16. Of a long one, a column of pixels
            shows the smallest and the largest value there, in the colour of the largest |R|.
        x, unit: [T] positions of the points, None counts from 0; what they are, written below: "seconds".
        names: of the channels.
        title: text above, may have several lines.
        scale, cmap, gamma, symmetric, show: see `to_rgb`; one scale for all channels.
        colorbar: draw the colours beside their relevance.

    Returns:
        `path`.

    Raises:
        ValueError: other or different shapes, too many channels, NaN or Inf, and see `to_rgb`.
        OSError: the folder does not exist or cannot be written.
    """
    require_format(path)
    relevance, values, x = _checked(relevance, values, x)
    names = _named(names, channels := values.shape[1])
    paint, drawn = Paint(scale, cmap, "sum", gamma, symmetric, show), np.abs(relevance) if show == "abs" else relevance
    bar = Bar(paint.ends(drawn), paint.palette(), gamma)
    panel, gap = max(80, 240 - 40 * channels), 12
    width = WIDTH + (BAR if colorbar else 0)
    title = wrapped(title, (WIDTH - 40) / DPI, TITLE)
    above = 12 + (19 * (title.count("\n") + 1) if title else 0)
    height = above + channels * (panel + gap) + 30 + (12 if unit else 0)
    drawing = empty_figure(width, height)
    drawing.text(WIDTH / 2 / width, 1 - 8 / height, title, ha="center", va="top", fontsize=TITLE, **TEXT_STYLE)
    for c in range(channels):
        bottom = 1 - (above + c * (panel + gap) + panel) / height
        axes = drawing.add_axes((LEFT / width, bottom, (WIDTH - LEFT - RIGHT) / width, panel / height))
        _panel(axes, x, values[:, c], drawn[:, c], bar)
        axes.tick_params(labelbottom=c == channels - 1)
        axes.set_ylabel(wrapped(names[c], panel / DPI, LABEL), fontsize=LABEL, **TEXT_STYLE)
    axes.set_xlabel(unit, fontsize=LABEL, labelpad=2, **TEXT_STYLE)
    if colorbar:
        draw_bar(drawing, bar, (WIDTH / width, 1 - (above + panel) / height, 12 / width, panel / height))
    return write_figure(path, drawing)


def _named(names: Sequence[str] | None, channels: int) -> list[str]:
    """A name for each channel."""
    found = [""] * channels if names is None else list(names)
    if len(found) != channels:
        raise ValueError(f"Expected a name for each of {channels} channels. Received: {len(found)}")
    return found


def _checked(relevance: ArrayLike, values: ArrayLike, x: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[T, C], [T, C] and [T], all float64."""
    relevance, values = np.asarray(relevance, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if relevance.ndim not in (1, 2) or relevance.shape != values.shape or not values.size:
        raise ValueError(
            "Expected relevance and values of one sample, both [T] or both [T, C]. "
            f"Received: {relevance.shape} and {values.shape}. Remedy: pass R[0] and x[0] of a batch."
        )
    require_finite(relevance, "relevance")
    require_finite(values, "values")
    relevance, values = relevance.reshape(len(relevance), -1), values.reshape(len(values), -1)
    if values.shape[1] > CHANNELS:
        raise ValueError(
            f"Expected up to {CHANNELS} channels. Received: {values.shape[1]}. Remedy: pass some of them, "
            "R[:, :16] and x[:, :16], or draw them as a map, heatmap.save(path, R.T)."
        )
    x = np.arange(len(values), dtype=np.float64) if x is None else np.asarray(x, dtype=np.float64)
    if x.shape != values.shape[:1]:
        raise ValueError(f"Expected x of shape {values.shape[:1]}, one position for each point. Received: {x.shape}")
    require_finite(x, "x")
    return relevance, values, x


def _panel(axes: Axes, x: np.ndarray, y: np.ndarray, relevance: np.ndarray, bar: Bar) -> None:
    """One channel."""
    if len(x) >= LONG:
        _draw_long(axes, x, y, relevance, bar.of)
    else:
        _draw(axes, x, y, bar.of(relevance))
    axes.axhline(0, color="0.88", linewidth=0.8, zorder=1)
    low, high = y.min(), y.max()
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    # The strip lies on the axis, below the line.
    axes.set_ylim(low - room - STRIP * (high - low + 2 * room), high + room)
    axes.margins(x=0)
    frame(axes)


def on_grey(colours: np.ndarray) -> np.ndarray:
    """RGB [T, 3] with grey in place of white."""
    shown = 1 - colours.min(axis=-1, keepdims=True) / 255.0
    return shown * colours + (1 - shown) * 160


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, colours: np.ndarray) -> None:
    """A line. Each point colours the line half-way to its neighbours."""
    points = np.stack([x, y], axis=-1)
    middles = (points[1:] + points[:-1]) / 2
    before, after = np.concatenate([points[:1], middles]), np.concatenate([middles, points[-1:]])
    if len(x) > 1:
        dense = len(x) >= DENSE
        if not dense:  # The grey edge keeps a white line on white visible.
            axes.plot(x, y, color="0.55", linewidth=4, solid_joinstyle="round", zorder=2)
        segments = np.stack([before, points, after], axis=1)
        lines = LineCollection(
            list(segments),
            colors=(on_grey(colours) if dense else colours) / 255.0,
            linewidths=1.2 if dense else 2.4,
            capstyle="round",
            joinstyle="round",
            zorder=3,
        )
        axes.add_collection(lines)
    else:
        axes.scatter(x, y, s=60, c=colours / 255.0, edgecolors="0.55", zorder=3)
    _strip(axes, np.append(before[:, 0], after[-1, 0]), colours)


def _draw_long(
    axes: Axes, x: np.ndarray, y: np.ndarray, relevance: np.ndarray, paint_of: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Many points: for each column of pixels a box from the smallest to the largest value there."""
    starts = np.linspace(0, len(x), COLUMNS + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    colours = paint_of(strongest(relevance, starts))
    # A column reaches to the first point of the next, as the line would.
    following = np.append(starts[1:], len(x) - 1)
    low, high = np.minimum(low, y[following]), np.maximum(high, y[following])
    left, right = x[starts], x[following]
    boxes = np.stack([np.stack([left, low], -1), np.stack([left, high], -1), np.stack([right, high], -1),
                      np.stack([right, low], -1)], axis=1)  # fmt: skip
    edges = on_grey(colours) / 255.0
    axes.add_collection(PolyCollection(list(boxes), facecolors=edges, edgecolors=edges, linewidths=0.8, zorder=3))
    _strip(axes, np.append(left, right[-1]), colours)


def strongest(relevance: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Of relevance [T] the entry of the largest |R|, with its sign, in each part that begins at `starts`."""
    most, least = np.maximum.reduceat(relevance, starts), np.minimum.reduceat(relevance, starts)
    return np.where(most >= -least, most, least)


def _strip(axes: Axes, edges: np.ndarray, colours: np.ndarray) -> None:
    """Repeats the colours, which are hard to see where the line is steep or dense."""
    if (np.diff(edges) > 0).all():
        axes.pcolormesh(edges, [0, STRIP], colours[None] / 255.0, transform=axes.get_xaxis_transform(), zorder=4)

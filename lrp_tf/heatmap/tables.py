"""Relevance of tabular features as bars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import require_finite
from lrp_tf.heatmap.files import DPI, empty_figure, rendered, require_format, write_figure
from lrp_tf.heatmap.layout import LABEL, TITLE, number
from lrp_tf.heatmap.sheets import frame
from lrp_tf.heatmap.texts import TEXT_STYLE, drawable, width, wrapped

FOR, AGAINST, MEAN = "#b2182b", "#2166ac", "#762a83"
BARS, NUMBERS, ROW = 420, 70, 22  # pixels: the bars, the numbers at either side of them, the height of one
LONGEST = 60  # letters of a name


def table(
    path: str | os.PathLike,
    relevance: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    values: Sequence[object] | None = None,
    title: str = "",
    top: int = 20,
) -> Path:
    """Save the relevance of features as bars, the largest |R| first: red speaks for the target, blue against it.

        heatmap.table("patient.png", R[0], ["age", "dose"], values=x[0])   # one sample
        heatmap.table("patients.png", R, ["age", "dose"])                  # mean |R| of all samples, purple

    Args:
        path: file to write, see `save`.
        relevance: one sample, [F]; or [N, F], whose mean |R| is drawn.
        names: of the features; None numbers them from 0.
        values: [F], of the features of one sample, written after their names.
        title: text above, may have several lines.
        top: how many features to draw; a line below gives the sum of the others.

    Returns:
        `path`.

    Raises:
        ValueError: another shape, NaN or Inf, not as many names or values as features, top below 1.
        OSError: the folder does not exist or cannot be written.
    """
    require_format(path)
    return write_figure(path, _figure(relevance, names, values, title, top))


def small(
    relevance: ArrayLike, names: Sequence[str] | None = None, values: Sequence[object] | None = None, top: int = 8
) -> np.ndarray:
    """The picture of `table` as pixels that are legible on a third of its width, uint8 [h, w, 3]."""
    return rendered(_figure(relevance, names, values, "", top, bars=150, letters=24))


def _figure(
    relevance: ArrayLike,
    names: Sequence[str] | None,
    values: Sequence[object] | None,
    title: str,
    top: int,
    bars: int = BARS,
    letters: int = LONGEST,
) -> Figure:
    """See `table`; `bars`: the pixels of all bars, `letters`: of a name with its value, at most."""
    relevance = np.asarray(relevance, dtype=np.float64)
    _check(relevance, names, values, top)
    several = relevance.ndim == 2
    relevance = np.abs(relevance).mean(axis=0) if several else relevance
    written = number if several else signed
    order = np.argsort(-np.abs(relevance), kind="stable")
    order, rest = order[:top], order[top:]
    features = [feature(i, names, values, letters) for i in order]
    left = round(max(width(text, LABEL) for text in features) * DPI) + 20
    wide = left + NUMBERS + bars + NUMBERS
    title = wrapped(title, (wide - 20) / DPI, TITLE)
    note = f"{len(rest)} more features, sum {written(relevance[rest].sum())}" if len(rest) else ""
    above, below = 10 + (19 * (title.count("\n") + 1) if title else 0), 26 if note else 10
    tall = above + ROW * len(order) + below

    drawing = empty_figure(wide, tall)
    drawing.text(0.5, 1 - 8 / tall, title, ha="center", va="top", fontsize=TITLE, **TEXT_STYLE)
    drawing.text(0.5, 6 / tall, note, ha="center", va="bottom", fontsize=LABEL, **TEXT_STYLE)
    share = (bars + 2 * NUMBERS) / wide
    axes = drawing.add_axes((left / wide, below / tall, share, ROW * len(order) / tall))
    colours = [MEAN if several else FOR if value > 0 else AGAINST for value in relevance[order]]
    _draw(axes, relevance[order], features, colours, [written(value) for value in relevance[order]], NUMBERS / bars)
    return drawing


def _check(relevance: np.ndarray, names: Sequence[str] | None, values: Sequence[object] | None, top: int) -> None:
    """Raise ValueError for what `table` refuses."""
    if relevance.ndim not in (1, 2) or not relevance.size:
        raise ValueError(
            "Expected the relevance of one sample's features, [F], or of several samples, [N, F]. Received: shape "
            f"{relevance.shape}"
        )
    if relevance.ndim == 2 and values is not None:
        raise ValueError(
            "Expected values beside the relevance of one sample alone, [F]. Received: relevance of shape "
            f"{relevance.shape}. Remedy: pass R[0] and x[0], or see beeswarm"
        )
    require_finite(relevance, "relevance")
    if top < 1:
        raise ValueError(f"Expected top of at least 1. Received: {top!r}")
    for what, given in (("names", names), ("values", values)):
        if given is not None and len(given) != relevance.shape[-1]:
            raise ValueError(f"Expected {relevance.shape[-1]} {what}, one for each feature. Received: {len(given)}")


def _draw(
    axes: Axes, bars: np.ndarray, features: list[str], colours: list[str], numbers: list[str], beside: float
) -> None:
    """The bars [F] with their numbers, and the features as labels; `beside`: room for a number, as a share of all."""
    # Lengths as shares of the largest: matplotlib has no axis for 1e-320.
    lengths = bars / (np.abs(bars).max() or 1.0)
    rows = np.arange(len(bars))
    axes.barh(rows, lengths, height=0.7, color=colours)
    low, high = min(lengths.min(), 0.0), max(lengths.max(), 0.0)
    room = ((high - low) or 1.0) * beside
    axes.set_xlim(low - room * (low < 0), high + room * (high > 0 or low == 0))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    for row, (length, value) in enumerate(zip(lengths, bars, strict=True)):
        axes.annotate(
            numbers[row],
            (length, row),
            (4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=LABEL,
            **TEXT_STYLE,
        )
    frame(axes)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_xticks([])
    axes.set_yticks(rows, features, fontsize=LABEL, **TEXT_STYLE)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def feature(index: int, names: Sequence[str] | None, values: Sequence[object] | None, letters: int = LONGEST) -> str:
    """The name and value of a feature on one line; what is too long ends in dots, the name first."""
    name, value = _line(f"feature {index}" if names is None else names[index]), ""
    if values is not None:
        given = values[index]
        value = " = " + _line(f"{given:.4g}" if isinstance(given, float | np.floating) else given)
    return _cut(_cut(name, max(letters - len(value), letters // 3)) + value, letters)


def _line(text: object) -> str:
    return " ".join(drawable(text).split())


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 3] + "..."


def signed(value: float) -> str:
    """The number with its sign."""
    return ("+" if value > 0 else "") + number(value)

"""Pictures in rows on one sheet. All lengths are whole pixels, so that pictures are not resampled twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import colour
from lrp_tf.heatmap.files import DPI, empty_figure, require_dpi, write_figure
from lrp_tf.heatmap.photographs import laid_over, scaled
from lrp_tf.heatmap.texts import TEXT_STYLE, drawable, wrapped

GAP = 10  # between pictures, and around them
TITLE, LABEL, HEAD = 9, 8, 11  # font sizes
NARROWEST = 1 / 8  # A picture of 1 x 2000 is drawn as 1 x 8; otherwise it would be invisible.
BAR = 100  # width of a colour bar with its numbers
SHORTEST_BAR = 80
BAR_BELOW = 32  # height of a colour bar below its picture, with its numbers
NARROWEST_SHEET = 200  # for the title of a tall picture


@dataclass(frozen=True)
class Bar:
    """A colour bar: the values at its ends, what `colour` needs, and the opacity if a photograph lies below."""

    ends: tuple[float, float]
    cmap: str | Colormap
    gamma: float
    alpha: float | None = None

    def colours(self) -> np.ndarray:
        """uint8 [256, 1, 3], from the lower end to the upper; over medium grey, if a photograph lies below."""
        values = np.linspace(*self.ends, 256)[:, None]
        if self.alpha is None:
            return colour(values, self.ends, self.cmap, self.gamma)
        return laid_over(np.full((256, 1, 3), 128, np.uint8), values, self.ends, self.cmap, self.gamma, self.alpha)


def grid(
    path: str | os.PathLike,
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    titles: Sequence[str | Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    suptitle: str = "",
    tile_inches: float = 2.0,
    bars: Sequence[Bar | None] | None = None,
    dpi: float = DPI,
) -> Path:
    """Save RGB pictures in rows, drawn by matplotlib. Each keeps its aspect ratio, up to 1:8.

    Args:
        path: file to write; it appears whole or not at all.
        rows: rows of uint8 [H, W, 3] pictures (`to_rgb`, `overlay`, `image_to_rgb`); None leaves a gap.
        titles: above each row, one text or several that share its width.
        labels: one below each picture, row by row.
        suptitle: text above all.
        tile_inches: the longer side of one picture.
        bars: a colour bar below each picture, row by row; None leaves one out.
        dpi: pixels per inch.

    Returns:
        `path`.

    Raises:
        ValueError: no pictures, something that is none, not one title per row, an unknown picture format, dpi out of
            range.
        OSError: the folder does not exist or cannot be written.
    """
    made = sheet(
        rows, titles=titles, labels=labels, suptitle=suptitle, tile_inches=tile_inches, bars=bars, dpi=dpi
    )  # fmt: skip
    return write_figure(path, made)


def sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    titles: Sequence[str | Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    suptitle: str = "",
    tile_inches: float = 2.0,
    bar: Bar | None = None,
    bars: Sequence[Bar | None] | None = None,
    dpi: float = DPI,
) -> Figure:
    """The figure of `grid`, with a colour bar beside the first row if `bar` is given."""
    sharper = require_dpi(dpi) / DPI  # lengths below are hundredths of an inch
    pictures = [picture for row in rows for picture in row]
    columns = max((len(row) for row in rows), default=0)
    _check(pictures, len(rows), titles, tile_inches)
    tile = max(1, round(tile_inches * DPI))
    sizes = [(0, 0) if picture is None else _size(picture, tile) for picture in pictures]
    cell_height, cell_width = (max(side) for side in zip(*sizes, strict=True))
    if bar:
        cell_height = max(cell_height, SHORTEST_BAR)
    inside = max(columns * (cell_width + GAP), min(tile, NARROWEST_SHEET) + GAP) + GAP  # without the colour bar

    parted = [[text] if isinstance(text, str) else list(text) for text in titles or []]
    parted = [[wrapped(text, inside / len(row) / DPI, TITLE) for text in row] for row in parted]
    named = [wrapped(text, (cell_width + GAP) / DPI, LABEL) for text in labels or []]
    suptitle = wrapped(suptitle, inside / DPI, HEAD)
    above = 19 * max((_lines(text) for row in parted for text in row), default=0)
    below = 9 + 15 * max(map(_lines, named)) if named else 0
    below += BAR_BELOW if bars else 0
    head = 15 + 20 * _lines(suptitle) if suptitle else 5

    row_height = cell_height + above + below + 12
    width, height = inside + (BAR if bar else 0), len(rows) * row_height + head
    drawing = empty_figure(width, height, dpi)
    next_size, next_label, next_bar = iter(sizes), iter(named), iter(bars or [])
    for r, row in enumerate(rows):
        top = head + r * row_height + above
        for t, text in enumerate(parted[r] if parted else []):
            place = (t + 0.5) / len(parted[r]) * inside / width, 1 - (top - 4) / height
            drawing.text(*place, text, ha="center", va="bottom", fontsize=TITLE, **TEXT_STYLE)
        start = (inside - len(row) * (cell_width + GAP) + GAP) // 2
        for c, picture in enumerate(row):
            tall, wide = next(next_size)
            left, down = start + c * (cell_width + GAP) + (cell_width - wide) // 2, top + (cell_height - tall) // 2
            label, below_it = next(next_label, ""), next(next_bar, None)
            if picture is None:
                continue
            if below_it:
                box = _box(left, top + cell_height + below - BAR_BELOW + 8, wide, 9, width, height)
                draw_bar(drawing, below_it, box, lying=True)
            size = (max(round(tall * sharper), 1), max(round(wide * sharper), 1))
            pixels = scaled(np.asarray(picture), size, cv2.INTER_NEAREST)
            _draw_picture(drawing, pixels, _box(left, down, wide, tall, width, height), label)
    if bar:
        # A little shorter than the cell: the numbers at its ends extend beyond it.
        draw_bar(drawing, bar, _box(inside, head + above + 4, 12, cell_height - 8, width, height))
    if suptitle:
        drawing.text(0.5, 1 - 8 / height, suptitle, ha="center", va="top", fontsize=HEAD, **TEXT_STYLE)
    return drawing


def _check(pictures: list[np.ndarray | None], rows: int, titles: Sequence[object] | None, tile_inches: float) -> None:
    """Raise ValueError for what `grid` refuses, but for pictures that are none."""
    if not any(picture is not None for picture in pictures):
        raise ValueError("Expected at least one picture. Received: none")
    if titles and len(titles) != rows:
        raise ValueError(f"Expected one title, or list of titles, per row. Received: {len(titles)} for {rows} rows")
    if not tile_inches > 0:
        raise ValueError(f"Expected tile_inches > 0. Received: {tile_inches!r}")


def _draw_picture(drawing: Figure, pixels: np.ndarray, box: tuple[float, float, float, float], label: str) -> None:
    """A picture uint8 [H, W, 3] in its frame, with a label below."""
    axes = drawing.add_axes(box)
    axes.imshow(pixels, aspect="auto", interpolation="none", origin="upper")
    frame(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(label, fontsize=LABEL, labelpad=2, **TEXT_STYLE)


def draw_bar(drawing: Figure, bar: Bar, box: tuple[float, float, float, float], *, lying: bool = False) -> None:
    """A colour bar whose numbers are relevance: its ends, and zero if it lies between them."""
    low, high = bar.ends
    axes = drawing.add_axes(box)
    colours = bar.colours()
    colours = colours.transpose(1, 0, 2) if lying else colours[::-1]
    axes.imshow(colours, aspect="auto", interpolation="none", origin="upper", extent=(0, 1, 0, 1))
    frame(axes)
    marks = {0.0: low, 1.0: high} if low != high else {0.5: low}
    if low < 0 < high:
        marks[-low / (high - low)] = 0.0
    places, texts = list(marks), [number(value) for value in marks.values()]
    if lying:
        axes.set_yticks([])
        axes.set_xticks(places, texts, fontsize=LABEL, **TEXT_STYLE)
        axes.tick_params(axis="x", length=3, pad=2)
        # The next bar is near, so the numbers at the ends stay within the width of this one.
        for place, text in zip(places, axes.get_xticklabels(), strict=True):
            text.set_horizontalalignment("left" if place == 0 else "right" if place == 1 else "center")
        return
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_yticks(places, texts, fontsize=LABEL, **TEXT_STYLE)
    axes.tick_params(axis="y", length=3, pad=2)
    axes.set_ylabel("relevance", fontsize=LABEL, labelpad=2, **TEXT_STYLE)


def number(value: float) -> str:
    """Three digits, and a minus as wide as a plus."""
    return drawable(f"{value:.3g}".replace("-", "−"))


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _size(picture: ArrayLike, tile: int) -> tuple[int, int]:
    """(height, width) of the picture on the sheet, in pixels."""
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(
            f"Expected pictures uint8 [H, W, 3]. Received: {pixels.dtype} {pixels.shape}. "
            "Remedy: to_rgb(R[0]) for relevance, image_to_rgb(x[0]) for images."
        )
    longest = max(pixels.shape[:2])
    height, width = (max(round(side / longest * tile), round(NARROWEST * tile), 1) for side in pixels.shape[:2])
    return height, width


def _box(left: int, top: int, wide: int, tall: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Pixels from the upper left corner -> the argument of add_axes."""
    # Slightly smaller: matplotlib rounds up, and a rounding error would make it resample the picture.
    return left / width, 1 - (top + tall) / height, (wide - 1e-3) / width, (tall - 1e-3) / height


def frame(axes: Axes) -> None:
    """A thin frame on white, independent of the style that the caller has set."""
    axes.set_facecolor("white")
    axes.grid(False)
    axes.tick_params(colors="black", labelsize=LABEL)
    for spine in axes.spines.values():
        spine.set_color("0.7")

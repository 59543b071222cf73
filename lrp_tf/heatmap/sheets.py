"""Pictures in rows on one sheet: as a file, or as a matplotlib figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf.heatmap.composed import composed
from lrp_tf.heatmap.files import DPI, PIXELS, empty_figure, require_dpi, require_format, write_figure, write_pixels
from lrp_tf.heatmap.layout import LABEL, Bar, Box, Layout, Picture, arrange
from lrp_tf.heatmap.photographs import scaled
from lrp_tf.heatmap.texts import TEXT_STYLE


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
    """Save RGB pictures in rows. Each keeps its aspect ratio, up to 1:8.

        lrp_tf.heatmap.grid("sheet.png", [[lrp_tf.heatmap.to_rgb(r) for r in R]], suptitle="four digits")

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
    require_format(path)
    layout = arrange(rows, titles=titles, labels=labels, suptitle=suptitle, tile_inches=tile_inches, bars=bars)
    return write_sheet(path, layout, dpi)


def write_sheet(path: str | os.PathLike, layout: Layout, dpi: float) -> Path:
    """Save a layout: its pixels, or in a vector format its figure.

    Raises:
        ValueError: an unknown picture format, dpi out of range.
        OSError: the folder does not exist or cannot be written.
    """
    path = require_format(path)
    if path.suffix.lower() in PIXELS:
        return write_pixels(path, composed(layout, dpi))
    return write_figure(path, figure_of(layout, dpi))


def figure_of(layout: Layout, dpi: float) -> Figure:
    """The layout as a matplotlib figure, made without pyplot.

    Raises:
        ValueError: dpi out of range.
    """
    sharper = require_dpi(dpi) / DPI
    width, height = layout.width, layout.height
    drawing = empty_figure(width, height, dpi)
    for picture in layout.pictures:
        _draw_picture(drawing, picture, sharper, _place(picture.box, width, height))
    for bar in layout.bars:
        draw_bar(drawing, bar.bar, _place(bar.box, width, height), lying=bar.lying)
    for text in layout.texts:
        x, y = text.across / width, 1 - text.down / height
        drawing.text(x, y, text.lines, ha="center", va=text.edge, fontsize=text.size, **TEXT_STYLE)
    return drawing


def _place(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """A box on a sheet of that size -> the argument of add_axes."""
    # Slightly smaller: matplotlib rounds up, and a rounding error would make it resample the picture.
    bottom = 1 - (box.top + box.height) / height
    return box.left / width, bottom, (box.width - 1e-3) / width, (box.height - 1e-3) / height


def _draw_picture(drawing: Figure, picture: Picture, sharper: float, box: tuple[float, float, float, float]) -> None:
    """A picture in its frame, with a label below."""
    axes = drawing.add_axes(box)
    size = (max(round(picture.box.height * sharper), 1), max(round(picture.box.width * sharper), 1))
    pixels = scaled(picture.pixels, size, cv2.INTER_NEAREST)
    axes.imshow(pixels, aspect="auto", interpolation="none", origin="upper")
    frame(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(picture.label, fontsize=LABEL, labelpad=2, **TEXT_STYLE)


def draw_bar(drawing: Figure, bar: Bar, box: tuple[float, float, float, float], *, lying: bool = False) -> None:
    """A colour bar whose numbers are relevance, see `Bar.marks`."""
    axes = drawing.add_axes(box)
    colours = bar.colours()
    colours = colours.transpose(1, 0, 2) if lying else colours[::-1]
    axes.imshow(colours, aspect="auto", interpolation="none", origin="upper", extent=(0, 1, 0, 1))
    frame(axes)
    marks = bar.marks()
    places, texts = list(marks), list(marks.values())
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


def frame(axes: Axes) -> None:
    """A thin frame on white, independent of the style that the caller has set."""
    axes.set_facecolor("white")
    axes.grid(False)
    axes.tick_params(colors="black", labelsize=LABEL)
    for spine in axes.spines.values():
        spine.set_color("0.7")

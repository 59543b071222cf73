"""One relevance map and its image: as a figure, a file, or in a notebook."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from lrp_tf.heatmap.colours import RELEVANCE_CMAP, Reduce, colour, limits, reduce_channels
from lrp_tf.heatmap.files import DPI, encode, rendered, require_format, write_figure, write_pixels
from lrp_tf.heatmap.images import image_to_rgb, overlay, resize
from lrp_tf.heatmap.sheets import Bar, sheet

Style = Literal["side-by-side", "overlay", "heatmap"]


def save(
    path: str | os.PathLike,
    relevance: Any,
    *,
    image: Any = None,
    title: str = "",
    scale: float | None = None,
    cmap: str | Colormap = RELEVANCE_CMAP,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    alpha: float = 0.6,
    style: Style = "side-by-side",
    colorbar: bool = False,
) -> Path:
    """Save one heatmap as a picture.

    Args:
        path: file to write; the suffix names the format (.png, .jpg, .webp, .pdf, .svg, ...). It appears whole or
            not at all.
        relevance: one sample, [h, w] or [h, w, C].
        image: what was explained, see `image_to_rgb`. The map is drawn in its geometry.
        title: text above, may have several lines.
        scale, cmap, reduce, gamma, symmetric: see `to_rgb`.
        alpha: see `overlay`.
        style: "side-by-side" of image and heatmap; "overlay", one on the other; "heatmap" alone. Without title and
            colour bar, the last two have exactly one pixel per pixel of the image, and any style without image has
            one per entry of the map.
        colorbar: draw the colours beside their relevance.

    Returns:
        `path`.

    Raises:
        ValueError: see `to_rgb`, `image_to_rgb` and `overlay`; an unknown picture format or style, an overlay
            without image.
        OSError: the folder does not exist or cannot be written.
    """
    require_format(path)
    drawing = {"scale": scale, "cmap": cmap, "reduce": reduce, "gamma": gamma, "symmetric": symmetric, "alpha": alpha}
    tiles, bar = _tiles(relevance, image, style, **drawing)
    if len(tiles) == 1 and not title and not colorbar:
        return write_pixels(path, tiles[0])
    return write_figure(path, _sheet(tiles, title, bar if colorbar else None))


def figure(
    relevance: Any,
    image: Any = None,
    *,
    title: str = "",
    scale: float | None = None,
    cmap: str | Colormap = RELEVANCE_CMAP,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    alpha: float = 0.6,
    style: Style = "side-by-side",
    colorbar: bool = False,
) -> Figure:
    """The matplotlib figure that `save` writes, to be changed or put elsewhere. It does not involve pyplot.

    Args:
        relevance, image, ...: see `save`.

    Raises:
        ValueError: see `save`.
    """
    drawing = {"scale": scale, "cmap": cmap, "reduce": reduce, "gamma": gamma, "symmetric": symmetric, "alpha": alpha}
    tiles, bar = _tiles(relevance, image, style, **drawing)
    return _sheet(tiles, title, bar if colorbar else None)


def show(
    relevance: Any,
    image: Any = None,
    *,
    title: str = "",
    scale: float | None = None,
    cmap: str | Colormap = RELEVANCE_CMAP,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    alpha: float = 0.6,
    style: Style = "side-by-side",
    colorbar: bool = False,
) -> None:
    """Display the figure in a Jupyter notebook.

    Args:
        relevance, image, ...: see `save`.

    Raises:
        ValueError: see `save`.
        RuntimeError: this is no notebook.
    """
    display = _notebook()
    drawing = {"scale": scale, "cmap": cmap, "reduce": reduce, "gamma": gamma, "symmetric": symmetric, "alpha": alpha}
    made = figure(relevance, image, title=title, style=style, colorbar=colorbar, **drawing)
    display.display(display.Image(data=encode(rendered(made), ".png")))


def _notebook() -> Any:
    """The module IPython.display, where a kernel listens to it."""
    try:
        import IPython  # only here: a notebook has it, nothing else needs it
        import IPython.display
    except ImportError:
        shell = None
    else:
        shell = IPython.get_ipython()
    if not hasattr(shell, "kernel"):
        raise RuntimeError(
            "Expected a Jupyter notebook to show the heatmap in. Received: a process without its kernel. "
            'Remedy: heatmap.save("heatmap.png", ...) with the same arguments.'
        )
    return IPython.display


def _tiles(
    relevance: Any, image: Any, style: str, *, alpha: float, reduce: Reduce, **drawing: Any
) -> tuple[list[np.ndarray], Bar]:
    """The pictures of that style, and the colour bar of the relevance in them."""
    if style not in ("side-by-side", "overlay", "heatmap"):
        raise ValueError(f'Expected style="side-by-side", "overlay" or "heatmap". Received: {style!r}')
    if style == "overlay" and image is None:
        raise ValueError('Expected an image for style="overlay". Received: None. Remedy: image=x[0] or style="heatmap"')
    values = reduce_channels(relevance, reduce)
    photo = None if image is None else image_to_rgb(image)
    if photo is not None:
        values = resize(values, photo.shape[:2])
    bar = Bar(limits(values, drawing["scale"], drawing["symmetric"]), drawing["cmap"], drawing["gamma"])
    if style == "overlay":
        return [overlay(photo, values, alpha=alpha, **drawing)], bar
    heat = colour(values, bar.ends, bar.cmap, bar.gamma)
    return [heat] if photo is None or style == "heatmap" else [photo, heat], bar


def _sheet(tiles: list[np.ndarray], title: str, bar: Bar | None) -> Figure:
    # One pixel for each of the image's, in bounds: a digit is drawn larger, a poster smaller.
    tile_inches = min(max(max(tiles[0].shape[:2]) / DPI, 2.0), 8.0)
    return sheet([tiles], titles=[title] if title else None, tile_inches=tile_inches, bar=bar)

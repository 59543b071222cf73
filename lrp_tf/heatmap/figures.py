"""One relevance map, or a volume, and its image: as a figure, a file, or in a notebook."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import Paint, Reduce, Scale, Show, colour
from lrp_tf.heatmap.composed import composed
from lrp_tf.heatmap.files import DPI, encode, require_dpi, require_format, write_pixels
from lrp_tf.heatmap.layout import Bar, Layout, arrange
from lrp_tf.heatmap.photographs import image_to_rgb, laid_over, resize
from lrp_tf.heatmap.sheets import figure_of, write_sheet
from lrp_tf.heatmap.smoothing import Smooth
from lrp_tf.heatmap.volumes import Axis, Slicing, layout_of, values_of

Style = Literal["side-by-side", "overlay", "heatmap"]


def save(
    path: str | os.PathLike,
    relevance: ArrayLike,
    *,
    image: ArrayLike | None = None,
    title: str = "",
    scale: Scale = None,
    cmap: str | Colormap | None = None,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    show: Show = "signed",
    smooth: Smooth = None,
    stride: float | None = None,
    alpha: float = 0.6,
    style: Style = "side-by-side",
    colorbar: bool = False,
    dpi: float = DPI,
    axis: Axis | None = None,
    slices: int | None = None,
    spacing: Sequence[float] | None = None,
    affine: ArrayLike | None = None,
) -> Path:
    """Save one heatmap as a picture.

        lrp_tf.heatmap.save("cat.png", R[0], image=x[0], colorbar=True)
        lrp_tf.heatmap.save("scan.png", R_of_scans[0], image=scans[0], spacing=(3.0, 0.8, 0.8))

    Args:
        path: file to write; the suffix names the format (.png, .jpg, .webp, .pdf, .svg, ...). It appears whole or
            not at all.
        relevance: one sample, [h, w] or [h, w, C]; of a volume [D, H, W, C], or [D, H, W] with an axis.
        image: what was explained, see `image_to_rgb`; the map is drawn in its geometry. Of a volume, of that shape.
        title: text above, may have several lines.
        scale, cmap, reduce, gamma, symmetric, show, smooth, stride: see `to_rgb`; cmap of overlays, see `overlay`.
        alpha: see `overlay`.
        style: "side-by-side" of image and heatmap; "overlay", one on the other; "heatmap" alone. Without title and
            colour bar, the last two have exactly one pixel per pixel of the image, and any style without image has
            one pixel per entry of the map.
        colorbar: draw the colours beside their relevance; those of an overlay over medium grey.
        dpi: pixels per inch of what is drawn with texts or side by side, 10 to 1200. Pictures that have one pixel
            per pixel keep that.
        axis, slices, spacing, affine: of a volume, which slices are drawn and in which proportions, see `Slicing`;
            by default three through its middle.

    Returns:
        `path`.

    Raises:
        ValueError: see `to_rgb`, `image_to_rgb`, `overlay` and `Slicing`; an unknown format or style, dpi out of range,
            an overlay without image, options of volumes with a picture.
        OSError: the folder does not exist or cannot be written.
    """
    require_format(path)
    require_dpi(dpi)
    paint = Paint(scale, cmap, reduce, gamma, symmetric, show, smooth, stride)
    made = _drawn(relevance, image, style, paint, alpha, title, colorbar, axis, slices, spacing, affine)
    if len(made.pictures) == 1 and not (title or colorbar or made.pictures[0].label):
        return write_pixels(path, made.pictures[0].pixels)
    return write_sheet(path, made, dpi)


def figure(
    relevance: ArrayLike,
    image: ArrayLike | None = None,
    *,
    title: str = "",
    scale: Scale = None,
    cmap: str | Colormap | None = None,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    show: Show = "signed",
    smooth: Smooth = None,
    stride: float | None = None,
    alpha: float = 0.6,
    style: Style = "side-by-side",
    colorbar: bool = False,
    dpi: float = DPI,
    axis: Axis | None = None,
    slices: int | None = None,
    spacing: Sequence[float] | None = None,
    affine: ArrayLike | None = None,
) -> Figure:
    """What `save` draws as a matplotlib figure, made without pyplot.

        lrp_tf.heatmap.figure(R[0], image=x[0], colorbar=True).savefig("why.pdf")

    Args:
        relevance, image, ...: see `save`.

    Raises:
        ValueError: see `save`.
    """
    paint = Paint(scale, cmap, reduce, gamma, symmetric, show, smooth, stride)
    made = _drawn(relevance, image, style, paint, alpha, title, colorbar, axis, slices, spacing, affine)
    return figure_of(made, dpi)


def show(
    relevance: ArrayLike,
    image: ArrayLike | None = None,
    *,
    title: str = "",
    scale: Scale = None,
    cmap: str | Colormap | None = None,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    show: Show = "signed",
    smooth: Smooth = None,
    stride: float | None = None,
    alpha: float = 0.6,
    style: Style = "side-by-side",
    colorbar: bool = False,
    dpi: float = DPI,
    axis: Axis | None = None,
    slices: int | None = None,
    spacing: Sequence[float] | None = None,
    affine: ArrayLike | None = None,
) -> None:
    """Display what `save` draws in a Jupyter notebook.

        lrp_tf.heatmap.show(R[0], image=x[0])

    Args:
        relevance, image, ...: see `save`.

    Raises:
        ValueError: see `save`.
        RuntimeError: this is not a notebook.
    """
    display = _notebook()
    paint = Paint(scale, cmap, reduce, gamma, symmetric, show, smooth, stride)
    made = _drawn(relevance, image, style, paint, alpha, title, colorbar, axis, slices, spacing, affine)
    display.display(display.Image(data=encode(composed(made, dpi), ".png")))


def _notebook() -> ModuleType:
    """The module IPython.display.

    Raises:
        RuntimeError: no kernel of a notebook listens to it.
    """
    try:
        import IPython  # not a dependency: every notebook has it
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


def _drawn(
    relevance: ArrayLike,
    image: ArrayLike | None,
    style: str,
    paint: Paint,
    alpha: float,
    title: str,
    colorbar: bool,
    axis: Axis | None,
    slices: int | None,
    spacing: Sequence[float] | None,
    affine: ArrayLike | None,
) -> Layout:
    """The sheet of a picture or of a volume."""
    if style not in ("side-by-side", "overlay", "heatmap"):
        raise ValueError(f'Expected style="side-by-side", "overlay" or "heatmap". Received: {style!r}')
    if style == "overlay" and image is None:
        raise ValueError('Expected an image for style="overlay". Received: None. Remedy: image=x[0] or style="heatmap"')
    shape = np.shape(relevance)
    if len(shape) == 4 or axis is not None:
        if axis is None and shape[0] == 1:
            raise ValueError(
                f"Expected relevance of one sample, [h, w, C] or a volume [D, H, W, C]. Received: shape {shape}, which "
                "looks like a batch. Remedy: pass R[0], or axis for a volume of a single slice"
            )
        slicing = Slicing("mid" if axis is None else axis, slices, spacing, affine)
        volume = values_of(relevance, paint)
        return layout_of(volume, image, slicing, paint, style=style, alpha=alpha, title=title, colorbar=colorbar)
    for name, value in {"slices": slices, "spacing": spacing, "affine": affine}.items():
        if value is not None:
            raise ValueError(
                f"Expected {name} with a volume, [D, H, W, C] or [D, H, W] and an axis. Received: {name} and relevance "
                f'of shape {shape}. Remedy: axis="mid", or no {name}'
            )
    tiles, bar = _tiles(relevance, image, style, paint, alpha)
    return _layout(tiles, title, bar if colorbar else None)


def _tiles(
    relevance: ArrayLike, image: ArrayLike | None, style: str, paint: Paint, alpha: float
) -> tuple[list[np.ndarray], Bar]:
    """The pictures of that style, and the colour bar of the relevance in them."""
    values = paint.values(relevance)
    photo = None if image is None else image_to_rgb(image)
    if photo is not None:
        values = resize(values, photo.shape[:2])
    over = style == "overlay"
    bar = Bar(paint.ends(values), paint.palette(over=over), paint.gamma, alpha if over else None)
    if over and photo is not None:
        return [laid_over(photo, values, bar.ends, bar.cmap, bar.gamma, alpha)], bar
    heat = colour(values, bar.ends, bar.cmap, bar.gamma)
    return [heat] if photo is None or style == "heatmap" else [photo, heat], bar


def _layout(tiles: list[np.ndarray], title: str, bar: Bar | None) -> Layout:
    # One pixel for each pixel of the image, within bounds: a digit is drawn larger, a poster smaller.
    tile_inches = min(max(max(tiles[0].shape[:2]) / DPI, 2.0), 8.0)
    return arrange([tiles], titles=[title] if title else None, tile_inches=tile_inches, bar=bar)

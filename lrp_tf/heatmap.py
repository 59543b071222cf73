"""Arrays -> pictures. White is no relevance, red speaks for the target, blue against it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RELEVANCE_CMAP = "seismic"


def reduce_channels(relevance: Any) -> np.ndarray:
    """Relevance of pixels: the sum over channels of one sample. [H, W, C] or [H, W] -> [H, W] float64.

    Raises:
        ValueError: another rank (a batch axis, say), or NaN or Inf.
    """
    values = np.asarray(relevance, dtype=np.float64)
    if values.ndim == 3:
        values = values.sum(axis=-1)
    if values.ndim != 2:
        raise ValueError(
            f"Expected the relevance of one sample, [H, W] or [H, W, C]. Received: shape {np.shape(relevance)}. "
            "Remedy: pass R[0] for the first sample of a batch."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite relevance. Received: {np.size(values) - np.isfinite(values).sum()} NaN or Inf"
        )
    return values


def to_rgb(relevance: Any, *, scale: float | None = None, cmap: str = RELEVANCE_CMAP) -> np.ndarray:
    """Relevance as a picture, symmetric around zero.

    Args:
        relevance: one sample, [H, W] or [H, W, C] (summed over channels).
        scale: the |R| at the ends of the colour map; None takes the largest of this map. Larger values are clipped.
        cmap: name of a diverging matplotlib colour map.

    Returns:
        uint8 [H, W, 3], RGB. A map of zeros is all of the middle colour.

    Raises:
        ValueError: no single map, NaN or Inf, a scale that is not positive.
    """
    values = reduce_channels(relevance)
    if scale is not None and not scale > 0:
        raise ValueError(f"Expected scale > 0 or None. Received: scale={scale!r}")
    scale = scale or np.abs(values).max() or 1.0
    # Zero falls on the exact middle of the map: 0.5 between its two central entries is white in "seismic".
    unit = np.clip(values / scale, -1.0, 1.0)
    colours = matplotlib.colormaps[cmap].resampled(511)(np.rint((unit + 1.0) * 255.0).astype(int))
    return np.rint(colours[..., :3] * 255.0).astype(np.uint8)


def image_to_rgb(image: Any) -> np.ndarray:
    """A photograph or digit as uint8 [H, W, 3].

    Args:
        image: [H, W], [H, W, 1] or [H, W, 3]; uint8, or floats, of which the range 0..1 is taken as it is and any
            other stretched to it.

    Raises:
        ValueError: another shape, or NaN or Inf.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise ValueError(f"Expected an image [H, W], [H, W, 1] or [H, W, 3]. Received: shape {np.shape(image)}")
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float64)
        if not np.isfinite(pixels).all():
            raise ValueError("Expected an image of finite numbers. Received: NaN or Inf")
        low, high = pixels.min(), pixels.max()
        if low < 0 or high > 1:
            pixels = (pixels - low) / ((high - low) or 1.0)
        pixels = np.rint(pixels * 255.0).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels


def save(
    path: str | os.PathLike,
    relevance: Any,
    *,
    image: Any = None,
    title: str = "",
    scale: float | None = None,
    cmap: str = RELEVANCE_CMAP,
) -> Path:
    """Save one heatmap as a picture; with `image` both side by side, with a `title` above.

    Args:
        path: file to write; the suffix names the format (.png). It appears whole or not at all.
        relevance: one sample, [H, W] or [H, W, C].
        image: what was explained, see `image_to_rgb`. Without image and title the file has one pixel per input pixel.
        title: text above, may have several lines.
        scale, cmap: see `to_rgb`.

    Raises:
        ValueError: see `to_rgb` and `image_to_rgb`.
        OSError: the folder does not exist or cannot be written.
    """
    heat = to_rgb(relevance, scale=scale, cmap=cmap)
    if image is None and not title:
        return _write(Path(path), lambda temporary: _imwrite(temporary, heat))
    tiles = [heat] if image is None else [image_to_rgb(image), heat]
    return grid(path, [tiles], titles=[title])


def grid(
    path: str | os.PathLike,
    rows: Sequence[Sequence[Any]],
    *,
    titles: Sequence[str | Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    suptitle: str = "",
    tile_inches: float = 2.0,
) -> Path:
    """Save RGB pictures in rows, drawn by matplotlib.

    Args:
        path: file to write; it appears whole or not at all.
        rows: rows of uint8 [H, W, 3] pictures (`to_rgb`, `image_to_rgb`); None leaves a gap.
        titles: above each row, one text or several that share its width.
        labels: one below each picture, row by row.
        suptitle: text above all.
        tile_inches: size of one picture.

    Raises:
        ValueError: no pictures.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("Expected at least one picture. Received: none")
    titles, labels = list(titles or [""] * len(rows)), list(labels or [])
    titles = [[title] if isinstance(title, str) else list(title) for title in titles]
    lines = max((text.count("\n") + 1 for title in titles for text in title if text), default=0)
    label_inches = 0.24 if labels else 0.0
    row_inches = tile_inches + 0.19 * lines + label_inches + 0.12
    head_inches = 0.35 if suptitle else 0.05
    figure = Figure(figsize=(columns * (tile_inches + 0.1) + 0.1, len(rows) * row_inches + head_inches), dpi=100)
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    for r, row in enumerate(rows):
        top = height - head_inches - r * row_inches - 0.19 * lines
        for t, text in enumerate(titles[r]):
            middle = (t + 0.5) / len(titles[r])
            figure.text(middle, (top + 0.04) / height, text, ha="center", va="bottom", fontsize=9)
        for c, picture in enumerate(row):
            if picture is None:
                continue
            left = (width - len(row) * (tile_inches + 0.1) + 0.1) / 2 + c * (tile_inches + 0.1)
            box = (left / width, (top - tile_inches) / height, tile_inches / width, tile_inches / height)
            axes = figure.add_axes(box)
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color("0.7")
            index = sum(len(previous) for previous in rows[:r]) + c
            if index < len(labels):
                axes.set_xlabel(labels[index], fontsize=8, labelpad=2)
    if suptitle:
        figure.text(0.5, 1 - 0.08 / height, suptitle, ha="center", va="top", fontsize=11)
    return _write(Path(path), lambda temporary: figure.savefig(temporary))


def _imwrite(path: Path, rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"OpenCV could not write {path.name!r}")


def _write(path: Path, draw: Any) -> Path:
    """Draw into a temporary file beside `path` and rename it: no half-written picture under the final name."""
    if not path.suffix:
        raise ValueError(f"Expected a file name with a suffix such as .png. Received: {str(path)!r}")
    handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        draw(temporary)
        # mkstemp makes files for the owner alone; a picture gets the usual rights.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path

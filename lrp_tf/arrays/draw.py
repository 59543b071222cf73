"""Pictures of the relevance of one array: lines for signals, maps for planes, frames for videos."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrp_tf import heatmap
from lrp_tf.arrays.sample import Array
from lrp_tf.gallery.draw import numbered
from lrp_tf.heatmap.colours import Paint, summed
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.signals import CHANNELS

FRAMES = 12  # of a video; more are left out, evenly
_ACROSS = 6  # of them beside one another, at most
_TILE = 1.6  # inches of one


def suffixes(look: Look, count: int, save_relevance: bool) -> list[str]:
    """What follows the name of an array in the names of its files, for `count` targets."""
    return [*(f"{number}.{look.format}" for number in numbered(count)), *([".npy"] if save_relevance else [])]


def is_signal(shape: Sequence[int]) -> bool:
    """Whether an array is drawn as lines: [T], or [T, C] of few channels."""
    return len(shape) == 1 or (len(shape) == 2 and shape[1] <= CHANNELS)


def values_of(relevance: np.ndarray, look: Look) -> np.ndarray:
    """What is drawn of relevance: of signals and planes [T, C] every entry, of others the sum over the channels."""
    values = np.asarray(relevance, np.float64)
    values = np.abs(values) if look.show == "abs" else values
    return values if values.ndim <= 2 else summed(values)


def draw(
    base: Path, maps: Sequence[np.ndarray], titles: Sequence[str], array: Array, look: Look, run: float | None
) -> None:
    """Write a picture for each target.

    Args:
        maps: see `values_of`. array: as the model takes it.
        run: the |R| of full colour if `look.scale` is "run".

    Raises:
        OSError: the folder cannot be written.
        ValueError: see `heatmap.signal` and `heatmap.grid`; an array of more axes than a video's four.
    """
    for values, title, scale, number in zip(maps, titles, look.scales(maps, run), numbered(len(maps)), strict=True):
        path = Path(f"{base}{number}.{look.format}")
        paint = dataclasses.replace(look.paint(1), scale=scale, smooth=None)
        title = f"{title}\nfull colour: |R| = {scale:.3g}"
        if is_signal(array.values.shape):
            _lines(path, values, title, array, paint, look)
        elif array.values.ndim <= 4:
            _planes(path, values, title, array, paint, look)
        else:
            raise ValueError(f"Expected an array of up to four axes, (time, height, width, channels). "
                             f"Received: shape {array.values.shape}. Remedy: --save-relevance")  # fmt: skip


def _lines(path: Path, values: np.ndarray, title: str, array: Array, paint: Paint, look: Look) -> None:
    where = None if array.rate is None else np.arange(len(array.values)) / array.rate
    names = array.names if len(array.names) == np.atleast_2d(array.values.T).shape[0] else None
    heatmap.signal(
        path,
        values,
        array.values,
        x=where,
        unit="" if array.rate is None else f"seconds ({array.rate:g} Hz)",
        names=names,
        title=title,
        scale=paint.scale,
        cmap=paint.palette(),
        gamma=look.gamma,
        show=look.show,
        colorbar=look.colorbar,
    )


def _planes(path: Path, values: np.ndarray, title: str, array: Array, paint: Paint, look: Look) -> None:
    """An array beside its relevance: [T, C] with the time to the right, [H, W, C], or frames [T, H, W, C]."""
    shown, labels = in_bytes(array.values), None
    if array.values.ndim == 2:
        pictures = [[grey(shown.T), _coloured(values.T, paint)]]
    elif array.values.ndim == 3:
        pictures = [[picture_of(shown), _coloured(values, paint)]]
    else:
        chosen = chosen_frames(len(values))
        tiles = [(picture_of(shown[t]), _coloured(values[t], paint)) for t in chosen]
        across = math.ceil(len(tiles) / math.ceil(len(tiles) / _ACROSS))  # rows of one length, where there are several
        rows = [tiles[i : i + across] for i in range(0, len(tiles), across)]
        pictures = [[tile[part] for tile in row] for row in rows for part in (0, 1)]
        title = f"{title}\n{len(chosen)} of {len(values)} frames, each above its relevance"
        named = [[f"frame {t}" for t in chosen[i : i + across]] for i in range(0, len(tiles), across)]
        labels = [label for row in named for label in (*row, *[""] * len(row))]
    video = array.values.ndim == 4
    heatmap.grid(
        path,
        pictures,
        labels=labels,
        suptitle=title,
        tile_inches=_TILE if video else 3.2,
        bars=_bars(pictures, values, paint, look, video),
        dpi=look.dpi,
    )


def _bars(
    pictures: list[list[np.ndarray]], values: np.ndarray, paint: Paint, look: Look, video: bool
) -> list[heatmap.Bar | None] | None:
    """A colour bar below the last map, since all share one scale."""
    if not look.colorbar:
        return None
    count = sum(map(len, pictures))
    place = count - len(pictures[-1]) if video else count - 1
    bar = heatmap.Bar(paint.ends(values), paint.palette(), look.gamma)
    return [bar if i == place else None for i in range(count)]


def _coloured(values: np.ndarray, paint: Paint) -> np.ndarray:
    return heatmap.to_rgb(values, **dataclasses.asdict(paint))


def in_bytes(values: np.ndarray) -> np.ndarray:
    """uint8, from the range 0..255 of pixels, 0..1, or the range of the whole array."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255 and high > 1 and values.ndim > 2:
        low, high = 0.0, 255.0
    return np.rint((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)


def picture_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] as RGB: colours of three channels, else the mean in grey."""
    return pixels if pixels.shape[-1] == 3 else grey(np.rint(pixels.mean(axis=-1)).astype(np.uint8))


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1)


def chosen_frames(length: int) -> list[int]:
    """The frames that are drawn."""
    return sorted({round(t) for t in np.linspace(0, length - 1, min(length, FRAMES))})

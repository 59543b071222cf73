"""The small pictures of one array for the page of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from lrp_tf import heatmap
from lrp_tf.arrays.draw import chosen_frames, grey, in_bytes, is_signal, picture_of
from lrp_tf.arrays.sample import Array
from lrp_tf.arrays.volumes import slicing_for
from lrp_tf.gallery.tiles import SIDE, Tiles, relevance_tile, size_within
from lrp_tf.heatmap.colours import Paint
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled
from lrp_tf.heatmap.signals import on_grey, strongest
from lrp_tf.heatmap.volumes import Place, Scan, Slicing

_PANEL = 120  # pixels of the height of one channel
_MARGIN = 6
_SLICES = 24  # of a volume, at most: each takes as much room as a photograph


def tiles(maps: Sequence[np.ndarray], array: Array, look: Look, run: float | None) -> Tiles:
    """The tiles of an array; the arguments are those of `arrays.draw.draw`.

    Raises:
        ValueError: an array of more axes than a video's four.
    """
    values, scales = array.values, look.scales(maps, run)
    if is_signal(values.shape):
        return Tiles((), [[_lines(m, values, look, scale)] for m, scale in zip(maps, scales, strict=True)])
    shown = in_bytes(values)
    slices: list[str] = []
    if values.ndim == 2:
        below, planes = [grey(shown.T)], [[m.T] for m in maps]
    elif values.ndim == 3:
        below, planes = [picture_of(shown)], [[m] for m in maps]
    elif values.ndim == 4:
        frames = chosen_frames(len(values))
        below, planes = [picture_of(shown[t]) for t in frames], [[m[t] for t in frames] for m in maps]
        slices = [f"frame {t}" for t in frames]
    else:
        raise ValueError(f"Expected an array of up to four axes. Received: shape {values.shape}")
    return Tiles(
        [_within(picture) for picture in below],
        [[relevance_tile(_within(m), look, scale) for m in ms] for ms, scale in zip(planes, scales, strict=True)],
        slices,
    )


def volume_tiles(maps: Sequence[np.ndarray], array: Array, look: Look, slicing: Slicing, run: float | None) -> Tiles:
    """Slices of a volume across one axis: that of `slicing`, else the one whose slices come first.

    The one nearest to the largest |R| of the first target is shown first.

    Args:
        maps: see `arrays.volumes.draw`.

    Raises:
        ValueError: see `heatmap.volumes.Scan`.
    """
    shown = slicing_for(array, slicing)
    axis = shown.axis if shown.montage else shown.places(maps[0])[0].axis
    shown = dataclasses.replace(shown, axis=axis, slices=min(shown.slices or _SLICES, _SLICES))
    shape, places, scales = maps[0].shape, shown.places(maps[0]), look.scales(maps, run)
    scan = Scan(array.values, shape)
    slices = [scan.pixels(shown.slice_of(scan.voxels, place)) for place in places]
    return Tiles(
        [_within(shown.proportioned(pixels, place, shape)) for pixels, place in zip(slices, places, strict=True)],
        # A map is stretched to the proportions of what lies below it.
        [
            [relevance_tile(_within(shown.slice_of(m, place)), look, scale) for place in places]
            for m, scale in zip(maps, scales, strict=True)
        ],
        [_named(shown, place, shape[place.axis]) for place in places],
        _nearest_to_peak(places, maps[0]),
    )


def _nearest_to_peak(places: list[Place], values: np.ndarray) -> int:
    """The index of the place that is nearest to the largest |R|.

    It is not moved there: places are the same for all composites, which share the pictures of the scan.
    """
    peak = int(np.unravel_index(int(np.abs(values).argmax()), values.shape)[places[0].axis])
    return min(range(len(places)), key=lambda i: abs(places[i].number - peak))


def _named(slicing: Slicing, place: Place, count: int) -> str:
    view = slicing.views[place.axis]
    if view.sides:
        return f"{view.sides[0]} · {view.name} {place.number} of {count} · {view.sides[1]}"
    return f"axis {place.axis}, slice {place.number} of {count}"


def _within(picture: np.ndarray) -> np.ndarray:
    return scaled(picture, size_within(*picture.shape[:2]))


def _lines(values: np.ndarray, signal: np.ndarray, look: Look, scale: float) -> np.ndarray:
    """A panel for each channel."""
    paint = dataclasses.replace(look.paint(1), scale=scale, smooth=None)
    channels = zip(np.atleast_2d(values.T), np.atleast_2d(np.asarray(signal, np.float64).T), strict=True)
    draw = _envelope if len(values) > 2 * SIDE else _line
    return np.concatenate([draw(relevance, line, paint) for relevance, line in channels])


def _line(relevance: np.ndarray, line: np.ndarray, paint: Paint) -> np.ndarray:
    """The line of a signal over columns in the colours of its relevance."""
    colours = heatmap.to_rgb(relevance[None], **dataclasses.asdict(paint))
    panel = np.ascontiguousarray(np.repeat(scaled(colours, (1, SIDE), growing=cv2.INTER_NEAREST), _PANEL, axis=0))
    across = (np.arange(len(line)) + 0.5) * (SIDE / len(line)) - 0.5
    points = np.rint(np.column_stack([across, _down(line, line)]) * 16).astype(np.int32)
    for width, colour in ((3, (255, 255, 255)), (1, (20, 20, 20))):  # on white, so that no colour hides it
        cv2.polylines(panel, [points], False, colour, width, cv2.LINE_AA, shift=4)
    return panel


def _envelope(relevance: np.ndarray, line: np.ndarray, paint: Paint) -> np.ndarray:
    """The range of a long signal in each column, in the colour of the largest |R| there: a line would cover all."""
    starts = np.linspace(0, len(line), SIDE + 1).astype(int)[:-1]
    colours = heatmap.to_rgb(strongest(relevance, starts)[None], **dataclasses.asdict(paint))[0]
    low, high = np.minimum.reduceat(line, starts), np.maximum.reduceat(line, starts)
    rows = np.arange(_PANEL)[:, None]
    inside = (rows >= np.floor(_down(high, line))) & (rows <= np.ceil(_down(low, line)))
    panel = np.where(inside[..., None], on_grey(colours), 255.0)
    panel[-_MARGIN:] = colours  # the colours alone, where the range is narrow
    return np.rint(panel).astype(np.uint8)


def _down(values: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Where values of a signal lie in its panel, in pixels from above."""
    return _MARGIN + (line.max() - values) / (np.ptp(line) or 1.0) * (_PANEL - 3 * _MARGIN)

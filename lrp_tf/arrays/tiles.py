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
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled
from lrp_tf.heatmap.signals import strongest
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
    sides = slicing.views[place.axis].sides
    name = f"axis {place.axis}, slice {place.number} of {count}"
    return f"{sides[0]} · {name} · {sides[1]}" if sides else name


def _within(picture: np.ndarray) -> np.ndarray:
    return scaled(picture, size_within(*picture.shape[:2]))


def _lines(values: np.ndarray, signal: np.ndarray, look: Look, scale: float) -> np.ndarray:
    """A panel for each channel: the line of the signal over columns in the colours of its relevance."""
    paint = dataclasses.asdict(dataclasses.replace(look.paint(1), scale=scale, smooth=None))
    panels = []
    for relevance, line in zip(np.atleast_2d(values.T), np.atleast_2d(np.asarray(signal, np.float64).T), strict=True):
        if len(relevance) > SIDE:  # the mean of a column would hide a single relevant point
            relevance = strongest(relevance, np.linspace(0, len(relevance), SIDE + 1).astype(int)[:-1])
        strip = scaled(heatmap.to_rgb(relevance[None], **paint), (1, SIDE), growing=cv2.INTER_NEAREST)
        panel = np.ascontiguousarray(np.repeat(strip, _PANEL, axis=0))
        spread = np.ptp(line) or 1.0
        down = _MARGIN + (line.max() - line) / spread * (_PANEL - 2 * _MARGIN)
        across = (np.arange(len(line)) + 0.5) * (SIDE / len(line)) - 0.5
        points = np.rint(np.column_stack([across, down]) * 16).astype(np.int32)
        for width, colour in ((3, (255, 255, 255)), (1, (20, 20, 20))):  # on white, so that no colour hides it
            cv2.polylines(panel, [points], False, colour, width, cv2.LINE_AA, shift=4)
        panels.append(panel)
    return np.concatenate(panels)

"""Pictures of the relevance of one volume, and relevance as a file for viewers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrp_tf.arrays import nifti
from lrp_tf.arrays.sample import Array
from lrp_tf.gallery.draw import numbered
from lrp_tf.heatmap import volumes
from lrp_tf.heatmap.colours import summed
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.sheets import write_sheet
from lrp_tf.heatmap.volumes import Slicing

NIFTI = ".relevance.nii.gz"  # an ending of its own: no result has the name of the scan


def suffixes(look: Look, count: int, nifti_too: bool) -> list[str]:
    """What follows the name of a volume in the names of its files, for `count` targets."""
    found = [f"{_of_style(style)}{n}.{look.format}" for style in look.styles for n in numbered(count)]
    return [*found, *(f"{n}{NIFTI}" for n in numbered(count) if nifti_too)]


def _of_style(style: str) -> str:
    return "" if style == "side-by-side" else f".{style}"


def slicing_for(array: Array, slicing: Slicing) -> Slicing:
    """Which slices are drawn of a volume, with its place in space if it says where it lies."""
    return slicing if array.space is None else dataclasses.replace(slicing, affine=array.space.affine)


def draw(
    base: Path,
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    array: Array,
    look: Look,
    slicing: Slicing,
    run: float | None,
) -> None:
    """Write a picture for each target and style.

    Args:
        maps: what `heatmap.volumes.values_of` makes of relevance, [D, H, W] each. array: as the model takes it.
        run: the |R| of full colour if `look.scale` is "run".

    Raises:
        OSError: the folder cannot be written.
        ValueError: see `heatmap.save`.
    """
    slicing = slicing_for(array, slicing)
    for values, title, scale, n in zip(maps, titles, look.scales(maps, run), numbered(len(maps)), strict=True):
        paint = dataclasses.replace(look.paint(1), scale=scale, smooth=None)
        peak = tuple(int(i) for i in np.unravel_index(int(np.abs(values).argmax()), values.shape))
        smoothed = ", smoothed" if look.smooth else ""
        text = f"{title}\nfull colour: |R| = {scale:.3g}{smoothed}, the largest |R| is at voxel {peak}"
        for style in look.styles:
            layout = volumes.layout_of(
                values, array.values, slicing, paint, style=style, title=text, colorbar=look.colorbar
            )
            write_sheet(f"{base}{_of_style(style)}{n}.{look.format}", layout, look.dpi)


def save(base: Path, relevance: np.ndarray, array: Array) -> None:
    """Write relevance [k, D, H, W] or [k, D, H, W, C], summed over its channels, as a NIfTI file for each target."""
    for volume, n in zip(relevance, numbered(len(relevance)), strict=True):
        whole = volume if volume.ndim == 3 else summed(volume)
        nifti.write(Path(f"{base}{n}{NIFTI}"), whole, array.space)

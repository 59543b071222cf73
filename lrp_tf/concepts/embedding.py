"""Maps or concept vectors of many samples on a page: alike ones lie close together, as thumbnails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lrp_tf.concepts.clusters import flattened
from lrp_tf.concepts.threads import EXTRA, threads_for
from lrp_tf.concepts.vectors import shares
from lrp_tf.evaluate.extras import optional
from lrp_tf.heatmap import image_to_rgb
from lrp_tf.heatmap.files import write_pixels
from lrp_tf.heatmap.photographs import scaled

# Frames of groups: colours that readers who see no red or green tell apart (Okabe and Ito).
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (120, 94, 60))
_GREY = (170, 170, 170)
_FRAME = 2  # pixels
_ALIKE = 1e-12  # of a feature's size: less than this between samples is rounding


def embed(values: np.ndarray, *, perplexity: float | None = None, pixels: int = 14, seed: int = 0) -> np.ndarray:
    """Points in the plane for maps or concept vectors, by t-SNE: neighbours stay neighbours, [N, 2] in 0..1.

        points = concepts.embed(maps)
        concepts.thumbnails("page.png", points, x, groups=found.labels)

    Distances between groups mean nothing, and neither do their sizes. Needs scikit-learn (extra `concepts`).

    Args:
        values: maps [N, H, W] or [N, H, W, C], or vectors [N, C], as `clusters.spectral` takes them.
        perplexity: how many neighbours count, about; None: 30, or a quarter of the samples if that is less.
        pixels: see `clusters.spectral`.
        seed: of the start.

    Raises:
        ValueError: other shapes, fewer than four samples, samples that are all alike, a perplexity that is not below
            their number, NaN or Inf.
        ImportError: scikit-learn is missing.
    """
    flat = shares(flattened(values, pixels))
    if len(flat) < 4:
        raise ValueError(f"embed expects four samples or more. Received: {len(flat)}")
    near = min(30.0, len(flat) / 4) if perplexity is None else perplexity
    if not 0 < near < len(flat):
        raise ValueError(f"perplexity expects a number above 0 and below {len(flat)} samples. Received: {near}")
    if (np.ptp(flat, axis=0) <= _ALIKE * np.abs(flat).max(axis=0)).all():  # t-SNE would crash on them
        raise ValueError(
            f"embed expects samples that differ in more than strength. Received: {len(flat)} that are all alike. "
            "Remedy: see whether maps are zero; leave samples out that are there several times"
        )
    # Of about 1: t-SNE begins with distances as they are.
    flat = (flat - flat.mean(axis=0)) / (flat.std() or 1)
    points = optional("sklearn.manifold", EXTRA).TSNE(2, perplexity=near, init="pca", random_state=seed)
    with threads_for(len(flat)):
        found = points.fit_transform(flat).astype(np.float64)
    span = np.ptp(found, axis=0)
    return (found - found.min(axis=0)) / np.where(span > 0, span, 1)


def thumbnails(
    path: str | os.PathLike,
    points: np.ndarray,
    images: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    side: int = 900,
    tile: int = 28,
    limit: int = 400,
    seed: int = 0,
) -> Path:
    """Save a page with each image where its point lies, in a frame of the colour of its group.

        concepts.thumbnails("page.png", points, x, groups=found.labels)

    Where thumbnails would cover each other, the nearest free place is taken; images that find none close by, or are
    more than `limit`, are small squares in the colour of their group.

    Args:
        path: file to write, see `heatmap.save`.
        points: [N, 2] in 0..1, from left to right and from below up, see `embed`.
        images: [N, H, W] or [N, H, W, C], as `heatmap.image_to_rgb` takes each.
        groups: int [N], such as clusters; colours repeat after seven. None: grey frames.
        side: of the page, in pixels. tile: the longer side of a thumbnail.
        limit: thumbnails at most; which, is drawn with `seed`.

    Raises:
        ValueError: other shapes, no samples, an unknown format.
    """
    points, groups = _checked(points, images, groups, side, tile)
    page = np.full((side, side, 3), 255, np.uint8)
    order = np.random.default_rng(seed).permutation(len(points))
    taken = np.zeros((side // (tile + 1), side // (tile + 1)), bool)
    for place, index in enumerate(order):
        colour = _GREY if groups is None else COLOURS[int(groups[index]) % len(COLOURS)]
        x, y = points[index, 0], 1 - points[index, 1]
        cell = _free(taken, y, x) if place < limit else None
        if cell is None:
            top, left = (round(v * (side - 5)) for v in (y, x))
            page[top : top + 4, left : left + 4] = colour
            continue
        taken[cell] = True
        top, left = (c * (tile + 1) for c in cell)
        page[top : top + tile, left : left + tile] = colour
        small = _small(image_to_rgb(images[index]), tile - 2 * _FRAME)
        up, across = (top + (tile - small.shape[0]) // 2), (left + (tile - small.shape[1]) // 2)
        page[up : up + small.shape[0], across : across + small.shape[1]] = small
    return write_pixels(path, page)


def _checked(
    points: np.ndarray, images: np.ndarray, groups: np.ndarray | None, side: int, tile: int
) -> tuple[np.ndarray, np.ndarray | None]:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"points expects [N, 2] from 0 to 1. Received: {list(points.shape)}")
    if len(images) != len(points):
        raise ValueError(f"images expects one for each of {len(points)} points. Received: {len(images)}")
    if groups is not None and np.shape(groups) != (len(points),):
        raise ValueError(f"groups expects [{len(points)}]. Received: {list(np.shape(groups))}")
    if not 8 <= tile <= side // 4:
        raise ValueError(f"tile expects pixels from 8 to a quarter of side. Received: {tile} of {side}")
    return points, None if groups is None else np.asarray(groups)


def _free(taken: np.ndarray, y: float, x: float) -> tuple[int, int] | None:
    """The cell nearest to a point that is free, no more than two cells away."""
    rows, columns = taken.shape
    row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
    around = [(dy * dy + dx * dx, row + dy, column + dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    free = [c for c in around if 0 <= c[1] < rows and 0 <= c[2] < columns and not taken[c[1], c[2]]]
    return min(free)[1:] if free else None


def _small(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture whose longer side has so many pixels."""
    factor = side / max(picture.shape[:2])
    height, width = (max(1, round(n * factor)) for n in picture.shape[:2])
    return scaled(picture, (height, width))

"""Relevance of the patches of a vision transformer, in the geometry of the picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import require_finite
from lrp_tf.heatmap.photographs import image_to_rgb


def patches(
    relevance: ArrayLike,
    grid: tuple[int, int] | None = None,
    *,
    image: ArrayLike | None = None,
    size: tuple[int, int] | None = None,
    class_tokens: int | None = None,
) -> np.ndarray:
    """Relevance of tokens, each of which stands for a patch of a picture, as a map.

        e = explainer.explain(x, layers=["block_3/attention"])
        heatmap.save("block.png", heatmap.patches(e.layers["block_3/attention"][0], image=x[0]), image=x[0])

    Relevance of the model's input needs none of this: it is pixels already.

    Args:
        relevance: of one sample, [N] or [N, D], which is summed over D; or [h, w, D] of blocks that keep the grid.
        grid: (h, w), patches from top to bottom and from left to right; None: a square, if the number of tokens, less
            one or two that are no patches, is one.
        image: the map gets its height and width. size: the same, (height, width); None for both: one entry a patch.
        class_tokens: how many tokens ahead of the patches stand for none, such as a class token; they are left out.
            None: as many as are more than the grid.

    Returns:
        float64 [H, W]. Every patch shares its relevance out over its pixels, so that the sum over the map is that
        over the patches.

    Raises:
        ValueError: tokens that do not fill the grid, a size smaller than the grid, image and size, NaN or Inf.
    """
    values = np.asarray(relevance, dtype=np.float64)
    if values.ndim not in (1, 2, 3) or not values.size:
        raise ValueError(
            f"Expected the relevance of one sample's tokens, [N], [N, D] or [h, w, D]. Received: shape {values.shape}. "
            "Remedy: pass R[0] of a batch"
        )
    require_finite(values, "relevance")
    if values.ndim == 3:
        tokens, grid = values.sum(axis=-1).ravel(), values.shape[:2]
    else:
        tokens = values.reshape(len(values), -1).sum(axis=1)
        grid, class_tokens = _grid(len(tokens), grid, class_tokens)
        tokens = tokens[class_tokens:]
    found = tokens.reshape(grid)
    if image is not None and size is not None:
        raise ValueError("Expected image or size. Received: both.")
    if image is not None:
        size = image_to_rgb(image).shape[:2]
    return found if size is None else _spread(found, size)


def _grid(count: int, grid: tuple[int, int] | None, class_tokens: int | None) -> tuple[tuple[int, int], int]:
    """The grid and how many tokens lie ahead of it."""
    if grid is None:
        ahead = (0, 1, 2) if class_tokens is None else (class_tokens,)
        found = next((n for n in ahead if count > n and math.isqrt(count - n) ** 2 == count - n), None)
        if found is None:
            raise ValueError(
                f"Expected tokens that fill a square, with {' or '.join(map(str, ahead))} ahead of it. Received: "
                f"{count}. Remedy: grid=(h, w)"
            )
        side = math.isqrt(count - found)
        return (side, side), found
    height, width = grid
    ahead_of_it = count - height * width if class_tokens is None else class_tokens
    if height < 1 or width < 1 or ahead_of_it < 0 or height * width + ahead_of_it != count:
        raise ValueError(
            f"Expected {height} x {width} patches and {'any' if class_tokens is None else class_tokens} tokens ahead "
            f"of them. Received: {count} tokens"
        )
    return (height, width), ahead_of_it


def _spread(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Every patch over its pixels, [h, w] -> [H, W]."""
    if len(size) != 2 or size[0] < values.shape[0] or size[1] < values.shape[1]:
        raise ValueError(f"Expected a size of at least the grid's, {values.shape}. Received: {tuple(size)}")
    for axis in (0, 1):
        places = np.arange(size[axis]) * values.shape[axis] // size[axis]
        counts = np.bincount(places).astype(np.float64)
        shape = (-1, 1) if axis == 0 else (1, -1)
        values = np.take(values / counts.reshape(shape), places, axis=axis)
    return values

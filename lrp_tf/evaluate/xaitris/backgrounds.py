"""The backgrounds of XAI-TRIS: white noise, correlated noise, and pictures of dead leaves in place of photographs."""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate.extras import optional

_DEVIATION = 0.5
_SMOOTH = {8: 3.0, 64: 10.0}  # pixels
_LEAVES = 400  # that fall at most upon a picture; the top ones cover the others
_RADII = (0.03, 0.7)  # of leaves, as shares of the side
_FINER = {8: 2, 64: 1}  # a pixel is the mean of so many by so many
_AT_ONCE = 20_000_000  # numbers that drawing holds in memory


def white(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Independent normal numbers, float32 [n, S, S]."""
    return np.float32(_DEVIATION) * rng.standard_normal((count, size, size), np.float32)


def correlated(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """White noise through a Gaussian of 3 pixels (8 x 8) or 10 pixels (64 x 64), [n, S, S]."""
    return optional("scipy.ndimage").gaussian_filter(white(rng, count, size), _SMOOTH[size], axes=(1, 2))


def leaves(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Pictures of dead leaves, each with mean 0, [n, S, S]. The paper takes photographs of ImageNet.

    Discs of one grey each cover one another; the density of their radii falls with the cube. Such pictures have the
    statistics of photographs that are told most often: edges, one grey within them, a spectrum that falls with the
    square of the frequency, the same at all scales (Lee, Mumford and Huang 2001).
    """
    found = np.empty((count, size, size), np.float32)
    at_once = max(1, _AT_ONCE // (size * _FINER[size]) ** 2)
    for first in range(0, count, at_once):
        part = slice(first, min(first + at_once, count))
        found[part] = _fallen(rng, part.stop - part.start, size)
    return found - found.mean(axis=(1, 2), keepdims=True)


def _fallen(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Leaf by leaf from the top one down, which fills what is still bare, until all is covered; greys in 0..1."""
    finer = _FINER[size]
    side = size * finer
    middle = ((np.arange(side) + 0.5) / side).astype(np.float32)
    picture = np.zeros((count, side, side), np.float32)
    bare = np.ones(picture.shape, bool)
    low, high = (radius**-2.0 for radius in _RADII)
    rows = np.arange(count)  # of pictures that are not covered yet
    for _ in range(_LEAVES):
        n = len(rows)
        radius = (low + (high - low) * rng.random(n)) ** -0.5
        down, across = (rng.uniform(-_RADII[1], 1 + _RADII[1], (2, n))).astype(np.float32)
        grey = rng.random(n).astype(np.float32)
        vertical = np.square(middle - down[:, None])[:, :, None]
        inside = vertical + np.square(middle - across[:, None])[:, None, :] < np.square(radius)[:, None, None]
        inside &= bare[rows]
        picture[rows] += inside * grey[:, None, None]
        bare[rows] &= ~inside
        rows = rows[bare[rows].any(axis=(1, 2))]
        if not len(rows):
            break
    picture[bare] = 0.5
    return picture.reshape(count, size, finer, size, finer).mean(axis=(2, 4))

"""The signals of XAI-TRIS: tetrominoes T and L, where they lie in each sample, and which pixels are important."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrp_tf.evaluate.extras import optional

CELLS = 8  # pictures are as wide as so many cells; a tetromino is made of four
_T = np.array([[1, 0], [1, 1], [1, 0]], np.float32)
_L = np.array([[1, 0], [1, 0], [1, 1]], np.float32)
_PLACES = ((1, 1), (4, 5))  # of the upper left cells of T and L, where they do not move
_BLUR = 1.5  # pixels, of tetrominoes whose cells are wider than 3 pixels
_FAINT = 0.05  # below, a pixel of a blurred tetromino is not important


class Signals(NamedTuple):
    """The signals of samples.

    Attributes:
        signal: float32 [n, S, S], 1 on a tetromino and 0 elsewhere; -1 on one that is subtracted, as xor does.
        masks: bool [n, S, S], where the class can be read: both tetrominoes where their places are fixed, since the
            absence of one tells the class too; the sample's own one where it moves.
    """

    signal: np.ndarray
    masks: np.ndarray


def fixed(label: np.ndarray, size: int) -> Signals:
    """T for class 0 and L for class 1, each in its place; label int [n]."""
    both = _both(size)
    return Signals(both[label], _everywhere(both, len(label)))


def moved(rng: np.random.Generator, label: np.ndarray, size: int) -> Signals:
    """T or L, turned by 0, 90, 180 or 270 degrees, anywhere within the picture.

    In pictures of 64 x 64 a cell is 4 pixels wide, not 8: there would hardly be room to move.
    """
    cell = max(1, size // CELLS // 2)
    turns = rng.integers(0, 4, len(label))
    signal = np.zeros((len(label), size, size), np.float32)
    for kind, shape in enumerate((_T, _L)):
        for turn in range(4):
            found = np.kron(np.rot90(shape, turn), np.ones((cell, cell), np.float32))
            rows = np.flatnonzero((label == kind) & (turns == turn))
            tops, lefts = (rng.integers(0, size - side + 1, len(rows)) for side in found.shape)
            down, across = (np.arange(side) for side in found.shape)
            places = rows[:, None, None], (tops[:, None] + down)[:, :, None], (lefts[:, None] + across)[:, None, :]
            signal[places] = found
    signal = _blurred(signal, cell)
    return Signals(signal, signal >= _FAINT)


def exclusive(rng: np.random.Generator, label: np.ndarray, size: int) -> Signals:
    """Both tetrominoes, added or subtracted: alike for class 0, one of each for class 1. A pixel alone tells nothing.

    For each class both of its cases are equally frequent, up to one sample.
    """
    signs = np.empty((len(label), 2), np.float32)
    for kind in (0, 1):
        rows = np.flatnonzero(label == kind)
        first = rng.permuted(np.resize([1.0, -1.0], len(rows)))
        signs[rows] = np.stack([first, first if kind == 0 else -first], axis=1)
    both = _both(size)
    return Signals(np.einsum("nk,khw->nhw", signs, both), _everywhere(both, len(label)))


def _both(size: int) -> np.ndarray:
    """T and L in their places, [2, S, S]."""
    found = np.zeros((2, CELLS, CELLS), np.float32)
    for plane, shape, (top, left) in zip(found, (_T, _L), _PLACES, strict=True):
        plane[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    cell = size // CELLS
    return _blurred(np.kron(found, np.ones((cell, cell), np.float32)), cell)


def _everywhere(both: np.ndarray, count: int) -> np.ndarray:
    return np.repeat(np.any(both >= _FAINT, axis=0, keepdims=True), count, axis=0)


def _blurred(signal: np.ndarray, cell: int) -> np.ndarray:
    if cell <= 3:
        return signal
    return optional("scipy.ndimage").gaussian_filter(signal, _BLUR, axes=(1, 2))

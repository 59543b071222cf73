"""Noisy linear imputation, the fill of ROAD (Rong et al. 2022), as a sparse linear system of the flipped positions."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.fills import Fill, Filler, Samples, _each, _require_neighbours, register


@dataclasses.dataclass(frozen=True)
class Road(Fill):
    """Each flipped position is the weighted mean of its neighbours, flipped or kept, plus noise; images in parallel.

    For every flipped position i, Σ_j w_ij (x_i - x_j) = 0 over its neighbours j within the picture, with
    w = 1/6 for the four beside it and 1/12 for the four diagonal ones; times have two neighbours of equal weight. The
    noise hides which positions were imputed. Where nothing is kept, the sample's mean takes its place.

    Attributes:
        noise: standard deviation, as a share of the range of each sample and channel; what leaves the range is cut
            off.
        threads: None: as many as there are cores.
    """

    noise: float = 0.01
    threads: int | None = None

    def filler(self, samples: Samples) -> Filler:
        optional("scipy.sparse.linalg")  # before the first forward pass
        _require_neighbours(samples, "linear imputation", axes=(1, 2))
        if self.noise < 0:
            raise ValueError(f"linear imputation expects noise of at least 0. Received: {self.noise}")
        low, high = samples.range(None, None)
        shape = samples.x.shape[1:]
        drawn = np.stack([generator.normal(size=shape) for generator in samples.generators()])
        noise = self.noise * (high - low) * drawn
        mean = samples.over(np.mean).reshape(len(drawn), -1)

        def one(
            image: np.ndarray, keep: np.ndarray, mean: np.ndarray, noise: np.ndarray, low: np.ndarray, high: np.ndarray
        ) -> np.ndarray:
            found = image.astype(np.float64)
            found[~keep] = imputed(image, keep) if keep.any() else mean
            return np.clip(found + noise, low, high)

        return _each(samples, self.threads, one, mean, noise, low, high)


def imputed(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Linear imputation without noise: image [*positions, C], keep [*positions] -> [missing positions, C] float64."""
    sparse, solvers = optional("scipy.sparse"), optional("scipy.sparse.linalg")
    missing = ~keep
    number = np.where(missing, np.cumsum(missing).reshape(keep.shape) - 1, -1)
    unknown = int(missing.sum())
    if not unknown:  # a system without unknowns is none that SciPy solves
        return np.zeros((0, image.shape[-1]))
    diagonal, right = np.zeros(unknown), np.zeros((unknown, image.shape[-1]))
    rows, columns, weights = [], [], []
    for offset in itertools.product((-1, 0, 1), repeat=keep.ndim):
        steps = int(np.abs(offset).sum())
        if steps == 0:
            continue
        weight = 1 / 6 if steps == 1 else 1 / 12
        here, there = _shifted(keep.shape, offset)
        rest = missing[here]
        mine, other = number[here][rest], number[there][rest]
        diagonal[mine] += weight
        known = other < 0
        right[mine[known]] += weight * image[there][rest][known]
        rows.append(mine[~known])
        columns.append(other[~known])
        weights.append(np.full(len(rows[-1]), -weight))
    every = np.arange(unknown)
    entries = np.concatenate([*weights, diagonal]), (np.concatenate([*rows, every]), np.concatenate([*columns, every]))
    matrix = sparse.csc_matrix(entries, shape=(unknown, unknown))
    # Symmetric and diagonally dominant, so elimination needs no pivots.
    options = {"SymmetricMode": True}
    solver = solvers.splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    return solver.solve(right)


def _shifted(shape: tuple[int, ...], offset: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where positions lie that have a neighbour at that offset, and where the neighbours lie."""
    here = tuple(slice(max(-step, 0), side - max(step, 0)) for step, side in zip(offset, shape, strict=True))
    there = tuple(slice(max(step, 0), side - max(-step, 0)) for step, side in zip(offset, shape, strict=True))
    return here, there


register("road", Road())

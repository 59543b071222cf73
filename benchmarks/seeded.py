"""Weights and images that are made from a few numbers wherever they are needed; needs NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

SEED = 15
_IMAGES = 1 << 20  # a stream of random numbers that no weight uses


def recipe(path: str, shape: tuple[int, ...], index: int, calm: bool) -> dict[str, Any]:
    """How the weight at `path` is made, so that activations neither vanish nor explode (He et al. 2015).

    Args:
        index: of the weight in its net, which selects the random numbers.
        calm: a BatchNormalization that ends a residual branch. A small gamma there keeps sums from doubling.
    """
    kind = path.rpartition("/")[2]
    drawn = {
        "kernel": {"normal": math.sqrt(2 / max(1, math.prod(shape[:-1])))},
        "bias": {"normal": 0.05},
        "beta": {"normal": 0.1},
        "moving_mean": {"normal": 0.1},
        "moving_variance": {"uniform": [0.5, 1.5]},
        "gamma": {"uniform": [0.2, 0.6] if calm else [0.5, 1.5]},
    }
    return {"path": path, "shape": list(shape), "index": index, **drawn[kind]}


def weights(recipes: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
    """path -> float32.

    Raises:
        ValueError: a recipe holds the sum of its weight, and this NumPy draws other numbers.
    """
    found = {}
    for made in recipes:
        generator = np.random.default_rng([SEED, made["index"]])
        if "normal" in made:
            value = generator.standard_normal(made["shape"], np.float32) * np.float32(made["normal"])
        else:
            low, high = made["uniform"]
            value = low + (high - low) * generator.random(made["shape"], np.float32)
        if abs(total(value) - made.get("sum", total(value))) > 1e-3:
            raise ValueError(f"NumPy {np.__version__} draws other numbers for {made['path']} than the export did.")
        found[made["path"]] = value.astype(np.float32, copy=False)
    return found


def total(value: np.ndarray) -> float:
    return float(value.sum(dtype=np.float64))


def images(batch: int, shape: Iterable[int]) -> np.ndarray:
    """float32 [batch, *shape], from 0 to 1; a smaller batch is the beginning of a larger one."""
    return np.random.default_rng([SEED, _IMAGES]).random((batch, *shape), np.float32)

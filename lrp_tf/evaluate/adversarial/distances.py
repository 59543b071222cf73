"""How far an adversarial image is from its original."""

from __future__ import annotations

import numpy as np

# Half a grey level of 8 bits: images in [0, 1] that differ by less are the same when saved.
HALF_LEVEL = 0.5 / 255

NAMES = ("l0", "l2", "linf", "mean_absolute", "mean_squared", "elastic_net")


def distances(
    original: np.ndarray, adversarial: np.ndarray, *, beta: float = 0.01, low: float = 0.0, high: float = 1.0
) -> dict[str, float]:
    """Distances of two images, all computed in float64 from r = adversarial - original.

        lrp_tf.evaluate.adversarial.distances(x[0], x[1])["l2"]

    - l0: entries with |r_i| > (high - low) / 510, more than half a grey level of 8 bits
    - l2: sqrt(sum_i r_i^2)
    - linf: max_i |r_i|
    - mean_absolute: mean_i |r_i|
    - mean_squared: mean_i r_i^2
    - elastic_net: beta sum_i |r_i| + sum_i r_i^2 (Chen et al. 2018, "EAD")

    Args:
        original, adversarial: of one shape.
        beta: weight of the L1 norm in the elastic net.
        low, high: the box of the images, for l0 alone.

    Raises:
        ValueError: shapes that differ, no entries, NaN or Inf, a negative beta, an empty box.
    """
    first, second = np.asarray(original, np.float64), np.asarray(adversarial, np.float64)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"distances expects two images of one shape. Received: shapes {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("distances expects finite images. Received: NaN or Inf")
    if not (np.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta expects a number from 0. Received: {beta!r}")
    if not low < high:
        raise ValueError(f"low and high expect a box. Received: low={low!r}, high={high!r}")
    r = np.abs(second - first).ravel()
    squared = float(r @ r)
    return {
        "l0": float(np.count_nonzero(r > HALF_LEVEL * (high - low))),
        "l2": float(np.sqrt(squared)),
        "linf": float(r.max()),
        "mean_absolute": float(r.mean()),
        "mean_squared": squared / r.size,
        "elastic_net": beta * float(r.sum()) + squared,
    }

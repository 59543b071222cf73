"""How alike two maps are: Pearson, Spearman, SSIM; of values or of absolute values."""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.correlation import pearson, spearman
from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.protocol import Array

SIMILARITIES = ("spearman", "pearson", "ssim")


def similarity(a: Array, b: Array, *, kind: str = "spearman", absolute: bool = True) -> np.ndarray:
    """How alike the maps of a and b are, sample by sample; float64 [B], 1 where they are the same.

        evaluate.similarity(maps, others, kind="ssim")

    Args:
        a, b: maps [B, ...] of one shape, without channels.
        kind: "spearman", of ranks; "pearson", of values; "ssim" (Wang et al. 2004; maps of two or more axes), after
            each map was divided by its largest absolute value.
        absolute: of absolute values, which leaves out the sign: in which places the relevance lies, not what it says.

    Returns:
        NaN where a correlation is not defined: one of the maps has a single value. SSIM is defined there.

    Raises:
        ValueError: an unknown kind, other shapes, NaN or Inf, maps that are too small for SSIM. TypeError: no numbers.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"kind expects one of {list(SIMILARITIES)}. Received: {kind!r}")
    a, b = protocol.inputs(a, "a"), protocol.inputs(b, "b")
    if a.shape != b.shape:
        raise ValueError(
            f"similarity expects two batches of maps of one shape, [B, ...]. Received: {a.shape}, {b.shape}"
        )
    a, b = (np.abs(m.astype(np.float64)) if absolute else m.astype(np.float64) for m in (a, b))
    if kind == "ssim":
        return _ssim(a, b, 1.0 if absolute else 2.0)
    return (spearman if kind == "spearman" else pearson)(a.reshape(len(a), -1), b.reshape(len(b), -1))


def _ssim(a: np.ndarray, b: np.ndarray, data_range: float) -> np.ndarray:
    """SSIM of each pair of maps, in windows of 7 positions; of fewer where the maps are smaller."""
    side = min(a.shape[1:])
    if a.ndim < 3 or side < 3:
        raise ValueError(
            f"SSIM expects maps of at least 3 x 3. Received: {a.shape[1:]}. Remedy: kind='spearman' or kind='pearson'"
        )
    measure = optional("skimage.metrics").structural_similarity
    window = min(7, side - 1 + side % 2)

    def scaled(m: np.ndarray) -> np.ndarray:
        return m / (np.abs(m).max() or 1.0)

    pairs = zip(a, b, strict=True)
    return np.array([measure(scaled(p), scaled(q), win_size=window, data_range=data_range) for p, q in pairs])

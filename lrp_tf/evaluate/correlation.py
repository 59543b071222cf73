"""Correlations of rows."""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate.extras import optional


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of a with the same row of b, [B, N] → float64 [B]; NaN if one is constant."""
    a, b = (rows.astype(np.float64) for rows in (a, b))
    constant = (a == a[:, :1]).all(axis=1) | (b == b[:, :1]).all(axis=1)
    a, b = (rows - rows.mean(axis=1, keepdims=True) for rows in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    defined = ~constant & (lengths > 0)
    found = np.divide((a * b).sum(axis=1), lengths, out=np.full(len(a), np.nan), where=defined)
    return np.clip(found, -1, 1)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of a with the same row of b: Pearson's of ranks; equal values share a rank.

    Raises:
        ImportError: SciPy is not installed.
    """
    rank = optional("scipy.stats").rankdata
    return pearson(rank(a, axis=1), rank(b, axis=1))

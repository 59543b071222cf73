"""Similarity of maps, against scipy and scikit-image one by one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from skimage.metrics import structural_similarity

from lrp_tf.evaluate.similarity import similarity


@pytest.mark.parametrize("absolute", [True, False])
def test_similarity_is_what_it_says(rng: np.random.Generator, absolute: bool) -> None:
    a, noise = rng.normal(size=(2, 3, 12, 9))
    a[:, 0, :2] = 0.5  # equal values share a rank
    b = a + noise
    change = np.abs if absolute else np.array
    pairs = [(change(p), change(q)) for p, q in zip(a, b, strict=True)]
    spearman = [scipy.stats.spearmanr(p.ravel(), q.ravel()).statistic for p, q in pairs]
    np.testing.assert_allclose(similarity(a, b, absolute=absolute), spearman, atol=1e-12)
    pearson = [np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in pairs]
    np.testing.assert_allclose(similarity(a, b, kind="pearson", absolute=absolute), pearson, atol=1e-12)
    ssim = [
        structural_similarity(p / np.abs(p).max(), q / np.abs(q).max(), data_range=1 if absolute else 2)
        for p, q in pairs
    ]
    np.testing.assert_allclose(similarity(a, b, kind="ssim", absolute=absolute), ssim, atol=1e-12)


@pytest.mark.parametrize("kind", ["spearman", "pearson", "ssim"])
def test_ends_of_the_scale(rng: np.random.Generator, kind: str) -> None:
    a = rng.normal(size=(2, 8, 8))
    np.testing.assert_allclose(similarity(a, 3 * a, kind=kind, absolute=False), 1, atol=1e-12)
    np.testing.assert_allclose(similarity(a, -a, kind=kind), 1, atol=1e-12)
    assert (similarity(a, -a, kind=kind, absolute=False) < 0).all()
    flat = np.stack([np.full((8, 8), 0.1), np.zeros((8, 8))])
    assert np.isnan(similarity(flat, a, kind=kind)).all() == (kind != "ssim")


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    a = rng.normal(size=(2, 8, 8))
    with pytest.raises(ValueError, match=r"kind expects one of .*Received: 'kendall'"):
        similarity(a, a, kind="kendall")
    with pytest.raises(ValueError, match="maps of one shape"):
        similarity(a, a[:1])
    with pytest.raises(ValueError, match="b must be finite"):
        similarity(a, a * np.where(a > 2, np.nan, 1))
    np.testing.assert_array_equal(similarity(a.tolist(), (2 * a).tolist()), similarity(a, 2 * a))
    with pytest.raises(ValueError, match=r"at least 3 x 3.*Remedy: kind='spearman'"):
        similarity(a[0], a[0], kind="ssim")

"""Each fill by the property that defines it."""

from __future__ import annotations

import itertools
import sys

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lrp_tf import evaluate
from lrp_tf.evaluate import fills, imputation

RANDOM = np.random.default_rng(0)
# Channels whose ranges lie far apart, as in BGR with the mean taken off.
X = (RANDOM.uniform(size=(3, 24, 20, 3)) * [2, 200, 1] + [-1, -100, 5]).astype(np.float32)
KEEP = RANDOM.uniform(size=X.shape[:-1]) < 0.6


def filled(fill: fills.FillLike, x: np.ndarray = X, keep: np.ndarray = KEEP, seed: int = 0) -> np.ndarray:
    samples = fills.Samples(x, True, seed, np.arange(len(x)))
    found = fills.get(fill, channel_axis=x.ndim - 1).filler(samples)(keep)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found[keep], x[keep])
    return found


@pytest.mark.parametrize("name", [*fills.names(), 0.5, None])
def test_fills_stay_in_the_range_of_each_channel_and_keep_what_is_kept(name: str | float | None) -> None:
    found = filled(name)
    if name != 0.5:  # "black" and "white" are the bounds of all channels of a sample together
        axes = (1, 2, 3) if name in ("black", "white") else (1, 2)
        low, high = X.min(axes, keepdims=True), X.max(axes, keepdims=True)
        slack = 1e-6 * (high - low)
        assert (found >= low - slack).all()
        assert (found <= high + slack).all()
    assert (found[~KEEP] != X[~KEEP]).mean() > 0.99


def test_constants() -> None:
    np.testing.assert_array_equal(filled((1, 2, 3))[~KEEP], np.tile(np.float32([1, 2, 3]), ((~KEEP).sum(), 1)))
    np.testing.assert_array_equal(filled(X[0])[1][~KEEP[1]], X[0][~KEEP[1]])
    np.testing.assert_allclose(filled("mean")[2][~KEEP[2]][5], X[2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(filled(fills.Mean(per_channel=False))[2][~KEEP[2]][5], X[2].mean(), rtol=1e-5)
    np.testing.assert_allclose(filled(fills.Grey(-1, 3))[0][~KEEP[0]], 1)
    middle = (X[0].min((0, 1)) + X[0].max((0, 1))) / 2
    np.testing.assert_allclose(filled("grey")[0][~KEEP[0]][0], middle, rtol=1e-5)


def test_blur_is_a_gaussian_over_all_axes_of_positions_alone() -> None:
    wanted = gaussian_filter(X.astype(np.float64), (0, 2, 2, 0), mode="reflect", truncate=3.0)
    np.testing.assert_allclose(filled(fills.Blur(2))[~KEEP], wanted[~KEEP], rtol=1e-4, atol=1e-4)
    series = RANDOM.normal(size=(2, 50, 4))
    keep = np.zeros((2, 50), bool)
    wanted = gaussian_filter(series, (0, 2.5, 0), mode="reflect", truncate=3.2)
    np.testing.assert_allclose(filled("blur", series, keep), wanted, atol=1e-6)
    assert filled(fills.Blur(50), keep=np.zeros_like(KEEP)).std((1, 2)).max() < X.std((1, 2)).max() / 10


def test_random_fills_follow_their_distributions_and_seed() -> None:
    x = np.repeat(X[:, :1], 4000, axis=1)
    keep = np.zeros(x.shape[:-1], bool)
    found = filled("uniform", x, keep)
    low, high = x.min((1, 2)), x.max((1, 2))
    np.testing.assert_allclose(found.mean((1, 2)), (low + high) / 2, atol=0.01 * 200)
    np.testing.assert_allclose(found.var((1, 2)), (high - low) ** 2 / 12, rtol=0.02)
    found = filled(fills.Gaussian(mean=2, std=0.5, low=-100, high=100), x, keep)
    np.testing.assert_allclose((found.mean(), found.std()), (2, 0.5), atol=0.01)
    np.testing.assert_array_equal(found, filled(fills.Gaussian(2, 0.5, -100, 100), x, keep))
    assert not np.array_equal(found, filled(fills.Gaussian(2, 0.5, -100, 100), x, keep, seed=1))
    assert np.ptp(filled(fills.Uniform(3, 4))[~KEEP]) <= 1


def test_a_generator_of_the_callers_draws_the_seed() -> None:
    def scores(generator: np.random.Generator) -> np.ndarray:
        return evaluate.perturb(lambda x: x.sum((1, 2)), X, X, 0, fill="uniform", steps=3, seed=generator).scores

    generator = np.random.default_rng(5)
    first, second = scores(generator), scores(generator)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, scores(np.random.default_rng(5)))


@pytest.mark.parametrize(("name", "flag"), [("telea", cv2.INPAINT_TELEA), ("navier_stokes", cv2.INPAINT_NS)])
def test_inpainting_is_opencvs(name: str, flag: int) -> None:
    """Of each channel spread over 0..255, its mean in the holes; inside 8-bit pictures, of those as they are."""
    found = filled(name)
    for b, c in itertools.product(range(3), range(3)):
        kept = X[b, ..., c][KEEP[b]]
        spread = (np.where(KEEP[b], X[b, ..., c], kept.mean()) - kept.min()) / np.ptp(kept) * 255
        wanted = cv2.inpaint(spread.astype(np.float32), (~KEEP[b]).astype(np.uint8), 3, flag)
        wanted = wanted.clip(0, 255) / 255 * np.ptp(kept) + kept.min()
        np.testing.assert_allclose(found[b, ..., c], wanted, atol=1e-4 * np.ptp(kept))
    ramp = np.linspace(0, 255, 20).round()
    picture = np.broadcast_to(ramp[None, None, :, None], (1, 24, 20, 1)).astype(np.float32)
    keep = np.ones((1, 24, 20), bool)
    keep[0, 8:12, 6:12] = False
    wanted = cv2.inpaint(picture[0, ..., 0].astype(np.uint8), (~keep[0]).astype(np.uint8), 3, flag)
    np.testing.assert_allclose(filled(name, picture, keep)[0, ..., 0], wanted, atol=2)  # rounded pixel by pixel


@pytest.mark.parametrize("name", ["telea", "navier_stokes", "road"])
def test_what_depends_on_the_kept_pixels_depends_on_nothing_else(name: str) -> None:
    fill = imputation.Road(noise=0) if name == "road" else name
    other = np.where(KEEP[..., None], X, X[:, ::-1])
    # Imputed values are cut off at the range of the whole sample.
    np.testing.assert_allclose(filled(fill, other)[~KEEP], filled(fill)[~KEEP], rtol=1e-5, atol=1e-4)
    nothing = np.zeros_like(KEEP)
    wanted = np.broadcast_to(X.mean((1, 2), keepdims=True), X.shape)
    np.testing.assert_allclose(filled(fill, keep=nothing), wanted, rtol=1e-4, atol=1e-3)


def test_imputation_solves_the_dense_system() -> None:
    image, keep = X[0, :9, :8], KEEP[0, :9, :8]
    where = [*map(tuple, np.argwhere(~keep))]
    matrix, right = np.zeros((len(where), len(where))), np.zeros((len(where), 3))
    for i, (a, b) in enumerate(where):
        for da, db in itertools.product((-1, 0, 1), repeat=2):
            c, d = a + da, b + db
            if (da, db) == (0, 0) or not (0 <= c < 9 and 0 <= d < 8):
                continue
            weight = 1 / 12 if da and db else 1 / 6
            matrix[i, i] += weight
            if keep[c, d]:
                right[i] += weight * image[c, d]
            else:
                matrix[i, where.index((c, d))] -= weight
    np.testing.assert_allclose(imputation.imputed(image, keep), np.linalg.solve(matrix, right), rtol=1e-10)


def test_imputation_of_series_interpolates_and_noise_is_a_share_of_the_range() -> None:
    series = RANDOM.normal(size=(1, 30, 2))
    keep = np.ones((1, 30), bool)
    keep[0, 10:20] = False
    found = filled(imputation.Road(noise=0), series, keep)[0]
    np.testing.assert_allclose(found[9:21], np.linspace(series[0, 9], series[0, 20], 12), atol=1e-10)
    kept = np.arange(24 * 20).reshape(1, 24, 20) % 2 == 0
    noise = filled(imputation.Road(noise=0.01), keep=kept[[0] * 3]) - filled(
        imputation.Road(noise=0), keep=kept[[0] * 3]
    )
    share = noise[~kept[[0] * 3]].reshape(3, -1, 3).std(1) / (X.max((1, 2)) - X.min((1, 2)))
    np.testing.assert_allclose(share, 0.01, rtol=0.25)


def test_where_all_is_kept_nothing_is_filled() -> None:
    """As at the last step of `monotonicity`, of a map that is positive everywhere."""
    every = np.ones_like(KEEP)
    every[1] = KEEP[1]
    for name in fills.names():
        np.testing.assert_array_equal(filled(name, keep=every)[[0, 2]], X[[0, 2]])


def test_a_function_sees_the_callers_layout() -> None:
    seen = []

    def own(x: np.ndarray, keep: np.ndarray) -> np.ndarray:
        seen.append((x.shape, keep.shape))
        x[:] = 7
        return x

    first = np.moveaxis(X, -1, 1)
    steps = list(evaluate.perturb_steps(first, first, fill=own, channel_axis=1, steps=2))
    assert seen == [(first.shape, KEEP.shape)] * 2
    assert (steps[-1].x == 7).all()
    assert steps[-1].x.shape == first.shape
    np.testing.assert_array_equal(steps[0].x, first)


def test_fills_by_name_and_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fills, "_FILLS", dict(fills._FILLS))
    fills.register("nine", fills.Constant(9))
    assert (filled("nine")[~KEEP] == 9).all()
    with pytest.raises(ValueError, match="there is a fill 'nine' already"):
        fills.register("nine", fills.Constant(8))


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        ("blur", "blur expects samples with positions. Received: features. Remedy"),
        ("telea", "inpainting expects samples with 2 axes"),
        ("road", "linear imputation expects samples with 1 or 2 axes"),
        (fills.Uniform(2, 1), "low <= high"),
        (fills.Constant(np.nan), "fill must be finite"),
        (lambda x, keep: x[1:], "fill must return samples"),
    ],
)
def test_bad_fills_are_refused(fill: fills.FillLike, words: str) -> None:
    x = RANDOM.normal(size=(4, 30))
    with pytest.raises(ValueError, match=words):
        evaluate.perturb(lambda x: x, x, x, 0, fill=fill)
    for wrong in (fills.Inpaint("magic"), fills.Blur(-1), fills.Gaussian(std=-1), imputation.Road(noise=-1)):
        with pytest.raises(ValueError, match="expects"):
            filled(wrong)
    with pytest.raises(TypeError, match="fill expects a name"):
        evaluate.perturb(lambda x: x, x, x, 0, fill={"a": 1})


def test_imputation_without_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r'the extra "evaluate"'):
        evaluate.perturb(lambda x: x.sum((1, 2)), X, X, 0, fill="road")

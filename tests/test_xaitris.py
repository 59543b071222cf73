"""XAI-TRIS: classes are balanced, masks are where the class can be read, and problems are as linear as they claim."""

import numpy as np
import pytest

from lrp_tf.evaluate import xaitris
from lrp_tf.evaluate.xaitris import backgrounds

SMALL = 4000


def flat(samples: xaitris.Samples) -> np.ndarray:
    return samples.x.reshape(len(samples), -1).astype(np.float64)


def linear_accuracy(train: np.ndarray, label: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> float:
    """Of least squares on features [n, F]."""
    design, other = (np.concatenate([x, np.ones((len(x), 1))], axis=1) for x in (train, test))
    weights = np.linalg.solve(design.T @ design, design.T @ (2.0 * label - 1))
    return float(((other @ weights > 0) == wanted).mean())


@pytest.mark.parametrize("name", xaitris.PROBLEMS)
@pytest.mark.parametrize("background", xaitris.BACKGROUNDS)
def test_parts_are_balanced_and_evidence_alone_tells_the_class(name: str, background: str) -> None:
    found = xaitris.generate(name, background, samples=SMALL, seed=3)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [3200, 400, 400]
    for part in (found.train, found.validation, found.test):
        assert part.x.shape == (len(part), 8, 8, 1)
        assert part.x.dtype == np.float32
        assert part.masks.shape == (len(part), 8, 8)
        assert np.bincount(part.label).tolist() == [len(part) // 2] * 2
        assert (part.masks.sum(axis=(1, 2)) == (4 if name == "rigid" else 8)).all()
    every = np.concatenate([part.x for part in (found.train, found.validation, found.test)])
    assert np.abs(every).max() == 1  # scaled by the largest one
    # Other pixels are the same whatever the class: no one of them is correlated with it.
    if name != "rigid":
        x, label = flat(found.train), found.train.label
        apart = np.abs(x[label == 1].mean(axis=0) - x[label == 0].mean(axis=0)) / x.std(axis=0)
        assert (apart[~found.train.masks[0].ravel()] < 4.5 / np.sqrt(800)).all()


def test_the_same_seed_gives_the_same_samples_and_backgrounds_are_shared() -> None:
    first, again, other = (xaitris.generate("linear", "white", samples=400, seed=seed) for seed in (1, 1, 2))
    for part in ("train", "validation", "test"):
        for field in ("x", "label", "masks"):
            np.testing.assert_array_equal(getattr(getattr(first, part), field), getattr(getattr(again, part), field))
    assert not np.array_equal(first.train.x, other.train.x)
    xor = xaitris.generate("xor", "white", samples=400, seed=1)
    away = ~first.train.masks[0]
    ratio = first.train.x[:, away, 0] / xor.train.x[:, away, 0]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.18, 0.5])
def test_the_signal_has_its_weight(alpha: float) -> None:
    """Signal and background have norm 1 over all n samples: 4 pixels are 1 / sqrt(4 n), noise has 1 / sqrt(64 n)."""
    found = xaitris.generate("linear", "white", samples=20_000, alpha=alpha)
    x, label = found.train.x[..., 0], found.train.label
    only_t = np.zeros((8, 8), bool)
    only_t[[1, 2, 3, 2], [1, 1, 1, 2]] = True
    np.testing.assert_array_equal(found.train.masks[0] & (np.arange(8) < 5), only_t)
    apart = x[label == 0][:, only_t].mean() - x[label == 1][:, only_t].mean()
    assert apart / x[:, 0].std() == pytest.approx(4 * alpha / (1 - alpha), rel=0.03)


def test_multiplied_signal_changes_the_spread_and_not_the_mean() -> None:
    found = xaitris.generate("multiplicative", "white", alpha=0.7)
    x, label, on = flat(found.train), found.train.label, found.train.masks[0].ravel()
    spread = x[label == 0][:, on].std(axis=0) / x[label == 1][:, on].std(axis=0)
    want = [1 - 0.7] * 4 + [1 / (1 - 0.7)] * 4  # T is darker in one class, L in the other
    np.testing.assert_allclose(np.sort(spread), want, rtol=0.05)


def test_linear_is_linear_and_the_others_are_not() -> None:
    accuracy = {}
    for name in xaitris.PROBLEMS:
        found = xaitris.generate(name, "white")
        train, test = flat(found.train), flat(found.test)
        accuracy[name] = linear_accuracy(train, found.train.label, test, found.test.label)
    assert accuracy["linear"] > 0.85
    assert max(accuracy[name] for name in ("multiplicative", "rigid", "xor")) < 0.56
    # xor is decided by the product of what T and L look like.
    found = xaitris.generate("xor", "white")
    left = found.train.masks[0] & (np.arange(8) < 5)
    right = found.train.masks[0] & ~left
    sums = [(p.x[:, left, 0].sum(axis=1) * p.x[:, right, 0].sum(axis=1))[:, None] for p in (found.train, found.test)]
    assert linear_accuracy(sums[0], found.train.label, sums[1], found.test.label) > 0.95


def test_moved_tetrominoes_take_all_places_and_turns() -> None:
    found = xaitris.generate("rigid", "white", alpha=0.999)
    seen = set()
    for mask, label, x in zip(found.train.masks, found.train.label, found.train.x[..., 0], strict=True):
        rows, columns = np.nonzero(mask)
        seen.add((int(label), *(rows - rows.min()).tolist(), *(columns - columns.min()).tolist()))
        assert x[mask].min() > np.abs(x[~mask]).max()
    assert len(seen) == 8  # four turns of each, all different
    assert (found.train.masks.mean(axis=0) > 0).all()


def test_inputs_are_moved_and_scaled() -> None:
    signed, unsigned, standard = (
        xaitris.generate("xor", "image", samples=200, inputs=inputs) for inputs in xaitris.INPUTS
    )
    np.testing.assert_allclose(unsigned.train.x, (signed.train.x + 1) / 2, atol=1e-6)
    assert (signed.low, signed.high, unsigned.low, unsigned.high) == (-1, 1, 0, 1)
    assert standard.train.x.mean() == pytest.approx(0, abs=1e-4)
    assert standard.train.x.std() == pytest.approx(1, abs=1e-4)
    assert standard.low <= min(standard.train.x.min(), standard.test.x.min())
    assert standard.high >= max(standard.train.x.max(), standard.test.x.max())


def slope(pictures: np.ndarray) -> float:
    """By which power of the frequency the spectrum goes, both axes averaged."""
    power = (np.abs(np.fft.fft2(pictures)) ** 2).mean(axis=0)
    side = pictures.shape[1] // 2
    frequency = np.arange(1, side)
    mean = (power[0, 1:side] + power[1:side, 0]) / 2
    return float(np.polyfit(np.log(frequency), np.log(mean), 1)[0])


def test_dead_leaves_have_the_spectrum_of_photographs_and_edges() -> None:
    rng = np.random.default_rng(0)
    pictures = backgrounds.leaves(rng, 150, 64)
    assert slope(pictures) == pytest.approx(-2, abs=0.4)
    assert slope(backgrounds.white(rng, 150, 64)) == pytest.approx(0, abs=0.1)
    np.testing.assert_allclose(pictures.mean(axis=(1, 2)), 0, atol=1e-5)
    step = np.abs(np.diff(pictures, axis=2))
    assert (step < 1e-6).mean() > 0.5  # most neighbours have one grey ...
    assert (step > 0.1).mean() > 0.05  # ... and others are far apart
    smooth = np.abs(np.diff(backgrounds.correlated(rng, 50, 64), axis=2))
    kurtosis = [float((values**4).mean() / (values**2).mean() ** 2) for values in (smooth, step)]
    assert kurtosis[0] < 5  # noise, even if smooth, has no edges
    assert kurtosis[1] > 10


def test_large_pictures_are_blurred_and_their_masks_cover_the_tetrominoes() -> None:
    fixed, moved = (xaitris.generate(name, "white", 64, samples=20) for name in ("xor", "rigid"))
    assert fixed.train.x.shape == (18, 64, 64, 1)
    cells = np.zeros((8, 8), bool)
    cells[[1, 2, 3, 2, 4, 5, 6, 6], [1, 1, 1, 2, 5, 5, 5, 6]] = True
    assert fixed.train.masks[0][np.kron(cells, np.ones((8, 8), bool))].all()
    assert 512 < fixed.train.masks[0].sum() < 1024
    counts = moved.train.masks.sum(axis=(1, 2))
    assert counts.min() >= 64  # four cells of 4 x 4
    assert counts.max() < 220


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "xnor"}, "name expects one of .* Received: 'xnor'"),
        ({"name": "xor", "background": "photo"}, "background expects one of"),
        ({"name": "xor", "size": 16}, "size expects one of"),
        ({"name": "xor", "inputs": "scaled"}, "inputs expects one of"),
        ({"name": "xor", "samples": 19}, "at least 20. Received: 19"),
        ({"name": "xor", "alpha": 1.0}, "between 0 and 1. Received: 1.0"),
    ],
)
def test_wrong_arguments_are_told(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        xaitris.generate(**given)

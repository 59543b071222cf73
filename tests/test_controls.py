"""Noise that is as far away as an adversarial image, partners, and intervals over originals."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from lrp_tf.evaluate.adversarial import controls, shifts
from lrp_tf.evaluate.adversarial.network import Network


def images(seed: int, distance: float, dark: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """An image [8, 8, 1], most of it at the edge of the box, and another one."""
    generator = np.random.default_rng(seed)
    x = generator.random((8, 8, 1)) * (generator.random((8, 8, 1)) > dark)
    gap = np.abs(generator.normal(size=x.shape))
    other = np.clip(x + distance * gap / np.linalg.norm(gap), 0, 1)
    return x.astype(np.float32), other.astype(np.float32)


@pytest.mark.parametrize("distance", [1e-3, 0.5, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_noise_has_the_norm_behind_clipping(distance: float, low: float, high: float):
    for seed in range(3):
        x, other = (low + (high - low) * image for image in images(seed, distance))
        noisy = controls.noise_like(x, other, seed=seed, low=low, high=high)
        assert noisy.dtype == np.float32
        assert noisy.min() >= low
        assert noisy.max() <= high
        wanted = np.linalg.norm((other - x).ravel().astype(float))
        assert np.linalg.norm((noisy - x).ravel().astype(float)) == pytest.approx(wanted, rel=1e-4)
        np.testing.assert_array_equal(noisy, controls.noise_like(x, other, seed=seed, low=low, high=high))
        assert (noisy != controls.noise_like(x, other, seed=seed + 1, low=low, high=high)).any()


def test_no_gap_is_no_noise_and_a_gap_that_noise_cannot_have_is_refused():
    x, _ = images(0, 1.0)
    np.testing.assert_array_equal(controls.noise_like(x, x, seed=0), x)
    black, white = np.zeros((4, 4, 1), np.float32), np.ones((4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"a norm of at most [23]\.\d+.*Received: 4. Remedy: a smaller perturbation"):
        controls.noise_like(black, white, seed=0)  # noise that is negative is clipped to black again
    with pytest.raises(ValueError, match="one shape"):
        controls.noise_like(black, white[:2], seed=0)
    for bad in (white + 0.5, np.full_like(white, np.nan)):
        with pytest.raises(ValueError, match=r"finite images in \[0, 1\].*Remedy: low= and high="):
            controls.noise_like(bad, white, seed=0)
        if np.isnan(bad).any():
            with pytest.raises(ValueError, match="finite images"):
                controls.noise_like(white, bad, seed=0)


@pytest.fixture(scope="module")
def bright() -> Network:
    """Says 1 if the mean is above a half."""
    inputs = keras.Input((4, 4, 1))
    found = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, found)
    model.layers[-1].set_weights([np.array([[-1.0, 1.0]]), np.array([0.5, -0.5])])
    return Network(model)


def test_noise_that_keeps_the_class(bright: Network):
    x, other = np.full((4, 4, 1), 0.49, np.float32), np.full((4, 4, 1), 0.6, np.float32)
    found, draws = controls.noise_keeping_class(bright, x, other, 0, seed=3)
    assert bright.logits(found[None]).argmax() == 0
    first, second = (controls.noise_keeping_class(bright, x, other, 0, seed=seed) for seed in (3, 5))
    np.testing.assert_array_equal(found, first[0])
    assert (found != second[0]).any()
    assert max(controls.noise_keeping_class(bright, x, other, 0, seed=seed)[1] for seed in range(8)) > 1
    assert 1 <= draws <= 100
    assert (found != controls.noise_like(x, other, seed=3)).any()  # a draw of its own


def test_noise_that_never_keeps_the_class(bright: Network):
    before = bright.predictions
    x, other = np.full((4, 4, 1), 0.9, np.float32), np.full((4, 4, 1), 0.85, np.float32)
    assert controls.noise_keeping_class(bright, x, other, 0, seed=0, tries=20) == (None, 20)
    assert bright.predictions == before + 20
    with pytest.raises(ValueError, match="tries expects a positive integer"):
        controls.noise_keeping_class(bright, x, other, 0, seed=0, tries=0)


def test_partners_are_rightly_classified_images_of_the_class():
    labels, predictions = np.array([0, 1, 1, 1, 2]), np.array([0, 1, 0, 1, 1])
    assert {controls.partner(labels, predictions, 1, seed=seed) for seed in range(20)} == {1, 3}
    assert controls.partner(labels, predictions, 2, seed=0) is None
    assert controls.partner(labels, predictions, 7, seed=0) is None
    with pytest.raises(ValueError, match=r"\[N\] each"):
        controls.partner(labels, predictions[:2], 1, seed=0)


# --- intervals ---


def pair(source: int, value: float, kind: str = "adversarial", target: int = 1, **more: object) -> shifts.Pair:
    fields = {"attack": "lbfgs", "label": 0, "composite": "epsilon", **more}
    return shifts.Pair(source=source, target=target, kind=kind, measures={"left_top_10": value, "other": 0.0}, **fields)


def test_originals_count_once_however_often_they_are_attacked():
    generator = np.random.default_rng(0)
    values = generator.random(12)
    once = shifts.summarize([pair(i, v) for i, v in enumerate(values)], measures=["left_top_10"])[0]
    # Nine targets that say the same tell nothing new.
    again = [pair(i, v, target=t) for t in range(1, 10) for i, v in enumerate(values)]
    ninefold = shifts.summarize(again, measures=["left_top_10"])[0]
    assert (ninefold.originals, ninefold.pairs, once.pairs) == (12, 108, 12)
    assert (ninefold.mean, ninefold.low, ninefold.high) == pytest.approx((once.mean, once.low, once.high))
    assert once.mean == pytest.approx(values.mean())
    assert once.low < once.mean < once.high
    shuffled = [again[i] for i in generator.permutation(len(again))]
    assert shifts.summarize(shuffled, measures=["left_top_10"])[0].low == pytest.approx(ninefold.low)


def test_differences_are_of_the_same_originals_attacks_and_targets():
    pairs = [pair(i, 0.6 + 0.01 * i) for i in range(8)] + [pair(i, 0.5, "noise") for i in range(6)]
    pairs += [pair(20, 0.0, "noise"), pair(0, 0.0, "noise", target=3), pair(0, 0.0, "noise", composite="zplus")]
    rows = {
        (row.group["composite"], row.group["kind"]): row for row in shifts.summarize(pairs, measures=["left_top_10"])
    }
    noise = rows["epsilon", "noise"]
    assert noise.originals == 7
    assert noise.difference_originals == 6  # 20 was not attacked, target 3 neither
    assert noise.difference == pytest.approx(np.mean([0.1 + 0.01 * i for i in range(6)]))
    assert noise.difference_low > 0
    assert math.isnan(rows["epsilon", "adversarial"].difference)
    assert rows["zplus", "noise"].difference_originals == 0
    assert math.isnan(rows["zplus", "noise"].difference)


def test_groups_of_other_fields_and_values_that_are_not_defined():
    pairs = [pair(0, 1.0), pair(1, float("nan")), pair(0, 0.0, target=2)]
    rows = shifts.summarize(pairs, by=["target"])
    assert [(row.group, row.measure, row.pairs) for row in rows] == [
        ({"target": 1}, "left_top_10", 1), ({"target": 1}, "other", 2), ({"target": 2}, "left_top_10", 1),
        ({"target": 2}, "other", 1),
    ]  # fmt: skip
    assert math.isnan(rows[0].low)  # of one original
    nothing = shifts.summarize([pair(0, float("nan"))], measures=["left_top_10"])[0]
    assert (nothing.originals, nothing.pairs) == (0, 0)
    assert math.isnan(nothing.mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": ["colour"]}, "by expects some of"), ({"measures": ["no"]}, "names that all pairs have. Received: .'no'")],
)
def test_unknown_names_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        shifts.summarize([pair(0, 1.0)], **options)
    with pytest.raises(ValueError, match="at least one pair"):
        shifts.summarize([])

"""Faithfulness, complexity and completeness: cases whose values are known, slow and obvious computations, refusals."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest
from scipy import stats
from skimage.segmentation import slic

from lrp_tf import evaluate, gradients

RNG = np.random.default_rng(5)
X = RNG.uniform(0.1, 1, (3, 9, 8, 2))
WEIGHTS = RNG.normal(size=X.shape[1:])
HIDDEN = RNG.normal(size=(X[0].size, 10)) / 4
Y = np.array([0, 1, 0])
TRUE = X * WEIGHTS * np.array([1, -1, 1]).reshape(-1, 1, 1, 1)
NOISE = RNG.normal(size=X.shape)


def linear(x: np.ndarray) -> np.ndarray:
    score = (x * WEIGHTS).sum((1, 2, 3))
    return np.stack([score, -score], 1)


def curved(x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x.reshape(len(x), -1) @ HIDDEN, 0)
    return np.stack([hidden[:, :5].sum(1), hidden[:, 5:].sum(1)], 1)


def case(
    relevance: np.ndarray = TRUE, predict: Callable = linear, x: np.ndarray = X, **options: object
) -> evaluate.Case:
    return evaluate.Case.of(x, Y[: len(x)], lambda *_: relevance, predict, **options)


def value(name: str, relevance: np.ndarray = TRUE, predict: Callable = linear, **options: object) -> np.ndarray:
    return evaluate.get(name, **options)(case(relevance, predict))


@pytest.mark.parametrize("name", ["faithfulness_correlation", "sensitivity_n", "faithfulness_estimate"])
@pytest.mark.parametrize("region", [1, 2])
def test_true_contributions_correlate_with_what_they_contribute(name: str, region: int) -> None:
    options = {"fill": 0.0, "region": region}
    np.testing.assert_allclose(value(name, **options), 1, atol=1e-9)
    np.testing.assert_allclose(value(name, -TRUE, **options), -1, atol=1e-9)
    noisy = value(name, TRUE + NOISE, **options)
    assert (noisy < 0.99).all()
    assert (noisy > value(name, NOISE, **options)).all()


def test_other_metrics_of_true_contributions() -> None:
    np.testing.assert_array_equal(value("monotonicity", fill=0.0), 1)
    np.testing.assert_array_equal(value("monotonicity", fill=0.0, strict=True), 1)
    np.testing.assert_array_equal(value("monotonicity", -TRUE, fill=0.0), 0)
    noisy = value("monotonicity", TRUE + NOISE, fill=0.0)
    assert ((noisy > 0.5) & (noisy < 1)).all()
    np.testing.assert_array_equal(value("monotonicity", TRUE + NOISE, fill=0.0, strict=True), 0)
    np.testing.assert_allclose(value("infidelity", fill=0.0), 0, atol=1e-12)
    np.testing.assert_allclose(value("infidelity", 3 * TRUE, fill=0.0), 0, atol=1e-12)
    assert (value("infidelity", 3 * TRUE, fill=0.0, scaled=False) > 0.1).all()
    gradient = TRUE / X
    np.testing.assert_allclose(value("infidelity", gradient, fill=0.3, gradient=True, scaled=False), 0, atol=1e-12)
    of_noise, of_negative = value("infidelity", NOISE, fill=0.0), value("infidelity", -TRUE, fill=0.0)
    assert ((of_noise > 0.01) & (of_noise <= of_negative)).all()
    np.testing.assert_allclose(value("conservation"), 1)
    np.testing.assert_allclose(value("conservation", TRUE / 4), 0.25)
    np.testing.assert_allclose(value("completeness"), 0, atol=1e-9)
    np.testing.assert_allclose(value("completeness", TRUE / 4), 0.75)
    np.testing.assert_array_equal(value("completeness", TRUE / 4, exact=0.8), 1)
    np.testing.assert_allclose(value("completeness", TRUE * (1 - 0.5 / X), baseline=0.5), 0, atol=1e-9)


def test_relevance_where_the_model_does_not_look() -> None:
    def half(x: np.ndarray) -> np.ndarray:
        return linear(np.concatenate([x[:, :4], 0 * x[:, 4:]], 1))

    found = TRUE.copy()
    found[:, 4:] = 0
    np.testing.assert_array_equal(value("non_sensitivity", found, half, fill=0.0), 0)
    found[:, 5, 2] = 1.0  # relevance without effect
    found[1:, 0, 3:5] = 0.0  # effect without relevance
    np.testing.assert_array_equal(value("non_sensitivity", found, half, fill=0.0), [1, 3, 3])


def test_complexity_of_maps_that_are_known() -> None:
    one, four, even = np.zeros_like(X[..., 0]), np.zeros_like(X[..., 0]), np.ones_like(X[..., 0])
    one[:, 2, 3] = -5
    four[:, 2, 3:7] = [1, -1, 1, -1]
    for found, effective, gini in ((one, 1, 71 / 72), (four, 4, 68 / 72), (even, 72, 0)):
        np.testing.assert_allclose(value("effective_pixels", found), effective)
        np.testing.assert_allclose(value("complexity", found), np.log(effective), atol=1e-12)
        np.testing.assert_allclose(value("effective_complexity", found), effective)
        np.testing.assert_allclose(value("sparseness", found), gini, atol=1e-12)
    few = one + 1e-3 * four
    np.testing.assert_allclose(value("effective_complexity", few, epsilon=1e-2), 1)


def network(padding: str = "valid") -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((9, 8, 2))
    hidden = keras.layers.Conv2D(3, 3, activation="relu", padding=padding, bias_initializer="random_normal")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(hidden)))


@pytest.mark.parametrize(
    ("explainer", "invariant"), [(gradients.Gradient, True), (gradients.InputTimesGradient, False)]
)
def test_input_invariance_of_gradients(explainer: type, invariant: bool) -> None:
    model = network()
    explain, x = explainer(model), X.astype(np.float32)
    given = {"model": model, "rebuild": explain.with_model}
    weights = [w.copy() for w in model.get_weights()]
    found = evaluate.get("input_invariance")(evaluate.Case.of(x, Y, explain, evaluate.Predictor(model), **given))
    if explainer is gradients.Gradient:
        np.testing.assert_allclose(found, 0, atol=1e-5)
    else:  # R changes by the gradient g: max |g| / max |x g|
        slopes = np.abs(np.asarray(gradients.Gradient(model)(x, Y))).reshape(3, -1)
        np.testing.assert_allclose(found, slopes.max(axis=1) / (x.reshape(3, -1) * slopes).max(axis=1), rtol=1e-4)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    same = network("same")
    with pytest.raises(ValueError, match="one convolution without padding"):
        evaluate.get("input_invariance")(
            evaluate.Case.of(x, Y, explain, evaluate.Predictor(same), model=same, rebuild=explain.with_model)
        )
    other = keras.layers.Dense(3, name="other")(model.layers[-2].output)
    two = explainer(keras.Model(model.input, [model.output, other]), output="other")
    both = evaluate.Case.of(x, Y, two, evaluate.Predictor(two.explainer), model=two.model, rebuild=two.with_model)
    assert (evaluate.get("input_invariance")(both) < 1e-5).all() == invariant


def score(x: np.ndarray, sample: int) -> float:
    return float(curved(x[None])[0, Y[sample]])


def test_monotonicity_correlation_slowly() -> None:
    expected = []
    for i, generator in enumerate(case().generators("monotonicity_correlation")):
        importance = np.abs(NOISE[i].sum(-1)).ravel()
        moved = []
        for group in np.argsort(importance).reshape(-1, 8):
            changes = []
            for _ in range(4):
                x = X[i].copy().reshape(-1, 2)
                x[group] = X[i].min() + generator.uniform() * (X[i].max() - X[i].min())
                changes.append(score(x.reshape(X[i].shape), i) - score(X[i], i))
            moved.append(np.square(changes).mean())
        expected.append(stats.spearmanr(np.sort(importance).reshape(-1, 8).sum(1), moved)[0])
    found = value("monotonicity_correlation", NOISE, curved, runs=4, features_in_step=8)
    np.testing.assert_allclose(found, expected)


def test_irof_slowly() -> None:
    expected = []
    for i, (x, relevance) in enumerate(zip(X, NOISE.sum(-1), strict=True)):
        labels = slic(x, n_segments=12, start_label=0)
        order = sorted(set(labels.ravel()), key=lambda k: -relevance[labels == k].mean())
        curve, now = [1.0], x.copy()
        for k in order:
            now[labels == k] = x.mean((0, 1))
            powers = [np.exp(curved(z[None])[0]) for z in (now, x)]
            curve.append(powers[0][Y[i]] / powers[0].sum() / (powers[1][Y[i]] / powers[1].sum()))
        expected.append(1 - np.mean([(a + b) / 2 for a, b in itertools.pairwise(curve)]))
    np.testing.assert_allclose(value("irof", NOISE, curved, segments=12), expected)


def test_a_predictors_own_probabilities_are_used() -> None:
    def predict(x: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), 2))

    predict.probabilities = lambda x: 0.9 * np.ones((len(x), 2))
    np.testing.assert_array_equal(case(predict=predict).probability(X), 0.9)
    predict.probabilities = lambda x: np.zeros((len(x), 2))
    with pytest.warns(evaluate.UndefinedMetricWarning, match="irof is not defined for 3 of 3"):
        assert np.isnan(value("irof", NOISE, predict)).all()
    np.testing.assert_array_equal(case(predict=lambda x: np.zeros((len(x), 2))).probability(X), 0.5)


def test_probabilities_of_a_model_without_them_are_those_of_its_scores() -> None:
    """Logits of such a model, which may be negative, are no probabilities."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 8, 2))
    for units, kind in ((3, "softmax"), (1, "sigmoid")):
        logits = keras.layers.Dense(units, bias_initializer=keras.initializers.Constant(-9))
        model = keras.Model(inputs, logits(keras.layers.Flatten()(inputs)))
        linked = keras.Model(inputs, keras.layers.Activation(kind)(model.output))
        own, known = (case(predict=evaluate.Predictor(m), x=X.astype(np.float32)) for m in (model, linked))
        np.testing.assert_allclose(own.probability(own.x), known.probability(own.x), rtol=1e-5)
    scored = value("irof", NOISE, lambda x: curved(x) - 50, segments=12)
    np.testing.assert_allclose(scored, value("irof", NOISE, curved, segments=12, link="softmax"))
    given = value("irof", NOISE, lambda x: np.abs(curved(x)), segments=12, link=lambda scores: scores)
    assert (given != value("irof", NOISE, curved, segments=12)).all()


def test_superpixels_of_equal_relevance_come_in_random_order() -> None:
    """The picture's last rows decide; a constant map must not find them last for that they lie below."""
    weights = np.zeros(X.shape[1:])
    weights[6:] = 1
    score = lambda x: np.stack([(x * weights).sum((1, 2, 3)), np.ones(len(x))], 1)  # noqa: E731
    x = np.repeat(X[:1], 60, axis=0)
    of = [evaluate.Case.of(x, 0, lambda *_, s=sign: s * weights + 0 * x, score) for sign in (1, 0, -1)]
    best, constant, worst = (evaluate.get("irof", segments=12, fill=0.0)(c) for c in of)
    assert best[0] > constant.mean() + 0.05
    assert worst[0] < constant.mean() - 0.05
    assert len(np.unique(constant)) > 20


def test_sufficiency_by_hand() -> None:
    x = np.array([[1.0, 0], [1.1, 0], [1.2, 0], [0, 9.0]])
    two = evaluate.Case.of(x, 0, lambda x, _: x, lambda x: np.array([[1, 0], [1, 0], [0, 1], [1, 0]]))
    with pytest.warns(evaluate.UndefinedMetricWarning, match="1 of 4"):
        np.testing.assert_array_equal(evaluate.get("sufficiency")(two), [0.5, 0.5, 0, np.nan])


# Those of these three files; a single batch says little about sufficiency, which has tests of its own.
MODULES = [f"lrp_tf.evaluate.{name}" for name in ("faithfulness", "complexity", "completeness")]
METRICS = [name for name in evaluate.names() if evaluate.get(name).function.__module__ in MODULES]
METRICS.remove("sufficiency")
METRICS.remove("input_invariance")  # needs a model


@pytest.mark.parametrize("name", METRICS)
def test_a_sample_has_its_value_in_whatever_batch_it_comes(name: str) -> None:
    metric = evaluate.get(name)
    together = metric(case(NOISE, curved, seed=3))
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(metric(case(NOISE, curved, seed=3)), together)
    one = evaluate.Case.of(X[2:], Y[2:], lambda *_: NOISE[2:], curved, seed=3, ids=[2])
    np.testing.assert_allclose(metric(one), together[2:], rtol=1e-9)
    first = np.moveaxis(X, -1, 1)
    moved = evaluate.Case.of(
        first, Y, lambda *_: np.moveaxis(NOISE, -1, 1), lambda x: curved(np.moveaxis(x, 1, -1)), channel_axis=1, seed=3
    )
    np.testing.assert_allclose(metric(moved), together, rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in METRICS if n != "irof"])
def test_features_without_channels(name: str) -> None:
    flat = evaluate.Case.of(X.reshape(3, -1), Y, lambda *_: NOISE.reshape(3, -1), curved)
    assert np.isfinite(evaluate.get(name)(flat)).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("faithfulness_correlation", {"size": 73}, "size expects 1 to 72, as many features as there are. Received: 73"),
        ("faithfulness_correlation", {"runs": 0}, "runs expects a positive integer. Received: 0"),
        ("faithfulness_correlation", {"fill": "pink"}, r"unknown fill. Expected one of"),
        ("faithfulness_correlation", {"fill": np.nan}, "fill must be finite"),
        ("faithfulness_correlation", {"region": 9}, "region expects sides from 1"),
        ("sensitivity_n", {"sizes": []}, "sizes expects at least one number of features"),
        ("faithfulness_correlation", {"runs": 2.5}, "runs expects a positive integer. Received: 2.5"),
        ("faithfulness_correlation", {"size": 2.5}, "size expects a whole number from 1 to 72"),
        ("sensitivity_n", {"sizes": [2.5]}, "sizes expects a whole number from 1 to 72"),
        ("irof", {"segments": 2.5}, "segments expects at least 2, a whole number. Received: 2.5"),
        ("sensitivity_n", {"sizes": [80]}, "sizes expects 1 to 72"),
        ("faithfulness_estimate", {"features_in_step": 99}, "features_in_step expects 1 to 72"),
        ("infidelity", {"side": 9}, "side expects 1 to 8, the shorter side. Received: 9"),
        ("irof", {"segments": 1}, "segments expects at least 2. Received: 1"),
    ],
)
def test_what_a_case_cannot_have_is_refused(name: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        value(name, **options)


def test_irof_is_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"pictures, \[B, rows, columns, channels\]. Received: \(3, 144\)"):
        evaluate.get("irof")(evaluate.Case.of(X.reshape(3, -1), Y, lambda x, _: x, curved))
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"lrp_tf\[evaluate\]"):
        value("irof")


def test_undefined_values_are_nan() -> None:
    flat, empty = np.ones_like(X), np.zeros_like(X)
    for name, found in [("faithfulness_correlation", flat), ("sparseness", empty), ("monotonicity", -flat)]:
        with pytest.warns(evaluate.UndefinedMetricWarning, match=f"{name} is not defined for 3 of 3"):
            assert np.isnan(value(name, found)).all()
    with pytest.warns(evaluate.UndefinedMetricWarning, match="irof is not defined for 3 of 3"):
        assert np.isnan(value("irof", NOISE, curved, segments=2)).all()  # SLIC finds one superpixel

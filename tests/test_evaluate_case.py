"""A case, predictors and metrics by name: what they hold, and what they refuse."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import lrp_tf
from lrp_tf import evaluate

X = np.random.default_rng(0).normal(size=(3, 6, 5, 2)).astype(np.float32)


def small(units: int = 4, activation: str | None = "softmax") -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input(X.shape[1:]), keras.layers.Conv2D(3, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(units, activation)])


def case(**changes: object) -> evaluate.Case:
    given = {"x": X, "target": 1, "explain": lambda x, target: x, "predict": lambda x: x.sum((1, 2))} | changes
    return evaluate.Case.of(**given)


def test_a_predictor_gives_logits_and_the_models_own_output() -> None:
    model = small()
    predict = evaluate.Predictor(model, batch_size=2)
    np.testing.assert_allclose(predict.probabilities(X), model.predict(X, verbose=0), atol=1e-6)
    np.testing.assert_allclose(keras.ops.softmax(predict(X)), predict.probabilities(X), atol=1e-6)
    explainer = lrp_tf.Explainer(model, "epsilon")
    np.testing.assert_allclose(evaluate.Predictor(explainer)(X), explainer.explain(X).logits, atol=1e-6)


def test_a_single_unit_has_two_classes() -> None:
    model = small(1, "sigmoid")
    logits, output = evaluate.Predictor(model).both(X)
    value = model.predict(X, verbose=0)
    np.testing.assert_allclose(output, np.concatenate([1 - value, value], 1), atol=1e-6)
    np.testing.assert_allclose(logits[:, 0], -logits[:, 1])


def test_a_model_of_several_inputs_is_refused() -> None:
    inputs = [keras.Input((4,)), keras.Input((4,))]
    two = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(inputs)))
    with pytest.raises(ValueError, match=r"one input, x\. Received: 2 inputs\. Remedy"):
        evaluate.Predictor(two)


def test_half_precision_loses_no_relevance() -> None:
    half = case(x=X.astype(np.float16), explain=lambda x, target: 1e-12 * x.astype(np.float32))
    assert half.x.dtype == np.float16
    np.testing.assert_allclose(half.positions, 1e-12 * X.astype(np.float16).sum(-1, dtype=np.float64), rtol=1e-3)
    assert np.isfinite(case(x=X.astype(np.float16), explain=lambda x, target: 1e6 * X).positions).all()


def test_relevance_is_summed_over_channels_wherever_they_are() -> None:
    np.testing.assert_allclose(case().positions, X.astype(np.float64).sum(-1))
    np.testing.assert_allclose(case(channel_axis=1).positions, X.astype(np.float64).sum(1))
    np.testing.assert_allclose(case(explain=lambda x, target: x[..., 0]).positions, X[..., 0])


def test_a_sample_gets_the_same_random_numbers_in_whatever_batch_it_comes() -> None:
    alone = case(x=X[2:], ids=[2]).generators("a")[0].normal(size=4)
    np.testing.assert_array_equal(case().generators("a")[2].normal(size=4), alone)
    assert not np.array_equal(case().generators("b")[2].normal(size=4), alone)
    assert not np.array_equal(case(seed=1).generators("a")[2].normal(size=4), alone)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"explain": lambda x, target: x[:, 1:]}, "relevance has the wrong shape. Expected"),
        ({"explain": lambda x, target: np.full_like(x, np.nan)}, "relevance must be finite. Received: NaN"),
        ({"x": X[:0]}, "at least one sample"),
        ({"target": [0, 1]}, "classes. Received: shape"),
        ({"target": -1}, "classes from 0 on"),
        ({"masks": np.ones((3, 4, 4))}, r"masks has the wrong shape. Expected: \(3, 6, 5\)"),
        ({"ids": [1]}, "ids has the wrong shape"),
        ({"channel_axis": 0}, "behind the batch"),
    ],
)
def test_bad_input_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        case(**changes)
    with pytest.raises(ValueError, match=r"below 2\. Received: 9"):
        _ = case(target=9).score


def test_metrics_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown metric\. Expected one of"):
        evaluate.get("nothing")
    mean = evaluate.Metric(
        "mean", lambda case, *, power=1: (case.positions**power).mean((1, 2)), "complexity", None, "-"
    )
    assert mean(case()).shape == (3,)
    np.testing.assert_allclose(evaluate.get(mean, power=2)(case()), (case().positions ** 2).mean((1, 2)))
    with pytest.raises(TypeError, match=r"takes \['power'\]. Received: \['root'\]"):
        mean.with_options(root=2)
    located = evaluate.Metric("located", lambda case: 0, "localisation", None, "-", needs=("masks",))
    with pytest.raises(ValueError, match="metric located needs where the object is"):
        located(case())
    with pytest.raises(ValueError, match=r'better expects "higher", "lower" or None. Received: \'larger\''):
        dataclasses.replace(mean, better="larger")
    with pytest.raises(ValueError, match=r"needs expects some of \['masks', 'model'\]. Received: \['mask'\]"):
        dataclasses.replace(mean, needs=("mask",))
    with pytest.raises(ValueError, match=r"unknown family. Expected one of .*'stability'.* Received: 'faith'"):
        evaluate.names("faith")
    with pytest.warns(evaluate.UndefinedMetricWarning, match="not defined for 3 of 3"):
        evaluate.Metric("odd", lambda case: np.full(3, np.nan), "complexity", None, "-")(case())


def test_the_same_explainer_of_another_model() -> None:
    first = lrp_tf.Explainer(small(), lrp_tf.rules.Epsilon(0.1), relevance_filter=0.5)
    other = small()
    other.set_weights([2 * w for w in other.get_weights()])
    again = first.with_model(other)
    np.testing.assert_array_equal(again(X), lrp_tf.Explainer(other, first.composite, relevance_filter=0.5)(X))
    assert again.model is other

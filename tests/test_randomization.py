"""Randomised copies: what changes in them and what never does; curves and metrics against slow computations."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import lrp_tf
from lrp_tf import evaluate, gradients

NAMES = ["conv", "inner/norm", "inner/conv1x1", "shared", "attention", "head"]


@pytest.fixture(autouse=True)
def _eager() -> object:
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def model(rng: np.random.Generator) -> keras.Model:
    """Preprocessing, a nested model that is used twice, and so is a layer; attention."""
    inner = keras.Sequential(name="inner")
    inner.add(keras.Input((6, 6, 4)))
    inner.add(keras.layers.BatchNormalization(name="norm"))
    inner.add(keras.layers.Conv2D(4, 1, name="conv1x1"))
    shared = keras.layers.Conv2D(4, 1, name="shared")
    inputs = keras.Input((8, 8, 2))
    h = keras.layers.Normalization(name="preprocess")(inputs)
    h = shared(inner(shared(inner(keras.layers.Conv2D(4, 3, name="conv")(h)))))
    h = keras.layers.Reshape((36, 4))(h)
    h = keras.layers.MultiHeadAttention(2, 3, name="attention")(h, h)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="head")(keras.layers.Flatten()(h)))
    model.set_weights([rng.uniform(0.2, 1, w.shape).astype(w.dtype) if w.ndim == 1 else w for w in model.get_weights()])
    model.get_layer("preprocess").adapt(rng.normal(1, 2, size=(9, 8, 8, 2)))
    return model


@pytest.fixture
def small(rng: np.random.Generator) -> keras.Model:
    """[B, 8, 8, 2] -> [B, 2] by two Dense layers, whose input times gradient is four lines of numpy."""
    # Random weights are drawn by the names of layers, which Keras would number by what ran before.
    hidden, last = keras.layers.Dense(6, "relu", name="hidden"), keras.layers.Dense(2, name="last")
    return keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Flatten(), hidden, last])


def input_times_gradient(small: keras.Model) -> evaluate.Explain:
    """It keeps the weights that the model has now."""
    w1, b1, w2, _ = small.get_weights()

    def explain(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        return x * (((flat @ w1 + b1 > 0) * w2[:, target].T) @ w1.T).reshape(x.shape)

    return explain


def case(small: keras.Model, x: np.ndarray, **changes: object) -> evaluate.Case:
    given = {"model": small, "rebuild": input_times_gradient, "target": np.arange(len(x)) % 2} | changes
    return evaluate.Case.of(x, given.pop("target"), input_times_gradient(small), lambda x: small(x).numpy(), **given)


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(3, 8, 8, 2)).astype(np.float32)


@pytest.mark.parametrize("how", ["permute", "initialize"])
@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_layers_become_random_in_order_and_only_in_the_copy(
    model: keras.Model, x: np.ndarray, order: str, how: str
) -> None:
    before, output, state = model.get_weights(), model(x).numpy(), random.getstate()
    paths = [w.path for w in model.weights]
    seen = []
    for name, other in evaluate.randomized(model, order=order, how=how, x=x):
        seen.append(name)
        after = other.get_weights()
        changed = [path for path, a, b in zip(paths, before, after, strict=True) if (a != b).any()]
        assert {n for n in NAMES for p in changed if is_in(n, p)} == ({name} if order == "independent" else set(seen))
        assert all(any(is_in(n, p) for n in NAMES) for p in changed)  # not Normalization
        if how == "permute":
            pairs = zip(before, after, strict=True)
            assert all((np.sort(a, axis=None) == np.sort(b, axis=None)).all() for a, b in pairs)
    assert seen == (NAMES if order == "bottom_up" else NAMES[::-1])
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    np.testing.assert_array_equal(model(x), output)
    assert random.getstate() == state


def is_in(name: str, path: str) -> bool:
    return name.rpartition("/")[2] in path.split("/")


def test_channels_of_batch_normalization_trade_places_as_a_whole(model: keras.Model) -> None:
    own = np.stack(model.get_layer("inner").layers[0].get_weights(), axis=1)
    (_, other), *_ = evaluate.randomized(model, layers=["inner/norm"])
    found = np.stack(other.get_layer("inner").layers[0].get_weights(), axis=1)
    assert (found != own).any()
    assert sorted(map(tuple, found)) == sorted(map(tuple, own))


def test_initialised_weights_are_those_of_a_new_layer(model: keras.Model) -> None:
    *_, (_, other) = evaluate.randomized(model, how="initialize")
    scale, shift, mean, variance = other.get_layer("inner").layers[0].get_weights()
    assert (scale == 1).all()
    assert (variance == 1).all()
    assert not shift.any()
    assert not mean.any()
    kernel = other.get_layer("conv").get_weights()[0]
    assert 0 < np.abs(kernel).max() <= np.sqrt(6 / (9 * (2 + 4)))  # GlorotUniform
    query, key = (w for w in other.get_layer("attention").get_weights()[:3:2])
    assert (query != key).any()


def test_the_same_seed_gives_the_same_weights(model: keras.Model) -> None:
    for how in ("permute", "initialize"):
        first, again, other = (
            next(evaluate.randomized(model, how=how, seed=seed))[1].get_weights() for seed in (0, 0, 1)
        )
        assert all((a == b).all() for a, b in zip(first, again, strict=True))
        assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_stages_randomise_neighbours_together(model: keras.Model) -> None:
    names = [name for name, _ in evaluate.randomized(model, stages=2)]
    assert names == ["shared", "conv"]
    *_, (_, at_once) = evaluate.randomized(model, stages=1)
    *_, (_, in_turn) = evaluate.randomized(model)
    assert all((a == b).all() for a, b in zip(at_once.get_weights(), in_turn.get_weights(), strict=True))


@pytest.mark.parametrize("order", ["top_down", "independent"])
def test_a_curve_is_the_similarity_after_each_layer(model: keras.Model, x: np.ndarray, order: str) -> None:
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    found = evaluate.randomization(explainer, x, [0, 1, 2], order=order, kind="pearson")
    own = np.abs(explainer(x, [0, 1, 2]).numpy().sum(-1)).reshape(3, -1)
    for values, (name, other) in zip(found.values, evaluate.randomized(model, order=order), strict=True):
        maps = np.abs(lrp_tf.Explainer(other, "epsilon_plus")(x, [0, 1, 2]).numpy().sum(-1)).reshape(3, -1)
        expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(own, maps, strict=True)]
        np.testing.assert_allclose(values, expected, atol=1e-5, err_msg=name)
    assert found.layers == tuple(NAMES[::-1])
    assert found.table().column("layer") == NAMES[::-1]
    np.testing.assert_allclose(found.table().column("mean"), found.values.mean(1))
    np.testing.assert_allclose(found.table().column("share"), np.arange(1, 7) / 6)
    drawn = found.plot(label="pearson")
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), found.values.mean(1))


def test_gradients_follow_the_copy_and_are_made_once(small: keras.Model, x: np.ndarray) -> None:
    explainer, made = gradients.InputTimesGradient(small), []
    ours = evaluate.randomization(explainer, x, [0, 1, 0])
    own = evaluate.randomization(case(small, x))
    np.testing.assert_allclose(ours.values, own.values, atol=1e-3)

    def rebuild(model: keras.Model) -> evaluate.Explain:
        made.append(functools.partial(explainer.with_model(model), contrast="softmax"))
        return made[-1]

    assert len(evaluate.randomization(case(small, x, rebuild=rebuild)).layers) == 2
    assert len(made) == 1


def test_an_explainer_with_a_contrast_keeps_it(small: keras.Model, x: np.ndarray) -> None:
    explainer = lrp_tf.Explainer(small, "epsilon")
    found = evaluate.randomization(functools.partial(explainer, contrast="mean"), x, 0)
    own = explainer(x, 0, contrast="mean").numpy().sum(-1)
    for values, (_, other) in zip(found.values, evaluate.randomized(small), strict=True):
        maps = explainer.with_model(other)(x, 0, contrast="mean").numpy().sum(-1)
        np.testing.assert_allclose(values, evaluate.similarity(own, maps), atol=1e-3)
    with pytest.raises(TypeError, match=r"expects an Explainer.*Received: <function"):
        evaluate.randomization(lambda x, target: x, x)


def test_metrics_are_means_of_the_curve(small: keras.Model, x: np.ndarray) -> None:
    of = case(small, x)
    for order in ("top_down", "bottom_up", "independent"):
        curve = evaluate.randomization(of, order=order)
        # A sample whose hidden units are all off has a map of zeros, which is like nothing: it has no value there.
        np.testing.assert_allclose(evaluate.get(f"randomization_{order}")(of), np.nanmean(curve.values, axis=0))
    # An explainer that keeps the weights that it was made with is made anew for every layer.
    assert (np.nanmean(curve.values, axis=1) < 0.9).all()
    still = evaluate.randomization(case(small, x, rebuild=lambda other: of.explain))
    np.testing.assert_allclose(still.values, 1)


def entropy(values: np.ndarray, bins: int) -> float:
    low, high = values.min(), values.max()
    place = [min(int((v - low) / (high - low) * bins), bins - 1) for v in values.ravel()]
    share = np.bincount(place) / values.size
    return -sum(p * np.log(p) for p in share if p > 0)


def test_efficient_randomisation_is_the_rise_of_entropy(small: keras.Model, x: np.ndarray) -> None:
    of = case(small, x)
    *_, (_, last) = evaluate.randomized(small)
    maps = input_times_gradient(last)(x, of.target).astype(np.float64).sum(-1)
    own = np.array([entropy(m, 20) for m in of.positions])
    expected = np.array([entropy(m, 20) for m in maps]) / own - 1
    np.testing.assert_allclose(evaluate.get("randomization_efficient", bins=20)(of), expected, rtol=1e-9)


def test_smooth_randomisation_compares_mean_maps_of_noisy_samples(small: keras.Model, x: np.ndarray) -> None:
    of = case(small, x)
    plain = evaluate.get("randomization_smooth", noise=0.0, runs=2)(of)
    np.testing.assert_allclose(plain, evaluate.get("randomization_bottom_up")(of), atol=1e-6)
    noisy = evaluate.get("randomization_smooth", noise=0.3, runs=2)(of)
    assert (noisy != plain).all()
    part = case(small, x[1:], ids=[1, 2], target=of.target[1:])
    np.testing.assert_allclose(evaluate.get("randomization_smooth", noise=0.3, runs=2)(part), noisy[1:], atol=1e-6)


def test_random_logit_explains_another_class(x: np.ndarray) -> None:
    def explain(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        return x * (1 + target[:, None, None, None]) ** np.arange(2)

    of = evaluate.Case.of(x, [0, 1, 0], explain, lambda x: np.zeros((len(x), 2)))
    others = explain(x, np.array([1, 0, 1])).sum(-1)
    expected = evaluate.similarity(of.positions, others)
    np.testing.assert_allclose(evaluate.get("random_logit")(of), expected, atol=1e-6)
    drawn: list[np.ndarray] = []
    many = evaluate.Case.of(
        np.repeat(x, 30, 0), 3, lambda x, target: drawn.append(target) or x, lambda x: np.zeros((len(x), 5))
    )
    evaluate.get("random_logit")(many)
    assert set(drawn[-1]) == {0, 1, 2, 4}
    with pytest.raises(ValueError, match="at least two classes"):
        evaluate.get("random_logit")(evaluate.Case.of(x, 0, lambda x, t: x, lambda x: np.zeros((len(x), 1))))


def unknown_class() -> keras.Model:
    class Hidden(keras.layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return 2 * x

    return keras.Sequential([keras.Input((4,)), Hidden(), keras.layers.Dense(2)])


@keras.saving.register_keras_serializable("tests")
class Forgetful(keras.layers.Layer):
    """Its factor is in no config."""

    factor = 1.0

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.factor * x


def forgetful() -> keras.Model:
    layer = Forgetful()
    layer.factor = 2.0
    return keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (
            unknown_class,
            {},
            r"expects a model that Keras can make anew from its config\. Received: .*Remedy: give your layers",
        ),
        (forgetful, {}, r"a copy of .* with other outputs\. Remedy"),
        (None, {"order": "sideways"}, "order expects one of"),
        (None, {"how": "noise"}, "how expects 'permute' or 'initialize'"),
        (None, {"layers": ["conv", "dense"]}, r"layers expects names of \['conv', .*Received: \['dense'\]"),
        (None, {"stages": 0}, "stages expects a positive integer"),
        (None, {"stages": 1.5}, "stages expects a positive integer. Received: 1.5"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]), {}, "nothing to randomise"),
    ],
)
def test_what_cannot_be_randomised_is_refused(
    model: keras.Model, make: Callable[[], keras.Model] | None, options: dict, words: str
) -> None:
    x = np.ones((2, 4), np.float32) if make else None
    with pytest.raises(ValueError, match=words):
        list(evaluate.randomized(make() if make else model, **options, x=x))


def test_cases_without_a_model_are_refused(x: np.ndarray) -> None:
    of = evaluate.Case.of(x, 0, lambda x, target: x, lambda x: x.sum((1, 2)))
    with pytest.raises(ValueError, match=r"Remedy: pass model= and rebuild="):
        evaluate.randomization(of)
    with pytest.raises(ValueError, match="needs the Keras model and a way"):
        evaluate.get("randomization_efficient")(of)


@keras.saving.register_keras_serializable("tests")
class Own(keras.Model):
    """Weights of its own beside a layer's."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.dense = keras.layers.Dense(2, name="dense")

    def build(self, shape: tuple) -> None:
        self.scale = self.add_weight(shape=(4,), initializer="random_normal", name="scale")
        self.dense.build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.dense(x * self.scale)


def test_weights_of_a_subclassed_model_itself() -> None:
    own = Own(name="own")
    own(np.ones((1, 4), np.float32))
    assert [name for name, _ in evaluate.randomized(own, x=np.ones((2, 4), np.float32))] == ["dense", "own"]
    with pytest.raises(ValueError, match=r"weights of the model 'own' itself\. Remedy: how='permute'"):
        list(evaluate.randomized(own, how="initialize"))

"""What attacks are built on: the network with its counts, distances, optimisers in lockstep, refused input."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import layers as kl

from lrp_tf.evaluate import adversarial
from lrp_tf.evaluate.adversarial import Network, distances, lockstep

SHAPE = (6, 6, 1)
X = np.random.default_rng(0).uniform(size=(5, *SHAPE)).astype("float32")


def ended(end: str, dtype: str = "float32") -> keras.Model:
    """A nested net with BatchNormalization whose weights are the same whatever it ends in."""
    keras.utils.set_random_seed(0)
    units = 1 if "sigmoid" in end or end == "unit" else 3
    inside = [kl.Conv2D(4, 3, use_bias=False, dtype=dtype), kl.BatchNormalization(dtype=dtype)]
    block = keras.Sequential([keras.Input(SHAPE, dtype=dtype), *inside, kl.ReLU(dtype=dtype)], name="block")
    inside[1].set_weights([np.array(row) for row in ([1, 2, 1, 0.5], [0.1] * 4, [0.2] * 4, [1.5] * 4)])
    inner = keras.Input(SHAPE, dtype=dtype)
    h = kl.Flatten(dtype=dtype)(kl.MaxPooling2D(dtype=dtype)(block(inner)))
    activation = end if end in ("softmax", "sigmoid") else None
    y = kl.Dense(units, activation=activation, bias_initializer="random_normal", dtype=dtype)(h)
    if end.startswith("layer"):
        y = kl.Softmax(dtype=dtype)(y) if units == 3 else kl.Activation("sigmoid", dtype=dtype)(y)
    return keras.Model(inner, y)


def test_logits_and_probabilities_do_not_depend_on_the_end() -> None:
    found = {end: Network(ended(end), batch_size=4) for end in ("logits", "softmax", "layer softmax")}
    logits = found["logits"].logits(X)
    assert np.allclose(logits, ended("logits").predict(X, verbose=0), atol=1e-5)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    losses = []
    for network in found.values():
        assert np.allclose(network.logits(X), logits, atol=1e-5)
        assert np.allclose(network.probabilities(X), powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
        losses.append(network.loss_and_gradient(X, 1)[0])
    assert np.allclose(losses, losses[0], atol=1e-5)
    assert (found["logits"].predictions, found["logits"].gradients) == (15, 5)


@pytest.mark.parametrize("end", ["unit", "sigmoid", "layer sigmoid"])
def test_a_single_unit_has_two_classes(end: str) -> None:
    network = Network(ended(end), batch_size=4)
    v = ended("unit").predict(X, verbose=0)[:, 0]
    p = 1 / (1 + np.exp(-v))
    assert network.classes == 2
    assert np.allclose(network.logits(X), np.stack([-v, v], axis=1), atol=1e-5)
    assert np.allclose(network.probabilities(X), np.stack([1 - p, p], axis=1), atol=1e-5)
    assert np.allclose(network.loss_and_gradient(X, 0)[0], -np.log(1 - p), atol=1e-5)
    target = (v < 0).astype(int)
    attempts = adversarial.get("lbfgs", confidence=0.1, iterations=10, bisections=2)(network, X, target)
    assert all(attempt.success and 0.1 <= attempt.margin < 0.3 for attempt in attempts)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_gradients_are_those_of_finite_differences(end: str) -> None:
    network, rng, h = Network(ended(end, "float64"), batch_size=4), np.random.default_rng(1), 1e-6
    x, target = X[:3].astype("float64"), np.array([1, 0, 1])
    for loss, confidence, sharpness in (("cross_entropy", 0.0, 1.0), ("cross_entropy", 0.3, 3.0), ("margin", 0.3, 1.0)):
        options = {"confidence": confidence, "sharpness": sharpness}
        _, gradient = network.loss_and_gradient(x, target, loss, **options)
        step = rng.normal(size=x.shape)
        ahead, back = (network.loss_and_gradient(x + s * h * step, target, loss, **options)[0] for s in (1, -1))
        assert np.allclose((ahead - back) / (2 * h), (gradient * step).sum(axis=(1, 2, 3)), rtol=1e-6, atol=1e-8)
        if loss == "cross_entropy" and confidence == 0:
            p = network.probabilities(x)[np.arange(3), target]
            assert np.allclose(network.loss_and_gradient(x, target)[0], -np.log(p), rtol=1e-12)


def test_a_sharp_loss_is_the_margin() -> None:
    network = Network(ended("softmax"), batch_size=4)
    target = network.logits(X).argmin(axis=1)
    margin = network.loss_and_gradient(X, target, "margin", confidence=0.2)[0]
    sharp = network.loss_and_gradient(X, target, confidence=0.2, sharpness=1e4)[0]
    assert np.allclose(sharp, np.maximum(margin, 0), atol=1e-3)


def test_values_do_not_depend_on_the_rest_of_the_batch() -> None:
    network = Network(ended("softmax"), batch_size=4)
    whole, alone = network.values(X, [0, 1, 2, 1, 0]), network.values(X[3:4], [1])
    assert all(np.array_equal(a[3:4], b) for a, b in zip(whole, alone, strict=True))


def test_the_model_stays_as_it_is() -> None:
    model = ended("softmax")
    model.trainable = False
    before = [w.copy() for w in model.get_weights()], [layer.trainable for layer in model._flatten_layers()]
    network = Network(model, batch_size=4)
    target = (network.logits(X).argmax(axis=1) + 1) % 3
    adversarial.get("pgd", steps=2)(network, X, target)
    after = model.get_weights(), [layer.trainable for layer in model._flatten_layers()]
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]


class Root(keras.layers.Layer):
    """Not a number below a half."""

    def call(self, x: object) -> object:
        return keras.ops.sqrt(x - 0.5)


@pytest.mark.parametrize("name", adversarial.names)
def test_a_net_that_gives_nan_is_an_error(name: str) -> None:
    """It is met on the way of the attack; the threads of L-BFGS end."""
    model = keras.Sequential([keras.Input((1, 2, 1)), Root(), kl.Flatten(), kl.Dense(2)])
    model.set_weights([np.eye(2), np.array([0.0, 0.02])])
    network, before = Network(model, batch_size=2), threading.active_count()
    x = np.array([[0.7, 0.52], [0.9, 0.51]], "float32").reshape(2, 1, 2, 1)
    with pytest.raises(ValueError, match="NaN or Inf"):
        adversarial.get(name, confidence=0.5)(network, x, np.array([1, 1]))
    assert threading.active_count() == before


@pytest.mark.parametrize("name", adversarial.names)
def test_bad_input_is_refused(name: str) -> None:
    network = Network(ended("softmax"), batch_size=4)
    attack, classes = adversarial.get(name), network.logits(X).argmax(axis=1)
    target = (classes + 1) % 3
    for x, wanted, text in (
        (X * 3, target, r"x expects values in \[0, 1\]. Received: \[.*Remedy: low= and high="),
        (X[..., 0], target, r"x has the wrong shape. Expected: \(None, 6, 6, 1\)"),
        (X[:, :5], target, r"x has the wrong shape"),
        (X[:0], target, "at least one sample"),
        (X, classes, "for image 0 of the batch, which is in that class already"),
        (X, target[:2], r"target expects a class or \(5,\) classes"),
        (X, np.full(5, 3), "target expects classes from 0 to 2. Received: 3"),
        (X, np.full(5, -1), "classes from 0 on"),
        (np.where(X > 0.9, np.nan, X), target, "x must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            attack(network, x, wanted)
    with pytest.raises(TypeError, match="integer"):
        attack(network, X, target * 1.0)


def test_bad_settings_are_refused() -> None:
    for arguments, text in (
        ({"name": "bim"}, "unknown attack. Expected one of"),
        ({"name": "fgsm", "epsilon": 0.0}, "epsilon expects a number above 0"),
        ({"name": "pgd", "steps": 0}, "steps expects a whole number from 1"),
        ({"name": "pgd", "seed": -1}, "seed expects a whole number from 0"),
        ({"name": "lbfgs", "iterations": 2.5}, "iterations expects a whole number from 1"),
        ({"name": "cw", "confidence": -1.0}, "confidence expects a number from 0"),
        ({"name": "cw", "low": 1.0}, "low < high"),
    ):
        with pytest.raises(ValueError, match=text):
            adversarial.get(**arguments)
    with pytest.raises(TypeError, match=r"attack fgsm takes \['epsilon'\]. Received: \['steps'\]"):
        adversarial.get("fgsm", steps=3)
    with pytest.raises(TypeError, match="Network expects a Keras model"):
        Network(lambda x: x)
    ids = keras.Sequential([keras.Input((4,), dtype="int32"), kl.Embedding(3, 2), kl.Flatten(), kl.Dense(2)])
    with pytest.raises(ValueError, match=r"Expected: floats. Received: int32"):
        Network(ids)


# --- distances ---

PAIRS = arrays.arrays(np.float64, (2, 3, 4), elements=st.floats(0, 1))


@given(PAIRS, st.floats(0, 2))
@settings(max_examples=40, deadline=None)
def test_distances_are_their_formulas(pair: np.ndarray, beta: float) -> None:
    a, b = pair
    found, r = distances(a, b, beta=beta), (b - a).ravel()
    assert found["l0"] == sum(abs(v) > 1 / 510 for v in r)
    assert np.isclose(found["l2"], np.linalg.norm(r))
    assert found["linf"] == abs(r).max()
    assert np.isclose(found["mean_absolute"], np.mean(abs(r)))
    assert np.isclose(found["mean_squared"], np.mean(r**2))
    assert np.isclose(found["elastic_net"], beta * abs(r).sum() + r @ r)
    assert found == distances(b, a, beta=beta)
    assert set(distances(a, a).values()) == {0.0}
    assert found["linf"] <= found["l2"] * (1 + 1e-9) <= np.sqrt(r.size) * found["linf"] * (1 + 2e-9)


def test_images_that_are_saved_alike_differ_in_no_entry() -> None:
    x = np.arange(256) / 255
    assert distances(x, x + 0.49 / 255)["l0"] == 0
    assert distances(x, x + 0.51 / 255)["l0"] == 256
    assert distances(255 * x, 255 * x + 0.49, high=255.0)["l0"] == 0
    for a, b, text in ((x, x[:3], "one shape"), (x, x * np.nan, "finite"), (x[:0], x[:0], "one shape")):
        with pytest.raises(ValueError, match=text):
            distances(a, b)
    with pytest.raises(ValueError, match="beta"):
        distances(x, x, beta=-1)


# --- lockstep ---


def test_questions_are_answered_together_and_in_order() -> None:
    asked = []

    def task(number: int, ask: object) -> int:
        return sum(ask(number * 10 + step) for step in range(number % 3 + 1))  # type: ignore[operator]

    def answers(numbers: list[int], questions: list[int]) -> list[int]:
        asked.append(tuple(numbers))
        assert [q // 10 for q in questions] == numbers
        return [2 * q for q in questions]

    tasks = [lambda ask, n=n: task(n, ask) for n in range(7)]
    found = lockstep.run(tasks, answers, width=3)
    assert found == [2 * sum(n * 10 + s for s in range(n % 3 + 1)) for n in range(7)]
    assert asked[:3] == [(0, 1, 2), (1, 2, 3), (2, 4, 5)]
    first = list(asked)
    asked.clear()
    assert lockstep.run(tasks, answers, width=3) == found
    assert asked == first
    assert lockstep.run([], answers, width=3) == []


def test_an_error_ends_all_tasks() -> None:
    before = threading.active_count()

    def fails(ask: object) -> None:
        ask(0)  # type: ignore[operator]
        raise KeyError("mine")

    def waits(ask: object) -> None:
        while True:
            ask(1)  # type: ignore[operator]

    with pytest.raises(KeyError, match="mine"):
        lockstep.run([waits, fails, waits], lambda numbers, questions: questions, width=3)
    with pytest.raises(ZeroDivisionError):
        lockstep.run([waits, waits], lambda numbers, questions: [1 // 0], width=1)
    assert threading.active_count() == before

"""What people do with explainers, done with recurrent models: threads, lengths, copies, composites as text."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close
from helpers.recurrent_cases import UNITS, randomized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, evaluate, flows, gradients, rules

X = np.random.default_rng(0).normal(size=(3, 6, 2)).astype("float32")


def net(*recurrent: keras.Layer, time: int | None = 6) -> keras.Model:
    """Two recurrent layers, or those given, between an input [B, time, 2] and three logits."""
    found = recurrent or (kl.LSTM(UNITS, return_sequences=True, name="low"), kl.GRU(UNITS, name="high"))
    return randomized(keras.Sequential([keras.Input((time, 2)), *found, kl.Dense(3, name="logits")]))


@pytest.fixture(scope="module")
def explainer() -> lrp_tf.Explainer:
    return lrp_tf.Explainer(net(), "epsilon")


# --- the same numbers, however they are asked for ---------------------------------------------------


def test_samples_stay_apart_and_calls_agree(explainer: lrp_tf.Explainer) -> None:
    whole = explainer(X, 1)
    np.testing.assert_array_equal(explainer(X, 1), whole)
    for i in range(3):
        close(explainer(X[i : i + 1], 1), whole[i : i + 1], 1e-5)
    close(explainer(X[::-1], 1)[::-1], whole, 1e-5)
    close(np.concatenate(list(explainer.map(X, 1, batch=2))), whole, 1e-5)
    several = explainer(X, [[0, 1, 2]] * 3)
    close(several, np.stack([explainer(X, k) for k in range(3)], 1), 1e-5)


def test_threads_share_an_explainer_and_build_their_own(explainer: lrp_tf.Explainer) -> None:
    model, expected = explainer.model, explainer(X, 1)
    found: list[np.ndarray] = []

    def work() -> None:
        found.append(explainer(X, 1).numpy())
        found.append(lrp_tf.Explainer(model, "epsilon")(X, 1).numpy())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for relevance in found:
        np.testing.assert_array_equal(relevance, expected)


@pytest.mark.usefixtures("mode")
def test_weights_are_read_at_every_call() -> None:
    model = net(kl.Bidirectional(kl.GRU(UNITS)))
    explainer = lrp_tf.Explainer(model, "epsilon")
    before = explainer(X, 1)
    model.set_weights([w * 1.25 for w in model.get_weights()])
    after = explainer(X, 1)
    assert np.abs(after - before).max() > 1e-3
    close(after, lrp_tf.Explainer(model, "epsilon")(X, 1), 1e-6)


def test_the_gradient_of_the_clone_is_the_relevance(explainer: lrp_tf.Explainer) -> None:
    clone, x = lrp_tf.clone_with_rules(explainer.model, "epsilon"), tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = clone(x)
    np.testing.assert_allclose(logits, explainer.model(X), atol=1e-6)
    start = tf.one_hot([1] * 3, 3) * logits
    close(tape.gradient(logits, x, output_gradients=start), explainer(X, 1), 1e-5)


# --- length -----------------------------------------------------------------------------------------


def test_one_explainer_takes_sequences_of_any_length() -> None:
    model = net(time=None)
    explainer = lrp_tf.Explainer(model, "epsilon")
    for time in (1, 6, 30):
        x = np.random.default_rng(time).normal(size=(2, time, 2)).astype("float32")
        found = explainer.explain(x, 1)
        assert found.relevance.shape == x.shape
        assert np.abs(found.conservation.unexplained).max() < 1e-6


# --- evaluation ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode")
def test_cells_become_random_in_copies(explainer: lrp_tf.Explainer) -> None:
    model, kept, before = explainer.model, explainer.model.get_weights(), explainer(X, 1)
    seen = []
    for name, other in evaluate.randomized(model, order="independent", x=X):
        seen.append(name)
        assert np.abs(explainer.with_model(other)(X, 1) - before).max() > 1e-4
    assert [name.rpartition("/")[2] for name in seen] == ["logits", "high", "low"]
    for a, b in zip(kept, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("mode")
def test_metrics_judge_recurrent_models(explainer: lrp_tf.Explainer) -> None:
    model = explainer.model
    methods = {"lrp": explainer, "gradient": gradients.Gradient(model)}
    found = evaluate.compare(methods, X, np.array([0, 1, 2]), metrics=["randomization_independent"])
    assert np.isfinite(found.values).all()


# --- composites ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode")
def test_composites_as_text_mean_the_same_inside_a_cell(explainer: lrp_tf.Explainer) -> None:
    low, share = (composites.named("low/.*"), rules.AlphaBeta(2.0, 1.0)), flows.Product(gates="absolute")
    same = composites.Composite([low, (composites.products(), share), (None, rules.Epsilon())])
    composite = composites.parse('named "low/.*": alphabeta 2 1; products: Product gates=absolute; all: epsilon')
    assert composite == same == composites.parse(str(same))
    found = lrp_tf.Explainer(explainer.model, composite).explain(X, 1)
    close(found.relevance, lrp_tf.Explainer(explainer.model, same)(X, 1), 1e-6)
    assert np.abs(found.conservation.unexplained).max() < 1e-5
    assert np.abs(found.relevance - explainer(X, 1)).max() > 1e-3


# --- any recurrent net ----------------------------------------------------------------------------------

layers = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["LSTM", "GRU", "SimpleRNN"]),
        "units": st.integers(1, 4),
        "backwards": st.booleans(),
        "both": st.booleans(),
        "bias": st.booleans(),
    }
)


def _layer(kind: str, units: int, backwards: bool, both: bool, bias: bool) -> keras.Layer:
    layer = getattr(kl, kind)(units, return_sequences=True, go_backwards=backwards and not both, use_bias=bias)
    return kl.Bidirectional(layer) if both else layer


@pytest.mark.usefixtures("mode", "double_precision")
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(below=layers, above=layers, masked=st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 2**16))
def test_books_close_and_masked_steps_have_none(below: dict, above: dict, masked: list[bool], seed: int) -> None:
    """Whatever the layers, weights and masks: all relevance is accounted for, and masked steps have exactly none."""
    x = keras.Input((4, 2))
    y = _layer(**above)(_layer(**below)(kl.Masking()(x)))
    model = randomized(keras.Model(x, kl.Dense(2)(kl.GlobalAveragePooling1D()(y))), seed)
    array = np.random.default_rng(seed).normal(size=(2, 4, 2))
    array[0, np.array(masked)] = 0
    found = lrp_tf.Explainer(model, "epsilon").explain(array, 1)
    np.testing.assert_allclose(found.output, model(array), atol=1e-12)
    assert np.abs(found.conservation.unexplained).max() < 1e-10
    if not all(masked):
        assert not found.relevance.numpy()[0, np.array(masked)].any()

"""Recurrent layers against independent slow computations: Arras et al. 2017, and unrolled nets from plain formulas."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.recurrent_cases import CASES, UNITS, randomized
from helpers.unrolled import check_unrolled, inputs_of
from keras import layers as kl
from references.arras import lstm_of_arras
from references.tape import Tape

import lrp_tf
from lrp_tf import composites

# --- Arras et al. 2017 ----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-9])
@pytest.mark.usefixtures("seldom_compiled")
def test_the_bidirectional_lstm_of_arras(epsilon: float, dtype: str, tolerance: float) -> None:
    inputs = keras.Input((7, 3), dtype=dtype)
    both = kl.Bidirectional(kl.LSTM(UNITS, dtype=dtype), dtype=dtype)
    model = randomized(keras.Model(inputs, kl.Dense(3, dtype=dtype)(both(inputs))), seed=5)
    weights = [w.astype("float64") for w in model.get_weights()]
    explainer = lrp_tf.Explainer(model, composites.get("epsilon", epsilon=epsilon))
    x = np.random.default_rng(1).normal(size=(2, 7, 3)).astype(dtype)
    found = explainer.explain(x, target=[[0, 1, 2]] * 2)
    for i, target in np.ndindex(2, 3):
        logits, explain = lstm_of_arras(x[i].astype("float64"), weights[:3], weights[3:6], weights[6:], target)
        want = explain(epsilon)
        np.testing.assert_allclose(found.logits[i], logits, rtol=0, atol=tolerance * np.abs(logits).max())
        np.testing.assert_allclose(found.relevance[i, target], want, rtol=0, atol=tolerance * np.abs(want).max())


# --- unrolled -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode", "double_precision")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("seldom_compiled")
def test_every_layer_is_its_unrolled_net(name: str) -> None:
    check_unrolled(CASES[name](), composites.get("epsilon"), Tape(), "masked" in name)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["LSTM masked", "Bidirectional sum"])
def test_compiled_loops_are_the_unrolled_net(name: str) -> None:
    check_unrolled(CASES[name](), composites.get("epsilon"), Tape(), "masked" in name)


# --- float32 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LSTM masked", "GRU", "ConvLSTM2D", "stacked"])
@pytest.mark.usefixtures("seldom_compiled")
def test_books_close_in_single_precision(name: str) -> None:
    made = CASES[name]()
    x = inputs_of(made.model.input_shape[1:], "masked" in name)[0].astype("float32")
    for composite in ("epsilon", "epsilon_plus"):
        books = lrp_tf.Explainer(made.model, composite).explain(x).conservation
        assert np.abs(books.unexplained).max() < 1e-6

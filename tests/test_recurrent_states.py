"""Initial states, states that a layer has kept, and masks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.recurrent_cases import UNITS, cell_of, randomized
from helpers.unrolled import TARGET, agrees, explained, inputs_of, relevance_of, steps_of
from keras import layers as kl
from references.recurrent import recur
from references.tape import Part, Tape, Value

import lrp_tf


def with_encoder() -> tuple[keras.Model, kl.LSTM, list[kl.Dense]]:
    x, context = keras.Input((5, 3)), keras.Input((2,))
    encoders, layer = [kl.Dense(UNITS, activation="tanh") for _ in range(2)], kl.LSTM(UNITS)
    y = layer(x, initial_state=[encoder(context) for encoder in encoders])
    return randomized(keras.Model([x, context], kl.Dense(3)(y))), layer, encoders


@pytest.mark.usefixtures("mode", "double_precision")
def test_relevance_of_initial_states_goes_to_what_gave_them() -> None:
    model, layer, encoders = with_encoder()
    x, context = inputs_of((5, 3))[0], np.random.default_rng(2).normal(size=(3, 2))
    found = lrp_tf.Explainer(model, "epsilon").explain([x, context], target=TARGET)
    tape, values, beside = Tape(), steps_of(x), Value(context)
    states = []
    for w, b in (encoder.get_weights() for encoder in encoders):
        states.append(tape.activate(tape.linear([Part(beside, w)], b), "tanh"))
    ys, _ = recur(tape, cell_of(layer.cell)[0], values, states)
    explained(tape, ys[-1], model)
    for relevance, want in zip(found.relevance, (relevance_of(values, x.shape), beside.relevance), strict=True):
        np.testing.assert_allclose(relevance, want, rtol=0, atol=1e-12 * np.abs(want).max())
    np.testing.assert_allclose(found.conservation.bias, tape.bias, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_states_that_a_layer_has_kept_take_their_share_and_stay() -> None:
    x = keras.Input(batch_shape=(3, 5, 3))
    layer = kl.LSTM(UNITS, stateful=True)
    model = randomized(keras.Model(x, kl.Dense(3)(layer(x))))
    kept = np.random.default_rng(4).normal(size=(2, 3, UNITS))
    explainer = lrp_tf.Explainer(model, "epsilon")
    values, (array, _) = [], inputs_of((5, 3))
    for states in (0 * kept, kept):
        for variable, state in zip(layer.states, states, strict=True):
            variable.assign(state)
        found = explainer.explain(array, target=TARGET)
        tape, values = Tape(), steps_of(array)
        ys, _ = recur(tape, cell_of(layer.cell)[0], values, [tape.constant(state) for state in states])
        explained(tape, ys[-1], model)
        agrees(found, tape, relevance_of(values, array.shape), 1e-12)
        np.testing.assert_array_equal(layer.states, states)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode", "double_precision")
@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
def test_padding_changes_nothing(layer: str) -> None:
    """A padded sequence has the relevance of the sequence without its padding, and the padding has exactly none."""
    inner = kl.Bidirectional(kl.GRU(UNITS)) if layer == "Bidirectional" else getattr(kl, layer)(UNITS)
    x = keras.Input((None, 3))
    explainer = lrp_tf.Explainer(randomized(keras.Model(x, kl.Dense(3)(inner(kl.Masking()(x))))), "epsilon")
    whole = np.random.default_rng(0).normal(size=(1, 4, 3))
    padded = np.concatenate([whole, np.zeros((1, 3, 3))], 1)
    alone, found = explainer.explain(whole, target=1), explainer.explain(padded, target=1)
    np.testing.assert_allclose(found.relevance[:, :4], alone.relevance, rtol=0, atol=1e-15)
    assert not found.relevance.numpy()[:, 4:].any()
    for share, want in zip(found.conservation, alone.conservation, strict=True):
        np.testing.assert_allclose(share, want, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("mode", "double_precision")
def test_a_sample_that_is_masked_altogether_has_no_relevance() -> None:
    x = keras.Input((5, 3))
    model = randomized(keras.Model(x, kl.Dense(3)(kl.LSTM(UNITS, return_sequences=False)(kl.Masking()(x)))))
    array = inputs_of((5, 3))[0]
    array[1] = 0
    found = lrp_tf.Explainer(model, "epsilon").explain(array, target=TARGET)
    assert not found.relevance.numpy()[1].any()
    assert np.isfinite(found.relevance).all()
    assert np.abs(found.conservation.unexplained).max() < 1e-12

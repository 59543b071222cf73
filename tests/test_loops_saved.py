"""Saved explainers and servables of models that keep states or hold functions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf.saved.archive import SaveError
from tests.test_loops_traced import SEQUENCE, by_time, ending, values


def test_states_that_a_layer_keeps_are_read_by_what_was_saved(tmp_path) -> None:
    model, x = ending(kl.LSTM(3, stateful=True), 2), values(2, *SEQUENCE)
    explainer = lrp_tf.Explainer(model, lrp_tf.rules.Epsilon())
    first = np.array(explainer(x))
    explainer.save(tmp_path / "explainer")
    loaded = lrp_tf.Explainer.load(tmp_path / "explainer", model)
    np.testing.assert_array_equal(loaded(x), first)
    model(x)  # moves the states, which no explanation does
    moved = np.array(explainer(x))
    assert np.abs(moved - first).max() > 1e-3 * np.abs(first).max()
    np.testing.assert_array_equal(loaded(x), moved)
    lrp_tf.export(explainer, tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["explain"](tf.constant(x))
    np.testing.assert_allclose(served["relevance"], moved, rtol=1e-5, atol=1e-7)


def test_function_of_a_scan_is_not_saved(tmp_path) -> None:
    x = keras.Input((4, 3))
    model = by_time(lambda xs: kl.Dense(2)(ops.map(ops.tanh, xs)[-1]), x)
    explainer = lrp_tf.Explainer(model, lrp_tf.rules.Epsilon(), check=False)
    assert explainer(values(2, 4, 3)).shape == (2, 4, 3)
    with pytest.raises(SaveError, match=r"the function of 'map\w*' \(Map\)"):
        explainer.save(tmp_path / "explainer")

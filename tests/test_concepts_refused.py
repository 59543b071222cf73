"""What `concepts` refuses, each with what was expected, what came and the remedy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, randomize, refused, vectors
from keras import layers as kl

import lrp_tf

X = vectors(2, dtype="float32")


@pytest.fixture(scope="module")
def explainer():
    tf.config.run_functions_eagerly(True)
    inputs = keras.Input((4,))
    h = kl.Dense(5, activation="relu", name="hidden")(inputs)
    side = kl.Dense(3, activation="relu", name="side")(inputs)
    twice = kl.Dense(5, name="twice")
    h = twice(twice(h))
    gate = kl.Activation("sigmoid", name="gate")(kl.Dense(5)(side))
    both = kl.Concatenate(name="both")([kl.Multiply()([h, gate]), side])
    aside = kl.Dense(2, name="aside")(h)
    model = keras.Model(inputs, [kl.Dense(3, name="classes")(both), aside])
    yield lrp_tf.Explainer(randomize(model), output="classes")
    tf.config.run_functions_eagerly(False)


LAYERS = [
    ({"layer": "nowhere", "top": 1}, ValueError, ["'nowhere'", "no layer has this name", "hidden"]),
    ({"layer": "nowhere[heads]", "top": 1}, ValueError, ["'nowhere'", "no layer has this name"]),
    ({"layer": 3, "top": 1}, TypeError, ["layer expects the name", "3"]),
    ({"layer": "aside", "top": 1}, ValueError, ["'aside'", "does not lie on a way to the output"]),
    ({"layer": "gate", "top": 1}, ValueError, ["No relevance arrives at layer 'gate'", "gates"]),
    ({"layer": "twice", "top": 1}, ValueError, ["'twice' is called 2 times", "layers=['twice']"]),
    ({"layer": "hidden[heads]", "top": 1}, ValueError, ["'hidden' has no heads", "attention_output"]),
    ({"layer": "hidden[2]", "top": 1}, ValueError, ["no such axis", "Expected 1 to 1", "Received: 2"]),
    ({"layer": "hidden[0]", "top": 1}, ValueError, ["axis 0 holds the samples"]),
    ({"layer": "hidden", "channels": [5]}, ValueError, ["channel of layer 'hidden'", "0 to 4", "[5]"]),
    ({"layer": "hidden", "channels": [-1]}, ValueError, ["channel of layer 'hidden'", "0 to 4", "[-1]"]),
    ({"layer": "hidden", "channels": []}, ValueError, ["one at least", "(0,)"]),
    ({"layer": "hidden", "channels": [[0], [1], [2]]}, ValueError, ["a batch of 2", "(3, 1)"]),
    ({"layer": "hidden", "channels": [[0], [1, 2]]}, ValueError, ["channels", "differ in length"]),
    ({"layer": "hidden", "channels": 0}, ValueError, ["one at least", "()"]),
    ({"layer": "hidden", "channels": [0.5]}, TypeError, ["channels expects integers"]),
    ({"layer": "hidden", "channels": [True]}, TypeError, ["channels expects integers"]),
    ({"layer": "hidden"}, ValueError, ["channels= or top="]),
    ({"layer": "hidden", "channels": [0], "top": 1}, ValueError, ["channels= or top=", "top=1"]),
    ({"layer": "hidden", "top": 6}, ValueError, ["top expects 1 to 5", "6"]),
    ({"layer": "hidden", "top": 0}, ValueError, ["top expects 1 to 5", "0"]),
    ({"layer": "hidden", "top": 1.5}, TypeError, ["top expects", "1.5"]),
    ({"layer": "hidden", "top": True}, TypeError, ["top expects", "True"]),
    ({"layer": "hidden", "top": 1, "positions": [(0,)]}, ValueError, ["positions expects [k, 0]"]),
    ({"layer": "hidden", "top": 1, "branches": "both"}, ValueError, ['"keep" or "cut"', "'both'"]),
    ({"layer": "hidden", "top": 1, "conditions": ["side"]}, TypeError, ["layer -> channels"]),
    ({"layer": "hidden", "top": 1, "conditions": {"hidden": [0]}}, ValueError, ["other layers than 'hidden'"]),
    ({"layer": "hidden", "top": 1, "conditions": {"both": []}}, ValueError, ["conditions['both']", "one channel"]),
    ({"layer": "hidden", "top": 1, "conditions": {"both": [8]}}, ValueError, ["layer 'both'", "0 to 7", "[8]"]),
    ({"layer": "hidden", "top": 1, "conditions": {"side": [0]}}, ValueError, ["'hidden' and 'side'", "beside"]),
    ({"layer": "hidden", "top": 1, "conditions": {"gone": [0]}}, ValueError, ["'gone'", "no layer has this name"]),
    ({"layer": "hidden", "top": 1, "target": [[0, 1], [1, 2]]}, ValueError, ["one target", "a call for each"]),
    ({"layer": "hidden", "top": 1, "target": "topK:2"}, ValueError, ["one target", "topK:2"]),
    ({"layer": "hidden", "top": 1, "start": np.zeros((2, 4, 3))}, ValueError, ["one target", "several starts"]),
    ({"layer": "hidden", "top": 1, "target": 3}, ValueError, ["target out of range"]),
    ({"layer": "hidden", "top": 1, "target": 1, "contrast": 1}, ValueError, ["contrast is a target itself"]),
    ({"layer": "hidden", "top": 1, "max_batch": 0}, ValueError, ["max_batch"]),
]


@pytest.mark.parametrize(("options", "error", "words"), LAYERS, ids=lambda value: str(value)[:60])
def test_refused(explainer, options, error, words):
    with refused(error, *words):
        explainer.concepts(X, **options)


def test_positions_of_a_map():
    inputs = keras.Input((5, 4, 2))
    h = kl.Conv2D(3, 3, padding="same", name="conv")(inputs)
    explainer = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Dense(2)(kl.Flatten()(h)))))
    x = np.zeros((1, 5, 4, 2), "float32")
    for options, words in (
        ({"positions": [(5, 0)]}, ["position of layer 'conv'", "0 to 4", "[5]"]),
        ({"positions": [(0, -1)]}, ["position of layer 'conv'", "0 to 3", "[-1]"]),
        ({"positions": [0]}, ["positions expects [k, 2]", "(1,)"]),
        ({"positions": []}, ["positions expects [k, 2]"]),
        ({"positions": [(0, 0)] * 2, "channels": [0, 1, 2]}, ["one position for all", "2 positions for 3"]),
        ({"positions": [(0, 0)] * 2, "top": 2}, ["a single position", "2 positions"]),
    ):
        with refused(ValueError, *words):
            explainer.concepts(x, layer="conv", **options)


def test_no_layers_for_a_stream(explainer):
    with refused(ValueError, "one layer at least"):
        explainer.channel_relevance(X, layers=[])
    with refused(ValueError, "'nowhere'"):
        explainer.channel_relevance(X, layers=["hidden", "nowhere"])
    assert list(explainer.channel_relevance(X, layers="hidden")) == ["hidden"]


def test_nan_is_told_with_where_it_began(explainer):
    x = X.copy()
    x[1, 2] = np.nan
    for ask in (explainer.concepts, explainer.channel_relevance):
        options = {"layer": "hidden", "top": 1} if ask == explainer.concepts else {"layers": ["hidden"]}
        with refused(ValueError, "holds 1 NaN", "sample(s) [1]"):
            ask(x, **options)


def test_an_axis_whose_size_the_call_alone_knows(explainer):
    inputs = keras.Input((None, 3))
    h = kl.Conv1D(2, 1, name="conv")(inputs)
    explainer = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(h)))))
    x = np.ones((1, 4, 3), "float32")
    found = explainer.concepts(x, layer="conv[1]", channels=[3])
    assert found.relevance.shape == (1, 4)
    for options in ({"channels": [4]}, {"top": 5}):
        with refused(ValueError, "out of range"):
            explainer.concepts(x, layer="conv[1]", **options)
    one = explainer.concepts(x, layer="conv[1]", channels=[3], conditions={"conv": [1]})  # of another axis
    close(one.maps, explainer.concepts(x, layer="conv", channels=[1], positions=[3]).maps, 1e-6)

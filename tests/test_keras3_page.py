"""docs/keras3.md quotes the messages that Keras 3 prints today."""

from __future__ import annotations

import re
from collections.abc import Callable

import keras
import pytest
import tensorflow as tf
from helpers import REPOSITORY

PAGE = (REPOSITORY / "docs/keras3.md").read_text(encoding="utf-8")


def plain() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def nested_output() -> None:
    base = plain()
    model = keras.Sequential([keras.Input((3,)), base, keras.layers.Dense(2)])
    keras.Model(model.inputs, [base.layers[0].output, model.outputs[0]])


def gradient_of_symbols() -> None:
    model = plain()
    with tf.GradientTape() as tape:
        tape.watch(model.inputs[0])


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: keras.Sequential([keras.layers.Dense(2)]).output,
        lambda: plain().layers[0].output_shape,
        lambda: keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)]).layers[0].output_shape,
        lambda: plain().layers[0].get_output_at(0),
        lambda: plain().layers[0]._inbound_nodes[0].inbound_layers,
        lambda: tf.keras.backend.learning_phase(),
        lambda: tf.keras.backend.get_session(),
        lambda: keras.backend.gradients,
        lambda: keras.backend.function,
        lambda: __import__("keras.engine"),
        lambda: __import__("keras.utils.generic_utils"),
        lambda: tf.keras.layers.LocallyConnected1D,
        lambda: nested_output(),
        gradient_of_symbols,
    ],
)
def test_messages_are_as_quoted(provoke: Callable[[], object]) -> None:
    with pytest.raises((AttributeError, ValueError, ImportError)) as raised:
        provoke()
    # Names are numbered anew in each process.
    bare = lambda text: re.sub(r"(sequential|keras_tensor)(_\d+)?", r"\1", text)  # noqa: E731
    assert bare(f"{type(raised.value).__name__}: {raised.value}") in bare(PAGE)


def test_models_of_keras_2_are_refused_in_words() -> None:
    import lrp_tf

    class NotKeras3:
        pass

    with pytest.raises(TypeError, match="Keras 3"):
        lrp_tf.Explainer(NotKeras3())

"""Models that take the text itself: what follows their TextVectorization is explained."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from lrp_tf.files.errors import LoadError
from lrp_tf.heatmap.words import markers_of
from lrp_tf.texts.tokenizers import Encoded, Tokenizer


def takes_texts(model: keras.Model) -> bool:
    """Whether an input of the model is a text."""
    return any(tensor.dtype == "string" for tensor in getattr(model, "inputs", None) or ())


def split_vectorization(model: keras.Model) -> tuple[Tokenizer, keras.Model]:
    """The two parts of a model that begins with TextVectorization: a tokenizer, and the model from token ids on.

        tokenizer, rest = lrp_tf.texts.split_vectorization(model)
        ids = np.array([tokenizer("a film").ids])

    The second shares its layers with `model`, which stays as it is.

    Raises:
        LoadError: not one input that is a text and goes into one TextVectorization with numbers of words as output.
    """
    found = [layer for layer in model.layers if isinstance(layer, layers.TextVectorization)]
    if len(found) != 1 or not takes_texts(model) or len(model.inputs) != 1:
        raise LoadError(
            "Expected a model of one text, whose input goes into one TextVectorization. Received: "
            f"{len(found)} such layers, inputs {[(t.name, t.dtype) for t in getattr(model, 'inputs', None) or ()]}. "
            "Remedy: the model from token ids on, keras.Model(layer.output, model.outputs), and `tokenizer`",
            "tokenizer",
        )
    (layer,) = found
    mode = layer.get_config()["output_mode"]
    if mode != "int":
        raise LoadError(
            f'Expected a TextVectorization with output_mode="int". Received: {mode!r}, which counts words and keeps no '
            "order"
        )
    if isinstance(model, keras.Sequential):
        shape = layer.compute_output_shape(model.inputs[0].shape)
        following = model.layers[model.layers.index(layer) + 1 :]
        return tokenizer_of(layer), keras.Sequential(
            [keras.Input(shape[1:], dtype="int32"), *following], name=model.name
        )
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.outputs
    return tokenizer_of(layer), keras.Model(layer.output, outputs, name=model.name)


def tokenizer_of(layer: layers.TextVectorization) -> Tokenizer:
    """The layer as a tokenizer; padding at the end is left to the model's length."""
    vocabulary = [str(token) for token in layer.get_vocabulary()]

    def encode(text: str) -> Encoded:
        ids = np.asarray(layer([text]))[0]
        used = np.flatnonzero(ids)
        ids = ids[: used[-1] + 1] if used.size else ids[:0]
        return Encoded([int(i) for i in ids], [vocabulary[i] for i in ids])

    tokenizer = Tokenizer(layer.name, encode, vocabulary)
    tokenizer.markers = markers_of(vocabulary)
    return tokenizer

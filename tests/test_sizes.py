"""Sizes that a model leaves open, `Explainer(..., sizes={...})`: as the static model, checked, and kept by copies."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, numbers, raises, randomize
from keras import layers as kl
from keras import ops, tree

import lrp_tf

SIZES = {"token_ids": (6,), "padding_mask": (6,)}
TEXT = {
    "token_ids": np.random.default_rng(0).integers(1, 20, (3, 6)).astype("int32"),
    "padding_mask": np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6], "int32"),
}


class Positions(kl.Layer):
    """As KerasHub has it: as many rows of the table as the text has tokens."""

    def build(self, shape):
        self.table = self.add_weight(shape=(16, shape[-1]), name="table")

    def call(self, x):
        length = ops.shape(x)[1]
        return ops.broadcast_to(ops.take(self.table, ops.arange(length), axis=0), ops.shape(x))

    def compute_output_shape(self, shape):
        return shape


class Cached(kl.Layer):
    """Attention of a decoder: it returns a cache that is None, and declares another shape than it has."""

    def __init__(self, **options):
        super().__init__(**options)
        self.project = kl.EinsumDense("btd,dhk->bthk", (None, 2, 4), name="project")

    def build(self, shape):
        self.project.build(shape)

    def call(self, x, mask, cache=None, training=None):
        h = self.project(x)
        scores = ops.einsum("bthk,bshk->bhts", h, h)
        causal = ops.arange(h.shape[1])[:, None] >= ops.arange(h.shape[1])
        scores = ops.where(ops.logical_and(causal, ops.cast(mask, "bool")[:, None, None]), scores, -1e9)
        return ops.reshape(ops.einsum("bhts,bshk->bthk", ops.softmax(scores), h), (-1, h.shape[1], 8)), cache

    def compute_output_shape(self, shape):
        return shape


class Block(kl.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention, self.norm = Cached(name="attention"), kl.LayerNormalization(name="norm")

    def build(self, x_shape, padding_mask_shape=None):
        self.attention.build(x_shape)
        self.norm.build(x_shape)

    def call(self, x, padding_mask):
        y, cache = self.attention(x, padding_mask)
        assert cache is None
        return self.norm(x + y)

    def compute_output_spec(self, x, padding_mask):
        return keras.KerasTensor(x.shape, x.dtype)


def text_model(length=None):
    ids, mask = (keras.Input((length,), dtype="int32", name=name) for name in SIZES)
    x = kl.Embedding(20, 8, name="tokens")(ids)
    x = Block(name="block")(x + Positions(name="positions")(x), mask)
    return randomize(keras.Model({"token_ids": ids, "padding_mask": mask}, kl.Dense(3)(x[:, 0]), name="text"))


def sequence_model(length=None):
    x = keras.Input((length, 4), name="sequence")
    h = kl.MultiHeadAttention(2, 2, name="attention")(x, x, use_causal_mask=True)
    return randomize(keras.Model(x, kl.Dense(3)(kl.GlobalAveragePooling1D()(h)), name="sequence_net"))


SEQUENCE = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32")


def same(actual, expected):
    for a, b in zip(tree.flatten(numbers(actual)), tree.flatten(numbers(expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_open_sizes_give_what_the_static_model_gives():
    found = lrp_tf.Explainer(text_model(), "epsilon", sizes=SIZES).explain(TEXT, layers=["block", "attention"])
    expected = lrp_tf.Explainer(text_model(6), "epsilon").explain(TEXT, layers=["block", "attention"])
    for part in (lambda e: e.relevance["token_ids"], lambda e: e.layers, lambda e: e.logits):
        same(part(found), part(expected))
    assert np.abs(found.conservation.unexplained).max() < 1e-5
    assert np.abs(found.relevance["token_ids"]).max() > 0
    close(found.output, text_model()(TEXT), 1e-6)
    assert not np.any(found.relevance["token_ids"][1, 4:])  # padding


def test_where_sizes_are_missing_the_error_says_what_to_pass():
    with raises(
        lrp_tf.UnsupportedLayerError,
        "'positions'",
        "line [0-9]+",
        r'sizes=\{"padding_mask": \(128,\), "token_ids": \(128,\)\}',
    ):
        lrp_tf.Explainer(text_model(), "epsilon")


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        ({"tokens": (6,)}, ValueError, ["no input 'tokens'", "token_ids", "sizes="]),
        ({"token_ids": (6, 2)}, ValueError, ["'token_ids'", r"\(None, None\)", r"\(6, 2\)"]),
        ({"token_ids": (0,)}, ValueError, ["'token_ids'", r"\(0,\)"]),
        ({"token_ids": 6}, TypeError, ["'token_ids'", "tuple of whole numbers", "6"]),
        ({"token_ids": (6.0,)}, TypeError, ["'token_ids'", "whole numbers"]),
        ((6,), ValueError, ["2 inputs", r'sizes=\{"padding_mask": ']),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, error, words):
    with raises(error, *words):
        lrp_tf.Explainer(text_model(), "epsilon", sizes=sizes)


def test_a_size_that_the_model_fixes_stays():
    with raises(ValueError, "'sequence'", r"\(None, 5, 4\)", r"\(7, 4\)"):
        lrp_tf.Explainer(sequence_model(5), sizes=(7, 4))
    assert lrp_tf.Explainer(sequence_model(), sizes=(None, 4)).graph.inputs[0].shape == (None, 4)


def test_inputs_of_another_size_are_refused_at_the_call():
    explain = lrp_tf.Explainer(text_model(), "epsilon", sizes=SIZES)
    longer = tree.map_structure(lambda x: np.concatenate([x, x], 1), TEXT)
    with raises(ValueError, "has the wrong shape", r"\(3, 12\)", r"sizes=\{'padding_mask': \(6,\)", "build another"):
        explain(longer)


@pytest.mark.parametrize("through", ["pickle", "copy", "with_model", "save"])
def test_copies_keep_the_sizes(through, tmp_path):
    model = sequence_model()
    explain = lrp_tf.Explainer(model, "epsilon", sizes=[5, 4])
    expected = explain(SEQUENCE, 0)
    if through == "pickle":
        other = pickle.loads(pickle.dumps(explain))
    elif through == "copy":
        other = copy.deepcopy(explain)
    elif through == "with_model":
        other = explain.with_model(sequence_model())
    else:
        explain.save(tmp_path / "net.lrp")
        other = lrp_tf.Explainer.load(tmp_path / "net.lrp", model)
    with raises(ValueError, r"sizes=\{'sequence': \(5, 4\)\}"):
        other(SEQUENCE[:, 1:])
    same(other(SEQUENCE, 0), expected)
    assert other.graph.inputs[0].shape == (5, 4)


def test_an_export_has_the_sizes(tmp_path):
    explain = lrp_tf.Explainer(sequence_model(), "epsilon", sizes=(5, 4))
    lrp_tf.export(explain, tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["explain"]
    assert tuple(next(iter(served.structured_input_signature[1].values())).shape) == (None, 5, 4)

"""The presets attn_lrp and cp_lrp on whole transformers, against slow implementations of the papers."""

import keras
import numpy as np
import pytest
from helpers import attention_reference as reference
from helpers.checking import randomize
from helpers.transformers import decoder, vision_transformer
from keras import layers as kl
from keras import ops

import lrp_tf

pytestmark = pytest.mark.usefixtures("mode")

METHODS = ("attn_lrp", "cp_lrp")
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3))
TOKENS = np.array([[1, 4, 2, 9, 3, 3], [7, 0, 5, 5, 10, 2]], "int32")


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 2e-7), ("float32", 3e-6)])
@pytest.mark.parametrize("method", METHODS)
def test_a_vision_transformer(method, dtype, limit):
    model = vision_transformer(dtype=dtype)
    images, target = IMAGES.astype(dtype), [2, 0]
    e = lrp_tf.Explainer(model, method).explain(images, target)
    for n in range(2):
        logit, R = reference.vision_transformer(model, images[n].astype("float64"), target[n], method)
        assert error(e.logits[n, target[n]], logit) < limit
        assert error(e.relevance[n], R) < limit
    assert np.abs(e.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-6), ("float32", 5e-6)])
@pytest.mark.parametrize("method", METHODS)
def test_a_decoder(method, dtype, limit):
    model, target = decoder(dtype=dtype), [[5, 3], [4, 8]]
    e = lrp_tf.Explainer(model, method).explain(TOKENS, target)
    for n, (position, token) in enumerate(target):
        logit, R = reference.decoder(model, TOKENS[n], position, token, method)
        assert error(e.logits[n, position, token], logit) < limit
        assert error(e.relevance[n], R) < limit
    assert np.abs(e.conservation.unexplained).max() < 1e-5


# --- what must hold of every model ---------------------------------------------------------------


def test_cp_lrp_conserves_in_a_decoder_without_bias():
    model, rng = decoder(time=12, depth=3, width=32, vocabulary=30, hidden=48), np.random.default_rng(3)
    tokens = rng.integers(0, 30, (8, 12)).astype("int32")
    target = [[11, int(token)] for token in rng.integers(0, 30, 8)]
    e = lrp_tf.Explainer(model, "cp_lrp").explain(tokens, target)
    logits = np.array([e.logits[n, p, t] for n, (p, t) in enumerate(target)], "float64")
    assert np.abs(np.sum(e.relevance, 1, dtype="float64") / logits - 1).max() < 1e-4


def text_encoder(time, padded):
    """Tokens of which 0 is padding, or as long as they are."""
    inputs = keras.Input((time,), dtype="int32")
    x = kl.Embedding(12, 8, name="embedding")(inputs)
    seen = ops.not_equal(inputs, 0)[:, None] if padded else None
    for i in range(2):
        h = kl.MultiHeadAttention(2, 4, name=f"attention{i}")(x, x, attention_mask=seen)
        x = kl.LayerNormalization(name=f"norm{i}")(kl.Add(name=f"add{i}")([x, h]))
    return keras.Model(inputs, kl.Dense(3, name="head")(x[:, 0]))


@pytest.mark.parametrize("method", METHODS)
def test_padded_and_cut_texts_agree(method):
    """The second text is padding but for its first token; the third is nothing else, so that its mask is all False."""
    padded, cut = randomize(text_encoder(6, True)), text_encoder(4, False)
    cut.set_weights(padded.get_weights())
    text = np.array([[3, 9, 4, 1]], "int32")
    whole = np.array([[3, 9, 4, 1, 0, 0], [5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], "int32")
    e = lrp_tf.Explainer(padded, method).explain(whole, 1)
    assert error(e.relevance[:1, :4], np.asarray(lrp_tf.Explainer(cut, method)(text, 1))) < 5e-6
    assert not np.asarray(e.relevance)[:2][whole[:2] == 0].any()
    assert np.isfinite(e.relevance).all()
    assert np.abs(e.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_a_padding_mask_of_the_model(method):
    model, plain = decoder(padded=True), decoder()
    plain.set_weights(model.get_weights())
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], "int32")
    tokens, target = TOKENS * mask, [[3, 2], [5, 2]]
    R, of_mask = lrp_tf.Explainer(model, method)([tokens, mask], target)
    for n, (position, token) in enumerate(target):
        expected = reference.decoder(model, tokens[n], position, token, method, mask=mask[n])[1]
        assert error(R[n], expected) < 5e-6
    assert error(R[1], np.asarray(lrp_tf.Explainer(plain, method)(TOKENS, target))[1]) < 5e-6
    assert not np.asarray(of_mask).any()
    assert not np.asarray(R)[mask == 0].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_models_of_low_precision_are_explained_in_float32(method, policy):
    low, full = vision_transformer(dtype=policy), vision_transformer(dtype="float32")
    full.set_weights([np.asarray(w, "float32") for w in low.get_weights()])
    images = IMAGES.astype("float32")
    assert error(lrp_tf.Explainer(low, method)(images, 1), np.asarray(lrp_tf.Explainer(full, method)(images, 1))) < 3e-6


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_contrast_and_options(method):
    model, images = vision_transformer(), IMAGES.astype("float32")
    explainer = lrp_tf.Explainer(model, method)
    single = np.stack([explainer(images, c) for c in range(3)], 1)
    assert error(explainer(images, [[0, 1, 2]] * 2), single) < 1e-6
    e = explainer.explain(images, 0, contrast=1)
    plain = explainer.explain(images, start=np.array([[1.0, -1.0, 0.0]] * 2, "float32") * np.asarray(e.logits))
    assert error(e.relevance, np.asarray(plain.relevance)) < 1e-5
    assert explainer.check(images, print_fn=None)
    without = lrp_tf.Explainer(model, method, zero_bias=True).explain(images, 0)
    assert np.isfinite(without.relevance).all()
    assert np.abs(without.conservation.unexplained).max() < 1e-5
    sharpened = lrp_tf.Explainer(model, method, gamma=0.1).explain(images, 0)
    assert error(sharpened.relevance, single[:, 0]) > 0.01
    assert np.abs(sharpened.conservation.unexplained).max() < 1e-5

"""Models of token ids from Python: next tokens against others, heads and layers inside, exported signatures."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import randomize
from helpers.custom_layers import Encoder, token_model, tokens
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import heatmap

VOCABULARY, LENGTH = 7, 5
IDS = np.array([[1, 2, 3, 0, 0], [6, 5, 4, 3, 2]], "int32")


def language_model():
    """Causal attention over tokens and their padding, to the next token."""
    inputs = {name: keras.Input((LENGTH,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    h = kl.Embedding(VOCABULARY, 4)(inputs["token_ids"])
    mask = ops.cast(inputs["padding_mask"], "bool")[:, None, :]
    h = h + kl.MultiHeadAttention(2, 4, name="attention")(h, h, attention_mask=mask, use_causal_mask=True)
    return randomize(keras.Model(inputs, kl.Dense(VOCABULARY, name="head")(h)))


@pytest.fixture(scope="module")
def explainer():
    return lrp_tf.Explainer(language_model(), "attn_lrp")


def fed(ids=IDS):
    return {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}


@pytest.mark.parametrize("contrast", [2, [2, 0], "softmax", "mean"])
def test_next_token_against_others_is_a_start_made_by_hand(explainer, contrast):
    """z of the target at its position, less the weighted z of the others at the same one; zero elsewhere."""
    places = np.array([[2, 5], [4, 1]])
    found = explainer.explain(fed(), places, contrast=contrast)
    logits = found.logits.numpy()
    start = np.zeros_like(logits)
    for sample, (position, target) in enumerate(places):
        z = logits[sample, position].astype("float64")
        weights = np.full(VOCABULARY, 1 / (VOCABULARY - 1))
        if contrast == "softmax":
            weights = np.exp(z - z.max())
        elif contrast != "mean":
            weights = np.eye(VOCABULARY)[np.broadcast_to(contrast, 2)[sample]]
        weights[target] = 0
        start[sample, position] = -weights / weights.sum() * z
        start[sample, position, target] = z[target]
    by_hand = explainer(fed(), start=start)
    largest = np.abs(by_hand["token_ids"]).max()
    np.testing.assert_allclose(found.relevance["token_ids"], by_hand["token_ids"], atol=2e-6 * largest)
    np.testing.assert_allclose(found.conservation.start, start.sum((1, 2)), rtol=1e-5)
    later = np.arange(LENGTH) > places[:, :1]
    assert not found.relevance["token_ids"].numpy()[later].any()  # what comes after the position has no say


def test_a_token_against_itself_and_beyond_the_vocabulary_are_refused(explainer):
    with pytest.raises(ValueError, match="both are 5"):
        explainer(fed(), [2, 5], contrast=5)
    with pytest.raises(ValueError, match="0 to 6"):
        explainer(fed(), [2, 5], contrast=VOCABULARY)


def test_exported_signatures_take_token_ids(explainer, tmp_path):
    """What the SavedModel gives is what the Explainer gives; a bad sample costs no other."""
    exported = lrp_tf.export(explainer, tmp_path / "1", warmup=False, print_fn=None)
    assert set(exported.signatures) == {"serving_default", "explain_target", "explain_contrast"}
    assert exported.signatures["explain_contrast"][0] == ["contrast", "padding_mask", "target", "token_ids"]
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    ids = np.concatenate([IDS, [[1, 2, 3, 4, VOCABULARY]], IDS, IDS[:1]]).astype("int32")
    places = np.array([[2, 5], [4, 1], [0, 0], [5, 0], [1, 3], [0, 3]], "int32")
    rivals = np.array([2, 0, 1, 1, VOCABULARY, 3], "int32")
    inputs = {name: tf.constant(value) for name, value in fed(ids).items()}
    plain = loaded.signatures["explain_target"](**inputs, target=tf.constant(places))
    assert plain["status"].numpy().tolist() == [
        *(b"ok", b"ok", b"index out of range", b"target out of range", b"ok", b"ok")
    ]
    found = loaded.signatures["explain_contrast"](**inputs, target=tf.constant(places), contrast=tf.constant(rivals))
    assert found["status"].numpy().tolist() == [
        *(b"ok", b"ok", b"index out of range", b"target out of range", b"target out of range"),
        b"the target is the class of contrast",
    ]  # fmt: skip
    for signature, options in ((plain, {}), (found, {"contrast": rivals[:2]})):
        wanted = explainer.explain(fed(), places[:2], **options)
        relevance = signature["relevance_token_ids"].numpy()
        np.testing.assert_allclose(relevance[:2], wanted.relevance["token_ids"], rtol=1e-5, atol=1e-6)
        assert np.isnan(relevance[2:4]).all()


def test_exported_signatures_of_a_single_input_of_ids(tmp_path):
    model = randomize(token_model())
    lrp_tf.export(lrp_tf.Explainer(model, "attn_lrp"), tmp_path / "1", warmup=False, print_fn=None)
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    found = signatures["explain"](tf.constant(tokens()))
    wanted = lrp_tf.Explainer(model, "attn_lrp").explain(tokens())
    np.testing.assert_allclose(found["relevance"], wanted.relevance, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["target"], wanted.target)
    assert found["relevance"].shape == (3, 6)
    assert not np.asarray(found["relevance"])[tokens() == 0].any()


def test_heads_and_blocks_inside_what_is_followed():
    """What reaches the output of an attention leaves for its weights and values half and half, head by head."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    h = kl.Embedding(VOCABULARY, 4, name="embedding")(inputs)
    for name in ("first", "second"):
        h = Encoder(name=name)(h)
    model = randomize(keras.Model(inputs, kl.Dense(3, use_bias=False)(kl.GlobalAveragePooling1D()(h))))
    paths = [f"{block}/attention/{part}" for block in ("first", "second") for part in ("softmax", "value")]
    found = lrp_tf.Explainer(model, "attn_lrp").explain(IDS, 1, layers=[*paths, "first", "second", "embedding"])
    for block in ("first", "second"):
        weights, values = (found.layers[f"{block}/attention/{part}"].numpy() for part in ("softmax", "value"))
        assert (weights.shape, values.shape) == ((2, 2, LENGTH, LENGTH), (2, LENGTH, 2, 4))
        heads = weights.sum((2, 3))
        np.testing.assert_allclose(heads, values.sum((1, 3)), rtol=1e-3, atol=1e-5 * np.abs(weights).max())
        assert np.ptp(heads, axis=1).min() > 0  # the heads differ
    assert found.layers["second"].shape == (2, LENGTH, 4)
    np.testing.assert_allclose(found.layers["embedding"].numpy().sum(-1), found.relevance, rtol=1e-5, atol=1e-6)
    holding = lrp_tf.Explainer(model, "cp_lrp")
    assert not holding.explain(IDS, 1, layers=paths[:1]).layers[paths[0]].numpy().any()  # weights are held there


def test_layers_are_found_without_numbers_and_what_lies_between(explainer):
    paths = [
        "a/softmax_3",
        "b/softmax_17",
        "b/softmax_x",
        "c",
        "c_1",
        "d/dot_product_attention/softmax",
        "d/e/end",
        "e/d/f/end",
    ]
    graph = dataclasses.replace(explainer.graph, layers={path: [(path,)] for path in paths})
    found = {"a/softmax": 0, "b/softmax_17": 1, "c": 3, "softmax": 5, "d/softmax": 5, "e/f/end": 7}
    assert {name: graph.find_layer(name) for name in found} == {name: [(paths[i],)] for name, i in found.items()}
    for name, says in (
        ("d/end", "2 layers"),
        ("f/e/end", "no layer"),
        ("a/soft", "no layer"),
        ("x/a/softmax", "no layer"),
    ):
        with pytest.raises(ValueError, match=says):
            graph.find_layer(name)


def test_blocks_of_a_vision_transformer_lie_on_the_picture(rng):
    """A patch embedding, a class token, a block: relevance of the block's output as a map of the picture."""
    inputs = keras.Input((8, 12, 3))
    h = kl.Reshape((6, 4))(kl.Conv2D(4, 4, strides=4, name="patches")(inputs))
    h = ops.pad(h, [[0, 0], [1, 0], [0, 0]])  # the class token, of zeros
    h = Encoder(name="block")(h)
    model = randomize(keras.Model(inputs, kl.Dense(3)(h[:, 0])))
    x = rng.uniform(size=(2, 8, 12, 3)).astype("float32")
    found = lrp_tf.Explainer(model, "attn_lrp").explain(x, layers=["block/before", "block/attention/value"])
    of_tokens = found.layers["block/attention/value"][0].numpy().reshape(7, -1)
    shown = heatmap.patches(of_tokens, (2, 3), image=x[0])
    assert shown.shape == (8, 12)
    np.testing.assert_allclose(shown[:4, 8:].sum(), of_tokens[3].sum(), rtol=1e-4)
    np.testing.assert_allclose(shown.sum() + of_tokens[0].sum(), of_tokens.sum(), rtol=1e-4, atol=1e-6)
    assert found.relevance.shape == x.shape  # pixels already

"""Attention, time steps and transformers, followed through their `call`, against NumPy and explicit models."""

import keras
import numpy as np
import pytest
from helpers.checking import RULE, close, randomize, relevance
from helpers.flowing import Flow, s, values
from keras import layers as kl
from keras import ops

import lrp_tf

pytestmark = [
    pytest.mark.usefixtures("mode"),
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:(?s).* was passed an input with a mask:UserWarning"),  # layers within a layer
]
TOKENS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 1, 2, 3, 5]], "int32")


# --- attention ---------------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def multi_head(weights, q, v, start, mask=None, groups=1):
    """Relevance of v under Epsilon(1e-6) with the attention weights held, by hand; q and keys get none."""
    wq, bq, wk, bk, wv, bv, wo, bo = weights
    heads = lambda t, w, b: np.einsum("btc,cnh->btnh", t, w) + b  # noqa: E731
    Q, K, V = heads(q, wq, bq), heads(v, wk, bk), heads(v, wv, bv)
    K, V = K.repeat(groups, 2), V.repeat(groups, 2)
    scores = np.einsum("btnh,bsnh->bnts", Q, K) / np.sqrt(Q.shape[-1])
    a = softmax(scores if mask is None else np.where(mask[:, None], scores, -1e30))
    o = np.einsum("bnts,bsnh->btnh", a, V)
    R = o * np.einsum("btd,nhd->btnh", start / s(np.einsum("btnh,nhd->btd", o, wo) + bo), wo)
    R = V * np.einsum("bnts,btnh->bsnh", a, R / s(o))
    R = R.reshape(*R.shape[:2], -1, groups, R.shape[-1]).sum(3)
    return v * np.einsum("bsnh,cnh->bsc", R / s(heads(v, wv, bv)), wv)


CAUSAL = np.tril(np.ones((1, 5, 5), bool))
MASK = np.random.default_rng(0).random((3, 5, 5)) < 0.7
MASK |= np.eye(5, dtype=bool)
HEADS = {"MultiHeadAttention": (2, 4), "GroupQueryAttention": (4, 4, 2)}


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["fused", "plain"])  # Keras computes in two ways
@pytest.mark.parametrize("masks", ["none", "causal", "given", "both"])
@pytest.mark.parametrize("name", HEADS)
def test_multi_head_attention(name, masks, dropout):
    x, groups = values(5, 3), 2 if name == "GroupQueryAttention" else 1
    layer = getattr(kl, name)(*HEADS[name], dropout=dropout)
    causal = masks in ("causal", "both")
    inputs = [x, MASK] if masks in ("given", "both") else [x]
    flow = Flow(lambda t, m=None: layer(t, t, attention_mask=m, use_causal_mask=causal), *inputs, tolerance=1e-7)
    mask = {"none": None, "causal": CAUSAL, "given": MASK, "both": MASK & CAUSAL}[masks]
    close(
        flow.R[0],
        multi_head([w.numpy() for w in layer.weights if "seed" not in w.path], x, x, flow.start, mask, groups),
        1e-6,
    )


@pytest.mark.parametrize("name", HEADS)
def test_cross_attention(name):
    q, v, groups = values(4, 3), values(6, 3, seed=2), 2 if name == "GroupQueryAttention" else 1
    layer = getattr(kl, name)(*HEADS[name])
    flow = Flow(lambda a, b: layer(a, b), q, v, tolerance=1e-7)
    close(flow.R[0], np.zeros_like(q))
    close(flow.R[1], multi_head([w.numpy() for w in layer.weights], q, v, flow.start, None, groups), 1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_attention_with_the_mask_of_an_embedding(name, causal):
    """Keras masks queries and keys; R of a token is the sum over its vector."""
    groups = 2 if name == "GroupQueryAttention" else 1
    embedding, layer = kl.Embedding(7, 3, mask_zero=True), getattr(kl, name)(*HEADS[name])

    def function(tokens):
        h = embedding(tokens)
        return layer(h, h, use_causal_mask=causal)

    flow = Flow(function, TOKENS, tolerance=1e-7)
    x = embedding.embeddings.numpy()[TOKENS]
    valid = TOKENS > 0
    mask = valid[:, :, None] & valid[:, None] & (CAUSAL if causal else True)
    expected = multi_head([w.numpy() for w in layer.weights], x, x, flow.start, mask, groups).sum(-1)
    # Rows without a key attend to all alike; Keras and NumPy agree on that.
    close(flow.R[0], expected, 1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["fused", "plain"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_any_length(causal, dropout):
    free, fixed = keras.Input((None, 3)), keras.Input((5, 3))
    layer = kl.MultiHeadAttention(2, 4, dropout=dropout)
    model, twin = (randomize(keras.Model(i, layer(i, i, use_causal_mask=causal))) for i in (free, fixed))
    x = values(5, 3)
    close(relevance(model, x, target=[[1, 2]] * 3), relevance(twin, x, target=[[1, 2]] * 3))


@pytest.mark.parametrize("options", [{}, {"use_scale": True}, {"score_mode": "concat", "use_scale": True}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(options, masked, causal):
    q, v, k = values(5, 3), values(5, 4, seed=2), values(5, 3, seed=3)
    layer = kl.Attention(**options)
    masks = [np.ones((3, 5), bool), np.arange(5)[None] < np.array([[5], [3], [1]])] if masked else []

    def function(q, v, k, *masks):
        return layer([q, v, k], mask=list(masks) or None, use_causal_mask=causal)

    flow = Flow(function, q, v, k, *masks)
    if "score_mode" in options:
        scores = layer.concat_score_weight.numpy() * np.tanh(layer.scale.numpy() * (q[:, :, None] + k[:, None])).sum(-1)
    else:
        scores = q @ k.transpose(0, 2, 1) * (layer.scale.numpy() if layer.use_scale else 1)
    mask = (masks[1][:, None] if masked else True) & (CAUSAL if causal else True)
    a = softmax(np.where(mask, scores, -1e30))
    close(flow.R[:3], [np.zeros_like(q), v * (a.transpose(0, 2, 1) @ (flow.start / s(a @ v))), np.zeros_like(k)])


@pytest.mark.parametrize("use_scale", [False, True])
def test_additive_attention(use_scale):
    q, v = values(5, 4), values(6, 4, seed=2)
    layer = kl.AdditiveAttention(use_scale=use_scale)
    flow = Flow(lambda q, v: layer([q, v]), q, v)
    scale = layer.scale.numpy() if use_scale else 1
    a = softmax((scale * np.tanh(q[:, :, None] + v[:, None])).sum(-1))
    close(flow.R, [np.zeros_like(q), v * (a.transpose(0, 2, 1) @ (flow.start / s(a @ v)))])


def test_masked_softmax_at_the_output_is_stripped():
    i, m = keras.Input((4,)), keras.Input((4,), dtype="bool")
    logits = kl.Dense(4)(i)
    model = randomize(keras.Model([i, m], kl.Softmax()(logits, mask=m)))
    x, mask = values(4), np.array([[True, True, False, True]] * 3)
    e = lrp_tf.Explainer(model, RULE).explain([x, mask], 0)
    close(e.output, model([x, mask]))
    close(e.relevance[0], relevance(keras.Model(i, logits), x))


def test_relevance_of_a_token_is_the_sum_over_its_vector():
    embedding, head = kl.Embedding(7, 3), [kl.Conv1D(4, 2, activation="relu"), kl.Flatten(), kl.Dense(2)]
    i = keras.Input((5,), dtype="int32")
    model = randomize(keras.Sequential([i, embedding, *head]))
    behind = keras.Sequential([keras.Input((5, 3)), *head])
    vectors = embedding.embeddings.numpy()[TOKENS]
    close(relevance(model, TOKENS), np.asarray(relevance(behind, vectors)).sum(-1))


# --- time --------------------------------------------------------------------------------------

INNER = {
    "Conv2D": ((4, 4, 2), lambda: [kl.Conv2D(3, 3, strides=2, padding="same", activation="relu")]),
    "Dense": ((4,), lambda: [kl.Dense(3, activation="relu")]),
    "MaxPooling2D": ((4, 4, 2), lambda: [kl.MaxPooling2D()]),
    "model": ((4, 4, 2), lambda: [kl.Conv2D(3, 3), kl.BatchNormalization(), kl.ReLU(), kl.Flatten(), kl.Dense(2)]),
    "model with BatchNormalization first": ((4,), lambda: [kl.BatchNormalization(), kl.Dense(3)]),
    "separable": ((4, 4, 2), lambda: [kl.SeparableConv2D(3, 2)]),
}


@pytest.mark.parametrize("name", INNER)
def test_time_steps_are_samples(name):
    shape, stack = INNER[name]
    layers = stack()
    inner = keras.Sequential([keras.Input(shape), *layers])
    wrapped = inner if len(layers) > 1 else layers[0]
    x = values(5, *shape)
    flow = Flow(lambda t: kl.TimeDistributed(wrapped)(t), x, composite=RULE)
    merged = lrp_tf.Explainer(inner, RULE).explain(
        x.reshape(15, *shape), start=flow.start.reshape(15, *flow.y.shape[2:])
    )
    close(flow.R[0], np.asarray(merged.relevance).reshape(x.shape))
    close(flow.bias, np.asarray(merged.conservation.bias).reshape(3, 5).sum(1))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "relu"])
def test_time_distributed_dense_at_the_output(activation):
    """As Dense on three axes, whose softmax is stripped."""
    i = keras.Input((5, 4))
    hidden = kl.Dense(4, activation="relu")
    dense = kl.Dense(3, activation=activation)
    model = randomize(keras.Model(i, kl.TimeDistributed(dense)(hidden(i))))
    twin = keras.Model(i, dense(hidden(i)))
    x, target = values(5, 4), [[1, 2], [0, 0], [4, 1]]
    found, expected = (lrp_tf.Explainer(m, RULE).explain(x, target) for m in (model, twin))
    close(found.output, model(x))
    close(found.logits, expected.logits)
    close(found.relevance, expected.relevance)


def test_time_distributed_called_by_keyword():
    layer = kl.TimeDistributed(kl.Dense(3))
    flow = Flow(lambda t: layer(inputs=t), values(5, 4))
    assert np.any(flow.R[0])


# --- transformers, as in the examples of Keras -------------------------------------------------


class TransformerBlock(kl.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.att = kl.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([kl.Dense(ff_dim, activation="relu"), kl.Dense(embed_dim)])
        self.layernorm1 = kl.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = kl.LayerNormalization(epsilon=1e-6)
        self.dropout1 = kl.Dropout(rate)
        self.dropout2 = kl.Dropout(rate)

    def call(self, inputs, training=False):
        attn_output = self.att(inputs, inputs)
        attn_output = self.dropout1(attn_output, training=training)
        out1 = self.layernorm1(inputs + attn_output)
        ffn_output = self.ffn(out1)
        ffn_output = self.dropout2(ffn_output, training=training)
        return self.layernorm2(out1 + ffn_output)


class TokenAndPositionEmbedding(kl.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = kl.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = kl.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x):
        positions = ops.arange(0, ops.shape(x)[-1], 1)
        positions = self.pos_emb(positions)
        return self.token_emb(x) + positions


def test_token_and_position_embedding():
    """The share of the position is absorbed, under a name of its own."""
    layer = TokenAndPositionEmbedding(5, 7, 4)
    flow = Flow(lambda t: layer(t), TOKENS)
    x, p = layer.token_emb.embeddings.numpy()[TOKENS], layer.pos_emb.embeddings.numpy()[None]
    g = flow.start / s(x + p)
    close(flow.R[0], (x * g).sum(-1))
    close(flow.positions, (p * g).sum((1, 2)))
    assert not flow.bias.any()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `build:UserWarning")  # the example has none
def test_transformer_block_equals_its_parts():
    block = TransformerBlock(4, 2, 8)

    def parts(x):
        h = block.layernorm1(kl.Add()([x, block.att(x, x)]))
        return block.layernorm2(kl.Add()([h, block.ffn.layers[1](block.ffn.layers[0](h))]))

    x = values(5, 4)
    flow = Flow(lambda t: block(t), x, composite=RULE, tolerance=1e-7)
    i = keras.Input((5, 4))
    twin = lrp_tf.Explainer(keras.Model(i, parts(kl.Activation("linear")(i))), RULE).explain(x, start=flow.start)
    close(flow.R[0], twin.relevance)
    close(flow.bias, twin.conservation.bias)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `build:UserWarning")
def test_text_classifier_of_the_examples():
    i = keras.Input((5,), dtype="int32")
    h = TransformerBlock(4, 2, 8)(TokenAndPositionEmbedding(5, 7, 4)(i))
    h = kl.Dropout(0.1)(kl.Dense(6, activation="relu")(kl.Dropout(0.1)(kl.GlobalAveragePooling1D()(h))))
    model = randomize(keras.Model(i, kl.Dense(2, activation="softmax")(h)))
    for composite in (RULE, "epsilon_plus"):
        e = lrp_tf.Explainer(model, composite).explain(TOKENS)
        close(e.output, model(TOKENS, training=False), 1e-7)
        assert e.relevance.shape == TOKENS.shape
        assert np.any(e.relevance)
        assert np.abs(e.conservation.unexplained).max() < 1e-9

"""Formats of what goes in: precisions, masks, tokens. The clone computes as the model does and loses no relevance."""

import keras
import numpy as np
import pytest
from helpers.checking import RULE, check, close, images, randomize, relevance, vectors, with_weights
from helpers.custom_layers import SEQUENCES, Encoder, Gate, Residual, Scale, token_model, tokens, transformer
from keras import layers as kl
from keras import ops

import lrp_tf


@pytest.fixture
def policy(request):
    """The policy that the test asks for, and floats of the precision that its variables have."""
    floatx, before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64" if request.param == "float64" else "float32")
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(before)


# --- precisions --------------------------------------------------------------------------------


def everything(input_dtype=None):
    """Every kind of step that a policy may reach: convolutions, normalization, gates, attention, pooling."""
    i = keras.Input((8, 8, 3), dtype=input_dtype)
    h = kl.Conv2D(4, 3, padding="same", activation="relu")(i)
    h = kl.ReLU()(kl.BatchNormalization()(kl.DepthwiseConv2D(3, padding="same")(h)))
    h = kl.SeparableConv2D(4, 3, strides=2, padding="same", activation="relu")(h)
    h = Gate()(Residual(4, 0.5)(h))
    h = kl.LayerNormalization()(h) + kl.GlobalAveragePooling2D(keepdims=True)(h)
    h = Encoder(heads=2, size=4)(kl.Reshape((16, 4))(h))
    h = Scale()(kl.GlobalAveragePooling1D()(h))
    return keras.Model(i, kl.Dense(3, activation="softmax", dtype="float32" if input_dtype != "float64" else None)(h))


# policy -> (tolerance of the clone's output against the model's, of what nothing explains)
PRECISIONS = {
    "float32": (1e-5, 1e-5),
    "float64": (1e-12, 1e-9),
    "mixed_float16": (2e-2, 1e-5),
    "mixed_bfloat16": (1e-1, 1e-5),
}


SLOW = pytest.mark.slow
BFLOAT = pytest.param("mixed_bfloat16", marks=SLOW)


@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=SLOW), "float64", "mixed_float16", BFLOAT], indirect=True
)
def test_policies(policy):
    output, rest = PRECISIONS[policy]
    dtype = "float64" if policy == "float64" else "float32"
    model, x = randomize(everything(dtype)), images(channels=3, dtype=dtype)
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    found = explainer.explain(x, 0)
    assert explainer.graph.dtype == dtype
    assert found.relevance.dtype == dtype
    assert np.abs(found.conservation.unexplained).max() < rest
    close(np.asarray(found.output, dtype), np.asarray(model(x), dtype), output)
    keras.config.set_dtype_policy(dtype)
    plain = with_weights(everything(dtype), model.get_weights())
    expected = lrp_tf.Explainer(plain, "epsilon_plus").explain(x, 0)
    close(found.logits, expected.logits, 1e-6)
    close(found.relevance, expected.relevance, 1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", BFLOAT], indirect=True)
def test_policies_of_token_models(policy):
    model = randomize(token_model())
    found = lrp_tf.Explainer(model, "epsilon_plus").explain(tokens(), 0)
    keras.config.set_dtype_policy("float32")
    plain = with_weights(token_model(), model.get_weights())
    close(found.relevance, relevance(plain, tokens(), "epsilon_plus"), 1e-5)
    assert found.relevance.dtype == "float32"
    assert np.abs(found.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("dtype", ["float16", pytest.param("float64", marks=SLOW)])
def test_relevance_has_the_dtype_of_the_input(policy, dtype):
    model, x = randomize(everything(dtype)), images(channels=3, dtype=dtype)
    found = lrp_tf.Explainer(model, "epsilon_plus").explain(x, 0)
    assert found.relevance.dtype == dtype
    assert np.abs(found.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"], indirect=True)
def test_single_layers_may_have_a_policy_of_their_own(policy):
    i = keras.Input((8, 8, 3))
    h = kl.Conv2D(4, 3, activation="relu", dtype="mixed_bfloat16")(i)
    h = kl.BatchNormalization(dtype="mixed_float16")(Gate()(Residual(4)(h)))
    h = kl.MultiHeadAttention(2, 4, dtype="mixed_bfloat16")(h, h)
    model = randomize(keras.Model(i, kl.Dense(2, dtype="float32")(kl.GlobalAveragePooling2D()(h))))
    found = check(model, images(channels=3, dtype="float32"), RULE, tolerance=1e-1)
    assert np.abs(found.conservation.unexplained).max() < 1e-5


# --- masks -------------------------------------------------------------------------------------


def masked_vectors():
    x = SEQUENCES.copy()
    x[0, 4:] = x[1, 2:] = 0
    return x


# Heads of size 4, since Keras rounds 1 / sqrt(size) to float32.
def attending(i):
    h = kl.Embedding(11, 4, mask_zero=True)(i)
    return kl.GlobalAveragePooling1D()(kl.MultiHeadAttention(2, 4)(h, h))


def residual_attention(i):
    h = kl.Embedding(11, 4, mask_zero=True)(i)
    h = kl.LayerNormalization()(kl.Add()([h, kl.MultiHeadAttention(2, 4, name="attention")(h, h)]))
    return kl.GlobalAveragePooling1D()(kl.Dense(3, activation="relu")(h))


def grouped(i):
    h = kl.Embedding(11, 4, mask_zero=True)(i)
    return kl.GlobalAveragePooling1D()(kl.Add()([h, kl.GroupQueryAttention(4, 4, 2)(h, h)]))


def causal(i):
    h = kl.Masking()(i)
    return kl.GlobalAveragePooling1D()(kl.MultiHeadAttention(2, 4)(h, h, use_causal_mask=True))


def normalized(i):
    return kl.GlobalAveragePooling1D()(kl.LayerNormalization()(kl.Masking()(i)))


def distributed(i):
    h = kl.TimeDistributed(kl.Dense(3, activation="tanh"))(kl.Masking()(i))
    return kl.GlobalAveragePooling1D()(kl.TimeDistributed(Scale())(h))


def nested(i):
    j = keras.Input((6, 4))
    block = keras.Model(j, kl.LayerNormalization()(kl.Dense(4)(Encoder()(j))), name="block")
    k = keras.Input((6, 4))
    outer = keras.Sequential([k, block, kl.Dropout(0.5)], name="outer")
    return kl.GlobalAveragePooling1D()(outer(kl.Masking()(i)))


def masked_inside(i):
    j = keras.Input((6, 4))
    inner = keras.Model(j, kl.LayerNormalization()(kl.Masking()(j)))
    return kl.GlobalAveragePooling1D()(kl.Activation("relu")(inner(i)))


def shared_encoder(i):
    encoder = Encoder()
    return kl.GlobalAveragePooling1D()(encoder(encoder(kl.Masking()(i))))


def joined(i):
    h = kl.Masking()(i)
    h = kl.Concatenate()([h, kl.Dense(2)(h)])
    return kl.GlobalAveragePooling1D()(kl.Dropout(0.5)(h))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning")  # Keras' grouped attention
@pytest.mark.parametrize(
    "body",
    [
        *(attending, residual_attention, normalized, distributed, nested),
        *(pytest.param(body, marks=SLOW) for body in (grouped, causal, masked_inside, shared_encoder, joined)),
    ],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_masks(body):
    """What is masked gives nothing to the output and takes no relevance."""
    integers = body in (attending, residual_attention, grouped)
    i = keras.Input((6,), dtype="int32") if integers else keras.Input((6, 4))
    model = randomize(keras.Model(i, kl.Dense(2)(body(i))))
    x = tokens() if integers else masked_vectors()
    r = np.asarray(check(model, x, "epsilon_plus", target=1).relevance)
    assert not np.any(r[0, 4:])
    assert not np.any(r[1, 2:])
    assert np.all(r[2] != 0 if integers else np.any(r[2] != 0, axis=-1))
    both = lrp_tf.Explainer(model, "epsilon_plus")(x, [[0, 1]] * 3)
    close(both[:, 1], r, 1e-12)


@pytest.mark.usefixtures("double_precision")
def test_mask_of_the_callers_own():
    """An attention mask among the inputs: relevance None, and the other input as if the mask were a constant."""
    i, m = keras.Input((6, 4), name="x"), keras.Input((6,), dtype="bool", name="mask")
    h = kl.MultiHeadAttention(2, 4)(i, i, attention_mask=m[:, None, :])
    model = randomize(keras.Model([i, m], kl.Dense(2)(kl.GlobalAveragePooling1D()(h))))
    x, mask = SEQUENCES, tokens() > 0
    found = lrp_tf.Explainer(model, "epsilon").explain([x, mask], 0)
    close(found.output, model([x, mask]), 1e-12)
    assert np.abs(found.conservation.unexplained).max() < 1e-9
    assert found.relevance[1] is None
    assert not np.any(found.relevance[0][0, 4:])


# --- integers ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
def test_relevance_of_tokens_is_that_of_their_vectors():
    full = randomize(token_model())
    head_input = keras.Input((6, 4))
    masked = kl.Masking()(head_input)
    head = keras.Model(
        head_input, full.get_layer("logits")(kl.GlobalAveragePooling1D()(full.get_layer("encoder")(masked)))
    )
    table = full.get_layer("embedding").embeddings
    table.assign(table * np.sign(np.arange(11))[:, None])  # Masking looks for zeros
    x = tokens()
    found = check(full, x, RULE, target=0, layers=["embedding"])
    between = relevance(head, full.get_layer("embedding")(x), RULE)
    close(found.layers["embedding"], between)
    close(found.relevance, np.sum(between, axis=-1))


@pytest.mark.usefixtures("double_precision")
def test_tokens_beside_floats():
    i, f = keras.Input((6,), dtype="int32", name="tokens"), keras.Input((5,), name="facts")
    h = kl.GlobalAveragePooling1D()(Encoder()(kl.Embedding(11, 4, mask_zero=True)(i)))
    model = randomize(keras.Model({"tokens": i, "facts": f}, kl.Dense(2)(kl.Concatenate()([h, Scale()(f)]))))
    found = check(model, {"facts": vectors(units=5), "tokens": tokens()}, "epsilon_plus")
    assert found.relevance["tokens"].shape == (3, 6)
    assert all(np.any(r) for r in found.relevance.values())


@pytest.mark.usefixtures("double_precision")
def test_integers_that_choose_but_are_no_tokens_take_none():
    """Positions into a tensor, and a length that masks: no relevance enters."""
    i, n = keras.Input((6, 4), name="x"), keras.Input((), dtype="int32", name="length")

    class Until(kl.Layer):
        def call(self, x, length):
            return ops.where(ops.less(ops.arange(6), length[:, None])[:, :, None], x, 0.0)

    model = randomize(keras.Model({"x": i, "length": n}, kl.Dense(2)(kl.Flatten()(Until()(kl.Dense(4)(i), n)))))
    x = {"x": SEQUENCES, "length": np.array([4, 2, 6], "int32")}
    found = lrp_tf.Explainer(model, RULE).explain(x, 0)
    close(found.output, model(x), 1e-12)
    assert np.abs(found.conservation.unexplained).max() < 1e-9
    assert found.relevance["length"] is None
    assert not np.any(found.relevance["x"][0, 4:])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"], indirect=True)
def test_tokens_of_a_subclassed_model_stay_whole(policy):
    """A number of a token does not fit into half precision."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding, self.pool, self.head = kl.Embedding(5000, 4), kl.GlobalAveragePooling1D(), kl.Dense(2)

        def call(self, x):
            return self.head(self.pool(self.embedding(x)))

    model, x = Model(), tokens(4999)
    model(x)
    i = keras.Input((6,), dtype="int32")
    twin = keras.Model(i, model.head(model.pool(model.embedding(i))))
    found = lrp_tf.Explainer(randomize(model), "epsilon").explain(x, 0)
    expected = lrp_tf.Explainer(twin, "epsilon").explain(x, 0)
    close(found.logits, expected.logits, 1e-6)
    close(np.asarray(found.relevance, "float32"), np.asarray(expected.relevance, "float32"), 1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_relevance_of_a_subclassed_model_keeps_the_precision_of_floats(policy):
    functional = transformer()

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = functional

        def call(self, x):
            return self.body(x)

    model, x = Model(), SEQUENCES.astype("float32")
    model(x)
    found = lrp_tf.Explainer(randomize(model), "epsilon").explain(x, 0).relevance
    expected = lrp_tf.Explainer(functional, "epsilon").explain(x, 0).relevance
    assert found.dtype == "float32"
    close(found, expected, 1e-5)

"""Separable convolutions and layers of one's own, followed through their `call`, against explicit models."""

import keras
import numpy as np
import pytest
from helpers.checking import BOX, RULE, close, randomize, relevance
from helpers.flowing import Flow, s, values
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import rules

pytestmark = [
    pytest.mark.usefixtures("mode"),
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:(?s).* was passed an input with a mask:UserWarning"),  # layers within a layer
]
TOKENS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 1, 2, 3, 5]], "int32")


# --- convolutions in two parts -----------------------------------------------------------------


@pytest.mark.parametrize("composite", [RULE, rules.Flat(), BOX], ids=["alpha_beta", "flat", "gamma_box"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("rank", [1, 2])
def test_separable_convolution_is_depthwise_then_pointwise(rank, norm, bias, composite):
    options = {"strides": 2, "padding": "same", "depth_multiplier": 2}
    separable = getattr(kl, f"SeparableConv{rank}D")(5, 3, use_bias=bias, **options)
    depthwise = getattr(kl, f"DepthwiseConv{rank}D")(3, use_bias=False, **options)
    pointwise = getattr(kl, f"Conv{rank}D")(5, 1, use_bias=bias)
    x = values(*(7, 6)[:rank], 2)

    def build(*layers):
        rest = [kl.BatchNormalization()] if norm else []
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, *rest, kl.ReLU(), kl.Flatten(), kl.Dense(2)])

    model, twin = randomize(build(separable)), build(depthwise, pointwise)
    twin.set_weights(model.get_weights())
    found, expected = (lrp_tf.Explainer(m, composite).explain(x, 0) for m in (model, twin))
    close(found.output, expected.output)
    close(found.relevance, expected.relevance)
    close(found.conservation.bias, expected.conservation.bias)


# --- layers of one's own -----------------------------------------------------------------------


@keras.saving.register_keras_serializable("test_own_layers")
class Linear(kl.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.b = self.add_weight(shape=(self.units,), name="bias")

    def call(self, x):
        return ops.matmul(x, self.w) + self.b


class Positive(Linear):
    """Its kernel is computed from variables alone."""

    def call(self, x):
        return ops.matmul(x, ops.softplus(self.w)) + ops.square(self.b)


class Einsum(Linear):
    def call(self, x):
        return ops.add(self.b, ops.einsum("bc,cd->bd", x, self.w))


class Operator(Linear):
    def call(self, x):
        return x @ self.w + self.b


def around(layer):
    return keras.Sequential([keras.Input((4,)), kl.Dense(5, activation="relu"), layer, kl.ReLU(), kl.Dense(2)])


@pytest.mark.parametrize(
    "composite", [RULE, rules.Flat(), rules.Gamma(), rules.Epsilon(zero_bias=True), "tutorial"], ids=str
)
@pytest.mark.parametrize("cls", [Linear, Einsum, Operator])
def test_matmul_with_a_weight_is_dense(cls, composite):
    composite = lrp_tf.composites.get("tutorial", low=-4.0, high=4.0) if composite == "tutorial" else composite
    model, twin = randomize(around(cls(3))), around(kl.Dense(3))
    twin.set_weights(model.get_weights())
    found, expected = (lrp_tf.Explainer(m, composite).explain(values(4), 0) for m in (model, twin))
    close(found.relevance, expected.relevance)
    close(found.conservation.bias, expected.conservation.bias)


def test_kernel_computed_from_variables_follows_them():
    layer, twin = Positive(3), around(kl.Dense(3))
    model = randomize(around(layer))
    explainer = lrp_tf.Explainer(model, RULE)
    for step in (0.0, 1.5):
        layer.w.assign_add(np.full(layer.w.shape, step))
        weights = model.get_weights()
        weights[2:4] = np.log1p(np.exp(weights[2])), weights[3] ** 2
        twin.set_weights(weights)
        close(explainer(values(4), 0), relevance(twin, values(4)))
        close(explainer.explain(values(4), 0).output, model(values(4)))


class Tied(keras.Model):
    """Logits over the tokens by the transposed table of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.dense, self.pool = (
            kl.Embedding(7, 4),
            kl.Dense(4, activation="relu"),
            kl.GlobalAveragePooling1D(),
        )

    def call(self, tokens):
        h = self.pool(self.dense(self.embedding(tokens)))
        return ops.matmul(h, ops.transpose(self.embedding.embeddings))


def test_weight_tying():
    model = Tied()
    model(TOKENS)
    randomize(model)
    i = keras.Input((5,), dtype="int32")
    logits = kl.Dense(7, use_bias=False)
    twin = keras.Model(i, logits(model.pool(model.dense(model.embedding(i)))))
    explainer = lrp_tf.Explainer(model, RULE)
    for _ in range(2):
        logits.kernel.assign(model.embedding.embeddings.numpy().T)
        close(explainer(TOKENS, 0), relevance(twin, TOKENS))
        model.embedding.embeddings.assign(model.embedding.embeddings + 0.1)


WAYS = {
    "x * self.gamma": lambda x, g: x * g,
    "self.gamma * x": lambda x, g: g * x,
    "ops.multiply": ops.multiply,
    "x / self.gamma": lambda x, g: x / g,
    "x * (1 + self.gamma)": lambda x, g: x * (1 + g),
}


class Scaled(kl.Layer):
    """LayerScale, and other ways to write what a variable does."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

    def call(self, x):
        return self.way(x, self.gamma)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_layer_scale_passes_relevance(way):
    flow = Flow(lambda x: Scaled(way)(x), values(3, 4))
    close(flow.R[0], flow.start)


@pytest.mark.parametrize(
    "way", [lambda x, g: x + g, lambda x, g: g + x, lambda x, g: x - g], ids=["x + g", "g + x", "x - g"]
)
def test_a_variable_that_is_added_absorbs_its_share(way):
    layer, x = Scaled(way), values(3, 4)
    flow = Flow(lambda t: layer(t), x)
    close(flow.R[0], x * flow.start / s(flow.y))
    close(flow.bias, ((flow.y - x) * flow.start / s(flow.y)).sum((1, 2)))


class DropPath(kl.Layer):
    """Stochastic depth: nothing but in training."""

    def call(self, x, training=False):
        if training:
            return x * ops.floor(0.8 + keras.random.uniform((ops.shape(x)[0], 1, 1)))
        return x


def test_layer_that_hands_its_input_on():
    flow = Flow(lambda x: DropPath()(x), values(3, 4))
    close(flow.R[0], flow.start)

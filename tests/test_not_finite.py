"""NaN and Inf in any weight of any layer are errors that name it, under every preset; served samples are marked."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import images, raises, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine import passes
from lrp_tf.engine.targets import Target

IMG = images(dtype="float32")
BAD = (np.nan, np.inf, -np.inf)


def pooled():
    i = keras.Input((8, 8, 2))
    h = kl.Conv2D(4, 3, activation="relu", name="first")(i)
    h = kl.MaxPooling2D()(kl.Conv2D(4, 3, padding="same", activation="relu", name="second")(h))
    h = kl.Flatten()(kl.Conv2D(4, 1, activation="relu", name="third")(h))
    return keras.Model(i, kl.Dense(3, name="logits")(kl.Dense(6, activation="relu", name="dense")(h)))


def residual():
    def normed(layer, h):
        return kl.BatchNormalization(name=f"norm_{layer.name}")(layer(h))

    i = keras.Input((8, 8, 2))
    h = kl.ReLU()(normed(kl.Conv2D(4, 3, name="first"), i))
    branch = kl.ReLU()(normed(kl.Conv2D(4, 3, padding="same", use_bias=False, name="second"), h))
    branch = normed(kl.Conv2D(4, 3, padding="same", name="third"), branch)
    h = kl.ReLU()(kl.Add()([h, branch]))
    h = kl.ReLU()(normed(kl.DepthwiseConv2D(3, name="depthwise"), h))
    return keras.Model(i, kl.Dense(3, name="logits")(kl.GlobalMaxPooling2D()(h)))


def gated():
    i = keras.Input((8, 8, 2))
    h = kl.Conv2D(4, 3, activation="relu", name="first")(i)
    g = kl.Conv2D(80, 1, activation="relu", name="squeeze")(kl.GlobalAveragePooling2D(keepdims=True)(h))
    g = kl.Conv2D(60, 1, activation="relu", name="between")(g)  # its kernel is no small weight
    h = kl.Multiply()([h, kl.Conv2D(4, 1, activation="sigmoid", name="excite")(g)])
    h = kl.Conv2D(4, 3, activation="relu", name="last")(h)
    return keras.Model(i, kl.Dense(3, name="logits")(kl.GlobalAveragePooling2D()(h)))


NETS = {net.__name__: net for net in (pooled, residual, gated)}


def preset(name):
    return composites.get(name, low=-3.0, high=3.0) if composites.needs_bounds(name) else composites.get(name)


def spoiled(model, values=BAD):
    """One entry of each weight after the other is not finite; the weights are as they were at the end."""
    for weight in model.weights:
        kept = weight.numpy()
        for bad in values:
            value = kept.copy()
            value.flat[1] = bad
            weight.assign(value)
            yield weight, bad
        weight.assign(kept)


QUICK = ("epsilon", "epsilon_plus_flat")
PRESETS = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in composites.PRESETS]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("net", NETS)
def test_a_weight_that_is_not_finite_is_an_error_that_names_it(net, name):
    model = randomize(NETS[net]())
    explain = lrp_tf.Explainer(model, preset(name))
    for weight, _ in spoiled(model, (np.nan, -np.inf)):
        with raises(ValueError, f"weight '{weight.path}' holds 1 NaN or Inf", "Expected", "Remedy"):
            explain(IMG)
    assert np.isfinite(explain(IMG)).all()


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("net", NETS)
def test_what_is_served_says_so_of_each_sample(net, name):
    model = randomize(NETS[net]())
    explain = lrp_tf.Explainer(model, preset(name))
    run = passes.plain(explain.clone, Target("top", "output", None), passes.Request(each=True))
    served = tf.function(lambda x: run(x)[1].finite, autograph=False)
    x = tf.constant(IMG)
    assert served(x).numpy().all()
    for weight, bad in spoiled(model):
        assert not served(x).numpy().any(), (weight.path, bad)


class Custom(keras.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 80))
        self.v = self.add_weight(shape=(80, 60))
        self.u = self.add_weight(shape=(60, shape[-1]))

    def call(self, x):
        gate = keras.ops.relu(keras.ops.matmul(keras.ops.relu(keras.ops.matmul(x, self.w)), self.v))
        return x * keras.ops.sigmoid(keras.ops.matmul(gate, self.u))


def test_weights_of_a_layer_that_is_followed():
    model = randomize(keras.Sequential([keras.Input((4,)), Custom(), kl.Dense(3)]))
    explain, x = lrp_tf.Explainer(model, "epsilon"), np.ones((2, 4), "float32")
    explain(x)
    for _ in spoiled(model):
        with raises(ValueError, "NaN or Inf"):
            explain(x)


def test_rows_of_an_embedding_that_are_not_looked_up_concern_nobody():
    i = keras.Input((5,), dtype="int32")
    model = randomize(keras.Model(i, kl.Dense(3)(kl.Flatten()(kl.Embedding(6, 4)(i)))))
    explain = lrp_tf.Explainer(model, "epsilon")
    table = model.weights[0].numpy()
    table[3] = np.nan
    model.weights[0].assign(table)
    assert np.isfinite(explain(np.array([[0, 1, 2, 4, 5]]))).all()
    with raises(ValueError, "weight '.*embeddings' holds 4 NaN"):
        explain(np.array([[0, 1, 2, 3, 5]]))


class Attend(keras.Layer):
    """Causal attention whose mask is a weight that holds -Inf."""

    def build(self, shape):
        self.mask = self.add_weight(shape=(5, 5), trainable=False)
        self.mask.assign(np.triu(np.full((5, 5), -np.inf), 1))
        self.w = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, x):
        scores = keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))) + self.mask
        return keras.ops.matmul(keras.ops.matmul(keras.ops.softmax(scores), x), self.w)


def test_a_mask_may_hold_minus_infinity():
    model = keras.Sequential([keras.Input((5, 4)), Attend(), kl.Flatten(), kl.Dense(3)])
    explain, x = lrp_tf.Explainer(model, "epsilon"), images(2, 5, 4, dtype="float32")[:, 0]
    found = explain.explain(x)
    np.testing.assert_allclose(found.output, model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.conservation.unexplained, 0, atol=1e-4)
    mask, w = model.layers[0].mask, model.layers[0].w
    for weight, bad in ((w, -np.inf), (w, np.nan), (mask, np.nan)):
        kept = weight.numpy()
        weight.assign(np.where(np.eye(*kept.shape) > 0, bad, kept))
        with raises(ValueError, "NaN or Inf"):
            explain(x)
        weight.assign(kept)


def test_half_precision_weights_do_not_overflow_in_the_check():
    model = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(3, dtype="float16")]))
    model.layers[0].kernel.assign(np.full((4, 3), 3e4, "float16"))
    assert np.isfinite(lrp_tf.Explainer(model, rules.Epsilon())(np.full((2, 4), 1e-3, "float32"))).all()

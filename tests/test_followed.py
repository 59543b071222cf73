"""Layers as users write them: each is followed exactly or refused by name, and never taken for something else."""

import keras
import numpy as np
import pytest
from helpers.checking import RULE, check, close, images, raises, randomize, relevance, vectors, with_weights
from keras import layers as kl
from keras import ops

import lrp_tf

pytestmark = pytest.mark.usefixtures("double_precision")

SEQUENCES = np.random.default_rng(3).normal(size=(3, 6, 4))
TOKENS = np.random.default_rng(0).integers(1, 10, (3, 6)).astype("int32")
IMAGES = images()


def model_of(layer, x):
    i = keras.Input(x.shape[1:], dtype=x.dtype)
    return randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(layer(i)))))


# --- subclasses of layers that are known -------------------------------------------------------


class Halved(kl.Dense):
    def call(self, x, training=None):
        return super().call(x) / 2


class Standardized(kl.Conv2D):
    """The pattern of Keras' documentation: weights standardized inside `convolution_op`."""

    def convolution_op(self, inputs, kernel):
        kernel = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, kernel)


class Flipped(kl.Activation):
    def call(self, x):
        return ops.flip(super().call(x), axis=-1)


class Quiet(kl.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return x


# name -> (layer, what computes the same, weights of that from those of the layer)
CHANGED = {
    "Dense.call": (lambda: Halved(4), lambda h: kl.Dense(4)(h) / 2, lambda w: w),
    "Conv2D.convolution_op": (
        lambda: Standardized(4, 3),
        lambda h: kl.Conv2D(4, 3)(h),
        lambda w: [w[0] - w[0].mean((0, 1, 2)), *w[1:]],
    ),
    "Activation.call": (lambda: Flipped("relu"), lambda h: ops.flip(kl.ReLU()(h), axis=-1), lambda w: w),
    "BatchNormalization.call": (lambda: Quiet(), lambda h: h, lambda w: w[-2:]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_subclass_that_changes_the_computation_is_not_its_base_class(name):
    layer, same, weights = CHANGED[name]
    model, twin = model_of(layer(), IMAGES), model_of(same, IMAGES)
    with_weights(twin, weights(model.get_weights()))
    close(check(model, IMAGES, RULE, target=0).relevance, relevance(twin, IMAGES))


# --- functions of a tensor and of weights ------------------------------------------------------


class Own(kl.Layer):
    """Some weights, and a function that takes them."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def build(self, shape):
        d = 4 if len(shape) == 2 else shape[-1]
        self.w, self.k = self.add_weight(shape=(d,), name="w"), self.add_weight(shape=(d, d), name="k")
        self.one, self.table = self.add_weight(shape=(1, 1, d), name="one"), self.add_weight(shape=(11, 4), name="t")

    def call(self, x):
        return self.function(self, x)


def patches(s, x):
    """From keras.io, "Image classification with Vision Transformer": a reshape by the size of the batch."""
    batch, height, width, channels = ops.shape(x)
    found = ops.image.extract_patches(x, size=4)
    return ops.reshape(found, (batch, (height // 4) * (width // 4), 4 * 4 * channels))


def windows(s, x):
    """From keras.io, "Image classification with Swin Transformers": windows beside the samples, and back."""
    batch = ops.shape(x)[0]
    h = ops.transpose(ops.reshape(x, (batch, 2, 4, 2, 4, -1)), (0, 1, 3, 2, 4, 5))
    h = ops.reshape(h, (-1, 16, 2))
    h = ops.softmax(h @ ops.transpose(h, (0, 2, 1))) @ h
    return ops.reshape(h, (batch, 4, 32))


def class_token(s, x):
    return ops.concatenate([s.one + ops.zeros_like(x[:, :1]), x], axis=1)


def normalized(s, x):
    mean, variance = ops.mean(x, axis=-1, keepdims=True), ops.var(x, axis=-1, keepdims=True)
    return (x - mean) / ops.sqrt(variance + 1e-6) * s.w + s.k[0]


def attention(s, x):
    q, k, v = x @ s.k, ops.matmul(x, s.k + 1.0), ops.einsum("btc,cd->btd", x, s.k)
    return ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 2.0) @ v


def rotary(s, x):
    angle = ops.cast(ops.arange(x.shape[1]), x.dtype)[:, None] * ops.cast([1.0, 0.1], x.dtype)
    a, b = ops.split(x, 2, axis=-1)
    return ops.concatenate([a * ops.cos(angle) - b * ops.sin(angle), a * ops.sin(angle) + b * ops.cos(angle)], axis=-1)


def loop(s, x):
    h = x
    for t in range(x.shape[1]):
        h = h + x[:, t : t + 1] * s.w[t]
    return h


def with_a_loss(s, x):
    s.add_loss(ops.mean(x))
    return ops.relu(x) * s.w


VECTORS = vectors()
FUNCTIONS = {
    # a variable on either side of an operator
    "w * x": (lambda s, x: s.w * x, VECTORS),
    "x * w": (lambda s, x: x * s.w, VECTORS),
    "w + x": (lambda s, x: s.w + x, VECTORS),
    "w - x": (lambda s, x: s.w - x, VECTORS),
    "w / x": (lambda s, x: s.w / (x * x + 1), VECTORS),
    "k @ x": (lambda s, x: s.k @ ops.expand_dims(x, -1), VECTORS),
    "x @ k": (lambda s, x: x @ s.k, SEQUENCES),
    "-w * x": (lambda s, x: -s.w * x, VECTORS),
    "w > x": (lambda s, x: ops.where(s.w > x, x, 0.0), VECTORS),
    "computed from weights alone": (lambda s, x: x * ops.softmax(s.w) + ops.tanh(s.w), VECTORS),
    "array": (lambda s, x: ops.matmul(x, np.eye(4)[:, :3]) + np.ones(3), VECTORS),
    # shapes
    "patches": (patches, IMAGES),
    "windows": (windows, IMAGES),
    "class token": (class_token, SEQUENCES),
    "slices": (lambda s, x: x[:, ::2, ..., None][:, -1] + x[:, 0, :, None], SEQUENCES),
    "loop": (loop, VECTORS),
    # what papers are made of
    "normalization": (normalized, SEQUENCES),
    "attention": (attention, SEQUENCES),
    "rotary positions": (rotary, SEQUENCES),
    "embedding": (lambda s, x: ops.take(s.table, x, axis=0) + s.table[None, : x.shape[1]], TOKENS),
    "one-hot": (lambda s, x: ops.matmul(ops.one_hot(x, 11, dtype="float64"), s.table), TOKENS),
    "swish": (lambda s, x: x * ops.sigmoid(s.w * x), VECTORS),
    "loss": (with_a_loss, VECTORS),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("seldom_compiled")
def test_functions_of_a_tensor_and_of_weights(name):
    function, x = FUNCTIONS[name]
    model = model_of(Own(function, name="own"), x)
    losses = len(model.losses)
    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    assert any(path.startswith("own/") for path in explainer.summary(None).column("layer"))
    assert len(model.losses) == losses
    check(model, x, "epsilon_plus")
    randomize(model, seed=5)  # weights are read at every call, and what is computed from them
    close(explainer.explain(x).output, model(x), 1e-9)


# --- signatures --------------------------------------------------------------------------------


class OfAList(kl.Layer):
    def call(self, inputs):
        a, b = inputs
        return a * 2 + ops.relu(b)


class OfADict(kl.Layer):
    def call(self, inputs, scale=1.0, *, extra=None, training=False):
        return (inputs["a"] + ops.relu(inputs["b"]) + extra) * scale


class OfAnything(kl.Layer):
    def call(self, *args):
        return args[0] + ops.relu(args[1])


class ToADict(kl.Layer):
    def call(self, x):
        return {"same": x, "changed": [ops.relu(x), ops.concatenate([x, x])]}


class Ignoring(kl.Layer):
    def call(self, a, b):
        return a


def taken_apart(a, b):
    found = ToADict()(a)
    return found["same"] + found["changed"][0] - b


@pytest.mark.parametrize(
    "body",
    [
        lambda a, b: OfAList()([a, b]),
        lambda a, b: OfAList()((a, a)),
        lambda a, b: OfADict()({"b": b, "a": a}, scale=2.0, extra=a),
        lambda a, b: OfAnything()(a, b),
        lambda a, b: Ignoring()(a, b),
        lambda a, b: Ignoring()(b, a) + a,
        taken_apart,
    ],
    ids=["list", "twice the same", "dict and keywords", "*args", "ignored", "handed on", "dict of outputs"],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_signatures(body):
    a, b = keras.Input((4,)), keras.Input((4,))
    model = randomize(keras.Model([a, b], kl.Dense(2)(body(kl.Dense(4)(a), b))))
    check(model, [vectors(seed=1), vectors(seed=2)], RULE)


# --- what leaves no record ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: ops.cond(ops.sum(x) > 0, lambda: x, lambda: -x),
        lambda s, x: ops.cond(ops.sum(x) > 0, lambda: x * 2, lambda: x),
        lambda s, x: ops.relu(ops.cond(ops.sum(x) > 0, lambda: -x, lambda: x)),
        lambda s, x: ops.fori_loop(0, 3, lambda i, h: h + x, x),
        lambda s, x: ops.map(lambda row: row * 2, x),
    ],
    ids=["branch hands on", "branch computes", "both", "loop", "map"],
)
def test_functions_among_the_arguments_are_refused(function):
    """The trace would see one branch of them, or none."""
    with raises(lrp_tf.UnsupportedLayerError, "'own", "(not supported|over the samples)", "Remedy"):
        lrp_tf.Explainer(model_of(Own(function, name="own"), VECTORS))


def test_samples_that_a_layer_mixes_are_refused():
    """Relevance is that of a sample; one that depends on its batch has none."""
    mixing = Own(lambda s, x: x - ops.mean(x, axis=0, keepdims=True), name="own")
    with raises((lrp_tf.UnsupportedLayerError, ValueError), "'own"):
        lrp_tf.Explainer(model_of(mixing, VECTORS))(VECTORS)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: ops.concatenate([ops.broadcast_to(s.one, (ops.shape(x)[0], 1, 4)), x], axis=1),
        lambda s, x: ops.concatenate([ops.tile(s.one, (ops.shape(x)[0], 1, 1)), x], axis=1),
        lambda s, x: ops.concatenate([ops.repeat(s.one, ops.shape(x)[0], axis=0), x], axis=1),
        lambda s, x: ops.concatenate([x, ops.ones((ops.shape(x)[0], 2, 4), dtype=x.dtype)], axis=1),
        lambda s, x: x + ops.full(ops.shape(x), 2.0, dtype=x.dtype),
        lambda s, x: x + ops.broadcast_to(s.one[:, :1], ops.shape(x)),
        lambda s, x: x + ops.broadcast_to(x[:, :1], ops.shape(x)),
        lambda s, x: ops.where(ops.broadcast_to(ops.arange(4) < 2, ops.shape(x)), x, 0.0),
    ],
    ids=["broadcast_to", "tile", "repeat", "ones", "full", "positions", "of the input", "condition"],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_the_size_of_the_batch_is_asked_for_to_give_each_sample_the_same(function):
    """Class tokens, positions, padding."""
    check(model_of(Own(function, name="own"), SEQUENCES), SEQUENCES, RULE)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: x + ops.expand_dims(ops.cast(ops.arange(0, ops.shape(x)[1]), x.dtype), -1),
        lambda s, x: x + ops.broadcast_to(x[:, :1], ops.shape(x)),
        lambda s, x: x + ops.tile(ops.concatenate([s.one, s.one]), (ops.shape(x)[0], 1, 1))[:1],
    ],
    ids=["arange", "broadcast_to", "two rows for each sample"],
)
def test_sizes_that_are_known_at_the_call_only_are_refused(function):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, kl.GlobalAveragePooling1D()(Own(function, name="own")(inputs)))
    with raises(lrp_tf.UnsupportedLayerError, "'own", "(known at the call only|rows of the first axis)"):
        lrp_tf.Explainer(model)

"""Gradients against a tape on the plain Keras model, whose softmax is taken off by hand."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, dense_net, images, raises, randomize, vectors
from helpers.small_nets import image_net
from keras import layers as kl

import lrp_tf
from lrp_tf import gradients

X = tf.constant(images(3, dtype="float32"))
TOLERANCE = 5e-6
TARGETS = {
    "top": None,
    "class": 2,
    "each": [0, 2, 1],
    "several": [[0, 2], [1, 0], [2, 1]],
    "ranks": "topK:2",
}


@pytest.fixture(scope="module")
def net():
    """A net with softmax, and the same without."""
    model, plain = image_net(), image_net(None)
    plain.set_weights(model.get_weights())
    return model, plain


def taped(plain, x, weights):
    """The gradient of sum_n weights_n z_n by a tape."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(plain(x, training=False) * weights)
    return tape.gradient(value, x)


def classes_of(plain, x, target):
    """[B, k] classes, by NumPy."""
    ranks = np.argsort(-plain(x).numpy(), axis=1)
    if target is None:
        return ranks[:, :1]
    if isinstance(target, str):
        return ranks[:, : int(target[-1])]
    return np.broadcast_to(
        np.reshape(target, (-1, 1)) if np.ndim(target) < 2 else target,
        (len(x), np.shape(target)[-1] if np.ndim(target) == 2 else 1),
    )


def weights_of(logits, target, contrast):
    """c of one target of one sample."""
    at = np.arange(len(logits)) == target
    powers = np.where(at, 0, np.exp(logits))
    if contrast is None:
        return 1.0 * at
    w = {"softmax": powers / powers.sum(), "mean": ~at / (len(logits) - 1)}[contrast]
    return 1.0 * at - w


@pytest.mark.parametrize("contrast", [None, "softmax", "mean"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.usefixtures("seldom_compiled")
def test_gradient_of_every_kind_of_target(net, target, contrast):
    model, plain = net
    z, classes = plain(X).numpy(), classes_of(plain, X, TARGETS[target])
    expected = []
    for column in classes.T:
        c = np.array([weights_of(*one, contrast) for one in zip(z, column, strict=True)], "float32")
        expected.append(taped(plain, X, c).numpy())
    expected = np.stack(expected, 1)
    expected = expected if classes.shape[1] > 1 else expected[:, 0]
    found = gradients.Gradient(model)(X, TARGETS[target], contrast=contrast)
    close(found, expected, TOLERANCE)
    x = X.numpy() if classes.shape[1] == 1 else X.numpy()[:, None]
    close(
        gradients.InputTimesGradient(model)(X, TARGETS[target], contrast=contrast, max_batch=2), x * expected, TOLERANCE
    )


def test_start_of_a_gradient(net):
    model, plain = net
    z = plain(X).numpy()
    top = np.eye(3, dtype="float32")[z.argmax(1)]
    method = gradients.Gradient(model)
    close(method(X, start="output"), taped(plain, X, top * z), TOLERANCE)
    starts = np.random.default_rng(0).normal(size=(3, 2, 3)).astype("float32")
    close(method(X, start=starts), np.stack([taped(plain, X, starts[:, i]) for i in range(2)], 1), TOLERANCE)


def test_every_kind_of_step_is_differentiated():
    """Steps that LRP has rules of its own for: norms, products, attention, gates, maxima, activations."""
    keras.utils.set_random_seed(0)
    i = keras.Input((6, 4))
    h = kl.LayerNormalization()(kl.Dense(8, activation="gelu")(i))
    h = h + kl.MultiHeadAttention(2, 4)(h, h)
    h = h * keras.ops.sigmoid(kl.Dense(8)(h)) + keras.ops.std(h, axis=-1, keepdims=True)
    h = kl.BatchNormalization()(kl.Conv1D(5, 3, activation="silu")(h))
    h = keras.ops.concatenate([kl.GlobalMaxPooling1D()(h), keras.ops.logsumexp(h, axis=1)], axis=-1)
    h = kl.LeakyReLU()(h) / (1 + keras.ops.square(keras.ops.stop_gradient(h)))
    model = randomize(keras.Model(i, kl.Dense(3)(h)))
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 6, 4)).astype("float32"))
    close(gradients.Gradient(model)(x, 1), taped(model, x, np.eye(3, dtype="float32")[[1, 1]]), TOLERANCE)


def test_layers_without_a_rule_of_lrp():
    model = keras.Sequential([keras.Input((5, 2)), kl.LSTM(4), kl.Dense(3)])
    x = tf.constant(vectors(2, 10, dtype="float32").reshape(2, 5, 2))
    close(gradients.Gradient(model)(x, 1), taped(model, x, np.eye(3, dtype="float32")[[1, 1]]), TOLERANCE)


@pytest.mark.parametrize(("composite", "gate"), [
    ("guided_backprop", lambda z, r: tf.nn.relu(r) * tf.cast(z > 0, r.dtype)),
    ("deconvnet", lambda z, r: tf.nn.relu(r)),
])  # fmt: skip
def test_guided_backpropagation_and_deconvnet(composite, gate):
    """Against the same weights in a model whose ReLUs have a gradient of their own."""

    @tf.custom_gradient
    def relu(z):
        return tf.nn.relu(z), lambda r: gate(z, r)

    def net(activation):
        stack = [kl.Conv2D(4, 3, activation=activation), kl.MaxPooling2D(), kl.Conv2D(5, 3), kl.BatchNormalization()]
        stack += [kl.Activation(activation), kl.Flatten(), kl.Dense(6, activation=activation), kl.Dense(3)]
        return randomize(keras.Sequential([keras.Input((8, 8, 2)), *stack]))

    c = np.eye(3, dtype="float32")[[1, 0, 2]]
    found = gradients.Gradient(net("relu"), composite)(X, [1, 0, 2])
    close(found, taped(net(relu), X, c), TOLERANCE)
    close(lrp_tf.Explainer(net("relu"), composite)(X, [1, 0, 2], start="one"), found, 1e-12)


def test_streams_copies_and_other_models(net):
    model, plain = net
    method = gradients.Gradient(model, max_batch=2)
    expected = taped(plain, X, np.eye(3, dtype="float32")[[2, 0, 1]])
    data = tf.data.Dataset.from_tensor_slices((X, [2, 0, 1]))
    parts = [r for _, r in method.map(data, lambda element: element[1], batch=2, with_inputs=True)]
    close(np.concatenate(parts), expected, TOLERANCE)
    close(pickle.loads(pickle.dumps(method))(X, [2, 0, 1]), expected, TOLERANCE)
    other = randomize(keras.models.clone_model(plain), 5)
    close(method.with_model(other)(X, 0), taped(other, X, np.eye(3, dtype="float32")[[0, 0, 0]]), TOLERANCE)
    assert repr(method) == "Gradient('images')"


def test_inputs_without_a_gradient():
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    h = kl.Flatten()(kl.Embedding(7, 3)(tokens))
    with raises(ValueError, "Gradient needs an input", "tokens int32", "Remedy"):
        gradients.Gradient(keras.Model(tokens, kl.Dense(2)(h)))
    size = keras.Input((2,), name="size")
    model = keras.Model({"tokens": tokens, "size": size}, kl.Dense(2)(kl.Concatenate()([h, size])))
    x = {"tokens": np.array([[1, 2, 3, 4]]), "size": np.ones((1, 2), "float32")}
    found = gradients.Gradient(model)(x, 0)
    assert found["tokens"] is None
    close(found["size"], model.layers[-1].kernel.numpy()[None, -2:, 0], TOLERANCE)


def test_bytes_are_values():
    pixels = keras.Input((8, 8, 2), dtype="uint8")
    body = image_net(None)
    model = keras.Model(pixels, body(kl.Rescaling(0.5)(pixels)))
    x = np.random.default_rng(0).integers(0, 9, (3, 8, 8, 2)).astype("uint8")
    expected = 0.5 * taped(body, tf.constant(0.5 * x.astype("float32")), np.eye(3, dtype="float32")[[1, 1, 1]])
    close(gradients.Gradient(model)(x, 1), expected, TOLERANCE)


def test_bad_input(net):
    method = gradients.Gradient(net[0])
    with raises(ValueError, "photo", "wrong shape"):
        method(X[:, 1:])
    with raises(ValueError, "out of range"):
        method(X, 3)
    top = int(net[1](X[:1]).numpy().argmax())
    for kind in (gradients.Gradient, gradients.GradCAM):
        with raises(ValueError, "contrast is a target itself", f"both are {top}"):
            kind(net[0])(X[:1], contrast=top)
    with raises(ValueError, "NaN", "photo"):
        method(X * np.nan)
    with raises(TypeError, "no options", "epsilon"):
        lrp_tf.composites.get("gradient", epsilon=1.0)
    with raises(TypeError, "takes its composite", "Remedy"):
        gradients.Gradient(lrp_tf.Explainer(net[0]), "epsilon")
    with raises(ValueError, "no layer"):
        gradients.Gradient(dense_net()).explainer.explain(vectors(), layers=["none"])

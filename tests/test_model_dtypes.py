"""Models in mixed and double precision, and models of integers: rules compute in floats of enough digits."""

import keras
import numpy as np
import pytest
from helpers.checking import RULE, check, close, images, randomize, relevance, sequential, with_weights
from keras import layers as kl

import lrp_tf

pytestmark = pytest.mark.usefixtures("double_precision")


def mixed_net():
    i = keras.Input((8, 8, 2), dtype="float32")
    h = kl.BatchNormalization()(kl.Conv2D(3, 3, padding="same")(i))
    h = kl.MaxPooling2D()(kl.PReLU()(h))
    h = kl.Add()([h, kl.Conv2D(3, 3, padding="same", activation="relu")(h)])
    h = kl.Dense(4, activation="relu")(kl.Flatten()(h))
    return randomize(keras.Model(i, kl.Dense(3, activation="softmax", dtype="float32")(h)))


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-5), ("mixed_float16", 2e-2), ("mixed_bfloat16", 2e-1)]
)
def test_rules_of_mixed_models_compute_in_float32(policy, tolerance):
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    plain, x = mixed_net(), images(dtype="float32")
    keras.config.set_dtype_policy(policy)
    model = mixed_net()
    model.set_weights(plain.get_weights())
    found = lrp_tf.Explainer(model).explain(x, 0)
    assert found.relevance.dtype == "float32"
    assert np.abs(found.conservation.unexplained).max() < 1e-5
    close(np.asarray(found.output), np.asarray(model(x)), tolerance)
    close(found.relevance, relevance(plain, x, "epsilon_plus_flat"), 1e-5)


def test_float64_model():
    found = check(sequential((8, 8, 2), kl.Conv2D(2, 3), kl.Flatten(), kl.Dense(2)), images(), tolerance=1e-12)
    assert found.relevance.dtype == "float64"
    assert lrp_tf.Explainer(sequential((4,), kl.Dense(2))).graph.dtype == "float64"


def rescaled(*ahead, dtype):
    stack = [
        *ahead,
        kl.Rescaling(1 / 127.5, offset=-1.0),
        kl.Conv2D(3, 3, activation="relu"),
        kl.Flatten(),
        kl.Dense(2),
    ]
    return randomize(keras.Sequential([keras.Input((8, 8, 2), dtype=dtype), *stack]))


@pytest.mark.parametrize(
    "ahead",
    [
        [],
        [lambda: kl.ZeroPadding2D(1)],
        [lambda: kl.Permute((2, 1, 3))],
        [lambda: kl.Reshape((8, 8, 2))],
        [lambda: kl.Dropout(0.5)],
    ],
    ids=["none", "padding", "permute", "reshape", "dropout"],
)
@pytest.mark.usefixtures("seldom_compiled")
def test_uint8_images(ahead):
    """Integer pixels get the relevance that the same pixels get as floats, whatever lies ahead of Rescaling."""
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 2)).astype("uint8")
    model = rescaled(*[make() for make in ahead], dtype="uint8")
    twin = with_weights(rescaled(*[make() for make in ahead], dtype="float64"), model.get_weights())
    explainer = lrp_tf.Explainer(model)
    found = explainer.explain(x, 0)
    close(found.output, model(x, training=False), 1e-6)  # Keras rounds the scale to float32
    expected = lrp_tf.Explainer(twin).explain(x.astype("float64"), 0)
    close(found.relevance, expected.relevance, 1e-6)
    close(found.conservation.relevance, expected.conservation.relevance, 1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integers_straight_into_a_dense_layer(dtype):
    """Keras promotes them to floats; so must the clone."""
    x = np.arange(12).reshape(3, 4)
    model = randomize(keras.Sequential([keras.Input((4,), dtype=dtype), kl.Dense(3, activation="relu"), kl.Dense(2)]))
    twin = with_weights(sequential((4,), kl.Dense(3, activation="relu"), kl.Dense(2)), model.get_weights())
    found = lrp_tf.Explainer(model, RULE).explain(x.astype(dtype), 0)
    close(found.output, model(x.astype(dtype)), 1e-6)
    close(found.relevance, relevance(twin, x.astype("float64")), 1e-6)

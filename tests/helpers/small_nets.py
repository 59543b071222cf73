"""Small models with names for every layer, and a batch for each, as the tests of Explainer take them."""

import keras
import numpy as np
from keras import layers as kl

import lrp_tf
from helpers.checking import images, randomize, vectors

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


def dense_net(classes=3, activation=None):
    stack = [kl.Dense(5, activation="relu", name="hidden"), kl.Dense(classes, activation=activation, name="logits")]
    return randomize(keras.Sequential([keras.Input((4,)), *stack], name="net"))


def image_net(activation="softmax"):
    i = keras.Input((8, 8, 2), name="photo")
    h = kl.ZeroPadding2D(1, name="pad")(i)
    h = kl.ReLU(name="relu1")(kl.BatchNormalization(name="norm1")(kl.Conv2D(3, 3, name="conv1")(h)))
    h = kl.Add(name="sum")([h, kl.Conv2D(3, 3, padding="same", activation="relu", name="conv2")(h)])
    h = kl.GlobalAveragePooling2D(name="pool")(kl.MaxPooling2D(name="max")(h))
    return randomize(keras.Model(i, kl.Dense(3, activation=activation, name="probabilities")(h), name="images"))


def maps_net(size=None):
    return randomize(keras.Sequential([keras.Input((size, size, 2)), kl.Conv2D(4, 3, padding="same", name="maps")]))


def logits_of(model, x):
    return np.asarray(lrp_tf.Explainer(model).explain(x).logits)


def deep_net(blocks: int = 12) -> keras.Model:
    """Convolutions with BatchNormalization, whose sums cancel once its shifts are left out."""
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(blocks):
        x = kl.Conv2D(6, 3, padding="same", use_bias=False)(x)
        x = kl.ReLU()(kl.BatchNormalization()(x))
    x = kl.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, kl.Dense(4, activation="softmax")(x)))

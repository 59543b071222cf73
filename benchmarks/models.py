"""The networks that are timed, with seeded weights, and their plain input gradient."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf


def _mnist() -> keras.Model:
    return keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(512, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ])  # fmt: skip


def _tiny() -> keras.Model:
    """Every kind of layer of VGG16 and ResNet50, as small as can be: for trying a benchmark out."""
    layers = keras.layers
    inputs = keras.Input((17, 17, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(x))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(layers.ReLU()(x)))
    branch = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, branch]))
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x), name="tiny")


MODELS: dict[str, Callable[[], keras.Model]] = {
    "tiny": _tiny,
    "mnist": _mnist,
    "vgg16": lambda: keras.applications.VGG16(weights=None),
    "resnet50": lambda: keras.applications.ResNet50(weights=None),
    "mobilenet": lambda: keras.applications.MobileNet(weights=None),
    "mobilenet75": lambda: keras.applications.MobileNet(alpha=0.75, weights=None),
    "efficientnetb0": lambda: keras.applications.EfficientNetB0(weights=None),
    "efficientnetb7": lambda: keras.applications.EfficientNetB7(weights=None),
    "nasnetlarge": lambda: keras.applications.NASNetLarge(weights=None),
}
BATCHES = {"mnist": 128}
_SEEN = 2  # images for the statistics of BatchNormalization: each has many pixels


def build(name: str) -> keras.Model:
    """A network with seeded weights, and with statistics of BatchNormalization that fit them.

    With the means and variances that a new model starts from, signals and relevance vanish on the way down.
    """
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the statistics of one batch replace what was there
    if norms:
        model(image(model, _SEEN), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def image(model: keras.Model, batch: int) -> tf.Tensor:
    return tf.random.stateless_uniform([batch, *model.input_shape[1:]], seed=(1, 2))


def forward(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(lambda x: model(x, training=False), input_signature=[_signature(model)])


def gradient(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The gradient of each sample's top logit with respect to the input: the unit of all ratios."""
    function = logits(model)

    @tf.function(input_signature=[_signature(model)])
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = tf.reduce_max(function(x), axis=-1)
        return tape.gradient(z, x)

    return gradient


def logits(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The values before the softmax, [B, classes]."""
    last = model.layers[-1]
    features = keras.Model(model.inputs[0], last.input)

    def function(x: tf.Tensor) -> tf.Tensor:
        values = features(x, training=False)
        return values @ last.kernel + last.bias if isinstance(last, keras.layers.Dense) else values

    return function


def _signature(model: keras.Model) -> tf.TensorSpec:
    return tf.TensorSpec([None, *model.input_shape[1:]], model.inputs[0].dtype)

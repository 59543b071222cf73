"""Time of relevance as a ratio to the plain input gradient, measured in turn in one process: --help for options."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import lrp_tf
from lrp_tf import composites

MODELS = {
    "mnist": lambda: keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(512, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]),
    "vgg16": lambda: keras.applications.VGG16(weights=None),
}  # fmt: skip


def plain_gradient(model: keras.Model) -> Callable:
    """The gradient of each sample's top logit with respect to the input."""
    last = model.layers[-1]
    features = keras.Model(model.inputs, last.input)

    @tf.function(input_signature=[tf.TensorSpec([None, *model.input_shape[1:]])])
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = tf.reduce_max(features(x, training=False) @ last.kernel + last.bias, axis=-1)
        return tape.gradient(z, x)

    return gradient


def seconds(function: Callable, x: tf.Tensor) -> float:
    begin = time.perf_counter()
    np.asarray(function(x))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="mnist")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = MODELS[arguments.model]()
    x = tf.random.uniform([arguments.batch, *model.input_shape[1:]])
    gradient = plain_gradient(model)
    seconds(gradient, x)
    device = (tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU"))[0].device_type
    print(f"{arguments.model}, batch {arguments.batch}, {device}, {os.cpu_count()} cores, TensorFlow {tf.__version__}")
    print("composite                   first call    gradient   relevance   ratio (median, quartiles)")
    for name in composites.PRESETS:
        bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}
        explainer = lrp_tf.Explainer(model, composites.get(name, **bounds))
        first = seconds(explainer, x)
        seconds(explainer, x)
        pairs = [(seconds(gradient, x), seconds(explainer, x)) for _ in range(arguments.runs)]
        ratios = sorted(b / a for a, b in pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        times = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
        print(
            f"{name:28s}{first:8.2f} s{times[0]:9.1f} ms{times[1]:9.1f} ms   {middle:.2f}  ({low:.2f} to {high:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()

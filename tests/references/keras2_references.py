"""Makes keras2.npz: HDF5 files that Keras 2 wrote, as bytes, and what it predicts with them.

    python -m pip install tensorflow==2.21.0 tf_keras==2.21.0
    python tests/references/keras2_references.py

It needs nothing of lrp_tf. For each net: `NAME.h5` (the whole model), `NAME_weights.h5` (the weights alone), `NAME_x`
or `NAME_x0`, `NAME_x1` (inputs) and `NAME_y` (predictions).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

L = keras.layers


def cnn(normalized: bool, sequential: bool) -> keras.Model:
    """The six convolutions of Dieter & Zisgen (2023) in tiny widths, BatchNormalization before ReLU."""
    layers = []
    for i, width in enumerate((3, 3, 4, 4, 5, 5)):
        first = {"input_shape": (8, 8, 3)} if sequential and i == 0 else {}
        layers.append(L.Conv2D(width, 3, padding="same", kernel_regularizer=keras.regularizers.l2(1e-4), **first))
        if normalized:
            layers.append(L.BatchNormalization())
        layers.append(L.ReLU() if i % 2 else L.Activation("relu"))
        if i % 2:
            layers += [L.MaxPooling2D(), L.Dropout(0.2)]
    layers += [L.Flatten(), L.Dense(10, activation="softmax")]
    return keras.Sequential(layers) if sequential else chain((8, 8, 3), *layers)


def chain(shape: tuple[int, ...], *layers: keras.layers.Layer) -> keras.Model:
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def nets() -> Iterator[tuple[str, keras.Model]]:
    yield "bn_sequential", cnn(True, True)
    yield "bn_functional", cnn(True, False)
    yield "plain_sequential", cnn(False, True)
    yield "plain_functional", cnn(False, False)
    yield "convolutions", chain(
        (9, 9, 3), L.Rescaling(1 / 127.5, -1), L.DepthwiseConv2D(3, padding="same"), L.BatchNormalization(scale=False),
        L.LeakyReLU(alpha=0.1), L.SeparableConv2D(4, 3), L.PReLU(shared_axes=[1, 2]), L.SpatialDropout2D(0.1),
        L.Conv2DTranspose(3, 3, strides=2), L.ReLU(6.0), L.ZeroPadding2D(1), L.RandomFlip(), L.GlobalAveragePooling2D(),
        L.LayerNormalization(), L.Dense(3),
    )  # fmt: skip
    yield (
        "recurrent",
        chain(
            (5, 2),
            L.Bidirectional(L.LSTM(3, return_sequences=True)),
            L.TimeDistributed(L.Dense(2)),
            L.GRU(3),
            L.Dense(2),
        ),
    )
    body = chain((6, 6, 2), L.Conv2D(3, 3), L.BatchNormalization(), L.Activation("relu"), L.Conv2D(3, 3), L.Flatten())
    body.layers[1].trainable = False
    inputs = keras.Input((6, 6, 2))
    # Called twice, and one of its outputs is the model's.
    yield "nested", keras.Model(inputs, L.Dense(3)(L.Add()([body(inputs, training=False), body(L.ReLU()(inputs))])))
    yield "nested_sequential", keras.Sequential([keras.Sequential([L.Conv2D(2, 3, input_shape=(6, 6, 2)), L.Flatten()]),
                                                 L.Dense(3)])  # fmt: skip
    a, b = keras.Input((4, 3)), keras.Input((4, 3))
    yield "attention", keras.Model([a, b], L.Dense(2)(L.Flatten()(L.MultiHeadAttention(2, 2)(a, value=b))))
    adapted = L.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(2, 3, (50, 4, 3)))
    yield "adapted", chain((4, 3), adapted, L.Flatten(), L.Dense(2))
    yield "lambda", chain((4,), L.Lambda(lambda x: x * 2), L.Dense(2))
    # These cannot be read: Keras 3 has no such layers, or computes otherwise.
    yield "operation", chain((4,), L.Dense(3), lambda x: tf.nn.relu(x + 1.0), L.Dense(2))
    yield "hard_sigmoid", chain((5, 2), L.LSTM(3, recurrent_activation="hard_sigmoid"), L.Dense(2))
    yield "locally_connected", chain((5, 2), L.LocallyConnected1D(2, 2), L.Flatten(), L.Dense(2))


def fill(model: keras.Model, generator: np.random.Generator) -> None:
    """Weights as large as after a training; those of a Normalization stay."""
    weights = []
    for variable in model.weights:
        name, shape = variable.name, variable.shape
        if name.startswith(("mean", "variance", "count")):
            weights.append(variable.numpy())
        elif "variance" in name or "gamma" in name:
            weights.append(generator.uniform(0.5, 1.5, shape))
        else:
            weights.append(generator.normal(0, 0.4, shape))
    model.set_weights(weights)


def main() -> None:
    generator, found = np.random.default_rng(0), {}
    optimizers = [
        lambda: keras.optimizers.legacy.SGD(lr=0.1, decay=1e-5),
        lambda: keras.optimizers.legacy.RMSprop(lr=0.1),
        lambda: keras.optimizers.Adam(),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(nets()):
            fill(model, generator)
            x = [generator.uniform(size=(3, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
            found |= {f"{name}_x{i if len(x) > 1 else ''}": part for i, part in enumerate(x)}
            found[f"{name}_y"] = model.predict(x if len(x) > 1 else x[0], verbose=0)
            model.compile(optimizers[number % 3](), loss="mse", metrics=["accuracy"])
            for suffix, save in ((".h5", model.save), ("_weights.h5", model.save_weights)):
                path = Path(folder) / f"{name}{suffix}"
                save(path)
                found[path.name] = np.frombuffer(path.read_bytes(), np.uint8)
    np.savez_compressed(Path(__file__).with_name("keras2.npz"), **found)


if __name__ == "__main__":
    main()

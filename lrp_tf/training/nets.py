"""The networks of mnist/train.py: pixels 0..1 in, probabilities out."""

from __future__ import annotations

from typing import Any

import keras

WIDTHS = (32, 64, 128)  # channels of the two convolutions of each block, in Dieter and Zisgen 2023
BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1))  # channels and stride, of `mobilenet`


def digits(classes: int = 10, *, channels: int = 1, l2: float = 0.0, policy: str = "float32") -> keras.Model:
    """Two convolutions and two Dense layers: digits [B, 28, 28, channels] -> probabilities [B, classes], float32.

    Args:
        l2: factor on the sum of squares of all kernels, which training adds to the loss.
        policy: of everything but the softmax, such as "mixed_float16".
    """
    layers, more = keras.layers, _options(l2, policy)
    x = inputs = keras.Input((28, 28, channels), name="pixels")
    x = layers.Conv2D(32, 3, activation="relu", name="conv1", **more)(x)
    x = layers.Conv2D(64, 3, activation="relu", name="conv2", **more)(x)
    x = layers.MaxPooling2D(dtype=policy, name="pool")(x)
    x = layers.Flatten(dtype=policy, name="flatten")(x)
    x = layers.Dense(512, activation="relu", name="dense1", **more)(x)
    x = layers.Dropout(0.5, dtype=policy, name="dropout")(x)
    outputs = layers.Dense(classes, activation="softmax", name="dense2", **_options(l2, "float32"))(x)
    return keras.Model(inputs, outputs, name="digits")


def cnn(
    shape: tuple[int, int, int],
    classes: int,
    *,
    batch_norm: bool = False,
    dropout: float = 0.25,
    l2: float = 0.0,
    policy: str = "float32",
) -> keras.Model:
    """The network of Dieter and Zisgen 2023 (10.1007/s11063-023-11166-8), [B, *shape] -> [B, classes], float32.

    Six convolutions of 3 x 3 with 32, 32, 64, 64, 128, 128 channels, max pooling and dropout behind each pair, and a
    Dense layer.

    Args:
        shape: (H, W, C), 8 pixels or more.
        batch_norm: BatchNormalization between each convolution and its ReLU. The convolution then has no bias.
        dropout: rate behind each pooling.
        l2, policy: as in `digits`.
    """
    layers, more = keras.layers, _options(l2, policy)
    x = inputs = keras.Input(shape, name="pixels")
    for i, width in enumerate(WIDTHS, 1):
        for j in (1, 2):
            name = f"block{i}_conv{j}"
            x = layers.Conv2D(
                width, 3, padding="same", use_bias=not batch_norm, kernel_initializer="he_normal", name=name, **more
            )(x)
            if batch_norm:
                x = layers.BatchNormalization(momentum=0.9, name=f"block{i}_norm{j}", dtype=policy)(x)
            x = layers.ReLU(name=f"block{i}_relu{j}", dtype=policy)(x)
        x = layers.MaxPooling2D(name=f"block{i}_pool", dtype=policy)(x)
        x = layers.Dropout(dropout, name=f"block{i}_dropout", dtype=policy)(x)
    x = layers.Flatten(name="flatten", dtype=policy)(x)
    outputs = layers.Dense(classes, activation="softmax", name="predictions", **_options(l2, "float32"))(x)
    return keras.Model(inputs, outputs, name="cnn")


def mobilenet(
    shape: tuple[int, int, int], classes: int, *, dropout: float = 0.25, l2: float = 0.0, policy: str = "float32"
) -> keras.Model:
    """A small MobileNet (Howard et al. 2017, arXiv:1704.04861), [B, *shape] -> [B, classes], float32.

    A convolution of 3 x 3, seven blocks of a depthwise and a 1 x 1 convolution, BatchNormalization and ReLU6 behind
    each of the fifteen, global average pooling and a Dense layer. Three blocks halve the height and the width.

    Args:
        shape: (H, W, C), 8 pixels or more.
        dropout: rate before the Dense layer.
        l2, policy: as in `digits`.
    """
    layers, more = keras.layers, _options(l2, policy)
    flat = {**more, "use_bias": False}
    deep = {"dtype": policy, "use_bias": False, "depthwise_regularizer": more["kernel_regularizer"]}

    def behind(x: Any, name: str) -> Any:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm", dtype=policy)(x)
        return layers.ReLU(6.0, name=f"{name}_relu", dtype=policy)(x)

    x = inputs = keras.Input(shape, name="pixels")
    x = behind(layers.Conv2D(32, 3, padding="same", name="stem", **flat)(x), "stem")
    for i, (width, stride) in enumerate(BLOCKS, 1):
        name = f"block{i}_deep"
        x = behind(layers.DepthwiseConv2D(3, stride, padding="same", name=name, **deep)(x), name)
        name = f"block{i}_point"
        x = behind(layers.Conv2D(width, 1, name=name, **flat)(x), name)
    x = layers.GlobalAveragePooling2D(name="pool", dtype=policy)(x)
    x = layers.Dropout(dropout, name="dropout", dtype=policy)(x)
    outputs = layers.Dense(classes, activation="softmax", name="predictions", **_options(l2, "float32"))(x)
    return keras.Model(inputs, outputs, name="mobilenet")


def _options(l2: float, policy: str) -> dict[str, Any]:
    return {"dtype": policy, "kernel_regularizer": keras.regularizers.L2(l2) if l2 else None}

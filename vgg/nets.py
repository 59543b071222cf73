"""VGG of any depth, size and width, with its own scaling: pixels 0..255 in, probabilities out."""

from __future__ import annotations

import keras

# Channels of the convolutions of each block, as in Simonyan and Zisserman 2014, table 1, columns A, B, D and E.
BLOCKS = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
SMALLEST = 32  # pixels: five poolings halve it to 1
PAPER = 224  # pixels
UNITS = 4096  # of each hidden dense layer of the paper; of a net for small pictures, SMALL_UNITS
SMALL_UNITS = 512


def vgg(
    depth: int,
    size: int,
    channels: int,
    classes: int,
    *,
    width: float = 1.0,
    units: int | None = None,
    batch_norm: bool = False,
    dropout: float = 0.5,
    policy: str = "float32",
) -> keras.Model:
    """The network: pixels 0..255 [B, size, size, channels] -> probabilities [B, classes], float32 under any policy.

        model = vgg(11, 32, 3, 10, width=0.5, batch_norm=True)

    Kernels are initialised as He et al. 2015 propose for ReLUs, so that depth 11 to 19 trains without the paper's
    pre-training of a shallower net.

    Args:
        depth: layers with weights: 11, 13, 16 or 19.
        size: height and width in pixels, at least 32.
        channels: 1, scaled to 0..1, so that black stays 0; or 3, scaled to -1..1.
        width: factor on the channels and units of every hidden layer.
        units: of the two hidden dense layers, before `width`; None: 4096 as in the paper, for pictures below 128
            pixels 512.
        batch_norm: BatchNormalization between each convolution and its ReLU. The convolution then has no bias.
        dropout: rate behind each hidden dense layer.
        policy: of everything between the scaling and the softmax, such as "mixed_bfloat16".
    """
    layers = keras.layers
    inputs = keras.Input((size, size, channels), name="pixels")
    centred = channels > 1
    x = layers.Rescaling(1 / 127.5 if centred else 1 / 255, offset=-1.0 if centred else 0.0, name="scaling")(inputs)
    more = {"kernel_initializer": "he_normal", "dtype": policy}
    for i, block in enumerate(BLOCKS[depth], 1):
        for j, filters in enumerate(block, 1):
            name = f"block{i}_conv{j}"
            x = layers.Conv2D(scaled(filters, width), 3, padding="same", use_bias=not batch_norm, name=name, **more)(x)
            if batch_norm:
                x = layers.BatchNormalization(momentum=0.9, name=f"block{i}_norm{j}", dtype=policy)(x)
            x = layers.ReLU(name=f"block{i}_relu{j}", dtype=policy)(x)
        x = layers.MaxPooling2D(name=f"block{i}_pool", dtype=policy)(x)
    x = layers.Flatten(name="flatten", dtype=policy)(x)
    for i in (1, 2):
        x = layers.Dense(scaled(units or dense_units(size), width), activation="relu", name=f"fc{i}", **more)(x)
        x = layers.Dropout(dropout, name=f"dropout{i}", dtype=policy)(x)
    # Small weights: the first predictions are nearly uniform, whatever the depth.
    small = keras.initializers.RandomNormal(stddev=0.01)
    x = layers.Dense(classes, kernel_initializer=small, name="predictions", dtype=policy)(x)
    outputs = layers.Softmax(name="probabilities", dtype="float32")(x)
    return keras.Model(inputs, outputs, name=f"vgg{depth}")


def scaled(count: int, width: float) -> int:
    """Channels or units under a factor; at least 1."""
    return max(1, round(count * width))


def dense_units(size: int) -> int:
    """Units of the hidden dense layers, before the width."""
    return UNITS if size >= 128 else SMALL_UNITS

"""The classifiers of the study: small convolutional nets, trained from a seed by one compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

CONCEPTS, CUT = "conv2", "flatten"  # the layer whose channels are the concepts; the one behind which a mark is cut
RATE, DECAY = 2e-3, 1e-3  # of Adam; on the kernel of the last layer
BATCH = 32

# (pixels [B, H, W, C], classes [B], masks [B, H, W]) -> a number to add to the loss
Penalty = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def classifier(shape: tuple[int, int, int], classes: int, seed: int) -> keras.Model:
    """Pixels [B, H, W, C] of 0..1 -> probabilities [B, classes]: two convolutions with max pooling, and a Dense layer.

    The penalty on its kernel matters: weights of places that are black in all training pictures, as the corner where
    the square comes to lie, would keep their random values, and the mark would mislead a net that has never seen it.
    """
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = inputs = keras.Input(shape, name="pixels")
    x = layers.Conv2D(16, 3, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(32, 3, activation="relu", name=CONCEPTS)(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Flatten(name=CUT)(x)
    decay = keras.regularizers.L2(DECAY)
    outputs = layers.Dense(classes, activation="softmax", name="classes", kernel_regularizer=decay)(x)
    return keras.Model(inputs, outputs, name="planted")


def train(
    model: keras.Model,
    x: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    seed: int,
    *,
    masks: np.ndarray | None = None,
    penalty: Penalty | None = None,
    rate: float = RATE,
) -> float:
    """Train a model where it is; the loss of the last epoch, penalty included.

    The same seed gives the same batches.

    Args:
        x: float32 [N, H, W, C]. labels: int [N].
        masks: [N, H, W], for the penalty.
        rate: the learning rate at the start; it falls to 0 as a cosine does.

    Raises:
        ValueError: a loss that is not finite.
    """
    steps = max(1, len(x) // BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps * epochs))
    optimizer.build(model.trainable_variables)
    step = _step(model, optimizer, penalty)
    masks = np.zeros(x.shape[:3], bool) if masks is None else masks
    generator, loss = np.random.default_rng(seed), 0.0
    for _ in range(epochs):
        order = generator.permutation(len(x))
        losses = []
        for first in range(0, steps * BATCH, BATCH):
            part = order[first : first + BATCH]
            losses.append(step(tf.constant(x[part]), tf.constant(labels[part]), tf.constant(masks[part])))
        loss = float(np.mean(losses))
        if not np.isfinite(loss):
            raise ValueError(f"the loss is {loss}: expected a finite one. Remedy: a smaller weight of the penalty")
    return loss


def _step(model: keras.Model, optimizer: keras.optimizers.Optimizer, penalty: Penalty | None) -> Any:
    """One step of the training, compiled for batches of any size."""

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, labels: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            said = model(x, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, said))
            loss += tf.add_n(model.losses) if model.losses else 0.0
            if penalty is not None:
                loss += penalty(x, labels, masks)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


def outputs_of(model: keras.Model, layer: str, x: np.ndarray, batch: int = 256) -> np.ndarray:
    """What a layer of a model computes for samples, [N, ...]."""
    upper = keras.Model(model.inputs[0], model.get_layer(layer).output)
    return np.concatenate([upper(x[i : i + batch], training=False).numpy() for i in range(0, len(x), batch)])

"""The nets that a benchmark explains, trained from a seed; one compiled step trains all nets of a kind."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from lrp_tf.evaluate.xaitris import Problem, Samples

LEARNT = 0.8  # of test samples right: what the paper asks of a net
_BATCH = 128
_EPOCHS, _PATIENCE = {"mlp": 150, "cnn": 60}, {"mlp": 30, "cnn": 10}  # dense layers learn moved signals late
_RATE = {"mlp": 0.002, "cnn": 0.003}


def mlp(size: int) -> keras.Model:
    """Dense layers with ReLU, of 1/2, 1/4 and 1/8 of the pixels (32, 16, 8) or, for 64 x 64, of 256, 256 and 64."""
    widths = (256, 256, 64) if size > 8 else (32, 16, 8)
    hidden = [kl.Dense(width, "relu") for width in widths]
    return keras.Sequential([keras.Input((size, size, 1)), kl.Flatten(), *hidden, kl.Dense(2, "softmax")], name="mlp")


def cnn(size: int) -> keras.Model:
    """3 x 3 convolutions with ReLU, each followed by max pooling, down to 2 x 2 or 4 x 4 pixels; two dense layers."""
    layers: list[keras.Layer] = []
    for channels in (8, 16) if size == 8 else (8, 16, 32, 32):
        layers += [kl.Conv2D(channels, 3, padding="same", activation="relu"), kl.MaxPooling2D()]
    layers += [kl.Flatten(), kl.Dense(32, "relu"), kl.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((size, size, 1)), *layers], name="cnn")


NETS: dict[str, Callable[[int], keras.Model]] = {"mlp": mlp, "cnn": cnn}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What training gave.

    Attributes:
        accuracy: the share of test samples that are right.
        epochs: after how many the loss on the validation samples was least; the weights are those of that epoch.
        seconds: of the training.
    """

    accuracy: float
    epochs: int
    seconds: float

    @property
    def learnt(self) -> bool:
        """Whether the accuracy reaches the paper's threshold of 0.8."""
        return self.accuracy >= LEARNT


class Trainer:
    """Trains nets of one kind, one after another, in the same model: whatever is compiled for it serves all of them.

        trainer = Trainer("mlp", size=8)
        fitted = trainer.fit(evaluate.xaitris.generate("xor"), seed=0)    # trainer.model has learnt it

    Args:
        kind: a key of `NETS`. size: of the pictures.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str, size: int) -> None:
        if kind not in NETS:
            raise ValueError(f"net expects one of {list(NETS)}. Received: {kind!r}")
        self.kind, self.size = kind, size
        self.model = NETS[kind](size)
        self._optimizer = keras.optimizers.Adam(_RATE[kind])
        self._optimizer.build(self.model.trainable_variables)
        self._fresh = [variable.numpy() for variable in self._optimizer.variables]
        self._loss = keras.losses.SparseCategoricalCrossentropy()
        self._epoch = tf.function(self._trained, autograph=True, reduce_retracing=True)
        self._judge = tf.function(self._judged, autograph=False, reduce_retracing=True)

    def _trained(self, x: tf.Tensor, label: tf.Tensor, order: tf.Tensor) -> None:
        for step in tf.range(tf.shape(order)[0]):
            rows = order[step]
            with tf.GradientTape() as tape:
                loss = self._loss(tf.gather(label, rows), self.model(tf.gather(x, rows), training=True))
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self._optimizer.apply(gradients, self.model.trainable_variables)

    def _judged(self, x: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = self.model(x, training=False)
        return self._loss(label, found), tf.argmax(found, axis=1)

    def judge(self, samples: Samples) -> tuple[float, np.ndarray]:
        """The loss, and the class of each sample, int64 [n]."""
        parts = [slice(first, first + 1000) for first in range(0, len(samples), 1000)]
        found = [self._judge(tf.constant(samples.x[p]), tf.constant(samples.label[p])) for p in parts]
        losses = np.array([float(loss) for loss, _ in found])
        sizes = np.array([len(classes) for _, classes in found])
        return float(losses @ sizes / sizes.sum()), np.concatenate([classes.numpy() for _, classes in found])

    def begin(self, seed: int) -> None:
        """New weights by He et al. 2015, from the seed."""
        rng = np.random.default_rng([seed, len(self.kind)])
        for layer in self.model.layers:
            for weight in layer.weights:
                spread = math.sqrt(2 / math.prod(weight.shape[:-1])) if len(weight.shape) > 1 else 0.0
                weight.assign((spread * rng.standard_normal(weight.shape)).astype("float32"))
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)

    def fit(self, problem: Problem, seed: int, *, epochs: int | None = None) -> Fitted:
        """Train anew; the model then has the weights with the least loss on the validation samples.

        Args:
            epochs: at most; None: 150 of an MLP, 60 of a CNN. Training ends once the loss has not fallen for 30 or 10.
        """
        began = time.perf_counter()
        self.begin(seed)
        rng = np.random.default_rng([seed, 1])
        x, label, count = tf.constant(problem.train.x), tf.constant(problem.train.label), len(problem.train)
        batch = min(_BATCH, count)
        least, kept, chosen = math.inf, self.model.get_weights(), 0
        for epoch in range(1, (epochs or _EPOCHS[self.kind]) + 1):
            order = rng.permutation(count)[: count // batch * batch].reshape(-1, batch)
            self._epoch(x, label, tf.constant(order))
            loss, _ = self.judge(problem.validation)
            if loss < least:
                least, kept, chosen = loss, self.model.get_weights(), epoch
            if epoch - chosen >= _PATIENCE[self.kind]:
                break
        self.model.set_weights(kept)
        _, classes = self.judge(problem.test)
        return Fitted(float((classes == problem.test.label).mean()), chosen, time.perf_counter() - began)

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

from lrp_tf.evaluate.copies import numbers_of
from lrp_tf.evaluate.evidence import encoder
from lrp_tf.evaluate.problem import Problem, Samples

LEARNT = 0.8  # of test samples right: what the paper asks of a net
_BATCH = 128


def mlp(size: int, classes: int = 2) -> keras.Model:
    """Dense layers with ReLU, of 1/2, 1/4 and 1/8 of the pixels (32, 16, 8) or, for 64 x 64, of 256, 256 and 64."""
    widths = (256, 256, 64) if size > 8 else (32, 16, 8)
    hidden = [kl.Dense(width, "relu", kernel_initializer="he_normal") for width in widths]
    layers = [keras.Input((size, size, 1)), kl.Flatten(), *hidden, kl.Dense(classes, "softmax")]
    return keras.Sequential(layers, name="mlp")


def cnn(size: int, classes: int = 2) -> keras.Model:
    """3 x 3 convolutions with ReLU, each followed by max pooling, down to 2 x 2 or 4 x 4 pixels; two dense layers."""
    layers: list[keras.Layer] = []
    he = {"activation": "relu", "kernel_initializer": "he_normal"}
    for channels in (8, 16) if size == 8 else (8, 16, 32, 32):
        layers += [kl.Conv2D(channels, 3, padding="same", **he), kl.MaxPooling2D()]
    layers += [kl.Flatten(), kl.Dense(32, **he), kl.Dense(classes, "softmax")]
    return keras.Sequential([keras.Input((size, size, 1)), *layers], name="cnn")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of net and how it is trained.

    Attributes:
        make: (size, classes) -> a new model.
        rate: of Adam. warmed: whether the rate rises first and falls along a cosine, and gradients are clipped.
        epochs: at most. patience: after how many without a smaller loss on validation samples training ends.
    """

    make: Callable[[int, int], keras.Model]
    rate: float
    epochs: int
    patience: int
    warmed: bool = False

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """For so many steps."""
        if not self.warmed:
            return keras.optimizers.Adam(self.rate)
        warm = min(200, steps // 4)
        falling = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=self.rate, warmup_steps=warm)
        return keras.optimizers.Adam(falling, beta_2=0.98, global_clipnorm=1.0)


# Dense layers learn moved signals late.
NETS: dict[str, Kind] = {
    "mlp": Kind(mlp, 0.002, epochs=150, patience=30),
    "cnn": Kind(cnn, 0.003, epochs=60, patience=10),
    "encoder": Kind(lambda size, classes: encoder(classes), 0.001, epochs=4, patience=4, warmed=True),
}
OF_PICTURES, OF_TEXTS = ("mlp", "cnn"), ("encoder",)


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
        kind: a key of `NETS`. size: of the pictures. classes: how many.
        samples: to train on at each epoch, where the rate falls from step to step.
        epochs: at most; None: those of the kind.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(
        self, kind: str, size: int, *, classes: int = 2, samples: int = 20_000, epochs: int | None = None
    ) -> None:
        if kind not in NETS:
            raise ValueError(f"net expects one of {list(NETS)}. Received: {kind!r}")
        self.kind, self.size, self.classes = NETS[kind], size, classes
        self.epochs = epochs or self.kind.epochs
        self.model = self.kind.make(size, classes)
        self._optimizer = self.kind.optimizer(self.epochs * max(1, samples // _BATCH))
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
        """New weights, as a new model of the kind gets them, from the seed."""
        with numbers_of(seed):
            self.model.set_weights(self.kind.make(self.size, self.classes).get_weights())
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)

    def fit(self, problem: Problem, seed: int) -> Fitted:
        """Train anew; the model then has the weights with the least loss on the validation samples."""
        began = time.perf_counter()
        self.begin(seed)
        rng = np.random.default_rng([seed, 1])
        x, label, count = tf.constant(problem.train.x), tf.constant(problem.train.label), len(problem.train)
        batch = min(_BATCH, count)
        least, kept, chosen = math.inf, self.model.get_weights(), 0
        for epoch in range(1, self.epochs + 1):
            order = rng.permutation(count)[: count // batch * batch].reshape(-1, batch)
            self._epoch(x, label, tf.constant(order))
            loss, _ = self.judge(problem.validation)
            if loss < least:
                least, kept, chosen = loss, self.model.get_weights(), epoch
            if epoch - chosen >= self.kind.patience:
                break
        self.model.set_weights(kept)
        _, classes = self.judge(problem.test)
        return Fitted(float((classes == problem.test.label).mean()), chosen, time.perf_counter() - began)

"""Small transformers and what they are trained on: texts whose evidence is known, digits, repeated sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from lrp_tf.evaluate.evidence.encoders import Positions, blocks, encoder
from lrp_tf.evaluate.evidence.texts import (
    CLS,
    LENGTH,
    NEUTRAL,
    NOT,
    POLAR,
    TASKS,
    WORDS,
    Made,
    looked_up,
    occurring,
)

# What the other benchmarks take from here.
__all__ = ["CLS", "LENGTH", "NEUTRAL", "NOT", "POLAR", "TASKS", "WORDS", "Made", "encoder", "looked_up", "occurring"]


@keras.saving.register_keras_serializable("evidence")
class RotaryAttention(kl.Layer):
    """Causal self-attention with rotary positions (Su et al. 2021) and no biases, as in Llama."""

    def __init__(self, heads: int, **options: object) -> None:
        super().__init__(**options)
        self.heads = heads

    def get_config(self) -> dict:
        return super().get_config() | {"heads": self.heads}

    def build(self, shape: tuple) -> None:
        length, width = shape[1:]
        self.query, self.key, self.value, self.out = (kl.Dense(width, use_bias=False) for _ in range(4))
        for dense in (self.query, self.key, self.value, self.out):
            dense.build(shape)
        size = width // self.heads
        angle = np.arange(length)[:, None] / 10_000 ** (np.arange(size // 2) * 2 / size)
        self.cosine, self.sine = (f(angle)[:, None].astype("float32") for f in (np.cos, np.sin))
        self.allowed = np.tril(np.ones((length, length), bool))

    def attend(self, x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """The output and the attention weights [B, heads, queries, keys]."""
        _, length, width = x.shape
        size = width // self.heads
        q, k, v = (ops.reshape(f(x), (-1, length, self.heads, size)) for f in (self.query, self.key, self.value))
        scores = ops.einsum("bthd,bshd->bhts", self.turned(q), self.turned(k)) / math.sqrt(size)
        weights = ops.softmax(ops.where(self.allowed, scores, -1e9))
        mixed = ops.einsum("bhts,bshd->bthd", weights, v)
        return self.out(ops.reshape(mixed, (-1, length, width))), weights

    def turned(self, x: keras.KerasTensor) -> keras.KerasTensor:
        a, b = ops.split(x, 2, axis=-1)
        return ops.concatenate([a * self.cosine - b * self.sine, b * self.cosine + a * self.sine], axis=-1)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self.attend(x)[0]


def vit(layers: int = 3, width: int = 64, heads: int = 4, patch: int = 4) -> keras.Model:
    """Digits [B, 28, 28, 1] -> probabilities [B, 10], by the mean over patches."""
    images = keras.Input((28, 28, 1))
    x = kl.Conv2D(width, patch, strides=patch, name="patches")(images)
    x = Positions()(kl.Reshape((-1, width))(x))
    x = kl.GlobalAveragePooling1D()(blocks(x, layers, heads))
    return keras.Model(images, kl.Dense(10, "softmax", name="head")(x), name="vit")


def decoder(length: int, words: int, layers: int = 2, width: int = 64, heads: int = 4) -> keras.Model:
    """Tokens [B, length] -> the next token's pre-softmax values [B, length, words]; as Llama, without a single bias.

    Where a sum of the residual stream is complete its layer is called stream0 (the embedding), stream1, ...
    """
    tokens = keras.Input((length,), dtype="int32")
    x = kl.Embedding(words, width, name="stream0")(tokens)
    for n in range(layers):
        h = kl.RMSNormalization(epsilon=1e-6)(x)
        x = kl.Add(name=f"stream{2 * n + 1}")([x, RotaryAttention(heads, name=f"attention{n}")(h)])
        h = kl.RMSNormalization(epsilon=1e-6)(x)
        gate = kl.Dense(2 * width, "silu", use_bias=False)(h)
        up = kl.Dense(2 * width, use_bias=False)(h)
        h = kl.Dense(width, use_bias=False)(kl.Multiply()([gate, up]))
        x = kl.Add(name=f"stream{2 * n + 2}")([x, h])
    x = kl.RMSNormalization(epsilon=1e-6)(x)
    return keras.Model(tokens, kl.Dense(words, use_bias=False, name="head")(x), name="decoder")


def next_token(model: keras.Model) -> keras.Model:
    """The same model, whose only output is what follows the last token, [B, words]."""
    return keras.Model(model.inputs, model.output[:, -1], name="next_token")


def repeated(
    rng: np.random.Generator, n: int, length: int, words: int, shortest: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token 0, then `period` different words again and again: tokens int32 [n, length + 1], periods [n]."""
    period = rng.integers(shortest, longest + 1, n)
    order = rng.permuted(np.tile(np.arange(1, words), (n, 1)), axis=1)
    tokens = np.zeros((n, length + 1), np.int32)
    tokens[:, 1:] = np.take_along_axis(order, np.arange(length)[None] % period[:, None], axis=1)
    return tokens, period


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int, *, rate: float = 1e-3, batch: int = 128) -> None:
    """Train with Adam, a warm-up and a learning rate that falls along a cosine."""
    steps = epochs * -(-len(x) // batch)
    falling = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate, warmup_steps=min(200, steps // 4))
    logits = model.layers[-1].activation is keras.activations.linear
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(keras.optimizers.Adam(falling, beta_2=0.98, global_clipnorm=1.0), loss, jit_compile=False)
    model.fit(x, y, batch, epochs, verbose=0)


def kept(name: str, folder: Path | None, seed: int, train: Callable[[], keras.Model]) -> keras.Model:
    """The model that an earlier run left in `folder`, or what `train` makes from this seed."""
    path = None if folder is None else folder / f"{name}.{seed}.keras"
    if path is not None and path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    model = train()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model

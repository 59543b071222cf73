"""Small transformers and what they are trained on: texts whose evidence is known, digits, repeated sequences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers as kl
from keras import ops

LENGTH, VOCABULARY = 32, 64
# The words of the texts. Whatever is 24 or above decides nothing.
CLS, NOT, KEY, NEUTRAL = 0, 1, 2, 24
LEFT, RIGHT = np.array([4, 5]), np.array([6, 7])
POLAR = np.arange(8, 24)

# How a picture calls them, if the 16 polar words are bad and good ones.
WORDS = """
    [CLS] not key - - - - - awful bad boring cheap dull flat poor weak bright fine fresh good great lovely solid warm
    again all also and are as at book both by day film for from had has he here in into is it its just more music
    now of on one our play she so story that the then this who""".split()  # noqa: SIM905

Made = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of text.

    Attributes:
        times: how many times more texts the task needs to be learnt.
        make: (generator, n) -> tokens int32 [n, LENGTH], CLS first; classes [n]; evidence bool [n, LENGTH].
    """

    classes: int
    make: Callable[[np.random.Generator, int], Made]
    times: int = 1


def _texts(rng: np.random.Generator, n: int, places: int, width: int = 1) -> Made:
    """Neutral words, no evidence, and `places` different places of `width` words in each text."""
    tokens = rng.integers(NEUTRAL, VOCABULARY, (n, LENGTH), dtype=np.int32)
    tokens[:, 0] = CLS
    slots = rng.permuted(np.tile(np.arange((LENGTH - 1) // width), (n, 1)), axis=1)[:, :places]
    return tokens, np.zeros((n, LENGTH), bool), 1 + slots * width


def occurring(rng: np.random.Generator, text: Made) -> Made:
    """Three words of the class, of four each, and one of another class: evidence are the three.

    Args:
        text: neutral words, no evidence, and four places of one word in each.
    """
    tokens, evidence, places = text
    n = len(tokens)
    rows, label = np.arange(n), rng.integers(0, 4, n)
    rival = (label + rng.integers(1, 4, n)) % 4
    for k in range(4):
        tokens[rows, places[:, k]] = POLAR[4 * (label if k < 3 else rival) + rng.integers(0, 4, n)]
        evidence[rows, places[:, k]] = k < 3
    return tokens, label, evidence


def occurrence(rng: np.random.Generator, n: int) -> Made:
    """See `occurring`."""
    return occurring(rng, _texts(rng, n, 4))


def pair(rng: np.random.Generator, n: int) -> Made:
    """One of two left words and one of two right ones, anywhere: the class is whether they match. Evidence are both."""
    tokens, evidence, places = _texts(rng, n, 2)
    rows, a, b = np.arange(n), rng.integers(0, 2, n), rng.integers(0, 2, n)
    tokens[rows, places[:, 0]], tokens[rows, places[:, 1]] = LEFT[a], RIGHT[b]
    evidence[rows[:, None], places] = True
    return tokens, a ^ b, evidence


def negation(rng: np.random.Generator, n: int) -> Made:
    """A good or a bad word, which NOT right ahead turns round in half of the texts; evidence are the word and that NOT.

    Elsewhere the NOT is ahead of a neutral word: every text holds one.
    """
    tokens, label, evidence, places = _polar(rng, n)
    rows = np.flatnonzero(~evidence[np.arange(n), places[:, 0]])
    tokens[rows, places[rows, 1]] = NOT
    return tokens, label, evidence


def shortcut(rng: np.random.Generator, n: int) -> Made:
    """The same with two NOTs elsewhere in every text, so that a net can count them: evidence are all of them."""
    tokens, label, evidence, places = _polar(rng, n)
    tokens[np.arange(n)[:, None], places[:, 1:3]] = NOT
    return tokens, label, evidence | (tokens == NOT)


def _polar(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, classes, evidence, and four places of two words; the polar word is in the first one."""
    tokens, evidence, places = _texts(rng, n, 4, width=2)
    rows, good, negated = np.arange(n), rng.integers(0, 2, n), rng.integers(0, 2, n)
    tokens[rows[negated == 1], places[negated == 1, 0]] = NOT
    tokens[rows, places[:, 0] + 1] = POLAR[8 * good + rng.integers(0, 8, n)]
    evidence[rows, places[:, 0] + 1] = True
    evidence[rows, places[:, 0]] = negated == 1
    return tokens, good ^ negated, evidence, places


def looked_up(rng: np.random.Generator, text: Made, kinds: int) -> Made:
    """The class is the one of `kinds` values that follows KEY; others follow neutral words. Evidence are both.

    Args:
        text: neutral words, no evidence, and places of two words in each.
    """
    tokens, evidence, places = text
    n, count = places.shape
    rows = np.arange(n)
    values = rng.permuted(np.tile(np.arange(kinds), (n, 1)), axis=1)[:, :count]
    tokens[rows[:, None], places + 1] = POLAR[values]
    tokens[rows, places[:, 0]] = KEY
    evidence[rows, places[:, 0]] = evidence[rows, places[:, 0] + 1] = True
    return tokens, values[:, 0], evidence


def lookup(rng: np.random.Generator, n: int) -> Made:
    """See `looked_up`: 8 values, three of which follow neutral words."""
    return looked_up(rng, _texts(rng, n, 4, width=2), 8)


TASKS = {
    "occurrence": Task(4, occurrence),
    "pair": Task(2, pair),
    "negation": Task(2, negation, times=2),
    "shortcut": Task(2, shortcut),
    "lookup": Task(8, lookup),
}


@keras.saving.register_keras_serializable("evidence")
class Positions(kl.Layer):
    """x plus a learned vector for each position."""

    def build(self, shape: tuple) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table


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


def _blocks(x: keras.KerasTensor, layers: int, heads: int) -> keras.KerasTensor:
    """Transformer blocks that normalise first; their attention is called attention0, attention1, ..."""
    width = x.shape[-1]
    for n in range(layers):
        h = kl.LayerNormalization(epsilon=1e-6)(x)
        x = kl.Add()([x, kl.MultiHeadAttention(heads, width // heads, name=f"attention{n}")(h, h)])
        h = kl.Dense(4 * width, "gelu")(kl.LayerNormalization(epsilon=1e-6)(x))
        x = kl.Add(name=f"block{n}")([x, kl.Dense(width)(h)])
    return kl.LayerNormalization(epsilon=1e-6)(x)


def encoder(classes: int, layers: int = 2, width: int = 64, heads: int = 4) -> keras.Model:
    """Tokens [B, LENGTH] -> probabilities [B, classes], read off the first token as BERT's are."""
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(kl.Embedding(VOCABULARY, width, name="embedding")(tokens))
    return keras.Model(tokens, kl.Dense(classes, "softmax", name="head")(_blocks(x, layers, heads)[:, 0]), name="text")


def vit(layers: int = 3, width: int = 64, heads: int = 4, patch: int = 4) -> keras.Model:
    """Digits [B, 28, 28, 1] -> probabilities [B, 10], by the mean over patches."""
    images = keras.Input((28, 28, 1))
    x = kl.Conv2D(width, patch, strides=patch, name="patches")(images)
    x = Positions()(kl.Reshape((-1, width))(x))
    x = kl.GlobalAveragePooling1D()(_blocks(x, layers, heads))
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

"""Small recurrent nets and what they are trained on: sequences whose evidence is known and ends long before the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from evidence_nets import NEUTRAL, POLAR, Made, looked_up, occurring
from keras import layers as kl

LENGTH, GAP = 60, 30  # time steps, and how many of them lie behind the last evidence at least
VOCABULARY = 48  # words from NEUTRAL on decide nothing
CHANNELS, WIDE = 3, 3  # of signals, and how many steps a bump takes
OPEN = 3.0  # sigmoid(3) ** 30 = 0.23


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of sequence.

    Attributes:
        classes: how many.
        make: (generator, n) -> tokens int32 [n, LENGTH] or signals float32 [n, LENGTH, channels]; classes [n];
            evidence bool [n, LENGTH], or [n, LENGTH, channels] where the channel is known too.
        tokens: whether the sequences are of tokens.
        times: how many times more sequences the task needs to be learnt.
    """

    classes: int
    make: Callable[[np.random.Generator, int], Made]
    tokens: bool = True
    times: int = 1


def _words(rng: np.random.Generator, n: int, places: int, width: int = 1) -> Made:
    """Neutral words, no evidence, and `places` different places of `width` words in each, ahead of the gap."""
    tokens = rng.integers(NEUTRAL, VOCABULARY, (n, LENGTH), dtype=np.int32)
    slots = rng.permuted(np.tile(np.arange((LENGTH - GAP) // width), (n, 1)), axis=1)[:, :places]
    return tokens, np.zeros((n, LENGTH), bool), slots * width


def occurrence(rng: np.random.Generator, n: int) -> Made:
    """See `occurring`."""
    return occurring(rng, _words(rng, n, 4))


def order(rng: np.random.Generator, n: int) -> Made:
    """Four words of two kinds: the class is that of the first and that of the last one. Evidence are these two.

    After the temporal order problem of Hochreiter and Schmidhuber (1997), with two words between that decide nothing.
    """
    tokens, evidence, places = _words(rng, n, 4)
    places.sort(axis=1)
    rows, kinds = np.arange(n)[:, None], rng.integers(0, 2, (n, 4))
    tokens[rows, places] = POLAR[kinds]
    evidence[rows, places[:, [0, 3]]] = True
    return tokens, 2 * kinds[:, 0] + kinds[:, 3], evidence


def lookup(rng: np.random.Generator, n: int) -> Made:
    """See `looked_up`: 4 values, one of which follows a neutral word."""
    return looked_up(rng, _words(rng, n, 2, width=2), 4)


def bump(rng: np.random.Generator, n: int) -> Made:
    """Noise on three channels with a bump on each, up or down: the class is that of the first channel's.

    Its time steps on this channel are evidence. The bumps of the other channels are anywhere.
    """
    signals = 0.3 * rng.standard_normal((n, LENGTH, CHANNELS))
    evidence = np.zeros((n, LENGTH, CHANNELS), bool)
    up, rows = rng.integers(0, 2, (n, CHANNELS)), np.arange(n)
    for c in range(CHANNELS):
        begin = rng.integers(0, LENGTH - WIDE - (GAP if c == 0 else 0) + 1, n)
        for k in range(WIDE):
            signals[rows, begin + k, c] += 2 * up[:, c] - 1
            evidence[rows, begin + k, 0] |= c == 0
    return signals.astype("float32"), up[:, 0], evidence


def marked(rng: np.random.Generator, n: int) -> Made:
    """Two of many numbers are marked on the second channel: the class is whether their sum is > 0. Evidence are both.

    The adding problem of Hochreiter and Schmidhuber (1997), as a choice. Marks on the third channel decide nothing;
    they are as many, and anywhere. Sums are at least 0.2 away from 0.
    """
    signals = np.zeros((n, LENGTH, CHANNELS), "float32")
    signals[..., 0] = rng.uniform(-1, 1, (n, LENGTH))
    places = rng.permuted(np.tile(np.arange(LENGTH - GAP), (n, 1)), axis=1)[:, :2]
    others = rng.permuted(np.tile(np.arange(LENGTH), (n, 1)), axis=1)[:, :2]
    rows, label = np.arange(n)[:, None], rng.integers(0, 2, n)
    pairs = rng.uniform(-1, 1, (2 * n + 1000, 2))
    pairs = pairs[np.abs(pairs.sum(1)) > 0.2][:n]
    signals[rows, places, 0] = pairs * np.where((pairs.sum(1) > 0) == label, 1, -1)[:, None]
    signals[rows, places, 1] = 1
    signals[rows, others, 2] = 1
    evidence = np.zeros((n, LENGTH), bool)
    evidence[rows, places] = True
    return signals, label, evidence


TASKS = {
    "occurrence": Task(4, occurrence),
    "order": Task(4, order, times=2),
    "lookup": Task(4, lookup, times=2),
    "bump": Task(2, bump, tokens=False),
    "marked": Task(2, marked, tokens=False, times=2),
}
LAYERS: dict[str, Callable[[int], keras.Layer]] = {
    "lstm": lambda width: kl.LSTM(width, name="memory"),
    "gru": lambda width: kl.GRU(width, name="memory"),
    "bidirectional": lambda width: kl.Bidirectional(kl.LSTM(width // 2), name="memory"),
}


def net(task: Task, layer: str, width: int = 32) -> keras.Model:
    """Sequences of a task -> probabilities [B, classes], read off the last state."""
    x = inputs = keras.Input((LENGTH,), dtype="int32") if task.tokens else keras.Input((LENGTH, CHANNELS))
    if task.tokens:
        x = kl.Embedding(VOCABULARY, width // 2, name="embedding")(inputs)
    memory = LAYERS[layer](width)
    model = keras.Model(inputs, kl.Dense(task.classes, "softmax", name="head")(memory(x)), name=layer)
    for part in (memory.forward_layer, memory.backward_layer) if layer == "bidirectional" else (memory,):
        _remembers(part)
    return model


def _remembers(layer: kl.LSTM | kl.GRU) -> None:
    """Open the gate that keeps the state (Tallec and Ollivier 2018): with Keras' start, 30 steps are hardly learnt."""
    bias = layer.cell.bias.numpy()  # LSTM [4 units]: i, f, c, o; GRU [2, 3 units]: z, r, h, for inputs and for states
    if isinstance(layer, kl.LSTM):
        bias[layer.units : 2 * layer.units] = OPEN
    else:
        bias[0, : layer.units] = OPEN
    layer.cell.bias.assign(bias)

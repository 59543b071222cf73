"""Texts whose evidence is known: what they are made of, and which tokens decide."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np

from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate.problem import Problem, Samples

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
NAMES = tuple(TASKS)


def generate(name: str, *, samples: int | None = None, seed: int = 0) -> Problem:
    """A kind of text: which class is it, and which tokens say so?

        problem = evaluate.evidence.generate("negation", samples=1000)
        problem.test.x, problem.test.label, problem.test.masks    # int32 [100, 32], [100], bool [100, 32]

    Args:
        name: a key of `TASKS`.
        samples: in all three parts; None: 22,000, or 42,000 for what is harder to learn; all but 2,000 are to train on.
        seed: the same one gives the same texts.

    Raises:
        ValueError: an unknown name; fewer than 20 samples.
    """
    if name not in TASKS:
        raise ValueError(f"name expects one of {list(TASKS)}. Received: {name!r}")
    task = TASKS[name]
    samples = 2000 + 20_000 * task.times if samples is None else samples
    if not is_whole(samples) or samples < 20:
        whole = "" if is_whole(samples) else ", a whole number"
        raise ValueError(f"samples expects at least 20{whole}. Received: {samples!r}")
    other = min(1000, samples // 10)
    parts = []
    for part, count in enumerate((samples - 2 * other, other, other)):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), part])
        tokens, label, evidence = task.make(rng, count)
        parts.append(Samples(tokens, label.astype(np.int64), evidence))
    return Problem(name, "tokens", LENGTH, None, "tokens", seed, parts[0], parts[1], parts[2], 0.0, VOCABULARY - 1.0)

"""The picture of docs/text.md: a small transformer that was trained on made-up reviews, and what it goes by.

    python benchmarks/reviews.py --picture docs/text.png

Reviews are put together at random; "not" ahead of a judgement turns it round. Twenty seconds on two cores.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers as kl

import lrp_tf
from lrp_tf import heatmap

WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "the",
    "film",
    "actor",
    "##s",
    "music",
    "was",
    "were",
    "not",
    ".",
    "and",
    "a",
    "good",
    "fine",
    "love",
    "##ly",
    "bad",
    "dull",
    "bor",
    "##ing",
]
GOOD, BAD = [["good"], ["fine"], ["love", "##ly"]], [["bad"], ["dull"], ["bor", "##ing"]]
THINGS = [["the", "film", "was"], ["the", "music", "was"], ["the", "actor", "##s", "were"]]
LENGTH = 20
SHOWN = (
    "the film was good and the music was fine .",
    "the film was not bad and the actor ##s were love ##ly .",
    "the music was bor ##ing and the actor ##s were not good .",
)


def review(rng: np.random.Generator) -> tuple[list[str], int]:
    """One or two clauses of one opinion: tokens, and 1 for a good one."""
    good, tokens = int(rng.integers(2)), []
    for clause in range(rng.integers(1, 3)):
        turned = bool(rng.random() < 0.4)
        judgements = GOOD if good != turned else BAD
        tokens += ["and"] if clause else []
        tokens += THINGS[rng.integers(3)] + ["not"] * turned + judgements[rng.integers(3)]
    return [*tokens, "."], good


def encoded(tokens: list[str]) -> list[int]:
    """Token ids [LENGTH]."""
    ids = [WORDS.index(token) for token in ("[CLS]", *tokens, "[SEP]")]
    return ids + [0] * (LENGTH - len(ids))


def network() -> keras.Model:
    """Two blocks of attention over words and their positions."""
    ids = keras.Input((LENGTH,), dtype="int32")
    mask = keras.ops.not_equal(ids, 0)
    h = kl.Embedding(len(WORDS), 32)(ids) + kl.Embedding(LENGTH, 32)(keras.ops.arange(LENGTH))
    for block in range(2):
        x = kl.LayerNormalization()(h)
        h = h + kl.MultiHeadAttention(4, 8, name=f"attention_{block}")(x, x, attention_mask=mask[:, None, :])
        h = h + kl.Dense(32)(kl.Dense(64, activation="gelu")(kl.LayerNormalization()(h)))
    return keras.Model(ids, kl.Dense(2, activation="softmax")(h[:, 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="text.png", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--composite", default="attn_lrp")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    reviews = [review(rng) for _ in range(6000)]
    x, y = np.array([encoded(tokens) for tokens, _ in reviews]), np.array([good for _, good in reviews])
    model = network()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:5000], y[:5000], batch_size=64, epochs=6, verbose=0)
    print(f"accuracy on 1000 others: {model.evaluate(x[5000:], y[5000:], verbose=0)[1]:.3f}")

    shown = [text.split() for text in SHOWN]
    ids = np.array([encoded(tokens) for tokens in shown])
    e = lrp_tf.Explainer(model, options.composite).explain(ids, contrast="softmax")
    names, chosen = ("bad", "good"), e.target.numpy()
    chances = [f"{names[t]} (p = {p[t]:.3f})" for t, p in zip(chosen, e.output.numpy(), strict=True)]
    page = heatmap.text(
        [[WORDS[i] for i in row] for row in ids],
        e.relevance.numpy(),
        prediction=chances,
        target=[names[t] for t in chosen],
        contrast=[names[1 - t] for t in chosen],
        score=e.conservation.start.numpy(),
    )
    page.save(options.picture)
    arrived = (e.conservation.relevance / e.conservation.start).numpy().round(3)
    print(f"{options.picture}: share of the difference that arrives at the tokens: {arrived}")


if __name__ == "__main__":
    main()

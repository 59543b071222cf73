"""Tables of patients, a linear model of them, and how results are read."""

import csv

import keras
import numpy as np
from keras import layers as kl

from helpers.pictures import table

NAMES = ("age", "dose", "weight")
KERNEL = np.array([[-0.1, 0.1], [-2.0, 2.0], [0.05, -0.05]], "float32")  # "dose" decides


def patients(name="patients"):
    """A linear model, whose relevance under Epsilon is x * w."""
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, activation="softmax", name="logits")], name=name)
    model.layers[-1].set_weights([KERNEL, np.zeros(2, "float32")])
    return model


def values(count=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).round(4)


def written(path, rows, *, header=NAMES, more=(), ahead=()):
    """A CSV file; `more`: a column behind the others, `ahead`: one before them."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = [[*map(str, header)], *([f"{value:g}" for value in row] for row in rows)]
        for column, place in ((ahead, 0), (more, len(header))):
            for line, cell in zip(lines, column, strict=False):
                line.insert(place + (place > 0 and bool(ahead)), cell)
        csv.writer(file).writerows(lines)
    return path


def relevance_of(path):
    """Keys, targets and relevance in a file of relevance."""
    rows = table(path)
    return [row["file"] for row in rows], [row["target"] for row in rows], [[float(r[n]) for n in NAMES] for r in rows]


def dots(picture):
    """Where the dots of high and of low values are, left of the bar of colours."""
    picture = picture[:, :-90].astype(int)
    return (picture[..., 0] > 200) & (picture[..., 2] < 130), (picture[..., 2] > 200) & (picture[..., 0] < 80)

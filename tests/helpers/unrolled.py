"""An explanation beside what a `Tape` says of the unrolled net."""

from __future__ import annotations

import keras
import numpy as np
from references.tape import Part, Tape, Value

import lrp_tf
from helpers.recurrent_cases import Case

MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 1, 1, 1]], bool)
TARGET = np.array([0, 1, 2])


def inputs_of(shape: tuple, masked: bool = False, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(batch, *shape))
    mask = MASK[:batch, : shape[0]] if masked else np.ones((batch, shape[0]), bool)
    x[~mask] = 0
    return x, mask


def steps_of(x: np.ndarray) -> list[Value]:
    return [Value(x[:, t].reshape(len(x), -1)) for t in range(x.shape[1])]


def explained(tape: Tape, features: Value, model: keras.Model) -> Value:
    """The logits, and the relevance of `TARGET` carried back."""
    w, b = model.layers[-1].get_weights()
    logits = tape.linear([Part(features, w)], b)
    logits.relevance = np.where(np.arange(w.shape[1]) == TARGET[: len(logits.array), None], logits.array, 0.0)
    tape.propagate()
    return logits


def relevance_of(values: list[Value], shape: tuple) -> np.ndarray:
    return np.stack([value.relevance for value in values], 1).reshape(shape)


def agrees(found: lrp_tf.Explanation, tape: Tape, want: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found.relevance, want, rtol=0, atol=tolerance * np.abs(want).max())
    books = found.conservation
    scale = max(np.abs(part).max() for part in (books.start, tape.bias, tape.stabilizer, want))
    for share, booked in [(tape.bias, books.bias), (tape.stabilizer + tape.other, books.stabilizer + books.other)]:
        np.testing.assert_allclose(booked, share, rtol=0, atol=tolerance * scale)
    assert np.abs(books.unexplained * np.abs(books.start)).max() < 1e-12 * scale


def check_unrolled(made: Case, composite: object, tape: Tape, masked: bool = False, tolerance: float = 1e-12) -> None:
    x, mask = inputs_of(made.model.input_shape[1:], masked)
    found = lrp_tf.Explainer(made.model, composite).explain(x, target=TARGET)
    values = steps_of(x)
    logits = explained(tape, made.unrolled(tape, values, mask), made.model)
    np.testing.assert_allclose(found.logits, logits.array, rtol=0, atol=1e-13 * np.abs(logits.array).max())
    agrees(found, tape, relevance_of(values, x.shape), tolerance)
    if masked:
        assert not found.relevance.numpy()[~mask].any()

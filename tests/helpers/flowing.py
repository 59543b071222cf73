"""A step in the middle of a model, and what the definitions of the flows say, slowly, in NumPy."""

import itertools
import math

import keras
import numpy as np
from keras import layers as kl

import lrp_tf
from helpers.checking import close, randomize


def values(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(3, *shape))


def ties(*shape, seed=1):
    """Small integers, so that every window has equal maxima."""
    return np.random.default_rng(seed).integers(-2, 2, (3, *shape)).astype("float64")


def s(z):
    return z + np.where(z >= 0, 1e-6, -1e-6)


class Flow:
    """The relevance of the inputs of `function`, which stands behind activations that change nothing.

    Attributes:
        start, y, R: relevance of the output, the output, the relevance of each input.
        bias, other, positions: what was absorbed, by sample.
    """

    def __init__(self, function, *inputs, at_input=False, composite="epsilon", tolerance=1e-9):
        symbols = [keras.Input(x.shape[1:], dtype=x.dtype.name) for x in inputs]
        middle = [
            i if at_input or x.dtype.kind != "f" else kl.Activation("linear")(i)
            for i, x in zip(symbols, inputs, strict=True)
        ]
        self.model = randomize(keras.Model(symbols, function(*middle)))
        y = np.asarray(self.model(list(inputs), training=False))
        self.start = np.random.default_rng(7).normal(size=y.shape)
        e = lrp_tf.Explainer(self.model, composite).explain(list(inputs), start=self.start)
        close(np.asarray(e.output), y, tolerance)
        assert np.abs(e.conservation.unexplained).max() < max(tolerance, 1e-9)
        R = [e.relevance] if len(inputs) == 1 else e.relevance
        self.R = [None if r is None else np.asarray(r) for r in R]
        self.y, self.bias, self.other = y, np.asarray(e.conservation.bias), np.asarray(e.conservation.other)
        self.positions = np.asarray(e.conservation.positions)


def jacobian(function, inputs):
    """Of an affine NumPy function of one sample each: (J [out, in], constant [out])."""
    sizes = [x.size for x in inputs]
    ends = np.cumsum(sizes)[:-1]

    def run(flat):
        parts = np.split(flat, ends)
        return np.asarray(function(*[p.reshape(x.shape) for p, x in zip(parts, inputs, strict=True)])).ravel()

    constant = run(np.zeros(sum(sizes)))
    return np.stack([run(e) - constant for e in np.eye(sum(sizes))], 1), constant


def shared(function, inputs, start):
    """Epsilon(1e-6) over the contributions of an affine function of NumPy, which knows no batch. Relevances, bias."""
    J, constant = jacobian(function, [x[0] for x in inputs])
    flat = np.concatenate([x.reshape(len(x), -1) for x in inputs], 1)
    g = start.reshape(len(flat), -1) / s(flat @ J.T + constant)
    parts = np.split(flat * (g @ J), np.cumsum([x[0].size for x in inputs])[:-1], 1)
    return [p.reshape(x.shape) for p, x in zip(parts, inputs, strict=True)], g @ constant


def moved(function, inputs, start):
    """Relevance goes with the entries that a function of NumPy moves, which knows no batch. Relevances, the rest."""
    J, _ = jacobian(function, [x[0] for x in inputs])
    flat = start.reshape(len(start), -1)
    parts = np.split(flat @ J, np.cumsum([x[0].size for x in inputs])[:-1], 1)
    return [p.reshape(x.shape) for p, x in zip(parts, inputs, strict=True)], flat @ (1 - np.abs(J).sum(1).clip(0, 1))


# --- windows -----------------------------------------------------------------------------------


def strided(size, window, stride, padding):
    """(start, end) of each window along one axis, as TensorFlow pads."""
    count = math.ceil(size / stride) if padding == "same" else (size - window) // stride + 1
    before = max((count - 1) * stride + window - size, 0) // 2 if padding == "same" else 0
    return [(max(i * stride - before, 0), min(i * stride - before + window, size)) for i in range(count)]


def adaptive(size, count):
    return [(math.floor(i * size / count), math.ceil((i + 1) * size / count)) for i in range(count)]


def pooled(x, start, axes, take):
    """Sum over all windows of take(x of the window, relevance of its output); `axes` has the windows of each axis.

    x: [B, ..., C], start: [B, windows..., C].
    """
    R = np.zeros_like(x)
    for index in itertools.product(*[range(len(a)) for a in axes]):
        window = tuple(slice(*a[i]) for a, i in zip(axes, index, strict=True))
        for b, c in itertools.product(range(len(x)), range(x.shape[-1])):
            R[(b, *window, c)] += take(x[(b, *window, c)], start[(b, *index, c)])
    return R


def to_first_maximum(x, r):
    found = np.zeros_like(x)
    found.flat[np.argmax(x)] = r
    return found


def to_all(x, r):
    return x / x.size * r / s(x.mean())

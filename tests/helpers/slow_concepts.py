"""Concept relevance the slow way: one map at a time, from dense Jacobians, with numpy alone (see `jacobian`)."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as kl

from helpers import jacobian
from helpers.checking import randomize

SHAPE = (5, 4, 2)
CHANNELS = {"a": 3, "b": 4, "c": 3, "sum": 3, "d": 5}


def residual_net(dtype: str = "float64") -> keras.Model:
    """a, and behind it b and c beside a skip connection; their sum, a ReLU, d, and classes."""
    own = {"dtype": dtype}
    inputs = keras.Input(SHAPE, **own)
    a = kl.Conv2D(CHANNELS["a"], 3, padding="same", activation="relu", name="a", **own)(inputs)
    b = kl.Conv2D(CHANNELS["b"], 3, padding="same", activation="relu", name="b", **own)(a)
    c = kl.Conv2D(CHANNELS["c"], 3, padding="same", name="c", **own)(b)
    h = kl.ReLU(name="relu", **own)(kl.Add(name="sum", **own)([c, a]))
    d = kl.Dense(CHANNELS["d"], activation="relu", name="d", **own)(kl.Flatten(**own)(h))
    return randomize(keras.Model(inputs, kl.Dense(3, name="classes", **own)(d)))


class Slow:
    """Conditional maps of one sample of `residual_net`: `rule` on convolutions, Epsilon on the rest."""

    def __init__(self, model: keras.Model, rule: str, x: np.ndarray, target: int, **parameters: float) -> None:
        self.rule, self.parameters, self.target = rule, parameters, target
        self.kernels = {layer.name: self._matrix(layer) for layer in model.layers if layer.weights}
        self.x = x
        self.a = self._forward("a", x, True)
        self.b = self._forward("b", self.a, True)
        self.c = self._forward("c", self.b, False)
        self.h = np.maximum(self.c + self.a, 0.0)
        self.d = self._forward("d", self.h, True)
        self.logits = self._forward("classes", self.d, False)

    @staticmethod
    def _matrix(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray, tuple]:
        shape = layer.input.shape[1:]
        activation, layer.activation = layer.activation, keras.activations.linear
        bias = np.asarray(layer(np.zeros((1, *shape))))[0]
        matrix = jacobian.dense_matrix(lambda x: layer(x) - bias, shape)
        layer.activation = activation
        return matrix, bias.ravel(), bias.shape

    def _forward(self, name: str, x: np.ndarray, relu: bool) -> np.ndarray:
        w, b, shape = self.kernels[name]
        z = (x.ravel() @ w + b).reshape(shape)
        return np.maximum(z, 0.0) if relu else z

    def _back(self, name: str, x: np.ndarray, r: np.ndarray) -> np.ndarray:
        w, b, _ = self.kernels[name]
        dense = name in ("d", "classes")
        rule, options = ("Epsilon", {}) if dense else (self.rule, self.parameters)
        return jacobian.relevance(rule, x.ravel(), w, b, r.ravel(), **options).reshape(x.shape)

    def relevance(
        self, masks: dict[str, np.ndarray], only: tuple[str, ...] = (), without: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        """Relevance of "x" and ahead of its mask at each layer.

        Args:
            masks: layer -> factors of its relevance.
            only: "b" or "c": relevance of the skip connection is left out.
            without: "b" or "c": relevance of the skip connection is all that is left.
        """
        found: dict[str, np.ndarray] = {}

        def passed(name: str, r: np.ndarray) -> np.ndarray:
            found[name] = r
            return r * masks[name] if name in masks else r

        start = np.zeros_like(self.logits)
        start[self.target] = self.logits[self.target]
        r = passed("d", self._back("classes", self.d, start))
        r = passed("sum", self._back("d", self.h, r))
        z = self.c + self.a
        shared = r / (z + 1e-6 * jacobian.sign(z))
        r_c, skipped = passed("c", self.c * shared), self.a * shared
        r_b = passed("b", self._back("c", self.b, r_c))
        branch = self._back("b", self.a, r_b)
        branch, skipped = (0 * branch if without else branch), (0 * skipped if only else skipped)
        found["x"] = self._back("a", self.x, passed("a", branch + skipped))
        return found


def mask(name: str, *channels: int, position: tuple[int, int] | None = None) -> np.ndarray:
    """1 at some channels of a layer, or at one position of them, 0 elsewhere."""
    shape = (CHANNELS[name],) if name == "d" else (*SHAPE[:2], CHANNELS[name])
    found = np.zeros(shape)
    if position is None:
        found[..., list(channels)] = 1.0
    else:
        found[(*position, list(channels))] = 1.0
    return found

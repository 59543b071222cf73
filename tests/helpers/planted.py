"""Cases whose explanations are known to be good or bad, by name: what `test_meta.py` puts in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import keras
import numpy as np

from lrp_tf import evaluate

SIDE, CLASSES, B = 12, 4, 24
Cases: TypeAlias = Mapping[str, evaluate.Case]


def _pictures(numbers: np.random.Generator) -> np.ndarray:
    """[B, 12, 12, 1]: a third of the pixels are bright, each by itself; the others are black."""
    bright = numbers.random((B, SIDE, SIDE, 1)) < 1 / 3
    return (bright * numbers.uniform(0.5, 1, bright.shape)).astype(np.float32)


@functools.cache
def linear(signed: bool = True, black: bool = True) -> Cases:
    """A linear model, whose contributions are known: x w.

    Args:
        signed: False: all of them are for the class. black: False: no pixel is black, and none contributes nothing.
    """
    numbers = np.random.default_rng(0)
    x, w = _pictures(numbers), numbers.normal(size=(SIDE**2, CLASSES))
    x = x if black else np.maximum(x, np.float32(0.2))
    w = w if signed else np.abs(w) ** 2
    predict = lambda x: x.reshape(len(x), -1) @ w  # noqa: E731
    target = predict(x).argmax(axis=1)
    true = x * w[:, target].T.reshape(x.shape)
    noise = numbers.normal(size=(2, *x.shape)) * true.std()
    maps = {"true": true, "noisy": true + noise[0], "random": noise[1], "negative": -true}
    return {name: evaluate.Case.of(x, target, lambda x, t: x, predict, relevance=r) for name, r in maps.items()}


@functools.cache
def quadrant() -> Cases:
    """A model that looks at one quadrant, where the object is; "elsewhere" says that it looked at another one."""
    numbers = np.random.default_rng(0)
    x, w = _pictures(numbers) + 0.1, np.zeros((SIDE, SIDE, 1))
    w[: SIDE // 2, SIDE // 2 :] = numbers.uniform(0.5, 1, (SIDE // 2, SIDE // 2, 1))
    true, noise = x * w, numbers.normal(size=(2, *x.shape)) * 0.5
    maps = {"true": true, "noisy": true + noise[0], "random": noise[1], "elsewhere": true[:, ::-1, ::-1]}
    masks = np.broadcast_to(w[..., 0] > 0, (B, SIDE, SIDE))
    predict = lambda x: (x * w).sum(axis=(1, 2))  # noqa: E731
    return {name: evaluate.Case.of(x, 0, lambda x, t: x, predict, relevance=r, masks=masks) for name, r in maps.items()}


@functools.cache
def clusters() -> Cases:
    """Each class has a picture of its own: maps that follow the picture are alike where the class is."""
    numbers = np.random.default_rng(0)
    kinds, target = _pictures(numbers)[:CLASSES], np.arange(B) % CLASSES
    x = kinds[target] * numbers.uniform(0.8, 1, (B, SIDE, SIDE, 1))
    predict = lambda x: np.einsum("bhwc,khwc->bk", x, kinds / (kinds**2).sum((1, 2, 3), keepdims=True))  # noqa: E731
    noise = numbers.normal(size=(2, *x.shape)) * 0.6
    maps = {"true": x, "noisy": x + noise[0], "random": noise[1]}
    return {name: evaluate.Case.of(x, target, lambda x, t: x, predict, relevance=r) for name, r in maps.items()}


@functools.cache
def crowded() -> Cases:
    """Maps of one position, of some, of all alike."""
    case = linear()["true"]
    maps = np.zeros((4, *case.x.shape))
    maps[0, :, 3, 3] = maps[1, :, 2:5, 2:5] = maps[2, :, 1:9, 1:9] = maps[3] = 1
    names = ["one", "few", "many", "all"]
    return {
        name: evaluate.Case.of(case.x, 0, case.explain, case.predict, relevance=r)
        for name, r in zip(names, maps, strict=True)
    }


def _net(flat: bool) -> keras.Model:
    """Two linear layers; few weights are not zero, as those of a net that has learned what counts."""
    numbers = np.random.default_rng(0)
    first = [keras.Input((SIDE**2,))] if flat else [keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten()]
    model = keras.Sequential([*first, keras.layers.Dense(6), keras.layers.Dense(CLASSES)])
    shapes = [w.shape for w in model.get_weights()]
    model.set_weights([numbers.normal(size=shape) * (numbers.random(shape) < 0.2) for shape in shapes])
    return model


def _of_model(maps: Callable[[np.ndarray, np.ndarray], np.ndarray], model: keras.Model) -> evaluate.Explain:
    """maps(x, gradient of the target's score)."""
    weights = model.get_weights()
    gradient = weights[0] @ weights[2]
    return lambda x, target: maps(x, gradient[:, target].T.reshape(x.shape))


def _edges(x: np.ndarray) -> np.ndarray:
    return np.hypot(*np.gradient(x, axis=(1, 2)))


_EXPLAINERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "gradient": lambda x, w: np.broadcast_to(w, x.shape),
    "true": lambda x, w: x * w,
    "edges": lambda x, w: _edges(x),
    "mixed": lambda x, w: np.concatenate([(x * w)[:, : SIDE // 2], _edges(x)[:, SIDE // 2 :]], axis=1),
    "jumpy": lambda x, w: x * w * np.sign(np.sin(1e4 * x)),
    "constant": lambda x, w: np.ones_like(x),
}


@functools.cache
def explainers(flat: bool = False) -> Cases:
    """Explainers of one net: they follow its weights and its input, or one of them, or neither; no pixel is zero.

    Args:
        flat: pixels as features, for those that need no neighbours.
    """
    model, x = _net(flat), _pictures(np.random.default_rng(1)) + np.float32(0.1)
    x = x.reshape(B, -1) if flat else x
    predict = lambda x: model(x).numpy()  # noqa: E731
    target, found = predict(x).argmax(axis=1), {}
    for name in ("gradient", "true") if flat else _EXPLAINERS:
        rebuild = functools.partial(_of_model, _EXPLAINERS[name])
        found[name] = evaluate.Case.of(x, target, rebuild(model), predict, model=model, rebuild=rebuild)
    return found

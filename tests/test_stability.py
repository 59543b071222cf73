"""Stability metrics against slow computations that draw the same samples near by."""

from __future__ import annotations

import dataclasses
import zlib

import keras
import numpy as np
import pytest

from lrp_tf import evaluate

RADIUS, RUNS = 0.2, 4


@pytest.fixture
def model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)]
    )


@pytest.fixture
def case(model: keras.Model, rng: np.random.Generator) -> evaluate.Case:
    x = rng.normal(size=(3, 5, 3)).astype(np.float32)
    x[0, 0] = 0  # counts as 1e-6
    weights = rng.normal(size=(3, 5, 3))
    return evaluate.Case.of(
        x,
        [0, 1, 2],
        lambda x, target: x**2 * weights[target],
        lambda x: model(x).numpy(),
        model=model,
        rebuild=lambda m: None,
    )


def near(case: evaluate.Case, sample: int) -> list[np.ndarray]:
    numbers = np.random.default_rng([case.seed, zlib.crc32(b"stability"), int(case.ids[sample])])
    x = case.x[sample]
    reach = RADIUS * (float(x.max()) - float(x.min()))
    return [(x + reach * numbers.uniform(-1, 1, x.shape)).astype(np.float32) for _ in range(RUNS)]


def relevance(case: evaluate.Case, sample: int, x: np.ndarray) -> np.ndarray:
    return case.explain(x[None], case.target[sample : sample + 1]).astype(np.float32)[0].astype(np.float64)


def relative(before: np.ndarray, after: np.ndarray) -> float:
    total = 0.0
    for a, b in zip(before.ravel(), after.ravel(), strict=True):
        total += ((float(a) - float(b)) / (float(a) or 1e-6)) ** 2
    return total**0.5


def slow(name: str, case: evaluate.Case, model: keras.Model, sample: int) -> float:
    x, found = case.x[sample], []
    own = relevance(case, sample, x)
    for other in near(case, sample):
        changed = relevance(case, sample, other)
        scores, others = model(np.stack([x, other])).numpy().astype(float)
        if name == "max_sensitivity":
            found.append(((changed - own) ** 2).sum() ** 0.5 / (own**2).sum() ** 0.5)
        elif scores.argmax() == others.argmax():
            hidden = model.layers[1](np.stack([x, other]).reshape(2, -1)).numpy()
            below = {"input": relative(x, other), "output": ((scores - others) ** 2).sum() ** 0.5}
            below["representation"] = relative(*hidden)
            found.append(relative(own, changed) / below[name.split("_")[1]])
    return max(found)


@pytest.mark.parametrize("name", evaluate.names("stability"))
def test_metrics_are_what_they_say(case: evaluate.Case, model: keras.Model, name: str) -> None:
    found = evaluate.get(name, radius=RADIUS, runs=RUNS)(case)
    np.testing.assert_allclose(found, [slow(name, case, model, sample) for sample in range(3)], rtol=1e-5)
    alone = evaluate.Case.of(
        case.x[1:2], case.target[1:2], case.explain, case.predict, ids=[1], model=model, rebuild=case.rebuild
    )
    np.testing.assert_allclose(evaluate.get(name, radius=RADIUS, runs=RUNS)(alone), found[1:2], rtol=1e-5)


def test_options(case: evaluate.Case) -> None:
    length = np.linalg.norm(case.relevance.reshape(3, -1).astype(float), axis=1)
    absolute, relative = (evaluate.get("max_sensitivity", relative=r)(case) for r in (False, True))
    np.testing.assert_allclose(absolute, relative * length)
    last = case.model.layers[-1].name
    inner, outer = (evaluate.get("relative_representation_stability", layer=layer)(case) for layer in (None, last))
    assert (inner != outer).all()


def test_what_has_no_value(case: evaluate.Case) -> None:
    still = dataclasses.replace(case, relevance=np.zeros_like(case.relevance))
    with pytest.warns(evaluate.UndefinedMetricWarning, match="3 of 3"):
        evaluate.get("max_sensitivity")(still)
    calls: list[int] = []

    def restless(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return np.eye(3)[np.full(len(x), len(calls) % 3)]

    with pytest.warns(evaluate.UndefinedMetricWarning, match="3 of 3"):
        evaluate.get("relative_input_stability", runs=1)(dataclasses.replace(case, predict=restless))


def test_bad_options_are_refused(case: evaluate.Case) -> None:
    with pytest.raises(ValueError, match="runs >= 1 and radius > 0"):
        evaluate.get("max_sensitivity", runs=0)(case)
    with pytest.raises(ValueError, match=r"a whole number of runs >= 1 .*Received: runs=2\.5"):
        evaluate.get("max_sensitivity", runs=2.5)(case)
    with pytest.raises(ValueError, match=r"layer= one of its own layers\. Received: .*'nothing'"):
        evaluate.get("relative_representation_stability", layer="nothing")(case)

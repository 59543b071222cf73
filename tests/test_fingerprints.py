"""What a resumed `compare` knows of functions, metrics and models: by their content, the same in every process."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, evaluate, rules
from lrp_tf.evaluate.fingerprints import described, model_digest

X = np.random.default_rng(0).normal(size=(4, 6, 5, 2)).astype(np.float32)
FACTOR = 2.0


def helper(x: np.ndarray) -> np.ndarray:
    return FACTOR * x


def explain(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    return helper(x)


class Shuffled(evaluate.fills.Fill):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def values(self, samples: evaluate.fills.Samples) -> np.ndarray:
        return samples.x[:, ::-1] * self.seed


def compare(explain: Callable, metrics: object, folder: Path) -> evaluate.Comparison:
    return evaluate.compare({"e": explain}, X, 0, predict=lambda x: x[:, 0, :3].sum(-1), metrics=metrics, resume=folder)


def enclosing(value: object) -> Callable:
    return lambda x, target: x * value


def test_functions_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    small, other = (keras.Sequential([keras.Input((3,)), kl.Dense(2, a)]) for a in ("relu", "tanh"))
    other.set_weights(small.get_weights())
    assert described(enclosing(X)) == described(enclosing(X.copy()))
    kinds = [enclosing(value) for value in (X, X + 1, 1, 2, helper, explain, small, other)]
    kinds += [enclosing(lrp_tf.Explainer(model, "epsilon")) for model in (small, other)]
    kinds += [lambda x, target, k=1: k * x, lambda x, target, k=2: k * x, lambda x, target, *, k=2: k * x]
    assert len({described(kind) for kind in kinds}) == len(kinds)
    assert described(functools.partial(explain, contrast=X)) != described(functools.partial(explain, contrast=X + 1))
    before = described(explain)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)  # what a function of the same module names
    assert described(explain) != before
    assert "0x" not in described(Shuffled(1)) + described(explain) + described(np.sqrt) + described(print)
    assert described(keras.ops.relu).endswith("relu")


def test_explainers_are_told_apart_by_the_rules_that_they_chose() -> None:
    model = keras.Sequential([keras.Input((6,)), kl.Dense(5, "relu"), kl.Dense(3)])

    class Mine(rules.Epsilon):
        pass

    matches = [lambda step: True, lambda step: False]
    made = [composites.Composite([(match, rules.Epsilon(0.1)), (None, rules.ZPlus())]) for match in matches]
    explainers = [lrp_tf.Explainer(model, composite) for composite in (*made, rules.Epsilon(0.1), Mine(0.1))]
    assert len({described(explainer) for explainer in explainers}) == 4
    assert described(explainers[0]) == described(lrp_tf.Explainer(model, made[0]))


def test_metrics_are_known_by_their_options_and_found_by_name(tmp_path: Path) -> None:
    srg = evaluate.get("srg", steps=3, fill=Shuffled(1))
    first = compare(explain, {"srg": srg, "gini": "sparseness"}, tmp_path / "kept")
    turned = compare(
        explain, {"gini": "sparseness", "srg": evaluate.get("srg", steps=3, fill=Shuffled(1))}, tmp_path / "kept"
    )
    for name in ("srg", "gini"):
        np.testing.assert_array_equal(turned.of("e", name), first.of("e", name))
    assert not np.allclose(first.of("e", "srg"), first.of("e", "gini"))
    for changed in (Shuffled(2), np.zeros((6, 5, 2)), lambda x, keep: x):
        with pytest.raises(ValueError, match="differ in metrics"):
            compare(
                explain, {"srg": evaluate.get("srg", steps=3, fill=changed), "gini": "sparseness"}, tmp_path / "kept"
            )
    named = evaluate.Metric("sparseness", lambda case: case.score, "complexity", "higher", "none")
    with pytest.raises(ValueError, match="differ in metrics"):
        compare(explain, {"srg": srg, "gini": named}, tmp_path / "kept")
    with pytest.raises(ValueError, match="differ in methods"):
        compare(enclosing(1), {"srg": srg, "gini": "sparseness"}, tmp_path / "kept")


def test_models_of_the_same_weights_and_other_settings_differ() -> None:
    def net(activation: str, stride: int = 1) -> keras.Model:
        inner = keras.Sequential([keras.Input((6, 5, 2)), kl.Conv2D(2, 1, stride, activation=activation)])
        return keras.Sequential(
            [keras.Input((6, 5, 2)), inner, kl.Dropout(0.5), kl.GlobalAveragePooling2D(), kl.Dense(3)]
        )

    model, again, tanh, strided = net("relu"), net("relu"), net("tanh"), net("relu", 2)
    for other in (again, tanh, strided):
        other.set_weights(model.get_weights())
    assert model_digest(model) == model_digest(again)
    assert len({model_digest(m) for m in (model, tanh, strided)}) == 3


def test_a_method_of_an_object_counts_its_attributes() -> None:
    @dataclasses.dataclass
    class Mine:
        scale: float
        weights: np.ndarray

        def explain(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
            return self.scale * x * self.weights

    found = [described(Mine(scale, weights).explain) for scale in (1.0, 2.0) for weights in (X, X + 1)]
    assert len(set(found)) == 4
    assert found[0] == described(Mine(1.0, X.copy()).explain)

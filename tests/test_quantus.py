"""Metrics against Quantus 0.6.0, whose values references/quantus_references.py wrote; the adapter for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from references import quantus_net as net

import lrp_tf
from lrp_tf import evaluate

REFERENCES = np.load(Path(__file__).parent / "references" / "quantus.npz")


def case(relevance: np.ndarray = net.MAPS, predict: Callable[[np.ndarray], np.ndarray] = net.logits) -> evaluate.Case:
    return evaluate.Case.of(net.X, net.Y, lambda x, target: relevance, predict, masks=net.MASKS)


class Recorded:
    """Draws of one sample, in the order in which Quantus drew them."""

    def __init__(self, drawn: Sequence[np.ndarray]) -> None:
        self.drawn = list(drawn)

    def choice(self, count: int, size: int, replace: bool) -> np.ndarray:
        found = self.drawn.pop(0)
        assert not replace
        assert found.shape == (size,)
        assert found.max() < count
        return found

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        found = np.asarray(self.drawn.pop(0)).reshape(shape)
        assert found.min() >= low
        assert found.max() <= high
        return found

    def integers(self, below: int) -> int:
        return int(self.drawn.pop(0))


def agree(name: str, found: np.ndarray) -> None:
    np.testing.assert_allclose(found, REFERENCES[name], rtol=1e-6, atol=1e-6)


def test_the_same_sets_of_features(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = REFERENCES["faithfulness_correlation.drawn"].astype(int)  # [runs * B, size], samples in turn
    monkeypatch.setattr(evaluate.Case, "generators", lambda *_: [Recorded(drawn[i::4]) for i in range(4)])
    agree("faithfulness_correlation", evaluate.get("faithfulness_correlation", runs=20, size=12)(case()))
    by_size = [REFERENCES[f"sensitivity_n.drawn{n}"].astype(int) for n in (2, 10, 40)]
    lists = [[row for drawn in by_size for row in drawn[i::4]] for i in range(4)]
    monkeypatch.setattr(evaluate.Case, "generators", lambda *_: [Recorded(rows) for rows in lists])
    agree("sensitivity_n", evaluate.get("sensitivity_n", sizes=[2, 10, 40], runs=10)(case()))
    drawn = REFERENCES["monotonicity_correlation.drawn"]
    monkeypatch.setattr(evaluate.Case, "generators", lambda *_: [Recorded(column) for column in drawn.T])
    metric = evaluate.get("monotonicity_correlation", runs=3, features_in_step=4, low=0, high=1)
    agree("monotonicity_correlation", metric(case()))


@pytest.mark.parametrize(
    ("reference", "name", "options"),
    [
        ("faithfulness_estimate", "faithfulness_estimate", {}),
        ("faithfulness_estimate4", "faithfulness_estimate", {"features_in_step": 4}),
        ("infidelity", "infidelity", {"side": 4, "gradient": True, "tiles": True, "scaled": False}),
        ("irof", "irof", {"fill": 0.25, "scaled": False}),
        ("sufficiency", "sufficiency", {"threshold": 0.88}),
        ("pointing_game", "pointing_game", {}),
        ("relevance_mass", "relevance_mass", {"part": "signed"}),
        ("relevance_rank", "relevance_rank", {"part": "signed"}),
        ("top_k_intersection", "top_k_intersection", {"part": "signed", "k": 10}),
        ("top_k_intersection_weighted", "top_k_intersection_weighted", {"part": "signed", "k": 10}),
        ("attribution_localisation", "attribution_localisation", {"part": "absolute"}),
        ("localisation_auc", "localisation_auc", {"part": "signed"}),
        ("sparseness", "sparseness", {}),
        ("complexity", "complexity", {}),
    ],
)
def test_the_same_values(reference: str, name: str, options: dict) -> None:
    agree(reference, evaluate.get(name, **options)(case()))


def test_the_same_explanations_of_other_classes_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    explained = evaluate.Case.of(net.X, net.Y, net.explain, net.logits)
    drawn = REFERENCES["random_logit.drawn"]
    monkeypatch.setattr(evaluate.Case, "generators", lambda *_: [Recorded([number]) for number in drawn])
    agree("random_logit", evaluate.get("random_logit", kind="pearson", absolute=False)(explained))
    reach = 0.1 * np.ptp(net.X.reshape(4, -1), axis=1)[:, None]
    drawn = REFERENCES["stability.drawn"] / reach
    monkeypatch.setattr(evaluate.Case, "generators", lambda *_: [Recorded(drawn[:, i]) for i in range(4)])
    for name in ("max_sensitivity", "relative_input_stability", "relative_output_stability"):
        agree(name, evaluate.get(name, radius=0.1, runs=5)(explained))


def test_the_same_maps_of_randomised_models() -> None:
    own, *stages = np.moveaxis([REFERENCES["randomisation.own"], *REFERENCES["randomisation.drawn"]], 2, -1)
    last = np.moveaxis(REFERENCES["randomisation.last"], 1, -1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(12), keras.layers.Dense(3)]

    def given(*maps: np.ndarray) -> evaluate.Case:
        left = iter(maps)
        rebuild = lambda model: functools.partial(lambda found, x, target: found, next(left))  # noqa: E731
        options = {"relevance": own, "model": keras.Sequential(layers), "rebuild": rebuild}
        return evaluate.Case.of(net.X, net.Y, net.explain, net.logits, **options)

    options = {"kind": "pearson", "absolute": False}
    agree("randomisation_top_down", evaluate.get("randomization_top_down", **options)(given(*stages)))
    agree("randomisation_efficient", evaluate.get("randomization_efficient")(given(last)))


def test_the_same_curves_of_flipped_regions() -> None:
    def scores(**options: object) -> np.ndarray:
        return evaluate.perturb(net.logits, net.X, net.MAPS, net.Y, fill="black", steps=16, **options).scores

    agree("pixel_flipping", scores(region=1)[:, 1:])
    agree("selectivity", scores(region=2)[:, 1:])
    for order in ("morf", "lerf"):
        found = scores(region=2, order=order)
        agree(f"region_{order}", found[:, :1] - found[:, 1:])


def test_the_same_thresholds() -> None:
    few = np.where(np.abs(net.MAPS) < 0.5, 1e-7 * net.MAPS, net.MAPS)
    agree("effective_complexity", evaluate.get("effective_complexity")(case(few)))
    few = np.where(np.abs(net.MAPS) < 0.25, 1e-7 * net.MAPS, net.MAPS)
    agree("non_sensitivity", evaluate.get("non_sensitivity")(case(few)))
    maps = net.contributions(net.X, net.Y)
    maps[2:] *= 0.5
    agree("completeness", evaluate.get("completeness", exact=0)(case(maps, net.linear)))


def model(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 5, 3))
    hidden = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def test_the_adapter_answers_as_quantus_asks() -> None:
    """Quantus calls by keywords, with inputs in either layout, targets of any integers, and copies of the model."""
    first, second = model(0), model(1)
    explainer = lrp_tf.Explainer(first, "epsilon")
    explain = evaluate.quantus(explainer)
    x, targets = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32), np.array([2, 0], np.int32)
    expected = explainer(x, target=[2, 0]).numpy().sum(-1)[:, None]
    found = explain(model=first, inputs=x, targets=targets)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(explain(model=first, inputs=np.moveaxis(x, -1, 1), targets=targets), expected)
    other = explain(model=second, inputs=x, targets=targets, device="cpu")
    np.testing.assert_array_equal(other[:, 0], explainer.with_model(second)(x, target=[2, 0]).numpy().sum(-1))
    assert not np.allclose(other, expected)
    np.testing.assert_array_equal(explain(model=first, inputs=x, targets=targets), expected)
    with pytest.raises(TypeError, match=r"expects a Keras model\. Received: str"):
        explain(model="net", inputs=x, targets=targets)


def test_the_adapter_takes_any_explainer() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        evaluate.quantus(lambda x, target: x)(model=None, inputs=x, targets=[0, 1]), x.sum(-1)[:, None]
    )
    flat = x.reshape(2, -1)
    np.testing.assert_array_equal(
        evaluate.quantus(lambda x, target: x)(model=model(0), inputs=flat, targets=[0, 1]), flat
    )

    class Fixed:
        model = model(0)

        def __call__(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
            return x

    with pytest.raises(ValueError, match=r"with with_model\(model\)"):
        evaluate.quantus(Fixed())(model=model(1), inputs=x, targets=[0, 1])

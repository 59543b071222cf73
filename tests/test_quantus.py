"""Metrics against Quantus 0.6.0, whose values references/quantus_references.py wrote; the adapter for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from references import quantus_net as net

from lrp_tf import evaluate

REFERENCES = np.load(Path(__file__).parent / "references" / "quantus.npz")


def case(relevance: np.ndarray = net.MAPS, predict: Callable[[np.ndarray], np.ndarray] = net.logits) -> evaluate.Case:
    return evaluate.Case.of(net.X, net.Y, lambda x, target: relevance, predict)


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

    def uniform(self) -> float:
        return float(self.drawn.pop(0))


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
        ("sufficiency", "sufficiency", {"threshold": 0.75}),
        ("sparseness", "sparseness", {}),
        ("complexity", "complexity", {}),
    ],
)
def test_the_same_values(reference: str, name: str, options: dict) -> None:
    agree(reference, evaluate.get(name, **options)(case()))


def test_the_same_thresholds() -> None:
    few = np.where(np.abs(net.MAPS) < 0.5, 1e-7 * net.MAPS, net.MAPS)
    agree("effective_complexity", evaluate.get("effective_complexity")(case(few)))
    few = np.where(np.abs(net.MAPS) < 0.25, 1e-7 * net.MAPS, net.MAPS)
    agree("non_sensitivity", evaluate.get("non_sensitivity")(case(few)))
    maps = net.contributions(net.X, net.Y)
    maps[2:] *= 0.5
    agree("completeness", evaluate.get("completeness", exact=0)(case(maps, net.linear)))

"""Every metric puts explanations that are known to be good or bad in the right order, by its declared direction."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from helpers import planted

from lrp_tf import evaluate


@dataclasses.dataclass(frozen=True)
class Plan:
    """Names of planted cases, best first; each must be better than the next one by `gap` of the range of all.

    alike: pairs that the metric cannot tell apart, such as a map and its negative for a metric of |R|.
    """

    cases: Callable[[], Mapping[str, evaluate.Case]]
    best_first: tuple[str, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alike: tuple[tuple[str, str], ...] = ()


PLANTED = ("true", "noisy", "random", "negative")
LINEAR = Plan(planted.linear, PLANTED)
# What is filled with black loses exactly its contribution.
BLACK = Plan(planted.linear, PLANTED, {"fill": "black"})
FOR_THE_CLASS = functools.partial(planted.linear, signed=False)
SIGNLESS = Plan(planted.linear, ("true", "noisy", "random"), alike=(("true", "negative"),))
QUADRANT = Plan(planted.quadrant, ("true", "noisy", "random", "elsewhere"))
SPARSE = Plan(planted.crowded, ("one", "few", "many", "all"))
# Whether it follows the weights, or the class, is what sanity asks; edges follow neither.
SANE = Plan(planted.explainers, ("true", "mixed", "edges"))
# The trap: what is constant, and tells nothing, is the most stable.
STABLE = Plan(planted.explainers, ("constant", "true", "jumpy"))

PLANS: dict[str, Plan] = {
    **dict.fromkeys(["faithfulness_correlation", "sensitivity_n", "faithfulness_estimate", "monotonicity"], LINEAR),
    **dict.fromkeys(["irof", "completeness"], LINEAR),
    # Scaled as it is best, a map of the wrong sign is as bad as none, and hardly worse than a random one.
    "infidelity": dataclasses.replace(LINEAR, options={"scaled": False}),
    "monotonicity_correlation": dataclasses.replace(SIGNLESS, cases=functools.partial(planted.linear, black=False)),
    "non_sensitivity": Plan(planted.linear, ("true", "random"), alike=(("true", "negative"), ("noisy", "random"))),
    "sufficiency": Plan(planted.clusters, ("true", "noisy", "random"), {"threshold": 0.9}),
    **dict.fromkeys(["srg", "morf_auc", "lerf_auc", "aopc"], BLACK),
    **dict.fromkeys(["au_mse"], Plan(FOR_THE_CLASS, PLANTED, {"fill": "black"})),
    "road": Plan(FOR_THE_CLASS, PLANTED),
    **dict.fromkeys(["pointing_game", "relevance_mass", "attribution_localisation", "relevance_rank"], QUADRANT),
    "earth_movers_distance": QUADRANT,
    **dict.fromkeys(["pointing_game_weighted", "relevance_mass_weighted"], QUADRANT),
    **dict.fromkeys(["attribution_localisation_weighted", "relevance_rank_weighted"], QUADRANT),
    **dict.fromkeys(["top_k_intersection", "top_k_intersection_weighted", "localisation_auc"], QUADRANT),
    **dict.fromkeys(["sparseness", "complexity", "effective_pixels", "effective_complexity"], SPARSE),
    **dict.fromkeys(["randomization_top_down", "randomization_bottom_up", "randomization_independent"], SANE),
    **dict.fromkeys(["randomization_smooth", "random_logit"], SANE),
    "randomization_efficient": dataclasses.replace(SANE, options={"how": "initialize"}),
    **dict.fromkeys(["max_sensitivity", "relative_input_stability", "relative_output_stability"], STABLE),
    "relative_representation_stability": STABLE,
    "input_invariance": Plan(functools.partial(planted.explainers, flat=True), ("gradient", "true")),
}
# Neither higher nor lower is better: how far from this value is.
GOALS = {"conservation": (1.0, LINEAR)}


def measured(metric: evaluate.Metric, case: evaluate.Case) -> np.ndarray:
    """Values [B]; samples may lack one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", evaluate.UndefinedMetricWarning)
        return metric(case)


def badness(name: str, plan: Plan) -> dict[str, float]:
    """For each planted case the mean over the samples, turned so that less is better."""
    metric, cases = evaluate.get(name, **plan.options), plan.cases()
    found = {}
    for planted_name in {*plan.best_first, *[other for pair in plan.alike for other in pair]}:
        values = measured(metric, cases[planted_name])
        assert np.isfinite(values).mean() > 0.6, planted_name
        if name in GOALS:
            values = np.abs(values - GOALS[name][0])
        found[planted_name] = float(np.nanmean(values)) * (-1 if metric.better == "higher" else 1)
    return found


def test_every_metric_has_a_plan() -> None:
    assert set(evaluate.names()) == set(PLANS) | set(GOALS)
    assert {name for name in evaluate.names() if evaluate.get(name).better is None} == set(GOALS)
    assert len(evaluate.names()) >= 24


@pytest.mark.parametrize("name", evaluate.names())
def test_planted_explanations_come_in_the_right_order(name: str) -> None:
    plan = GOALS[name][1] if name in GOALS else PLANS[name]
    found = badness(name, plan)
    ranked = [found[planted_name] for planted_name in plan.best_first]
    if name in GOALS:
        assert ranked[0] < 1e-6
        assert all(ranked[0] + 0.1 < value for value in ranked[1:])
        return
    least = 0.02 * (max(ranked) - min(ranked))
    assert all(better + least < worse for better, worse in itertools.pairwise(ranked)), found
    for first, second in plan.alike:
        assert found[first] == pytest.approx(found[second], abs=1e-6), found


@pytest.mark.parametrize("name", evaluate.names("localisation"))
def test_a_model_that_looks_at_one_quadrant_is_located_there(name: str) -> None:
    case = planted.quadrant()["true"]
    share = case.masks.mean()
    if name == "earth_movers_distance":  # it asks for relevance that lies evenly on the object
        assert (evaluate.get(name)(case) < 1).all()
        case = dataclasses.replace(case, relevance=case.masks.astype(np.float32))
    options = {"k": 36} if name.startswith("top_k") else {}
    weighted = 1 - share if name.startswith("pointing") else 1 / share
    expected = weighted if name.endswith("_weighted") else 1.0
    np.testing.assert_allclose(evaluate.get(name, **options)(case), expected, rtol=1e-6)


@pytest.mark.parametrize("name", evaluate.names("stability"))
def test_stability_takes_the_constant_explanation_for_the_best(name: str) -> None:
    np.testing.assert_array_equal(evaluate.get(name)(planted.explainers()["constant"]), 0)


@pytest.mark.parametrize("name", [n for n in evaluate.names("sanity") if n != "randomization_efficient"])
def test_edges_pass_no_sanity_check(name: str) -> None:
    np.testing.assert_allclose(evaluate.get(name)(planted.explainers()["edges"]), 1)

"""`evaluate.tune`: the ranking, the one comparison, budgets, resuming, and what is written."""

import dataclasses
import json
import math
import re
import sys

import keras
import numpy as np
import pytest
from helpers.checking import randomize
from helpers.pictures import table
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, evaluate, rules
from lrp_tf.evaluate.tuning import search, space
from lrp_tf.evaluate.tuning.clock import Clock, seconds_of
from lrp_tf.evaluate.tuning.findings import compared
from lrp_tf.evaluate.tuning.tune import Tuner

GRID = "gamma.lower=0,0.5 gamma.upper=0.1,0.5"
METRIC = evaluate.get("srg", steps=3, region=2, fill="mean")


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(0)
    stack = [kl.Conv2D(4, 3, padding="same", activation="relu") for _ in range(3)]
    return randomize(keras.Sequential([keras.Input((6, 6, 2)), *stack, kl.Flatten(), kl.Dense(3)], name="net"))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(14, 6, 6, 2)).astype("float32"), np.arange(14) % 3


def tuned(net, data, **options):
    return evaluate.tune(net, *data, **{"grid": GRID, "metric": METRIC, "also": [], "batch_size": 4} | options)


@pytest.fixture(scope="module")
def found(net, data):
    return tuned(net, data)


def test_too_few_different_samples_are_refused(net, data):
    x = np.repeat(data[0][:3], 4, axis=0)
    with pytest.raises(ValueError, match=r"four different samples.*12, of which 3 differ"):
        evaluate.tune(net, x, 0, grid=GRID)


# --- what is found -------------------------------------------------------------------------------


def test_numbers_are_those_of_each_explainer(net, data, found):
    """Each candidate by its own Explainer, on the half that chose; the report on the other half alone."""
    x, target = data
    chose, reports = list(found.chosen_ids), list(found.reported_ids)
    assert not set(chose) & set(reports)
    assert sorted(chose + reports) == list(range(14))
    assert len(found.ranking) == 5
    for row in found.ranking:
        composite = composites.parse(row.composite)
        methods = evaluate.compare({"own": lrp_tf.Explainer(net, composite)}, x, target, metrics=[METRIC, "sparseness"])
        np.testing.assert_allclose(row.mean, methods.values[0, 0, chose].mean(), atol=1e-5)
        np.testing.assert_allclose(row.sparseness, methods.values[0, 1, chose].mean(), atol=1e-5)
        if row.name == found.best.name:
            np.testing.assert_allclose(found.best.mean, methods.values[0, 0, reports].mean(), atol=1e-5)
    means = [row.mean for row in found.ranking]
    assert means == sorted(means, reverse=True)
    assert found.ranking[0].name == found.best.name
    assert set(found.report) <= {found.best.name, found.default.name}
    assert found.unreached == ()


@pytest.mark.parametrize(
    ("shift", "keep", "words"),
    [(0.5, False, "Use"), (0.0, True, "Keep the default.*which holds 0"), (-0.5, True, "Keep.*default is the better")],
)
def test_the_verdict_follows_the_interval(found, rng, shift, keep, words):
    values = rng.normal(size=30)
    best, default = values + shift + 0.05 * rng.normal(size=30), values
    difference, low, high, pairs = compared(best, default, 0, 0.95)
    np.testing.assert_allclose(difference, (best - default).mean())
    assert (low > 0) == (not keep)
    named = found.best._replace(name="tried")
    kept = dataclasses.replace(
        found, best=named, difference=difference, low=low, high=high, pairs=pairs, keep_default=keep
    )
    assert lrp_tf.evaluate.Tuning is type(kept)
    assert re.search(words, kept.verdict)
    assert kept.verdict in str(kept)
    assert kept.verdict in kept.markdown()


def test_a_default_that_is_best_is_kept(net, data):
    found = tuned(net, data, default="epsilon_plus", grid="rule.lower=zplus")
    assert found.keep_default
    assert found.composite == composites.get("epsilon_plus") or found.best.name != "epsilon_plus"


def test_pairs_without_a_value_count_nothing():
    best, default = np.array([1.0, np.nan, 3.0]), np.array([0.0, 1.0, np.nan])
    difference, low, _, pairs = compared(best, default, 0, 0.95)
    assert (difference, pairs) == (1.0, 1)
    assert math.isnan(low)


def test_a_metric_where_less_is_better(net, data):
    found = tuned(net, data, metric=evaluate.get("morf_auc", steps=3, region=2, fill="mean"))
    means = [row.mean for row in found.ranking]
    assert means == sorted(means)
    assert found.keep_default == (not found.high < 0)


@pytest.mark.parametrize("name", ["randomization", "max_sensitivity", "no_such_metric"])
def test_metrics_that_cannot_choose_are_refused(net, data, name):
    with pytest.raises(ValueError, match=r"metric"):
        tuned(net, data, metric=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "random"}, "search expects one of"),
        ({"confidence": 1.0}, "confidence expects"),
        ({"batch_size": None}, "batch_size expects"),
        ({"budget": "soon"}, "budget expects seconds above 0"),
        ({"search": "cma", "grid": "rule.lower=zplus,gamma"}, "a range for one parameter"),
        ({"search": "cma", "grid": "gamma.lower=0.1:1:log3 rule.upper=zplus,gamma"}, "Remedy: search='grid'"),
        ({"default": "no_preset"}, "no_preset"),
    ],
)
def test_wrong_arguments_are_refused(net, data, options, message):
    with pytest.raises(ValueError, match=message):
        tuned(net, data, **options)


# --- files, budgets, resuming --------------------------------------------------------------------


def test_the_files_hold_what_was_found(net, data, found, tmp_path):
    folder = found.save(tmp_path / "out", names=[f"{i}.png" for i in range(14)])
    rows = table(folder / "ranking.csv")
    assert [float(row["mean"]) for row in rows] == [row.mean for row in found.ranking]
    assert {row["gamma.lower"] for row in rows} == {"", "0.0", "0.5"}
    samples = table(folder / "samples.csv")
    assert len(samples) == 5 * len(found.chosen_ids)
    assert {row["sample"] for row in samples} == {f"{i}.png" for i in found.chosen_ids}
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    assert settings["seed"] == 0
    assert set(settings["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    assert settings["result"]["verdict"] == found.verdict
    assert found.verdict in (folder / "tune.md").read_text(encoding="utf-8")
    for name, composite in (("winner", found.winner), ("advised", found.composite)):
        loaded = composites.load(folder / f"{name}.toml")
        assert loaded == composite
        wanted = lrp_tf.Explainer(net, composite)(data[0])
        np.testing.assert_array_equal(lrp_tf.Explainer(net, loaded)(data[0]), wanted)
    for name in ("pareto.png", "contour.png"):
        picture = keras.utils.img_to_array(keras.utils.load_img(folder / name))
        assert (picture.min(), picture.max()) == (0, 255)
        colours = np.ptp(picture, axis=-1) > 60
        assert colours.mean() > (0.1 if name == "contour.png" else 0.0005)
    assert not list(folder.glob(".tmp-*"))


def test_a_contour_of_other_than_two_numbers_is_refused(net, data, found, tmp_path):
    one = dataclasses.replace(found, axes=found.axes[:1])
    with pytest.raises(ValueError, match=r"exactly two parameters.*\['gamma.lower'\]"):
        one.contour(tmp_path / "contour.png")
    one.save(tmp_path)
    assert not (tmp_path / "contour.png").exists()


class _KilledError(Exception):
    pass


def test_a_run_that_was_killed_ends_with_the_same_numbers(net, data, found, tmp_path):
    count = 0

    def kill(samples, total):
        nonlocal count
        count += 1
        if count == 7:  # within the second batch
            raise _KilledError

    with pytest.raises(_KilledError):
        tuned(net, data, resume=tmp_path / "record", progress=kill)
    judged = []
    again = tuned(net, data, resume=tmp_path / "record", progress=lambda *told: judged.append(told))
    assert again.ranking == found.ranking
    assert (again.best, again.difference, again.low, again.high) == (
        found.best,
        found.difference,
        found.low,
        found.high,
    )
    for name, (ids, values) in found.values.items():
        assert again.values[name][0] == ids
        np.testing.assert_array_equal(again.values[name][1], values)
    with pytest.raises(ValueError, match=r"other settings.*seed"):
        tuned(net, data, resume=tmp_path / "record", seed=1)
    with pytest.raises(ValueError, match=r"other settings.*data"):
        tuned(net, (data[0] + 1, data[1]), resume=tmp_path / "record")


class _Time(Clock):
    """A clock of which each look takes a second."""

    def __init__(self, budget, path=None):
        self.now = 0.0
        super().__init__(budget, path)

    @property
    def spent(self):
        self.now += 1
        return self.now


def test_a_budget_that_is_too_small_tells_what_was_not_reached(net, data, monkeypatch):
    monkeypatch.setattr("lrp_tf.evaluate.tuning.tune.Clock", _Time)
    monkeypatch.setattr("lrp_tf.evaluate.tuning.judge.time.monotonic", lambda: 0.0)
    found = tuned(net, data, budget=6)
    reached = [row for row in found.ranking if row.n]
    assert 0 < len(reached) < 5
    assert {row.rank for row in found.ranking if not row.n} == {0}
    assert any(re.search(r"did not suffice for \d of 5 candidates", line) for line in found.unreached)
    assert any("more than the budget" in line for line in found.unreached)
    assert found.best.n > 0
    assert all(line in str(found) and line in found.markdown() for line in found.unreached)


def test_half_of_the_candidates_are_dropped_where_the_budget_asks_for_it(net, data):
    class Halving(Clock):
        def decide(self, name, value):
            return True if name == "halving" else super().decide(name, value)

    values = {"gamma.lower": [0.0, 0.2, 0.4, 0.6], "gamma.upper": [0.1, 0.5]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrp_tf.evaluate.tuning.tune.Clock", Halving)
        found = tuned(net, data, grid=values, batch_size=2)
    counts = sorted({row.n for row in found.ranking})
    assert counts[0] == 2
    assert counts[-1] == 7
    assert len([row for row in found.ranking if row.n == 2]) == 4
    assert any("were dropped" in line for line in found.unreached)
    assert found.ranking[0].n == 7


def test_budgets_are_read_and_spent_over_all_parts(tmp_path):
    assert [seconds_of(text) for text in (90, "90s", "1.5m", "1h", None)] == [90, 90, 90, 3600, None]
    for wrong in (0, "0m", "-1s", "5 parsecs", "inf"):
        with pytest.raises(ValueError, match="budget expects"):
            seconds_of(wrong)
    with pytest.raises(TypeError, match="budget expects"):
        seconds_of(True)
    first = Clock(100, tmp_path / "clock.json")
    first._before = 40.0
    assert first.decide("halving", True) is True
    second = Clock(100, tmp_path / "clock.json")
    assert second.left <= 60
    assert second.decide("halving", False) is True


def test_relevance_that_is_not_finite_costs_its_candidate_alone(net, data):
    exploding = composites.Composite([(None, _Exploding())], "exploding")
    found = tuned(net, data, also=[exploding])
    (row,) = [row for row in found.ranking if row.name == "exploding"]
    assert (row.n, row.rank) == (0, 0)
    assert found.ranking[-1] is row
    assert found.unreached == (
        f"7 values are missing; the first, exploding, sample {found.chosen_ids[0]}: relevance holds NaN or Inf.",
    )


class _Exploding(rules.Rule):
    def terms(self, op):
        return [rules.Term([(op.x * float("inf"), op.w)])]


@pytest.mark.slow
def test_cma_finds_what_a_grid_finds(net, data, tmp_path):
    options = {"search": "cma", "grid": "gamma.lower=0.01:10:log3 gamma.upper=0.01:10:log3"}
    found = tuned(net, data, **options, resume=tmp_path / "record")
    again = tuned(net, data, **options, resume=tmp_path / "record")
    assert again.ranking == found.ranking
    tried = [row for row in found.ranking if row.name != "epsilon_plus_flat"]
    assert len(tried) > 10
    grid = tuned(net, data, grid=options["grid"])
    assert tried[0].mean > np.mean([row.mean for row in grid.ranking if row.name != "epsilon_plus_flat"])
    found.contour(tmp_path / "contour.png")


def test_cma_that_is_not_installed_names_its_extra(net, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ImportError, match=r'extra "tune".*pip install "lrp_tf\[tune\]"'):
        tuned(net, data, search="cma", grid="gamma.lower=0.1:1:log3")


def test_searches_ordered_by_mean_put_what_has_no_value_last():
    made = [search.Tried(space.Candidate(str(i), composites.get("epsilon"), {}), [0, 1], np.full((2, 2), value))
            for i, value in enumerate((0.1, math.nan, 0.3))]  # fmt: skip
    assert [one.candidate.name for one in search.ordered(made, METRIC)] == ["2", "0", "1"]


def test_toml_of_what_has_no_words_is_refused():
    written = composites.toml(composites.get("epsilon_plus", epsilon=rules.Relative(0.25), flow_epsilon=0.01))
    assert composites.parse(written) == composites.get("epsilon_plus", epsilon=rules.Relative(0.25), flow_epsilon=0.01)
    with pytest.raises(ValueError, match="have words"):
        composites.toml(composites.Composite([(lambda step: True, rules.Epsilon())]))
    with pytest.raises(ValueError, match="without canonizers"):
        composites.toml(composites.Composite([(None, rules.Epsilon())], canonizers=[]))


def test_a_metric_that_fails_for_one_sample_costs_its_value_alone(net, data):
    wanted = float(data[0][5, 0, 0, 0])

    def picky(case):
        if wanted in case.x[:, 0, 0, 0]:
            raise ValueError("not this one")
        return case.score

    found = tuned(net, data, metric=evaluate.Metric("picky", picky, "faithfulness", "higher", "none"))
    counts = {row.n for row in found.ranking} | {found.best.n}
    assert counts <= {6, 7}
    assert any("missing" in line and "sample 5: not this one" in line for line in found.unreached)

    def broken(case):
        raise ValueError("an option is wrong")

    with pytest.raises(ValueError, match="an option is wrong"):
        tuned(net, data, metric=evaluate.Metric("broken", broken, "faithfulness", "higher", "none"))


def test_a_tuner_explains_by_each_candidate_before_and_after_a_search(net, data):
    x, target = data
    tuner = Tuner(net, grid=GRID, also=[], batch_size=4)
    names = [candidate.name for candidate in tuner.candidates]
    before = tuner.explained(names[1], x[:3], target[:3])
    found = tuner(x, target, metric=METRIC)
    samples = tuner.judge.samples
    np.testing.assert_allclose(tuner.explained(names[1], x[:3], target[:3]), before, atol=1e-6)
    assert tuner.judge.samples is samples
    assert len(samples.x) == len(x)
    explainer = lrp_tf.Explainer(net, found.winner)
    np.testing.assert_allclose(tuner.explained(found.best.name, x, target), explainer(x, target), atol=1e-5)
    with pytest.raises(ValueError, match=r"name expects one of \['epsilon_plus_flat', 'gamma.lower=.*Received: 'eps'"):
        tuner.explained("eps", x, target)

"""Intervals, differences in pairs and ranks, against SciPy, by hand-made cases and a published example."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from lrp_tf.evaluate import Comparison, Metric, statistics

# Areas under curve of four kinds of C4.5 on 14 data sets: Demšar, Statistical Comparisons of Classifiers over Multiple
# Data Sets, 2006, table 6. The last value but one row is printed as 0.975: the mean ranks of the paper come out if the
# fourth kind is below the third there, whose printed values are the same.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.9749], [0.957, 0.978, 0.946, 0.970],
]).T  # fmt: skip


def comparison(values: np.ndarray, better: str | None = "higher", **more: object) -> Comparison:
    """Of one metric."""
    metric = Metric("m", lambda case: case.score, "faithfulness", better, "none")
    names = tuple("abcdefgh"[: len(values)])
    return Comparison(names, {"m": metric}, np.asarray(values)[:, None], np.zeros(values.shape[1], np.int64), **more)


def test_ranks_are_those_of_the_published_example() -> None:
    found = comparison(DEMSAR).ranks("m")
    np.testing.assert_allclose(found.mean, [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert statistics.critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    # The example takes no account of ties: 9.28, from the ranks. SciPy divides by 1 - ties / (n (k³ - k)).
    plain = 12 * 14 / (4 * 5) * (np.square(found.mean).sum() - 4 * 25 / 4)
    assert plain == pytest.approx(9.28, abs=0.01)
    ties = sum((counts**3 - counts).sum() for counts in (np.unique(row, return_counts=True)[1] for row in DEMSAR.T))
    assert found.statistic == pytest.approx(plain / (1 - ties / (14 * (4**3 - 4))))
    assert (found.n, found.p) == (14, pytest.approx(stats.chi2.sf(found.statistic, 3)))


def test_ranks_of_a_metric_that_is_better_lower_run_the_other_way() -> None:
    np.testing.assert_allclose(comparison(DEMSAR, "lower").ranks("m").mean, 5 - comparison(DEMSAR).ranks("m").mean)
    with pytest.raises(ValueError, match="expects a metric with a direction"):
        comparison(DEMSAR, None).ranks("m")


def test_values_that_differ_by_rounding_are_tied() -> None:
    values = np.array([[1.0, 1.0, 0.0], [1 - 2e-16, 1 + 4e-16, 1e-20], [0.5, 2.0, -1.0]])
    np.testing.assert_allclose(
        comparison(values).ranks("m").mean, [(1.5 + 2.5 + 2) / 3, (1.5 + 2.5 + 1) / 3, (3 + 1 + 3) / 3]
    )


def test_groups_join_what_cannot_be_told_apart() -> None:
    means = comparison(DEMSAR).ranks("m").mean  # figure 1(a) of the paper, level 0.1
    assert statistics.groups(means, statistics.critical_difference(4, 14, 0.1)) == [(3, 1, 2), (2, 0)]
    assert statistics.groups(np.array([3.0, 1.0, 1.5]), 1.0) == [(1, 2)]
    assert statistics.groups(np.array([1.0, 2.0, 3.0]), 5.0) == [(0, 1, 2)]


def test_a_method_that_is_better_by_construction_differs_in_pairs_though_means_overlap() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 60)  # how hard a sample is matters far more than the method
    found = comparison(np.stack([hard, hard + 0.5 + rng.normal(0, 0.5, 60)]), reference="a")
    first, second = found.rows
    assert first.high > second.low  # the means alone tell nothing
    assert second.difference_low > 0
    assert second.difference == pytest.approx(np.diff(found.values[:, 0], axis=0).mean())
    assert np.isnan(first.difference)
    assert dataclasses.replace(found, reference=None).rows[0].reference == "b"


def test_intervals_are_scipys_and_follow_the_seed() -> None:
    values = np.random.default_rng(1).exponential(size=40)
    low, high = statistics.interval(values, (0, 1), resamples=5000)
    want = stats.bootstrap((values,), np.mean, n_resamples=5000, method="BCa", random_state=np.random.default_rng(7))
    assert (low, high) == pytest.approx(tuple(want.confidence_interval), abs=0.02)
    assert statistics.interval(values, (0, 1), resamples=5000) == (low, high)
    assert statistics.interval(values, (1, 1), resamples=5000) != (low, high)
    assert statistics.interval(values, (0, 1), confidence=0.5)[0] > low
    many = np.random.default_rng(1).normal(3, 1, 4000)  # by percentiles
    assert statistics.interval(many, (0,)) == pytest.approx(
        (many.mean() - 1.96 / 4000**0.5, many.mean() + 1.96 / 4000**0.5), abs=0.004
    )


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    ends = [statistics.interval(rng.normal(size=30), (0, i), confidence=0.8, resamples=400) for i in range(150)]
    assert 0.7 < np.mean([low < 0 < high for low, high in ends]) < 0.88


def test_samples_without_a_value_are_left_out_in_pairs_and_n_says_so() -> None:
    values = np.arange(24, dtype=float).reshape(3, 8)
    values[1, :2] = np.nan
    values[2, 7] = np.nan
    found = comparison(values, reference="b")
    assert [(row.n, row.pairs) for row in found.rows] == [(8, 6), (6, 6), (7, 5)]
    assert found.rows[0].difference == -8.0 == found.rows[0].difference_low
    assert found.ranks("m").n == 5
    nothing = comparison(np.full((2, 3), np.nan))
    assert [(row.n, row.pairs) for row in nothing.rows] == [(0, 0), (0, 0)]
    assert "–" in str(nothing)


def test_the_overview_marks_the_best_and_what_cannot_be_told_from_it() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=50)
    values = np.stack([base, base + rng.normal(0, 0.01, 50), base - 5])
    metric = Metric("m", lambda case: case.score, "faithfulness", "higher", "none")
    lower = dataclasses.replace(metric, better="lower")
    both = np.stack([values, values], axis=1)
    both[0, 1, :7] = np.nan
    found = Comparison(("a", "b", "c"), {"up": metric, "down": lower}, both, np.zeros(50, np.int64))
    lines = found.overview().splitlines()
    assert lines[0] == "| method | up (higher), n = 50 | down (lower), n = 43 to 50 |"
    bold = {
        line.split(" | ")[0].strip("| "): [cell.startswith("**") for cell in line.split(" | ")[1:]]
        for line in lines[2:]
    }
    assert bold == {"a": [True, False], "b": [True, False], "c": [False, True]}
    assert found.overview() in found.markdown()


def test_one_sample_and_equal_values_have_no_interval_to_invent() -> None:
    assert np.isnan(statistics.interval(np.array([1.0]), (0,))).all()
    assert statistics.interval(np.full(5, 2.0), (0,)) == (2.0, 2.0)
    rounded = np.array([1.0, 1 - 2e-16, 1.0, 1 - 3e-16])  # as correlations of a map with itself
    assert statistics.interval(rounded, (0,)) == (rounded.min(), 1.0)
    values = np.random.default_rng(0).exponential(size=20)
    want = np.array(statistics.interval(values, (0,)))
    np.testing.assert_allclose(statistics.interval(values * 1e-300, (0,)), want * 1e-300)
    assert np.isnan(comparison(np.ones((3, 5))).ranks("m").p)  # all tied: Friedman's test has nothing to say


def test_bars_are_as_long_as_the_means_and_the_diagram_shows_all_ranks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = comparison(np.array([[4.0], [2.0], [1.0]]) + rng.normal(0, 0.05, (3, 30)))
    picture = cv2.imread(str(found.bars(tmp_path / "bars.png")))[..., ::-1].astype(int)
    lengths = []
    for colour in ((0x1F, 0x4E, 0x79), (0xC9, 0xCE, 0xD6)):  # the best, and those that differ from it
        rows = (np.abs(picture - colour).max(axis=2) < 3).sum(axis=1)
        lengths.append(rows)
    assert lengths[0].max() == pytest.approx(2 * lengths[1].max(), rel=0.1)
    assert (lengths[0] > 100).sum() > 10
    found.critical_difference(tmp_path / "ranks.svg", "m")
    assert (tmp_path / "ranks.svg").stat().st_size > 1000
    with pytest.raises(ValueError, match="suffix of a picture format"):
        found.bars(tmp_path / "bars.xyz")

"""Ranks of relevance and how far they move: against loops written from the definition, and at the zero points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lrp_tf.evaluate.adversarial import ranking

MAPS = hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=st.integers(-3, 3))


def slow_ranks(values: list[float]) -> list[float]:
    """1 + how many are larger + half of the others that are equal."""
    return [1 + sum(w > v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def slow_top(values: list[float], k: int) -> list[float]:
    """The share of each value in the top k: of those tied at its edge, an equal part of the places left."""
    found = []
    for v in values:
        better, equal = sum(w > v for w in values), sum(w == v for w in values)
        found.append(min(max((k - better) / equal, 0), 1))
    return found


def slow_shift(a: list[float], b: list[float], top: tuple[float, ...]) -> dict[str, float]:
    count, first, second = len(a), slow_ranks(a), slow_ranks(b)
    moved = [abs(p - q) for p, q in zip(first, second, strict=True)]
    found = {}
    for share in top:
        k = max(1, math.floor(share * count + 0.5))
        inside, later = slow_top(a, k), slow_top(b, k)
        found[f"left_top_{100 * share:.4g}"] = 1 - sum(map(min, inside, later)) / k
        found[f"unmoved_top_{100 * share:.4g}"] = sum(i for i, m in zip(inside, moved, strict=True) if m == 0) / k
        found[f"shift_top_{100 * share:.4g}"] = sum(i * m for i, m in zip(inside, moved, strict=True)) / k / count
    found["unmoved"] = sum(m == 0 for m in moved) / count
    found["near"] = sum(m <= 0.01 * count for m in moved) / count
    found["shift_mean"] = sum(moved) / count**2
    return found


@settings(max_examples=60, deadline=None)
@given(MAPS, st.integers(0, 2**32 - 1), st.sampled_from([(0.1,), (0.01, 0.5), (0.05, 0.3, 1.0)]))
def test_measures_are_what_loops_from_the_definition_give(maps: np.ndarray, seed: int, top: tuple[float, ...]):
    other = np.random.default_rng(seed).integers(-3, 4, maps.shape).astype(float)
    found = ranking.shift(maps, other, top=top)
    np.testing.assert_array_equal(ranking.ranks(maps), [slow_ranks(row.tolist()) for row in maps])
    for one, a, b in zip(found, maps, other, strict=True):
        for name, value in slow_shift(a.tolist(), b.tolist(), top).items():
            assert one.measures[name] == pytest.approx(value, abs=1e-12), name
        np.testing.assert_array_equal(one.by_component, np.subtract(slow_ranks(b.tolist()), slow_ranks(a.tolist())))
        far = np.abs(one.by_component) / len(a)
        for q in ranking.QUANTILES:
            assert one.measures[f"shift_q{100 * q:g}"] == pytest.approx(np.quantile(far, q))


@settings(max_examples=40, deadline=None)
@given(MAPS, st.integers(0, 2**32 - 1))
def test_what_changes_no_rank_changes_no_measure(maps: np.ndarray, seed: int):
    generator = np.random.default_rng(seed)
    same = ranking.shift(maps, maps)
    for one in same:
        assert not one.by_component.any()
        assert {v for k, v in one.measures.items() if k.startswith(("left", "shift"))} == {0.0}
        assert {v for k, v in one.measures.items() if k.startswith(("unmoved", "near"))} == {1.0}
    other = generator.integers(-3, 4, maps.shape).astype(float)
    order = generator.permutation(maps.shape[1])
    plain = [one.measures for one in ranking.shift(maps, other)]
    for a, b in ((7.5 * maps, 0.1 * other), (maps - 4, other + 1), (maps[:, order], other[:, order])):
        for one, expected in zip(ranking.shift(a, b), plain, strict=True):
            assert one.measures == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("tied", [0, 500])
def test_a_shuffled_map_comes_out_at_chance(tied: int):
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(200, 600))
    maps[:, :tied] = 0
    after = np.stack([ranking.shuffled(row[None], [7, i])[0] for i, row in enumerate(maps)])
    np.testing.assert_array_equal(np.sort(after, axis=1), np.sort(maps, axis=1))
    found = ranking.shift(maps, after)

    def mean(name: str) -> tuple[float, float]:
        values = np.array([one.measures[name] for one in found])
        return float(values.mean()), float(4 * values.std() / math.sqrt(len(values)))

    value, error = mean("spearman")
    assert abs(value) < error
    if not tied:  # of the top k of K, k/K stays by chance; two uniform ranks are a third of K apart
        for share in (0.01, 0.05, 0.1):
            value, error = mean(f"left_top_{100 * share:g}")
            assert abs(value - (1 - share)) < error
        value, error = mean("shift_mean")
        assert abs(value - 1 / 3) < error
        value, error = mean("unmoved")
        assert abs(value - 1 / 600) < error
    else:  # 500 of 600 are tied in the middle: chance lies elsewhere, and is what all pairs of components give
        assert mean("unmoved")[0] > 0.5
    for name, expected in by_chance(maps[0], maps[0], 0.1).items():
        value, error = mean(name)
        assert abs(value - expected) <= error + 0.01 * tied / 500, name


def by_chance(a: np.ndarray, b: np.ndarray, share: float) -> dict[str, float]:
    """The mean of each measure over all orders of b's components: over all pairs of a component of a and one of b."""
    (r, s), count = (ranking.ranks(row[None])[0] for row in (a, b)), len(a)
    k = ranking.places(share, count)
    m, n = (ranking.membership(rank[None], k)[0] for rank in (r, s))
    far = np.abs(r[:, None] - s[None]) / count
    return {
        f"left_top_{100 * share:g}": np.maximum(m[:, None] - n[None], 0).sum() / count / k,
        f"unmoved_top_{100 * share:g}": (m[:, None] * (far == 0)).sum() / count / k,
        f"shift_top_{100 * share:g}": (m[:, None] * far).sum() / count / k,
        "unmoved": (far == 0).mean(),
        "shift_mean": far.mean(),
    }


def test_pixels_and_values_signs_and_sizes():
    relevance = np.array([[[[1.0, -3.0], [0.5, 0.25]], [[-1.0, 0.0], [0.0, 0.0]]]])  # [1, 2, 2, 2]
    np.testing.assert_array_equal(ranking.ranks(relevance), [[4, 1, 3, 2]])  # sums -2, 0.75, -1, 0
    np.testing.assert_array_equal(ranking.ranks(relevance, order="absolute"), [[1, 3, 2, 4]])
    assert ranking.ranks(relevance, by="value").tolist() == [[1, 8, 2, 3, 7, 5, 5, 5]]
    assert ranking.ranks(relevance, by="value", order="absolute").tolist() == [[2.5, 1, 4, 5, 2.5, 7, 7, 7]]
    assert ranking.ranks(relevance.reshape(1, 8)).tolist() == [[1, 8, 2, 3, 7, 5, 5, 5]]


def test_the_edge_of_the_top_is_shared_by_what_is_tied_at_it():
    rank = ranking.ranks(np.array([[3.0, 1.0, 1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(ranking.membership(rank, 2), [[1, 1 / 3, 1 / 3, 1 / 3, 0]])
    assert ranking.places(0.01, 20) == 1
    assert ranking.places(0.125, 20) == 3  # 2.5 is rounded up
    assert ranking.places(1.0, 20) == 20


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ranking.ranks(np.array([[1.0, np.nan]])), ValueError, "finite numbers.*NaN has no rank"),
        (lambda: ranking.ranks(np.ones((2, 3)), by="region"), ValueError, "by expects 'pixel' or 'value'"),
        (lambda: ranking.ranks(np.ones((2, 3)), order="up"), ValueError, "order expects 'signed' or 'absolute'"),
        (lambda: ranking.ranks(np.ones(3)), ValueError, r"\[B, K\]. Received: \(3,\)"),
        (lambda: ranking.ranks(np.array([["a"]])), TypeError, "expects numbers"),
        (lambda: ranking.shift(np.ones((1, 3)), np.ones((1, 4))), ValueError, r"Received: \(1, 3\), \(1, 4\)"),
        (lambda: ranking.shift(np.ones((1, 3)), np.ones((1, 3)), top=[0.0]), ValueError, "above 0 and up to 1"),
        (lambda: ranking.shift(np.ones((1, 3)), np.ones((1, 3)), top=[0.1, 0.1]), ValueError, "shares that differ"),
    ],
)  # fmt: skip
def test_bad_maps_are_refused(call: object, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        call()

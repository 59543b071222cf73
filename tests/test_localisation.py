"""Localisation: masks of boxes, and each metric against a slow computation that says what it means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lrp_tf import evaluate

B, H, W, C = 4, 9, 7, 3
WITH_WEIGHTED = ["pointing_game", "relevance_mass", "attribution_localisation", "relevance_rank", "top_k_intersection"]


@pytest.fixture
def case(rng: np.random.Generator) -> evaluate.Case:
    masks = evaluate.masks_of([(1, 2, 5, 6), [(0, 0, 2, 2), (4, 4, 7, 9)], (0, 0, 7, 4), (3, 3, 4, 4)], (H, W))
    x = rng.normal(size=(B, H, W, C)).astype(np.float32)
    relevance = rng.normal(size=x.shape).astype(np.float32)
    return evaluate.Case.of(x, 0, lambda x, target: relevance, lambda x: x.sum((1, 2)), masks=masks)


def slow(name: str, relevance: np.ndarray, mask: np.ndarray, part: str) -> float:
    """One sample: relevance [H, W, C], mask [H, W]; no two positions have the same relevance above zero."""
    take = {"positive": lambda r: max(r, 0.0), "absolute": abs, "signed": float}[part]
    positions = [(i, j) for i in range(H) for j in range(W)]
    value = {p: take(float(sum(float(r) for r in relevance[p]))) for p in positions}
    if name == "attribution_localisation":
        value = {p: sum(take(float(r)) for r in relevance[p]) for p in positions}
    order = sorted(positions, key=lambda p: -value[p])
    if name == "pointing_game":
        return float(mask[order[0]])
    if name == "localisation_auc":
        pairs = [(value[p], value[q]) for p in positions for q in positions if mask[p] and not mask[q]]
        return sum((p > q) + 0.5 * (p == q) for p, q in pairs) / len(pairs)
    if name in ("relevance_mass", "attribution_localisation"):
        return sum(value[p] for p in positions if mask[p]) / sum(value.values())
    k = int(mask.sum()) if name == "relevance_rank" else 5
    return sum(bool(mask[p]) for p in order[:k]) / k


@pytest.mark.parametrize("part", ["positive", "absolute", "signed"])
@pytest.mark.parametrize("name", [*WITH_WEIGHTED, "localisation_auc"])
def test_metrics_are_what_they_say(case: evaluate.Case, name: str, part: str) -> None:
    # Positive parts tie at zero: then only objects that are smaller than what is positive have an obvious rank.
    options = {"part": part} | ({"k": 5} if name == "top_k_intersection" else {})
    expected = np.array([slow(name, r, m, part) for r, m in zip(case.relevance, case.masks, strict=True)])
    np.testing.assert_allclose(evaluate.get(name, **options)(case), expected, rtol=1e-9)
    if name in WITH_WEIGHTED:
        share = case.masks.mean((1, 2))
        weighted = expected * (1 - share) if name == "pointing_game" else expected / share
        np.testing.assert_allclose(evaluate.get(f"{name}_weighted", **options)(case), weighted, rtol=1e-9)


def test_equal_relevance_counts_by_its_mean(case: evaluate.Case) -> None:
    flat = dataclasses.replace(case, relevance=np.ones_like(case.relevance))
    share = case.masks.mean((1, 2))
    for name in WITH_WEIGHTED:
        np.testing.assert_allclose(evaluate.get(name)(flat), share, err_msg=name)
        if name != "pointing_game":
            np.testing.assert_allclose(evaluate.get(f"{name}_weighted")(flat), 1, err_msg=name)
    np.testing.assert_allclose(evaluate.get("localisation_auc")(flat), 0.5)


def test_relevance_on_the_object_alone_gets_all(case: evaluate.Case) -> None:
    on = dataclasses.replace(case, relevance=np.where(case.masks[..., None], np.abs(case.relevance), 0))
    for name in [*WITH_WEIGHTED, "localisation_auc"]:
        options = {"k": 1} if name == "top_k_intersection" else {}
        np.testing.assert_allclose(evaluate.get(name, **options)(on), 1, err_msg=name)


def test_without_relevance_or_object_there_is_no_value(case: evaluate.Case) -> None:
    relevance, masks = case.relevance.copy(), case.masks.copy()
    relevance[0], masks[1], masks[2] = -1, False, True
    odd = dataclasses.replace(case, relevance=relevance, masks=masks)
    for name in evaluate.names("localisation"):
        with pytest.warns(evaluate.UndefinedMetricWarning):
            found = np.isnan(evaluate.get(name)(odd))
        np.testing.assert_array_equal(found, [True, True, name == "localisation_auc", False], err_msg=name)


def test_hits_near_the_object(case: evaluate.Case) -> None:
    relevance = np.zeros_like(case.relevance)
    relevance[:, 0, 6] = 1
    corner = dataclasses.replace(case, relevance=relevance)
    for tolerance in range(5):
        far = [min(max(i, 6 - j) for i, j in np.argwhere(mask)) for mask in case.masks]
        expected = np.array(far) <= tolerance
        np.testing.assert_array_equal(evaluate.get("pointing_game", tolerance=tolerance)(corner), expected)


def test_masks_of_boxes() -> None:
    masks = evaluate.masks_of([(1, 2, 3, 5), [(0, 0, 1, 1), (4, 3, 5, 4)]], (6, 5))
    expected = np.zeros((2, 6, 5), bool)
    expected[0, 2:5, 1:3] = expected[1, 0, 0] = expected[1, 3, 4] = True
    np.testing.assert_array_equal(masks, expected)
    half = evaluate.masks_of([(2, 4, 6, 10)], (6, 5), measured_in=(12, 10))
    np.testing.assert_array_equal(half[0], expected[0])
    np.testing.assert_array_equal(evaluate.masks_of([(1.5, 2.2, 2.5, 4.1)], (6, 5))[0], expected[0])
    thirds = evaluate.masks_of([(3, 3, 9, 9)], (3, 3), measured_in=(9, 9))
    assert thirds.sum() == 4


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([(0, 0, 6, 5)], r"boxes\[0\] expects 0 <= x0 < x1 <= 5 .* clip the box"),
        ([(0, 0, 5, 6), (-1, 0, 2, 2)], r"boxes\[1\]"),
        ([(2, 2, 2, 4)], "x0 < x1"),
        ([[]], "at least one"),
        ([[(0, 0, 1)]], "at least one"),
        ([(0, 0, np.nan, 1)], "expects boxes"),
    ],
)
def test_bad_boxes_are_refused(boxes: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate.masks_of(boxes, (6, 5))


def test_bad_options_are_refused(case: evaluate.Case) -> None:
    with pytest.raises(ValueError, match=r"part expects one of .*Received: 'negative'"):
        evaluate.get("relevance_mass", part="negative")(case)
    for k in (0, 64, 1.5, -0.1):
        with pytest.raises(ValueError, match="k expects 1 to 63 positions"):
            evaluate.get("top_k_intersection", k=k)(case)
    with pytest.raises(ValueError, match="needs where the object is: pass masks="):
        evaluate.get("relevance_rank")(dataclasses.replace(case, masks=None))

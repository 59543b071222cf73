"""The earth mover's distance: against a linear program, and where its value is known."""

import numpy as np
import pytest

from lrp_tf import evaluate
from lrp_tf.evaluate import transport


def case(relevance: np.ndarray, masks: np.ndarray) -> evaluate.Case:
    x = np.asarray(relevance, np.float32)[..., None]
    return evaluate.Case.of(
        x, np.zeros(len(x), int), lambda x, target: x, lambda x: np.zeros((len(x), 2)), relevance=x, masks=masks
    )


def metric(relevance: np.ndarray, masks: np.ndarray, **options: object) -> np.ndarray:
    return evaluate.get("earth_movers_distance", **{"part": "absolute", **options})(case(relevance, masks))


def test_known_distances() -> None:
    maps, masks = np.zeros((4, 8, 8)), np.zeros((4, 8, 8), bool)
    masks[:, 0, 0] = True
    maps[0, 0, 0] = 7.0  # where it should be
    maps[1, 7, 7] = 1.0  # as far away as can be
    maps[2, 0, 3] = -2.0  # three pixels away, whatever its sign
    maps[3, 0, [0, 4]] = 1.0  # half of it four pixels away
    np.testing.assert_allclose(metric(maps, masks), [1, 0, 1 - 3 / 98**0.5, 1 - 2 / 98**0.5], atol=1e-6)
    with pytest.warns(evaluate.UndefinedMetricWarning):
        assert np.isnan(metric(maps, masks, part="positive")).tolist() == [False, False, True, False]


@pytest.mark.parametrize("kind", ["dense", "sparse", "spiky"])
def test_the_solver_agrees_with_a_linear_program(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    places = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"), -1).reshape(-1, 2)
    for _ in range(5):
        mass = np.abs(rng.normal(size=64)) * (rng.random(64) < (0.2 if kind == "sparse" else 1.0))
        mass = mass ** (8 if kind == "spiky" else 1)
        mass, aim = mass / mass.sum(), np.zeros(64)
        aim[rng.choice(64, 8, replace=False)] = 1 / 8
        here, there = np.flatnonzero(mass), np.flatnonzero(aim)
        want = transport._by_program(mass[here], aim[there], places[here], places[there])
        assert transport.distance(mass, aim, places) == pytest.approx(want, abs=5e-6)


def test_the_program_takes_over_for_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(1, 12, 12)), np.zeros((1, 12, 12), bool)
    masks[0, 2:6, 3:9] = True
    by_opencv = metric(maps, masks)
    monkeypatch.setattr(transport, "_PAIRS", 10)
    np.testing.assert_allclose(metric(maps, masks), by_opencv, atol=1e-5)


def test_blocks_come_close_and_must_fit() -> None:
    rng = np.random.default_rng(1)
    maps, masks = rng.normal(size=(3, 16, 16)) ** 4, np.zeros((3, 16, 16), bool)
    masks[:, 4:10, 5:8] = True
    exact, pooled = metric(maps, masks), metric(maps, masks, block=2)
    assert not np.array_equal(exact, pooled)
    assert np.abs(exact - pooled).max() < 2 * 8**0.5 / 450**0.5
    with pytest.raises(ValueError, match=r"divides the sides \(16, 16\). Received: 3"):
        metric(maps, masks, block=3)
    with pytest.raises(ValueError, match="negative relevance is no mass"):
        metric(maps, masks, part="signed")

"""Perturbation against a slow, obvious implementation; what its curves, areas and metrics mean; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lrp_tf import evaluate
from lrp_tf.evaluate import protocol, regions, schedules

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 9, 7, 2)).astype(np.float32)
R = RANDOM.normal(size=X.shape).astype(np.float32)
WEIGHTS = RANDOM.normal(size=(9 * 7 * 2, 3))
TARGET = np.array([0, 1, 2, 1, 0])


def predict(x: np.ndarray) -> np.ndarray:
    """A nonlinear classifier of samples with channels last."""
    return np.tanh(x.reshape(len(x), -1).astype(np.float64) @ WEIGHTS / 4)


def slowly(order: str, flips: list[int], side: int, fill: float) -> np.ndarray:
    """Scores of one order: loops over images, regions and steps."""
    found = np.zeros((len(X), len(flips)))
    for b, image in enumerate(X):
        corners = [(i, j) for i in range(0, 9, side) for j in range(0, 7, side)]
        total = {(i, j): R[b, i : i + side, j : j + side].astype(np.float64).sum() for i, j in corners}
        corners.sort(key=lambda corner: total[corner], reverse=order == "morf")
        for k, count in enumerate(flips):
            flipped = image.copy()
            for i, j in corners[:count]:
                flipped[i : i + side, j : j + side] = fill
            found[b, k] = predict(flipped[None])[0, TARGET[b]]
    return found


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_scores_are_those_of_a_slow_loop(order: str, side: int) -> None:
    found = evaluate.perturb(predict, X, R, TARGET, order=order, region=side, steps=5, fill=0.3)
    assert found.flips[-1] == found.regions == {1: 63, 2: 20, 4: 6}[side]
    np.testing.assert_allclose(found.scores, slowly(order, found.flips.tolist(), side, 0.3), atol=1e-12)


def test_channels_first_no_channels_and_series_give_the_same_scores() -> None:
    options = {"steps": 6, "fill": "uniform", "order": ["morf", "random"]}
    wanted = evaluate.perturb(predict, X, R, TARGET, **options)
    first = evaluate.perturb(
        lambda x: predict(np.moveaxis(x, 1, -1)),
        np.moveaxis(X, -1, 1),
        np.moveaxis(R, -1, 1),
        TARGET,
        channel_axis=1,
        **options,
    )
    summed = evaluate.perturb(predict, X, R.sum(-1), TARGET, **options)
    series = evaluate.perturb(predict, X.reshape(5, 63, 2), R.reshape(5, 63, 2), TARGET, region=1, **options)
    for found in (first, summed, series):
        for order in ("morf", "random"):
            np.testing.assert_allclose(found[order].scores, wanted[order].scores, atol=1e-9)


def test_features_are_flipped_one_by_one() -> None:
    x, weights = RANDOM.normal(size=(4, 60)), RANDOM.normal(size=(60, 2))
    found = evaluate.perturb(lambda x: x @ weights, x, x * weights[:, 1], 1, steps=60)
    assert found.regions == 60
    lost = np.sort(x * weights[:, 1], axis=1)[:, ::-1].cumsum(axis=1)
    np.testing.assert_allclose(found.scores[:, 1:], found.scores[:, :1] - lost, atol=1e-12)


@pytest.mark.parametrize("fill", ["uniform", "gaussian", "blur", "telea"])
def test_a_sample_has_the_same_scores_in_every_batch(fill: str) -> None:
    options = {"steps": 4, "fill": fill, "order": ["morf", "random"], "seed": 3}
    constant = np.zeros_like(R)  # all ties
    together = evaluate.perturb(predict, X, constant, TARGET, ids=np.arange(5) + 7, **options)
    alone = evaluate.perturb(predict, X[3:4], constant[3:4], TARGET[3:4], ids=[10], **options)
    for order in ("morf", "random"):
        np.testing.assert_allclose(together[order].scores[3:4], alone[order].scores, atol=1e-12)
    other = evaluate.perturb(predict, X, constant, TARGET, ids=np.arange(5) + 7, **options | {"seed": 4})
    assert not np.array_equal(together["random"].scores, other["random"].scores)


def test_a_constant_map_is_flipped_in_the_random_order_and_lerf_is_morf_reversed() -> None:
    generators = protocol.generators(0, np.arange(5), "a")
    random = regions.ranks(R.reshape(5, -1), "random", protocol.generators(0, np.arange(5), "a"))
    np.testing.assert_array_equal(regions.ranks(np.ones((5, 126)), "morf", generators), random)
    values = RANDOM.integers(0, 4, size=(5, 126)).astype(float)
    morf = regions.ranks(values, "morf", protocol.generators(0, np.arange(5), "a"))
    lerf = regions.ranks(values, "lerf", protocol.generators(0, np.arange(5), "a"))
    np.testing.assert_array_equal(morf + lerf, np.full((5, 126), 125))
    for b in range(5):
        assert (np.diff(values[b][np.argsort(morf[b])]) <= 0).all()


def test_a_linear_model_loses_most_by_the_true_contribution() -> None:
    """No order of single pixels has a smaller area under its curve than that by true contribution."""
    x, weights = RANDOM.uniform(size=(1, 4, 4, 1)), RANDOM.normal(size=(16, 2))

    def linear(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) @ weights

    options = {"steps": 16, "fill": 0.0}
    true = evaluate.perturb(linear, x, (x.reshape(1, -1) * weights[:, 0]).reshape(x.shape), 0, **options).auc()
    copies = np.repeat(x, 400, axis=0)
    others = evaluate.perturb(linear, copies, np.zeros_like(copies), 0, order="random", **options).auc()
    assert (true <= others + 1e-12).all()
    assert true < others.mean() - 3 * others.std() / 20


def test_random_relevance_has_no_gain() -> None:
    x = np.repeat(RANDOM.normal(size=(1, 9, 7, 2)), 400, axis=0)
    relevance = RANDOM.normal(size=x.shape)
    found = evaluate.perturb(predict, x, relevance, 0, order=["morf", "lerf"], fill=0.0, steps=9).srg()
    assert abs(found.mean()) < 3 * found.std() / 20
    negative = evaluate.perturb(predict, x, -relevance, 0, order=["morf", "lerf"], fill=0.0, steps=9).srg()
    np.testing.assert_allclose(negative, -found, atol=1e-12)


def test_areas_by_hand() -> None:
    scores = np.array([[4.0, 2.0, 1.0]])
    curve = evaluate.Curve("morf", scores, scores / 4, np.array([0, 1, 4]), 4)
    np.testing.assert_allclose(curve.auc("scores", normalised=False), 3 + 1.5)
    np.testing.assert_allclose(curve.auc("scores"), 3 / 4 + 1.5 * 3 / 4)
    np.testing.assert_allclose(curve.auc(), curve.auc("scores") / 4)
    np.testing.assert_allclose(curve.aopc("scores"), (0 + 2 + 3) / 3)
    np.testing.assert_allclose(curve.au_mse("scores"), 2 / 4 + 6.5 * 3 / 4)
    other = evaluate.Curve("lerf", scores + 1, None, curve.flips, 4)
    np.testing.assert_allclose(evaluate.Perturbation({"morf": curve, "lerf": other}).srg("scores"), 1)
    with pytest.raises(ValueError, match=r"probabilities are not known.*Remedy: link"):
        other.values("probabilities")
    with pytest.raises(ValueError, match=r"Missing: \['lerf'\]"):
        evaluate.Perturbation({"morf": curve}).srg()


def test_links_make_probabilities() -> None:
    found = evaluate.perturb(predict, X, R, TARGET, steps=2, link="softmax")
    odds = np.exp(predict(X))
    np.testing.assert_allclose(found.probabilities[:, 0], (odds / odds.sum(1, keepdims=True))[np.arange(5), TARGET])
    own = evaluate.perturb(predict, X, R, TARGET, steps=2, link=lambda scores: 1 / (1 + np.exp(-scores)))
    known = evaluate.perturb(predict, X, R, TARGET, steps=2, link="sigmoid")
    np.testing.assert_allclose(own.probabilities, known.probabilities)
    assert evaluate.perturb(predict, X, R, TARGET, steps=2).probabilities is None
    far = evaluate.perturb(lambda x: np.full((5, 3), -2000.0), X, R, TARGET, steps=2, link="sigmoid")
    np.testing.assert_array_equal(far.probabilities, 0)


def test_schedules() -> None:
    assert schedules.flips("equal", 784).tolist() == np.rint(np.linspace(0, 784, 30)).tolist()
    squares = schedules.flips("squares", 784)
    assert np.diff(squares).tolist() == [*range(1, 56, 2), 0]
    assert schedules.flips("squares", 40).tolist() == [0, 1, 4, 9, 16, 25, 36, 40]
    for name in ("quadratic", "geometric"):
        found = schedules.flips(name, 784, 29)
        assert (found[0], found[-1], len(found)) == (0, 784, 30)
        assert (np.diff(found) >= 1).all()
        assert (np.diff(found, 2) >= -1).all()
        assert found[15] < 784 / 3
        assert schedules.flips(name, 5, 5).tolist() == [0, 1, 2, 3, 4, 5]
    assert schedules.flips(schedules.Equal(until=0.25), 784)[-1] == 196
    assert schedules.flips([0, 3, 9], 9).tolist() == [0, 3, 9]
    assert schedules.flips(lambda regions, steps: [0, regions], 9).tolist() == [0, 9]


def test_the_last_square_is_grey() -> None:
    steps = list(evaluate.perturb_steps(X, R, schedule=schedules.Squares(low=-3, high=4), fill=0.0, region=1))
    assert [step.flips for step in steps] == [0, 1, 4, 9, 16, 25, 36, 49, 63]
    np.testing.assert_allclose(steps[-1].x, 0.5)
    assert (steps[-2].x[~steps[-2].keep] == 0).all()
    np.testing.assert_array_equal(steps[-2].x[steps[-2].keep], X[steps[-2].keep])


def test_steps_are_the_pictures_that_were_scored() -> None:
    calls = []

    def watched(x: np.ndarray) -> np.ndarray:
        calls.append(x.copy())
        return predict(x)

    evaluate.perturb(watched, X, R, TARGET, steps=4, fill="mean")
    steps = list(evaluate.perturb_steps(X, R, steps=4, fill="mean"))
    assert len(calls) == len(steps) == 5
    for call, step in zip(calls, steps, strict=True):
        np.testing.assert_array_equal(call, step.x)
        assert (~step.keep).reshape(5, -1).sum(1).tolist() == [step.flips] * 5


def case(**changes: object) -> evaluate.Case:
    given = {"x": X, "target": TARGET, "explain": lambda x, target: R, "predict": predict} | changes
    return evaluate.Case.of(**given)


@pytest.mark.parametrize("name", ["srg", "morf_auc", "lerf_auc", "aopc", "au_mse", "road"])
def test_metrics_are_the_areas_of_perturb(name: str) -> None:
    metric = evaluate.get(name, steps=5, pooling="abs", link="softmax")
    options = {"steps": 5, "pooling": "abs", "fill": metric.options.get("fill"), "link": "softmax"}
    found = evaluate.perturb(predict, X, R, TARGET, order=["morf", "lerf"], **options)
    wanted = {
        "srg": found.srg(),
        "road": found.srg(),
        "morf_auc": found["morf"].auc(),
        "lerf_auc": found["lerf"].auc(),
        "aopc": found["morf"].aopc(),
        "au_mse": found["lerf"].au_mse(),
    }
    np.testing.assert_allclose(metric(case()), wanted[name], atol=1e-12)


def test_metrics_of_a_case_share_their_curves() -> None:
    calls = []
    shared = case(predict=lambda x: (calls.append(len(x)), predict(x))[1])
    for name in ("srg", "morf_auc", "lerf_auc", "aopc", "au_mse"):
        evaluate.get(name, steps=3)(shared)
    assert len(calls) == 2 * 4
    evaluate.get("srg", steps=3, fill="mean")(shared)
    assert len(calls) == 4 * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relevance": R[:, 1:]}, "relevance has the wrong shape"),
        ({"relevance": np.full_like(R, np.nan)}, "relevance must be finite"),
        ({"x": np.full_like(X, np.inf)}, "x must be finite"),
        ({"target": 3}, r"target is out of range. Expected: below 3. Received: 3"),
        ({"order": "first"}, "order expects one of"),
        ({"order": ["morf", "morf"]}, "order expects one of"),
        ({"steps": 64}, r"steps expects 1 to 63, the regions to flip. Received: 64. Remedy"),
        ({"steps": 0}, "steps expects 1 to 63"),
        ({"schedule": "squares", "steps": 20}, "squares of 63 regions"),
        ({"schedule": "slow"}, "unknown schedule. Expected one of"),
        ({"schedule": [0, 5, 5]}, "schedule expects numbers that grow"),
        ({"region": 8}, r"region expects sides from 1 to those of the input, \(9, 7\)"),
        ({"region": (1, 1, 1)}, "a side for each of 2 axes"),
        ({"pooling": "max"}, "pooling expects one of"),
        ({"fill": "pink"}, "unknown fill. Expected one of"),
        ({"fill": np.zeros(5)}, "a constant fill expects"),
        ({"link": "tanh"}, "link expects"),
        ({"channel_axis": 4}, "behind the batch"),
        ({"ids": [1, 2]}, "ids has the wrong shape"),
        ({"seed": -1}, "seed expects an integer from 0 on"),
    ],
)
def test_bad_input_is_refused(changes: dict, words: str) -> None:
    given = {"predict": predict, "x": X, "relevance": R, "target": TARGET} | changes
    with pytest.raises(ValueError, match=words):
        evaluate.perturb(**given)


@pytest.mark.parametrize(("name", "value"), [("region", 1.5), ("steps", 2.5), ("seed", "a"), ("target", 0.5)])
def test_what_must_be_an_integer_is_refused_otherwise(name: str, value: object) -> None:
    given = {"predict": predict, "x": X, "relevance": R, "target": TARGET} | {name: value}
    with pytest.raises(TypeError, match=rf"{name} (expects|must be) an integer"):
        evaluate.perturb(**given)

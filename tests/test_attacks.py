"""Attacks against what is known in closed form: linear classifiers, with the box as a quadratic programme."""

from __future__ import annotations

import functools
import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from scipy import optimize

from lrp_tf.evaluate import adversarial
from lrp_tf.evaluate.adversarial import Network

CLASSES, SIDE = 4, 3
# Few iterations: what is tested with them does not depend on how many there are.
FAST: dict[str, dict] = {
    "lbfgs": {"iterations": 10, "bisections": 2, "segment": 3},
    "cw": {"searches": 3, "steps": 20, "weight": 1.0},
    "fgsm": {},
    "pgd": {"steps": 10},
}


@functools.cache
def linear(scale: float = 1.0, box: float = 1.0, seed: int = 0) -> tuple[Network, np.ndarray, np.ndarray]:
    """A linear classifier of [3, 3, 1] pixels in [0, box], its kernel and its bias."""
    rng = np.random.default_rng(seed)
    kernel, bias = scale * rng.normal(size=(SIDE**2, CLASSES)) / box, scale * rng.normal(size=CLASSES)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 1)), kl.Flatten(), kl.Dense(CLASSES, activation="softmax")])
    model.set_weights([kernel, bias])
    return Network(model, batch_size=8), *model.get_weights()


def pairs(network: Network, box: float = 1.0, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Images, and for each the class that the network takes for the second most likely."""
    x = box * np.random.default_rng(1).uniform(size=(count, SIDE, SIDE, 1)).astype("float32")
    return x, network.logits(x).argsort(axis=1)[:, -2]


def least(
    x: np.ndarray, target: int, kernel: np.ndarray, bias: np.ndarray, box: float, scale: float, confidence: float
) -> tuple[float, np.ndarray]:
    """The smallest L2 distance of an image in the box with the margin confidence * scale; where it is, in boxes.

    In units of the box and of the logits, so that SLSQP is well scaled.
    """
    x = x.ravel().astype(float) / box
    others = np.delete(np.arange(CLASSES), target)
    rows = (kernel[:, [target]] - kernel[:, others]).T.astype(float) * box / scale
    room = (bias[target] - bias[others]).astype(float) / scale - confidence
    found = optimize.minimize(
        lambda v: ((v - x) ** 2).sum(),
        np.full(len(x), 0.5),
        jac=lambda v: 2 * (v - x),
        method="SLSQP",
        bounds=[(0, 1)] * len(x),
        constraints={"type": "ineq", "fun": lambda v: rows @ v + room, "jac": lambda v: rows},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return box * float(np.linalg.norm(found.x - x)), found.x


FINE = {"steps": 400, "rate": 0.03, "searches": 8, "weight": 1.0}


@pytest.mark.parametrize(
    ("name", "tolerance", "confidence", "scale", "box", "settings"),
    [
        ("lbfgs", 0.005, 0.0, 1.0, 1.0, {}),
        ("lbfgs", 0.005, 0.3, 1e-3, 255.0, {}),
        ("cw", 0.08, 0.2, 1.0, 1.0, FINE | {"steps": 100, "searches": 6}),
        pytest.param("cw", 0.015, 0.2, 1.0, 1.0, FINE, marks=pytest.mark.slow),
    ],
)
def test_the_smallest_perturbation_of_a_linear_net(
    name: str, tolerance: float, confidence: float, scale: float, box: float, settings: dict
) -> None:
    """Under L-BFGS also where the logits are small and the box is large, since its weight has no unit of its own."""
    network, kernel, bias = linear(scale, box)
    x, target = pairs(network, box)
    attack = adversarial.get(name, high=box, confidence=confidence * scale, **settings)
    at_the_box = 0
    for original, wanted, attempt in zip(x, target, attack(network, x, target), strict=True):
        smallest, there = least(original, wanted, kernel, bias, box, scale, confidence)
        distance = adversarial.distances(original, attempt.x)["l2"]
        assert attempt.success
        assert confidence * scale <= attempt.margin <= (confidence + 0.1) * scale
        assert smallest * (1 - 1e-4) <= distance <= smallest * (1 + tolerance)
        assert attempt.weight is not None
        assert attempt.weight > 0
        at_the_box += bool(np.isclose(there, 0).any() or np.isclose(there, 1).any())
    assert at_the_box >= 2  # else the box would not be tested


def test_fgsm_is_its_formula() -> None:
    network, kernel, bias = linear()
    x, target = pairs(network)
    for original, wanted, attempt in zip(
        x, target, adversarial.get("fgsm", epsilon=0.2)(network, x, target), strict=True
    ):
        z = original.ravel() @ kernel + bias
        p = np.exp(z) / np.exp(z).sum()
        gradient = kernel @ (p - np.eye(CLASSES)[wanted])
        assert np.allclose(attempt.x.ravel(), np.clip(original.ravel() - 0.2 * np.sign(gradient), 0, 1), atol=1e-7)
        assert (attempt.predictions, attempt.gradients, attempt.weight) == (2, 1, None)


def test_pgd_stays_in_its_ball_and_in_the_box() -> None:
    network, _, _ = linear()
    x, target = pairs(network)
    for epsilon, start in ((0.05, True), (0.6, False), (0.6, True)):
        attack = adversarial.get("pgd", epsilon=epsilon, step=epsilon / 4, steps=30, random_start=start)
        attempts = attack(network, x, target)
        for original, attempt in zip(x, attempts, strict=True):
            assert abs(attempt.x - original).max() <= epsilon + 1e-6
            assert attempt.x.min() >= 0
            assert attempt.x.max() <= 1
            # It ends once the target is reached; it sees the last point by a prediction.
            assert attempt.success is (attempt.gradients < 30 or attempt.margin > 0)
        reached = sum(attempt.success for attempt in attempts)
        assert reached == 0 if epsilon == 0.05 else reached >= 2


def test_pgd_beats_one_step_where_the_net_is_bent() -> None:
    """For a linear net both end in the same corner of the ball."""
    network, _, _ = linear()
    x, target = pairs(network)
    one = adversarial.get("fgsm", epsilon=0.03)(network, x, target)
    many = adversarial.get("pgd", epsilon=0.03, step=0.01, steps=20)(network, x, target)
    for a, b in zip(one, many, strict=True):
        assert b.margin >= a.margin - 1e-5


def test_starts_of_pgd_follow_the_seed() -> None:
    network, _, _ = linear()
    x, target = pairs(network)

    def made(seed: int, part: slice = slice(None)) -> np.ndarray:
        attack = adversarial.get("pgd", epsilon=0.2, steps=1, step=1e-4, seed=seed)
        return np.stack([attempt.x for attempt in attack(network, x[part], target[part])])

    assert np.array_equal(made(1), made(1))
    assert abs(made(1) - made(2)).max() > 0.05
    assert np.array_equal(made(1)[3:], made(1, slice(3, None)))


@pytest.mark.parametrize("name", adversarial.names)
@pytest.mark.usefixtures("seldom_compiled")
def test_results_are_the_same_again_and_with_other_mates(name: str) -> None:
    network, _, _ = linear()
    x, target = pairs(network, count=11)  # more than a batch
    attack = adversarial.get(name, confidence=0.1, **FAST[name])
    whole, again, part = (attack(network, x[s], target[s]) for s in (slice(None), slice(None), slice(9, 11)))
    for one, other in [*zip(whole, again, strict=True), *zip(whole[9:], part, strict=True)]:
        assert np.array_equal(one.x, other.x)
        assert (one.margin, one.gradients, one.weight) == (other.margin, other.gradients, other.weight)


@pytest.mark.parametrize("name", adversarial.names)
def test_calls_are_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, _ = linear(seed=2)
    x, target = pairs(network, count=3)
    rows = {"values": 0, "logits": 0}

    def counted(name: str) -> None:
        function = getattr(network, name)

        def call(x: np.ndarray, *arguments: object, **options: object) -> object:
            rows[name] += len(x)
            return function(x, *arguments, **options)

        monkeypatch.setattr(network, name, call)

    counted("values")
    counted("logits")
    before = network.predictions, network.gradients
    attempts = adversarial.get(name, **FAST[name])(network, x, target)
    assert network.predictions - before[0] == rows["logits"] == sum(a.predictions for a in attempts)
    assert network.gradients - before[1] == rows["values"] == sum(a.gradients for a in attempts) > 0
    assert all(attempt.seconds > 0 for attempt in attempts)


@pytest.mark.parametrize("name", adversarial.names)
def test_a_target_out_of_reach_is_a_failure(name: str) -> None:
    """The best that the box allows is its corner; one class never wins."""
    network, kernel, bias = linear(seed=3)
    model = keras.models.clone_model(network.model)
    model.set_weights([kernel, bias - 100 * np.eye(CLASSES)[2]])
    network = Network(model, batch_size=8)
    x, _ = pairs(network, count=2)
    target = np.array([2, 2])
    for original, attempt in zip(x, adversarial.get(name, **FAST[name])(network, x, target), strict=True):
        assert attempt.success is False
        assert attempt.weight is None
        assert -120 < attempt.margin < 0
        assert np.isfinite(attempt.x).all()
        values = network.logits(attempt.x[None])[0].astype(float)
        assert np.isclose(attempt.margin, values[2] - np.delete(values, 2).max(), atol=1e-5)
        assert attempt.margin > network.logits(original[None])[0, 2] - network.logits(original[None])[0].max()


def test_margins_of_a_bent_net_are_reached() -> None:
    keras.utils.set_random_seed(0)
    stack = [kl.Conv2D(4, 3, activation="relu"), kl.Flatten(), kl.Dense(8, activation="tanh"), kl.Dense(3)]
    network = Network(keras.Sequential([keras.Input((6, 6, 1)), *stack]), batch_size=4)
    x = np.random.default_rng(0).uniform(size=(4, 6, 6, 1)).astype("float32")
    target = (network.logits(x).argmax(axis=1) + 1) % 3
    found = {}
    for name, settings in (
        ("lbfgs", {"iterations": 20, "bisections": 4}),
        ("cw", {"steps": 40, "searches": 4, "weight": 1.0}),
    ):
        attempts = adversarial.get(name, confidence=0.3, **settings)(network, x, target)
        assert all(attempt.success and attempt.margin >= 0.3 for attempt in attempts)
        found[name] = np.mean([adversarial.distances(a, b.x)["l2"] for a, b in zip(x, attempts, strict=True)])
    assert found["lbfgs"] <= 1.01 * found["cw"]


def test_settings_of_numpy_are_those_of_json():
    """They are kept in a file beside the results."""
    given = {"epsilon": np.float32(0.25), "steps": np.int64(5), "low": np.float64(0), "seed": np.int32(3)}
    found = adversarial.get("pgd", **given).settings
    assert json.loads(json.dumps(found)) == found
    assert (found["epsilon"], found["steps"], found["seed"]) == (0.25, 5, 3)
    for bad in ({"steps": True}, {"steps": 2.5}, {"epsilon": np.bool_(True)}, {"epsilon": np.nan}):
        with pytest.raises(ValueError, match="expects a"):
            adversarial.get("pgd", **bad)

"""Accounting: what each step absorbed, by closed forms, and leaks that show."""

from __future__ import annotations

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.thinning import thinned

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.core.account import Account

layers = keras.layers
PRESETS = list(composites.PRESETS)


def preset(name: str, **options) -> composites.Composite:
    bounds = {"low": -3.0, "high": 3.0} if composites.needs_bounds(name) else {}
    return composites.get(name, **bounds, **options)


def small_resnet(dtype: str, bias: bool = True) -> keras.Model:
    kw = {"dtype": dtype}
    initializer = keras.initializers.RandomNormal(stddev=0.1) if bias else "zeros"
    inputs = keras.Input((12, 12, 3), **kw)
    x = layers.ZeroPadding2D(1, **kw)(inputs)
    x = layers.Conv2D(8, 3, strides=2, bias_initializer=initializer, **kw)(x)
    x = layers.BatchNormalization(beta_initializer=initializer, moving_mean_initializer=initializer, **kw)(x)
    x = stem = layers.ReLU(**kw)(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", bias_initializer=initializer, **kw)(x)
    x = layers.Add(**kw)([x, stem])
    x = layers.MaxPooling2D(**kw)(x)
    x = layers.Concatenate(**kw)([x, layers.AveragePooling2D(3, strides=1, padding="same", **kw)(x)])
    x = layers.Conv2D(8, 3, activation="gelu", bias_initializer=initializer, **kw)(x)
    x = layers.Flatten(**kw)(x)
    x = layers.Dropout(0.5, **kw)(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", bias_initializer=initializer, **kw)(x))


@pytest.mark.parametrize(("name", "dtype"), thinned(list(PRESETS), ["float64", "float32"]))
@pytest.mark.usefixtures("seldom_compiled")
def test_nothing_is_unexplained(name: str, dtype: str, rng: np.random.Generator) -> None:
    model = small_resnet(dtype)
    x = rng.normal(size=(3, 12, 12, 3)).clip(-3, 3)
    explainer = lrp_tf.Explainer(model, preset(name))
    for target in (None, [[0, 1], [2, 3], [4, 0]]):
        explanation = explainer.explain(x, target)
        rest = np.abs(explanation.conservation.unexplained)
        assert rest.shape == ((3,) if target is None else (3, 2))
        assert rest.max() < (1e-9 if dtype == "float64" else 1e-5)
        start, relevance, *_ = map(np.asarray, explanation.conservation)
        axes = (1, 2, 3) if target is None else (2, 3, 4)
        np.testing.assert_allclose(relevance, np.asarray(explanation.relevance, "float64").sum(axes), rtol=1e-5)
        logits = np.asarray(explanation.logits)
        index = np.asarray(explanation.target)
        want = np.take_along_axis(logits, index.reshape(3, -1), axis=1).reshape(start.shape)
        np.testing.assert_allclose(start, want, rtol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.usefixtures("seldom_compiled")
def test_without_biases_relevance_sums_to_the_logit(name: str, rng: np.random.Generator) -> None:
    model = small_resnet("float64", bias=False)
    explanation = lrp_tf.Explainer(model, preset(name, zero_bias=True)).explain(
        rng.normal(size=(3, 12, 12, 3)).clip(-3, 3)
    )
    parts = explanation.conservation
    np.testing.assert_array_equal(parts.bias, np.zeros(3))
    gap = np.abs(parts.start - parts.relevance)
    np.testing.assert_allclose(gap, np.abs(parts.stabilizer + parts.other), rtol=1e-6, atol=1e-12)
    if name in ("epsilon", "epsilon_plus", "epsilon_plus_flat"):
        assert (gap <= 1e-3 * np.abs(parts.start)).all()


def test_shares_by_hand() -> None:
    """z = 2*3 + 1*(-1) + 1 = 6, epsilon = 1/2: fractions, nothing rounded."""
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layers.Dense(1, dtype="float64")])
    model.layers[0].set_weights([np.array([[3.0], [-1.0]]), np.array([1.0])])
    z, epsilon = Fraction(6), Fraction(1, 2)
    s, r = z + epsilon, Fraction(6)
    explanation = lrp_tf.Explainer(model, rules.Epsilon(0.5)).explain(np.array([[2.0, 1.0]]), target=1)
    np.testing.assert_allclose(explanation.relevance[0], [float(6 * r / s), float(-1 * r / s)], rtol=1e-15)
    parts = explanation.conservation
    assert float(parts.bias[0]) == pytest.approx(float(1 * r / s), rel=1e-15)
    assert float(parts.stabilizer[0]) == pytest.approx(float(epsilon * r / s), rel=1e-15)
    assert float(parts.other[0]) == 0.0


def test_rules_by_hand() -> None:
    """x = (2, -1), w = (3, -1), b = -1: z = 6; positive part 7, negative part -1."""
    x, w, b, r = np.array([[2.0, -1.0]]), np.array([[3.0], [-1.0]]), np.array([-1.0]), 6.0
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layers.Dense(1, dtype="float64")])
    model.layers[0].set_weights([w, b])
    e = 1e-6
    cases = {
        rules.Epsilon(): [6 * r / (6 + e), 1 * r / (6 + e)],
        rules.Epsilon(zero_bias=True): [6 * r / (7 + e), 1 * r / (7 + e)],
        rules.ZPlus(): [6 * r / (7 + e), 1 * r / (7 + e)],
        # no negative contribution: only the bias fills the negative part, and absorbs it
        rules.AlphaBeta(2, 1): [2 * 6 * r / (7 + e), 2 * 1 * r / (7 + e)],
        # z > 0: x+ w(1 + 1/4) and x- w(1 + 1/4) over their sum + b
        rules.Gamma(0.25): [7.5 * r / (7.75 + e), 1.25 * r / (7.75 + e)],
        rules.Flat(): [r / (2 + e)] * 2,
        rules.WSquare(): [9 * r / (10 + e), 1 * r / (10 + e)],
        # x w - low w+ - high w- with low = -1, high = 3: 6 + 3 = 9 and 1 + 3 = 4
        rules.ZBox(-1.0, 3.0): [9 * r / (13 + e), 4 * r / (13 + e)],
    }
    for rule, want in cases.items():
        found = lrp_tf.Explainer(model, rule)(x, target=1)
        np.testing.assert_allclose(found[0], want, rtol=1e-14, err_msg=repr(rule))


def test_gamma_books_relevance_at_zero_under_other() -> None:
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layers.Dense(1, use_bias=False, dtype="float64")])
    model.layers[0].set_weights([np.array([[1.0], [-1.0]])])
    explanation = lrp_tf.Explainer(model, rules.Gamma()).explain(np.array([[1.0, 1.0]]), start=np.array([[5.0]]))
    np.testing.assert_array_equal(explanation.relevance, [[0.0, 0.0]])
    assert float(explanation.conservation.other[0]) == 5.0
    assert float(explanation.conservation.unexplained[0]) == 0.0


def test_empty_parts_are_booked_under_other() -> None:
    """No negative contribution and no negative bias: beta R has nowhere to go."""
    model = keras.Sequential([keras.Input((1,), dtype="float64"), layers.Dense(1, use_bias=False, dtype="float64")])
    model.layers[0].set_weights([np.array([[2.0]])])
    parts = lrp_tf.Explainer(model, rules.AlphaBeta(2, 1)).explain(np.array([[1.0]]), target=1).conservation
    assert float(parts.relevance[0]) == pytest.approx(4.0, rel=1e-5)
    assert float(parts.other[0]) == -2.0
    assert abs(float(parts.unexplained[0])) < 1e-12


@pytest.mark.parametrize("epsilon", [0.0, 0.3, rules.Relative(0.25)])
def test_relevance_of_empty_parts_is_booked_once(epsilon: float | rules.Relative) -> None:
    """The first output has contributions, the second has none: all its relevance is "other", none "stabilizer"."""
    model = keras.Sequential([keras.Input((1,), dtype="float64"), layers.Dense(2, use_bias=False, dtype="float64")])
    model.layers[0].set_weights([np.array([[2.0, -3.0]])])
    explainer = lrp_tf.Explainer(model, rules.ZPlus(stabilizer=epsilon))
    parts = explainer.explain(np.array([[1.0]]), start=np.array([[5.0, 7.0]])).conservation
    added = 0.25 * np.sqrt(2.0) if isinstance(epsilon, rules.Relative) else epsilon
    assert float(parts.other[0]) == 7.0
    assert float(parts.stabilizer[0]) == pytest.approx(5.0 * added / (2.0 + added), abs=1e-14)
    assert abs(float(parts.unexplained[0])) < 1e-15


@pytest.mark.parametrize("shape", [(2, 112, 7, 24), (2, 3, 1000, 4), (2, 1021, 5), (2, 600), (6, 9, 8, 300)])
def test_partial_sums_are_exact_to_float32(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Values of many magnitudes, half of them below zero: the error is rounding of float32, against sum |values|."""
    values = (rng.lognormal(0, 4, size=shape) * rng.choice([-1, 1], size=shape)).astype("float32")
    for factor in (np.ones(()), rng.normal(size=shape[-1]), rng.normal(size=(1, *shape[1:-1], 1))):
        account = Account(tf.constant(2))
        account.add("bias", tf.constant(values), tf.constant(factor, tf.float32))
        exact = (values.astype("float64") * factor.astype("float32")).reshape(2, -1)
        error = np.abs(account.shares["bias"] - exact.sum(1)) / np.abs(exact).sum(1)
        assert error.max() < 1e-6


def test_vanishing_stabilizer_divides_by_nothing() -> None:
    """LRP-0 with epsilon = 0 on a dead input: no NaN, and the share has a name."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    for epsilon in (0.0, rules.Relative(0.25)):
        explanation = lrp_tf.Explainer(model, rules.Epsilon(epsilon)).explain(np.zeros((1, 2)), start=np.ones((1, 1)))
        np.testing.assert_array_equal(explanation.relevance, np.zeros((1, 2)))
        assert float(explanation.conservation.other[0]) == 1.0


class Leaky(rules.ZPlus):
    """Drops 1 % of what it should pass on."""

    def backward(self, step, op):
        propagate = super().backward(step, op)
        return lambda relevances, account: [0.99 * r for r in propagate(relevances, account)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_planted_leak_is_reported(dtype: str, rng: np.random.Generator) -> None:
    model = small_resnet(dtype)
    name = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)][1]
    composite = composites.Composite([(composites.named(name), Leaky()), *composites.get("epsilon_plus").entries])
    x = rng.normal(size=(2, 12, 12, 3))
    explanation = lrp_tf.Explainer(model, composite).explain(x, start="one")
    assert (np.abs(explanation.conservation.unexplained) > 1e-4).all()
    report = lrp_tf.Explainer(model, composite).report(x, start="one", print_fn=None)
    rest = dict(zip(report.column("layer"), report.column("unexplained"), strict=True))
    leak = rest.pop(name)
    total = rest.pop("total")
    assert leak == pytest.approx(total, rel=1e-3)
    assert abs(leak) > 1e-4
    assert max(map(abs, rest.values())) < (1e-9 if dtype == "float64" else 1e-5)


class LeakyFlow(flows.PassThrough):
    def backward(self, step, saved):
        return lambda relevances, account: [0.99 * relevances[0]]


def test_a_leaking_flow_is_reported(rng: np.random.Generator) -> None:
    model = small_resnet("float64")
    composite = composites.Composite(
        [(composites.of_type(layers.ReLU), LeakyFlow()), *composites.get("epsilon").entries]
    )
    parts = lrp_tf.Explainer(model, composite).explain(rng.normal(size=(1, 12, 12, 3))).conservation
    assert abs(float(parts.unexplained[0])) > 1e-4


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.usefixtures("seldom_compiled")
def test_report_adds_up_step_by_step(name: str, rng: np.random.Generator) -> None:
    model = small_resnet("float64")
    report = lrp_tf.Explainer(model, preset(name)).report(rng.normal(size=(2, 12, 12, 3)).clip(-3, 3), print_fn=None)
    columns = ("relevance out", "relevance in", "bias", "stabilizer", "other")
    for row in zip(*[report.column(c) for c in columns], strict=True):
        assert row[0] == pytest.approx(sum(row[1:]), rel=1e-9, abs=1e-9)
    for c in columns[2:]:
        *steps, total = report.column(c)
        assert sum(steps) == pytest.approx(total, rel=1e-9, abs=1e-12)
    assert max(map(abs, report.column("unexplained"))) < 1e-9
    assert sum(report.column("NaN/Inf")) == 0


def test_padding_before_max_pooling_is_named(rng: np.random.Generator) -> None:
    """Relevance that a rule like Flat puts on a padded cell is lost, and booked."""
    model = keras.Sequential([
        keras.Input((4, 4, 1), dtype="float64"),
        layers.ZeroPadding2D(1, dtype="float64"),
        layers.MaxPooling2D(3, strides=2, dtype="float64"),
    ])  # fmt: skip
    x = -np.abs(rng.normal(size=(1, 4, 4, 1)))  # the padding wins
    parts = lrp_tf.Explainer(model, "epsilon").explain(x, start=np.ones((1, 2, 2, 1))).conservation
    # Three of the four windows touch the padding.
    assert float(parts.other[0]) == 3.0
    assert float(parts.unexplained[0]) == 0.0


def test_relative_stabilizer_does_not_look_at_neighbours(rng: np.random.Generator) -> None:
    model = small_resnet("float64")
    explainer = lrp_tf.Explainer(model, rules.Epsilon(rules.Relative(0.25)))
    x = rng.normal(size=(2, 12, 12, 3))
    alone = explainer(x[:1])
    np.testing.assert_allclose(explainer(np.concatenate([x[:1], 100 * x[1:]]))[:1], alone, rtol=1e-12, atol=1e-15)


def test_shares_are_float64_whatever_the_model(rng: np.random.Generator) -> None:
    explanation = lrp_tf.Explainer(small_resnet("float32"), "epsilon").explain(rng.normal(size=(1, 12, 12, 3)))
    assert {part.dtype for part in explanation.conservation} == {tf.float64}
    assert explanation.relevance.dtype == tf.float32

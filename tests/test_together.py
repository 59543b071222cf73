"""Sums of linear steps, which share one denominator, against LRP from the joint Jacobian in float64."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import jacobian
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.core.loop import body_of
from lrp_tf.engine import joining
from lrp_tf.engine.canonize import PASSES, canonize, fold_ahead
from lrp_tf.tracing.follow import trace

pytestmark = pytest.mark.usefixtures("double_precision")
_BEHIND = PASSES.index(fold_ahead) + 1  # as in BODY_PASSES
JOINING = [*PASSES[:_BEHIND], *joining.PASSES, *PASSES[_BEHIND:]]


def filled(model, seed=0):
    """The model with weights of both signs, biases included."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    return model


def dense():
    x, h = keras.Input((5,)), keras.Input((4,))
    return keras.Model([x, h], kl.Dense(3)(x) + kl.Dense(3)(h))


def three():
    """Biases at two of three parts and behind the sum."""
    x, h, c = keras.Input((5,)), keras.Input((4,)), keras.Input((2,))
    parts = [kl.Dense(3, use_bias=False)(x), kl.Dense(3)(h), kl.Dense(3)(c)]
    return keras.Model([x, h, c], kl.Add()(parts) + np.array([0.5, -2.0, 1.0]))


def convolutions():
    """Of other strides, kernels and padding."""
    x, h = keras.Input((6, 6, 2)), keras.Input((3, 3, 3))
    y = kl.Conv2D(2, 3, strides=2, padding="same")(x) + kl.Conv2D(2, 2, padding="same", use_bias=False)(h)
    return keras.Model([x, h], y)


def normalized():
    """A BatchNormalization folded into one part, padding into the other."""
    x, h = keras.Input((4, 4, 2)), keras.Input((4, 4, 3))
    first = kl.BatchNormalization()(kl.Conv2D(2, 3, padding="same")(x))
    return keras.Model([x, h], first + kl.Conv2D(2, 3)(kl.ZeroPadding2D(1)(h)))


MODELS = {f.__name__: f for f in (dense, three, convolutions, normalized)}


def layers(model):
    return [layer for layer in model.layers if isinstance(layer, kl.Dense)]


def prepared(make, seed=0):
    """Model, inputs, initial relevance, and the joint problem: x [B, n], w [n, m], b [m], what outputs see."""
    model = filled(make(), seed)
    for weight in model.weights:
        if "variance" in weight.path:
            weight.assign(np.abs(weight.numpy()) + 0.5)
    generator = np.random.default_rng(seed + 1)
    inputs = [generator.normal(size=(2, *x.shape[1:])) for x in model.inputs]
    start = generator.normal(size=(2, *model.output_shape[1:]))

    def flat(*parts):
        return np.asarray(model(list(parts), training=False)).reshape(len(parts[0]), -1)

    zeros = [np.zeros((1, *x.shape[1:])) for x in model.inputs]
    bias = flat(*zeros)[0]
    rows = []
    for i, zero in enumerate(zeros):
        basis = np.eye(zero.size).reshape(-1, *zero.shape[1:])
        others = [np.repeat(z, len(basis), 0) for z in zeros]
        others[i] = basis
        rows.append(flat(*others) - bias)
    w = np.concatenate(rows)
    x = np.concatenate([v.reshape(2, -1) for v in inputs], 1)
    return model, inputs, start, x, w, bias


RULES = {
    "epsilon": (rules.Epsilon(0.3), "Epsilon", {"stabilizer": 0.3}),
    "epsilon, no bias": (rules.Epsilon(0.3, zero_bias=True), "Epsilon", {"stabilizer": 0.3, "zero_bias": True}),
    "relative": (rules.Epsilon(rules.Relative(0.2)), "Epsilon", {"stabilizer": ("relative", 0.2)}),
    "zero": (rules.Zero(), "Zero", {}),
    "z plus": (rules.ZPlus(), "ZPlus", {}),
    "alpha beta": (rules.AlphaBeta(2, 1), "AlphaBeta", {"alpha": 2.0, "beta": 1.0}),
    "alpha beta, no bias": (
        rules.AlphaBeta(3, 2, zero_bias=True),
        "AlphaBeta",
        {"alpha": 3.0, "beta": 2.0, "zero_bias": True},
    ),
    "gamma": (rules.Gamma(0.5), "Gamma", {"gamma": 0.5}),
    "gamma, no bias": (rules.Gamma(0.5, zero_bias=True), "Gamma", {"gamma": 0.5, "zero_bias": True}),
    "w square": (rules.WSquare(), "WSquare", {}),
    "box": (rules.ZBox(-3.0, 4.0), "ZBox", {"low": np.array(-3.0), "high": np.array(4.0)}),
}


CASES = [(shape, name) for shape in ("three", "convolutions") for name in RULES]
CASES += [(shape, name) for shape in ("dense", "normalized") for name in ("epsilon", "alpha beta")]


@pytest.mark.parametrize(("shape", "name"), CASES)
@pytest.mark.usefixtures("seldom_compiled")
def test_all_parts_share_one_denominator(shape, name):
    rule, word, options = RULES[name]
    model, inputs, start, x, w, bias = prepared(MODELS[shape])
    explainer = lrp_tf.Explainer(model, composites.Composite([(None, rule)], canonizers=JOINING))
    (step,) = [s for s in explainer.graph.steps if s.linear is not None]
    assert len(step.parts) == len(inputs)
    assert not any(s.kind in ("ops.Add", kl.Add) for s in explainer.graph.steps)
    explained = explainer.explain(inputs, start=start)
    found = np.concatenate([np.asarray(r).reshape(2, -1) for r in explained.relevance], 1)
    expected = [
        jacobian.relevance(word, x[k], w, bias, start[k].reshape(-1), ones=(w != 0) * 1.0, **options) for k in range(2)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max())
    assert np.abs(explained.conservation.unexplained).max() < 1e-12


@pytest.mark.parametrize("how", ["magnitude", "uniform"])
@pytest.mark.parametrize("word", ["AlphaBeta", "Gamma", "Flat"])
def test_nothing_to_share_for_is_seen_over_all_parts(word, how):
    """Only where no part has contributions of a sign does a fallback take over; the parts count together."""
    model, inputs, start, x, w, bias = prepared(dense)
    for layer in layers(model):
        layer.kernel.assign(np.abs(layer.kernel) * [[1.0, -1.0, 0.0]])
        layer.bias.assign(np.zeros(3))
    w = np.concatenate([layer.kernel.numpy() for layer in layers(model)])
    inputs = [np.abs(v) for v in inputs]
    x, bias, ones = np.abs(x), np.zeros(3), np.ones_like(w)
    options = {"AlphaBeta": {"alpha": 2.0, "beta": 1.0}, "Gamma": {"gamma": 0.5}, "Flat": {}}[word]
    rule = rules.Flat() if word == "Flat" else getattr(rules, word)(**options, when_empty=how)
    explainer = lrp_tf.Explainer(model, composites.Composite([(None, rule)], canonizers=JOINING))
    explained = explainer.explain(inputs, start=start)
    found = np.concatenate([np.asarray(r) for r in explained.relevance], 1)
    expected = [
        jacobian.relevance(word, x[k], w, bias, start[k], ones=ones, when_empty=how, **options) for k in range(2)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    assert np.abs(explained.conservation.unexplained).max() < 1e-12


def test_the_gradient_reaches_all_parts_whole():
    model, inputs, start, _, w, _ = prepared(convolutions)
    explainer = lrp_tf.Explainer(model, composites.Composite([(None, rules.Jacobian())], canonizers=JOINING))
    explained = explainer.explain(inputs, start=start)
    found = np.concatenate([np.asarray(r).reshape(2, -1) for r in explained.relevance], 1)
    np.testing.assert_allclose(found, start.reshape(2, -1) @ w.T, rtol=1e-12, atol=1e-12)
    assert np.abs(explained.conservation.unexplained).max() < 1e-12


@dataclasses.dataclass(frozen=True)
class Doubled(rules.Rule):
    """A rule by `backward` alone: every input gets the mean of the relevance that arrives."""

    def backward(self, step, op):
        def propagate(relevances, account):
            mean = tf.reduce_sum(relevances[0], -1, keepdims=True) / op.x.shape[-1]
            return [mean * tf.ones_like(op.x) if i == step.signals[0] else None for i in range(len(step.inputs))]

        return propagate


def test_a_rule_without_terms_shares_among_the_parts_by_what_each_adds():
    model, inputs, start, _, _, bias = prepared(dense)
    explainer = lrp_tf.Explainer(model, composites.Composite([(None, Doubled())], canonizers=JOINING))
    explained = explainer.explain(inputs, start=start)
    z = [v @ layer.kernel.numpy() for v, layer in zip(inputs, layers(model), strict=True)]
    total = sum(z) + bias
    g = start / (total + 1e-6 * np.sign(total))
    for relevance, part, x in zip(explained.relevance, z, inputs, strict=True):
        expected = np.repeat((part * g).sum(1, keepdims=True) / x.shape[1], x.shape[1], 1)
        np.testing.assert_allclose(relevance, expected, rtol=1e-12)
    np.testing.assert_allclose(explained.conservation.bias, (g * bias).sum(1), rtol=1e-9)
    assert np.abs(explained.conservation.unexplained).max() < 1e-12


def test_a_part_that_relevance_cannot_enter_absorbs_its_share():
    """It stays in the denominator, as a bias of each sample."""
    x, h = keras.Input((5,)), keras.Input((4,))
    y = kl.Dense(3)(x) + kl.Dense(3)(kl.Lambda(lambda t: t, name="stopped")(h))
    model = filled(keras.Model([x, h], y))
    stop = (composites.named("stopped"), flows.Detached())
    composite = composites.Composite([stop, (None, rules.Epsilon(0.1))], canonizers=JOINING)
    generator = np.random.default_rng(1)
    inputs, start = [generator.normal(size=(2, 5)), generator.normal(size=(2, 4))], generator.normal(size=(2, 3))
    explained = lrp_tf.Explainer(model, composite).explain(inputs, start=start)
    first, second = layers(model)
    held = inputs[1] @ second.kernel.numpy() + first.bias.numpy() + second.bias.numpy()
    w = first.kernel.numpy()
    expected = [jacobian.relevance("Epsilon", inputs[0][k], w, held[k], start[k], 0.1) for k in range(2)]
    np.testing.assert_allclose(explained.relevance[0], expected, rtol=1e-12)
    assert np.abs(explained.relevance[1]).max() == 0
    assert np.abs(explained.conservation.unexplained).max() < 1e-12


def joined(model):
    graph = trace(model)
    return [s for s in canonize(graph, graph.outputs, passes=JOINING).steps if s.parts]


def test_what_is_read_elsewhere_is_not_joined():
    x, h = keras.Input((5,)), keras.Input((3,))
    first, second = kl.Dense(3)(x), kl.Dense(3)(h)
    assert joined(keras.Model([x, h], first + second))
    assert not joined(keras.Model([x, h], (first + second) * first))
    assert not joined(keras.Model([x, h], [first + second, first]))
    assert not joined(keras.Model([x, h], first + first))
    assert not joined(keras.Model([x, h], first + h))
    assert not joined(keras.Model([x, h], first + kl.Dense(1)(h)))
    assert joined(keras.Model([x, h], (first + second) + h))


def test_matchers_find_a_sum_by_any_of_its_parts():
    x, h = keras.Input((5,)), keras.Input((4,))
    model = filled(keras.Model([x, h], kl.Dense(3, name="one")(x) + kl.Dense(3, name="two")(h)))
    for match in (composites.named("one"), composites.named("two"), composites.of_type(kl.Dense), composites.at(0)):
        composite = composites.Composite([(match, rules.ZPlus()), (None, rules.Zero())], canonizers=JOINING)
        assert "ZPlus() for a sum of 2" in str(lrp_tf.Explainer(model, composite).summary())


def test_a_rule_that_gives_parts_different_terms_is_refused():
    class Fickle(rules.Rule):
        def terms(self, op):
            return [rules.Term([(op.x, op.w)])] * op.x.shape[-1]

    model, inputs, *_ = prepared(dense)
    composite = composites.Composite([(None, Fickle())], canonizers=JOINING)
    with pytest.raises(ValueError, match="parts of a sum different terms"):
        lrp_tf.Explainer(model, composite)(inputs, start="one", target=0)


CELLS = {
    "LSTM": (kl.LSTM, {}, [[2, 2]]),
    "LSTM, no bias": (kl.LSTM, {"use_bias": False}, [[2, 2]]),
    "SimpleRNN": (kl.SimpleRNN, {}, [[3, 2]]),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_have_one_linear_step(name):
    """x W + h U + b as the cells of Keras write it, with the bias wherever it is added."""
    make, options, expected = CELLS[name]
    x = keras.Input((7, 5))
    graph = trace(keras.Model(x, make(3, **options)(x)), flows.keeps)
    (body,) = [body_of(s) for s in canonize(graph, graph.outputs).steps if body_of(s) is not None]
    linear = [s for s in body.steps if s.linear is not None]
    assert [[len(part.inputs) for part in s.parts] for s in linear] == expected


def test_tables_say_which_steps_were_summed():
    x, h = keras.Input((5,)), keras.Input((4,))
    y = kl.Add(name="sum")([kl.Dense(3, name="one")(x), kl.Dense(3, name="two")(h)])
    graph = trace(keras.Model([x, h], y))
    found = canonize(graph, graph.outputs, passes=JOINING).rewrites
    assert [(path, what) for _, path, _, what in found] == [("two", "summed with one"), ("sum", "the sum of one")]

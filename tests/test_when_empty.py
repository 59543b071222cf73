"""`when_empty`: relevance of outputs that a rule has nothing to share for, against the slow formula; conservation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers import exactness
from helpers.checking import raises, randomize

import lrp_tf
from lrp_tf import composites, rules

layers = keras.layers
HOW = ["magnitude", "uniform"]
KINDS = [
    "dense",
    "conv valid stride 1 dilation 1 groups 1",
    "conv same stride 2 dilation 1 groups 1",
    "conv1d same stride 2 groups 3",
    "depthwise2d same stride 2",
    "depthwise2d valid dilation 2",
    "transpose2d same stride 2",
    "einsum to a higher rank",
    "channels_first conv2d same stride 2",
]
QUICK = [
    "dense",
    "conv same stride 2 dilation 1 groups 1",
    "conv1d same stride 2 groups 3",
    "depthwise2d same stride 2",
]
RULES = {
    "ZPlus": (lambda **kw: rules.ZPlus(**kw), {}),
    "AlphaBeta": (lambda **kw: rules.AlphaBeta(2.0, 1.0, **kw), {"alpha": 2.0, "beta": 1.0}),
    "Gamma": (lambda **kw: rules.Gamma(0.25, **kw), {"gamma": 0.25}),
}


def case(kind: str, sign: str, bias: str):
    """Kernels of few signs and inputs that are mostly zero: parts of many outputs are empty, of some both."""
    shape, make = exactness.LAYERS[kind]
    layer = make(use_bias=bias != "absent", dtype="float64")
    inputs = keras.Input(shape, dtype="float64")
    tensor = layers.ReLU(dtype="float64")(inputs) if sign == "nonnegative" else inputs
    model = keras.Model(inputs, layer(tensor))
    rng = np.random.default_rng(11)
    values = [rng.normal(size=w.shape) for w in layer.get_weights()]
    values[0][..., 0] = -np.abs(values[0][..., 0])
    values[0][..., 0, :] = np.abs(values[0][..., 0, :])
    if bias != "absent":
        values[1] = np.abs(values[1]) * (1.0 if bias == "positive" else -1.0)
    layer.set_weights(values)
    x = rng.normal(size=(3, *shape)) * (rng.random((3, *shape)) < 0.3)
    x[0] = 0.0
    if sign == "nonnegative":
        x = np.abs(x)
    start = rng.normal(size=(3, *(size or shape[0] for size in model.output_shape[1:])))
    return model, layer, x, start


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
@pytest.mark.usefixtures("seldom_compiled")
def test_against_the_slow_formula(kind: str, rule: str, how: str) -> None:
    make, parameters = RULES[rule]
    for sign in ("signed", "nonnegative"):
        for bias, zero_bias in (("positive", True), ("positive", False), ("negative", False), ("absent", False)):
            model, layer, x, start = case(kind, sign, bias)
            found = exactness.gradient_of_clone(model, make(zero_bias=zero_bias, when_empty=how), x, start)
            _, ones = exactness.matrices(layer, x.shape[1:])
            options = {"zero_bias": zero_bias, "ones": ones, **parameters}
            want = exactness.expected(layer, rule, x, start, when_empty=how, **options)
            assert np.abs(found - want).max() <= 1e-10 * np.abs(want).max(), (sign, bias, zero_bias)
            if zero_bias or bias == "absent":  # not in vain: without the option the map is another
                before = exactness.expected(layer, rule, x, start, **options)
                assert np.abs(found - before).max() > 1e-3 * np.abs(want).max()
                np.testing.assert_allclose(
                    exactness.gradient_of_clone(model, make(zero_bias=zero_bias), x, start), before, rtol=0, atol=1e-9
                )


def test_by_hand() -> None:
    """x = (2, 1, 0), w = (-3, -1, 5), b = 8: z = 1 by the bias alone, and no contribution is positive."""
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layers.Dense(1, dtype="float64")])
    model.layers[0].set_weights([np.array([[-3.0], [-1.0], [5.0]]), np.array([8.0])])
    x, r, e = np.array([[2.0, 1.0, 0.0]]), 1.0, 1e-6
    flat = [r / (3 + e)] * 3
    cases = {
        rules.ZPlus(zero_bias=True): [0.0, 0.0, 0.0],
        rules.ZPlus(zero_bias=True, when_empty="magnitude"): [6 * r / (7 + e), 1 * r / (7 + e), 0.0],
        rules.ZPlus(zero_bias=True, when_empty="uniform"): flat,
        # with the bias the positive part is not empty: the bias takes all
        rules.ZPlus(when_empty="magnitude"): [0.0, 0.0, 0.0],
        # 2 of the empty positive part less 1 of the negative
        rules.AlphaBeta(2, 1, zero_bias=True, when_empty="magnitude"): [6 * r / (7 + e), 1 * r / (7 + e), 0.0],
    }
    for rule, want in cases.items():
        found = lrp_tf.Explainer(model, rule)(x, start=np.array([[r]]))
        np.testing.assert_allclose(found[0], want, rtol=1e-13, err_msg=repr(rule))
    nothing = lrp_tf.Explainer(model, rules.ZPlus(zero_bias=True, when_empty="magnitude"))(0 * x, start=np.array([[r]]))
    np.testing.assert_allclose(nothing[0], flat, rtol=1e-13)


def mobile_net(dtype: str = "float64") -> keras.Model:
    """Depthwise and pointwise convolutions with BatchNormalization, whose shifts alone make many outputs positive."""
    kw = {"dtype": dtype}
    inputs = x = keras.Input((12, 12, 3), **kw)
    for filters, stride in ((6, 2), (8, 1)):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **kw)(x)
        x = layers.ReLU(6.0, **kw)(layers.BatchNormalization(**kw)(x))
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, **kw)(x)
        x = layers.ReLU(6.0, **kw)(layers.BatchNormalization(**kw)(x))
    x = layers.GlobalAveragePooling2D(**kw)(x)
    return randomize(keras.Model(inputs, layers.Dense(4, **kw)(x)))


def preset(name: str, **options) -> composites.Composite:
    return composites.get(name, **({"low": -3.0, "high": 3.0} if composites.needs_bounds(name) else {}), **options)


PRESETS = [
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_gamma_wsquare",
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.usefixtures("seldom_compiled")
def test_all_of_the_score_arrives(name: str, how: str, rng: np.random.Generator) -> None:
    """Neither biases nor empty parts take anything: start = relevance + stabilizer. Without the option "other" does."""
    model, x = mobile_net(), rng.normal(size=(3, 12, 12, 3)).clip(-3, 3)
    parts = lrp_tf.Explainer(model, preset(name, zero_bias=True, when_empty=how)).explain(x).conservation
    np.testing.assert_array_equal(parts.bias, np.zeros(3))
    np.testing.assert_array_equal(parts.other, np.zeros(3))
    np.testing.assert_allclose(parts.relevance + parts.stabilizer, parts.start, rtol=1e-9)
    assert (np.abs(parts.stabilizer) < 1e-2 * np.abs(parts.start)).all()
    absorbed = lrp_tf.Explainer(model, preset(name, zero_bias=True)).explain(x).conservation
    assert (np.abs(absorbed.other) > 1e-3 * np.abs(absorbed.start)).any()
    assert np.abs(absorbed.unexplained).max() < 1e-9


@pytest.mark.parametrize("name", ["epsilon_plus_flat", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.usefixtures("seldom_compiled")
def test_every_kind_of_call(name: str, how: str, rng: np.random.Generator) -> None:
    """One target or several, alone or in a batch, compiled or as the clone's gradient: the same; float32 is close."""
    model, x = mobile_net(), rng.normal(size=(3, 12, 12, 3)).clip(-3, 3)
    composite = preset(name, zero_bias=True, when_empty=how)
    explainer = lrp_tf.Explainer(model, composite)
    start = np.eye(4)[[1] * 3] * rng.normal(size=(3, 4))
    want = explainer(x, start=start).numpy()
    atol = 1e-11 * np.abs(want).max()
    clone = lrp_tf.clone_with_rules(model, composite)
    np.testing.assert_allclose(exactness.gradient(clone, x, start), want, rtol=0, atol=atol)
    np.testing.assert_allclose(explainer(x[1:2], start=start[1:2])[0], want[1], rtol=0, atol=atol)
    loud = np.concatenate([x[:1], 100 * x[1:]])
    np.testing.assert_allclose(explainer(loud, start=start)[0], want[0], rtol=0, atol=atol)
    one, many = explainer(x, 2).numpy(), explainer(x, [[2, 0]] * 3).numpy()
    np.testing.assert_allclose(many[:, 0], one, rtol=0, atol=1e-11 * np.abs(one).max())
    report = explainer.report(x, print_fn=None)
    assert max(map(abs, report.column("unexplained"))) < 1e-9
    single = mobile_net("float32")
    single.set_weights(model.get_weights())
    found = lrp_tf.Explainer(single, composite)(x, start=start).numpy()
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_zeros_that_get_relevance_are_not_left_out() -> None:
    """ReLU -> a layer that hands on: the convolution below gets relevance where it is negative, which Gamma needs."""
    kw = {"dtype": "float64"}
    model = randomize(
        keras.Sequential([
            keras.Input((6, 6, 2), **kw),
            layers.Conv2D(3, 3, name="below", **kw),
            layers.ReLU(**kw),
            layers.DepthwiseConv2D(2, name="above", **kw),
        ])
    )  # fmt: skip
    split = keras.Model(inputs := keras.Input((4, 4, 3), **kw), model.layers[2](model.layers[1](inputs)))
    x = np.random.default_rng(3).normal(size=(2, 6, 6, 2))
    start = np.random.default_rng(4).normal(size=(2, 3, 3, 3))
    above, below = rules.ZPlus(zero_bias=True, when_empty="uniform"), rules.Gamma()
    composite = composites.Composite([(composites.named("above"), above), (None, below)])
    whole = lrp_tf.Explainer(model, composite).explain(x, start=start, layers=["below"])
    hidden = model.layers[0](x)
    between = lrp_tf.Explainer(split, above)(hidden, start=start)
    assert np.abs(between.numpy()[hidden.numpy() < 0]).max() > 0
    np.testing.assert_allclose(whole.layers["below"], between, rtol=0, atol=1e-12)
    first = keras.Model(model.inputs, model.layers[0].output)
    want = lrp_tf.Explainer(first, below)(x, start=between)
    np.testing.assert_allclose(whole.relevance, want, rtol=0, atol=1e-11 * np.abs(want).max())


def test_words() -> None:
    for make in (rules.ZPlus, rules.AlphaBeta, rules.Gamma):
        with raises(ValueError, "when_empty", "magnitude", "Received: 'signed'"):
            make(when_empty="signed")
        assert repr(make(when_empty="uniform")).endswith("when_empty='uniform')")
    assert rules.ZPlus().fallback is None
    with raises(TypeError, "epsilon", "when_empty"):
        composites.get("epsilon", when_empty="magnitude")
    entries = composites.get("epsilon_plus_flat", when_empty="magnitude").entries
    assert rules.ZPlus(when_empty="magnitude") in [rule for _, rule in entries]


def test_off_nothing_is_added() -> None:
    """The default makes no operation for it: as many as a rule that knows no fallback."""

    class Plain(rules.ZPlus):
        fallback = None
        at_zero = "none"

    counts = []
    for rule in (rules.ZPlus(), Plain(), rules.ZPlus(when_empty="magnitude")):
        explainer = lrp_tf.Explainer(mobile_net("float32"), rule)
        explainer(np.ones((1, 12, 12, 3)))
        counts += [len(function.graph.get_operations()) for function in explainer._compiled.values()]
    assert counts[0] == counts[1] < counts[2]

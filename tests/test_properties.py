"""Properties that hold for any network, weights and inputs; hypothesis looks for counterexamples."""

import keras
import numpy as np
import pytest
from helpers.checking import close, randomize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules

few = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
LOW, HIGH = -3.0, 3.0
PRESETS = sorted(composites.PRESETS)
RULES = [
    rules.Epsilon(),
    rules.Zero(),
    rules.ZPlus(),
    rules.AlphaBeta(2.0, 1.0),
    rules.Gamma(0.25),
    rules.Flat(),
    rules.WSquare(),
    rules.ZBox(LOW, HIGH),
    rules.Epsilon(rules.Relative(0.1)),
]


def preset(name, **options):
    bounds = {"low": LOW, "high": HIGH} if composites.needs_bounds(name) else {}
    return composites.get(name, **bounds, **options)


layers = st.fixed_dictionaries(
    {
        "padding": st.sampled_from(["same", "valid"]),
        "strides": st.integers(1, 2),
        "size": st.integers(1, 2),
        "norm": st.booleans(),
        "residual": st.booleans(),
    }
)


def nets(dtype="float32", bias=True, images=None):
    """Descriptions of small networks, for `build`."""
    return st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**16),
            "images": st.booleans() if images is None else st.just(images),
            "layers": st.lists(layers, min_size=1, max_size=2),
            "pool": st.sampled_from(["GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten"]),
            "bias": st.just(bias),
            "dtype": st.just(dtype),
        }
    )


def build(net):
    """A network with random weights, and a batch of 4 inputs in [LOW, HIGH]."""
    dtype = net["dtype"]
    options = {"use_bias": net["bias"], "dtype": dtype}
    shape = (6, 5, 2) if net["images"] else (4,)
    i = h = keras.Input(shape, dtype=dtype)
    for layer in net["layers"]:
        if net["images"]:
            h = kl.Conv2D(3, layer["size"], padding=layer["padding"], strides=layer["strides"], **options)(h)
        else:
            h = kl.Dense(5, **options)(h)
        if net["bias"] and layer["norm"]:
            h = kl.BatchNormalization(dtype=dtype)(h)
        h = kl.ReLU(dtype=dtype)(h)
        if net["images"] and layer["residual"]:
            h = kl.Add(dtype=dtype)([h, kl.Conv2D(3, 3, padding="same", activation="relu", **options)(h)])
    if net["images"]:
        h = getattr(kl, net["pool"])(dtype=dtype)(h)
    h = kl.Dense(4, activation="relu", **options)(h)
    model = randomize(keras.Model(i, kl.Dense(3, **options)(h)), net["seed"])
    x = np.random.default_rng(net["seed"]).uniform(LOW, HIGH, (4, *shape)).astype(dtype)
    return model, x


# --- the clone ---------------------------------------------------------------------------------


@few
@given(nets("float64"), st.sampled_from(PRESETS))
def test_the_clone_computes_what_the_model_does_and_leaves_it_alone(net, name):
    model, x = build(net)
    before = [w.tobytes() for w in model.get_weights()]
    found = lrp_tf.Explainer(model, preset(name)).explain(x)
    close(found.output, model(x, training=False), 1e-12)
    assert [w.tobytes() for w in model.get_weights()] == before


# --- conservation ------------------------------------------------------------------------------


@few
@given(nets("float64"), st.sampled_from(PRESETS), st.integers(0, 2))
def test_all_relevance_is_accounted_for(net, name, target):
    model, x = build(net)
    found = lrp_tf.Explainer(model, preset(name)).explain(x, target).conservation
    assert np.abs(found.unexplained).max() < 1e-9


@few
@given(nets("float64", bias=False), st.sampled_from(PRESETS), st.integers(0, 2))
def test_without_biases_nothing_but_stabilizers_and_named_mechanisms_absorbs(net, name, target):
    model, x = build(net)
    found = lrp_tf.Explainer(model, preset(name)).explain(x, target)
    shares = found.conservation
    np.testing.assert_array_equal(shares.bias, np.zeros(4))
    logit = np.asarray(found.logits)[:, target]
    np.testing.assert_allclose(shares.start, logit)
    total = np.sum(np.asarray(found.relevance).reshape(4, -1), axis=1)
    np.testing.assert_allclose(total, shares.relevance, rtol=1e-9, atol=1e-12)
    absorbed = shares.stabilizer + shares.other
    np.testing.assert_allclose(total + absorbed, logit, rtol=1e-9, atol=1e-9)


@few
@given(nets("float64", bias=True), st.sampled_from(PRESETS), st.integers(0, 2))
def test_zero_bias_absorbs_nothing_in_the_kernels(net, name, target):
    model, x = build(net)
    shares = lrp_tf.Explainer(model, preset(name, zero_bias=True)).explain(x, target).conservation
    folded = all(not isinstance(layer, kl.BatchNormalization) for layer in model.layers)
    if folded:
        np.testing.assert_array_equal(shares.bias, np.zeros(4))
    assert np.abs(shares.unexplained).max() < 1e-9


@few
@given(nets("float64", bias=False, images=False))
def test_epsilon_without_bias_conserves_the_logit(net):
    model, x = build(net)
    found = lrp_tf.Explainer(model, rules.Epsilon(1e-12)).explain(x, 1)
    active = np.abs(np.asarray(found.logits)[:, 1]) > 1e-3
    total = np.sum(found.relevance, axis=1)
    np.testing.assert_allclose(total[active], np.asarray(found.logits)[active, 1], rtol=1e-6)


# --- batches -----------------------------------------------------------------------------------


@few
@given(nets(), st.sampled_from(PRESETS))
def test_samples_do_not_depend_on_their_batch(net, name):
    model, x = build(net)
    explain = lrp_tf.Explainer(model, preset(name))
    together = np.asarray(explain(x, [0, 1, 2, 0]))
    single = np.concatenate([explain(x[k : k + 1], [0, 1, 2, 0][k]) for k in range(4)])
    close(single, together, 1e-5)
    close(np.asarray(explain(x[::-1], [0, 2, 1, 0]))[::-1], together, 1e-5)
    hostile = x.copy()
    hostile[0] *= 1e6
    close(np.asarray(explain(hostile, [0, 1, 2, 0]))[1:], together[1:], 1e-5)


@few
@given(nets(), st.sampled_from(PRESETS))
def test_a_second_call_is_bit_equal(net, name):
    model, x = build(net)
    explain = lrp_tf.Explainer(model, preset(name))
    np.testing.assert_array_equal(explain(x), explain(x))
    np.testing.assert_array_equal(explain(x), lrp_tf.Explainer(model, preset(name))(x))


# --- targets and start relevance ---------------------------------------------------------------


@few
@given(nets("float64"), st.sampled_from(PRESETS), st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_many_targets_are_each_target_singly(net, name, targets):
    model, x = build(net)
    explain = lrp_tf.Explainer(model, preset(name))
    many = np.asarray(explain(x, [targets] * 4))
    close(many, np.stack([explain(x, target) for target in targets], axis=1), 1e-12)


@few
@given(nets("float64"), st.sampled_from(RULES), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 99))
def test_relevance_is_linear_in_the_start_relevance(net, rule, a, b, seed):
    model, x = build(net)
    explain = lrp_tf.Explainer(model, rule)
    one, two = np.random.default_rng(seed).normal(size=(2, 4, 3))
    r = a * explain(x, start=one) + b * explain(x, start=two)
    size = max(np.abs(explain(x, start=one)).max(), np.abs(explain(x, start=two)).max(), 1e-30)
    np.testing.assert_allclose(explain(x, start=a * one + b * two), r, rtol=0, atol=1e-9 * size)


@few
@given(nets("float64"), st.sampled_from(RULES), st.floats(0.01, 100))
def test_scaling_the_start_scales_the_relevance(net, rule, c):
    model, x = build(net)
    explain = lrp_tf.Explainer(model, rule)
    start = np.random.default_rng(0).normal(size=(4, 3))
    close(explain(x, start=c * start), c * np.asarray(explain(x, start=start)), 1e-9)


@few
@given(nets("float64"), st.sampled_from(RULES))
def test_no_start_relevance_gives_none(net, rule):
    model, x = build(net)
    found = lrp_tf.Explainer(model, rule).explain(x, start=np.zeros((4, 3)))
    np.testing.assert_array_equal(found.relevance, np.zeros(x.shape))
    np.testing.assert_array_equal(found.conservation.unexplained, np.zeros(4))


# --- inputs ------------------------------------------------------------------------------------


@few
@given(nets("float64", bias=False), st.sampled_from([r for r in RULES if not isinstance(r, rules.ZBox)]))
def test_without_bias_and_stabilizer_scaling_the_input_keeps_the_shares(net, rule):
    """A ReLU net without biases is homogeneous: a unit of relevance is shared alike at x and at 2 x.

    By a power of two, so that not even rounding differs.
    """
    if isinstance(rule, rules.Epsilon) and isinstance(rule.epsilon, rules.Relative):
        exact = rule
    elif isinstance(rule, rules.Epsilon):
        exact = rules.Epsilon(0.0)
    else:
        fields = {k: getattr(rule, k) for k in ("alpha", "beta", "gamma") if hasattr(rule, k)}
        exact = type(rule)(**fields, stabilizer=0.0)
    model, x = build(net)
    if any(isinstance(layer, (kl.Add, kl.GlobalAveragePooling2D)) for layer in model.layers):
        return  # sums keep their absolute stabiliser of 1e-6
    explain = lrp_tf.Explainer(model, exact)
    close(explain(2 * x, 1, start="one"), explain(x, 1, start="one"), 1e-12)
    close(explain(2 * x, 1), 2 * np.asarray(explain(x, 1)), 1e-12)


@few
@given(nets("float64", images=True), st.sampled_from(["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"]))
def test_rules_of_x_times_w_give_zero_pixels_nothing(net, name):
    model, x = build(net)
    x[:, 1:3] = 0
    assert not np.any(np.asarray(lrp_tf.Explainer(model, name)(x))[:, 1:3])


@few
@given(nets("float64"), st.sampled_from(["epsilon_plus"]))
def test_positive_start_stays_positive_under_z_plus_on_positive_inputs(net, name):
    model, x = build(net)
    composite = composites.Composite([(None, rules.ZPlus())])
    r = np.asarray(lrp_tf.Explainer(model, composite)(np.abs(x), start=np.ones((4, 3))))
    if not any(isinstance(layer, kl.BatchNormalization) for layer in model.layers):
        assert r.min() >= 0


@pytest.mark.parametrize("name", PRESETS)
def test_tiny_and_huge_inputs_stay_finite(name):
    model = randomize(
        keras.Sequential([keras.Input((6, 6, 2)), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3)])
    )
    explain = lrp_tf.Explainer(model, preset(name))
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 2))
    for scale in (0.0, 1e-30, 1e-6, 1e6):
        assert np.all(np.isfinite(explain(scale * x)))

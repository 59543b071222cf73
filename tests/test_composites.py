"""Which rule a step gets."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.checking import check, randomize

import lrp_tf
from lrp_tf import composites, flows, rules

kl = keras.layers
PRESETS = list(composites.PRESETS)


def preset(name: str, **options) -> composites.Composite:
    bounds = {"low": -1.0, "high": 1.0} if composites.needs_bounds(name) else {}
    return composites.get(name, **bounds, **options)


def assigned(model: keras.Model, composite) -> dict[str, str]:
    """Rule of each linear step by layer name."""
    handlers = lrp_tf.Explainer(model, composite).clone.handlers
    return {step.name: repr(rule) for step, rule in handlers.items() if isinstance(rule, rules.Rule)}


def convnet() -> keras.Model:
    return keras.Sequential([
        keras.Input((10, 10, 3)),
        kl.Rescaling(1 / 255),
        kl.ZeroPadding2D(1),
        kl.Conv2D(4, 3, activation="relu", name="a"),
        kl.Conv2D(4, 3, activation="relu", name="b"),
        kl.MaxPooling2D(name="pool"),
        kl.Conv2D(4, 3, activation="relu", name="c"),
        kl.Flatten(),
        kl.Dense(6, activation="relu", name="d"),
        kl.Dense(3, activation="softmax", name="e"),
    ])  # fmt: skip


E, Z, AB, G = "Epsilon(1e-06)", "ZPlus()", "AlphaBeta(2, 1)", "Gamma(0.25)"


@pytest.mark.parametrize(
    ("name", "a", "b", "c", "dense"),
    [
        ("epsilon", E, E, E, E),
        ("epsilon_plus", Z, Z, Z, E),
        ("epsilon_plus_flat", "Flat()", Z, Z, E),
        ("epsilon_alpha2_beta1", AB, AB, AB, E),
        ("epsilon_alpha2_beta1_flat", "Flat()", AB, AB, E),
        ("epsilon_gamma_box", "ZBox(-1, 1) of the model's input", G, G, E),
        ("epsilon_gamma_wsquare", "WSquare()", "Gamma(1)", "Gamma(1)", E),
        ("tutorial", "ZBox(-1, 1) of the model's input", G, "Epsilon(Relative(0.25))", "Zero()"),
    ],
)
def test_presets(name: str, a: str, b: str, c: str, dense: str) -> None:
    assert assigned(convnet(), preset(name)) == {"a": a, "b": b, "c": c, "d": dense, "e": dense}


def test_options_pass_through() -> None:
    found = assigned(convnet(), preset("epsilon_plus", epsilon=0.1, stabilizer=1e-3, zero_bias=True))
    plus, epsilon = "ZPlus(stabilizer=0.001, zero_bias=True)", "Epsilon(0.1, zero_bias=True)"
    assert found == {"a": plus, "b": plus, "c": plus, "d": epsilon, "e": epsilon}
    assert assigned(convnet(), preset("tutorial", gamma=0.5))["b"] == "Gamma(0.5)"


def test_tutorial_pools_by_average_and_the_others_do_not() -> None:
    for name in PRESETS:
        handlers = lrp_tf.Explainer(convnet(), preset(name)).clone.handlers
        pool = next(rule for step, rule in handlers.items() if step.name == "pool")
        assert type(pool) is (flows.MaxAsAverage if name == "tutorial" else flows.WinnerTakesAll)


SHALLOW = ["epsilon_plus", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "epsilon_gamma_wsquare"]


@pytest.mark.parametrize("name", SHALLOW)
def test_a_convolution_that_classifies_is_dense(name: str) -> None:
    """On a 1x1 map, as MobileNet's classifier, and as the last linear step whatever its class."""
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, activation="relu", name="a")(inputs)
    x = kl.GlobalAveragePooling2D(keepdims=True)(x)
    x = kl.Conv2D(5, 1, activation="relu", name="pixel")(x)
    x = kl.Conv2D(3, 1, name="last")(x)
    found = assigned(keras.Model(inputs, kl.Reshape((3,))(x)), preset(name))
    assert found["pixel"] == found["last"] == E
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, activation="relu", name="a")(inputs)
    x = kl.Conv2D(3, 3, name="last")(x)
    assert assigned(keras.Model(inputs, kl.GlobalAveragePooling2D()(x)), preset(name))["last"] == E


def test_flat_leaves_a_first_dense_alone() -> None:
    mlp = keras.Sequential([keras.Input((4, 4, 1)), kl.Flatten(), kl.Dense(5, name="d"), kl.Dense(3, name="e")])
    assert assigned(mlp, "epsilon_plus_flat") == {"d": E, "e": E}
    assert assigned(mlp, preset("epsilon_gamma_box"))["d"] == "ZBox(-1, 1) of the model's input"


def test_a_quarter_of_the_convolutions_shares_by_squares() -> None:
    """By number, depthwise ones among them; a single one is the first quarter; Dense nets are those of Epsilon."""
    layers = [keras.Input((8, 8, 3)), kl.Conv2D(4, 3, name="stem")]
    for i in range(3):
        layers += [kl.DepthwiseConv2D(3, padding="same", name=f"deep{i}"), kl.BatchNormalization(), kl.ReLU(6.0)]
        layers += [kl.Conv2D(4, 1, name=f"point{i}"), kl.BatchNormalization(), kl.ReLU(6.0)]
    net = keras.Sequential([*layers, kl.GlobalAveragePooling2D(), kl.Dense(3, name="dense")])
    options = {"gamma": 0.5, "epsilon": 0.1, "stabilizer": 1e-3, "zero_bias": True}
    found = assigned(net, preset("epsilon_gamma_wsquare", **options))
    assert list(found.values())[:2] == ["WSquare(stabilizer=0.001)"] * 2
    assert list(found.values())[2:-1] == ["Gamma(0.5, stabilizer=0.001, zero_bias=True)"] * 5
    assert found["dense"] == "Epsilon(0.1, zero_bias=True)"
    single = keras.Sequential([keras.Input((6, 6, 1)), kl.Conv2D(2, 3, name="a"), kl.Flatten(), kl.Dense(2, name="d")])
    assert assigned(single, "epsilon_gamma_wsquare") == {"a": "WSquare()", "d": E}
    mlp = keras.Sequential([keras.Input((4,)), kl.Dense(5, name="d"), kl.Dense(3, name="e")])
    assert assigned(mlp, "epsilon_gamma_wsquare") == assigned(mlp, "epsilon") == {"d": E, "e": E}


def test_first_and_last_of_several() -> None:
    a, b = keras.Input((4, 4, 1)), keras.Input((3,))
    x = kl.Concatenate()([
        kl.Dense(2, name="dense_a")(kl.Flatten()(kl.Conv2D(2, 3, name="conv_a")(a))),
        kl.Dense(2, name="dense_b")(kl.Dropout(0.5)(b)),
    ])  # fmt: skip
    model = keras.Model([a, b], kl.Add()([kl.Dense(2, name="left")(x), kl.Dense(2, name="right")(x)]))
    graph = lrp_tf.Explainer(model, "epsilon").graph
    assert {step.name for step in composites.first().select(graph)} == {"conv_a", "dense_b"}
    assert {step.name for step in composites.last().select(graph)} == {"left", "right"}


def test_last_looks_through_everything_without_a_kernel() -> None:
    inputs = keras.Input((4,))
    x = kl.ReLU()(kl.BatchNormalization()(kl.Add()([kl.Dense(4, name="d")(inputs), inputs])))
    graph = lrp_tf.Explainer(keras.Model(inputs, x), "epsilon").graph
    assert [step.name for step in composites.last().select(graph)] == ["d"]


def test_the_first_match_wins() -> None:
    composite = composites.Composite([
        (composites.at(-1), rules.Zero()),
        (composites.at(1), rules.WSquare()),
        (composites.named("[ab]"), rules.Flat()),
        (lambda step: step.op.name == "c", rules.Gamma()),
        (composites.of_type(kl.MaxPooling2D), flows.MaxAsAverage()),
        (None, rules.Epsilon(0.5)),
    ])  # fmt: skip
    found = assigned(convnet(), composite)
    assert found == {"a": "Flat()", "b": "WSquare()", "c": "Gamma(0.25)", "d": "Epsilon(0.5)", "e": "Zero()"}


def test_names_match_from_end_to_end_and_by_path() -> None:
    inner = keras.Sequential([keras.Input((4,)), kl.Dense(4, name="d")], name="block")
    model = keras.Sequential([keras.Input((4,)), inner, kl.Dense(2, name="dd")])
    for pattern in ("d", "block/.*"):
        found = assigned(model, composites.Composite([(composites.named(pattern), rules.Flat()), (None, rules.Zero())]))
        assert found == {"d": "Flat()", "dd": "Zero()"}


def test_one_rule_for_every_linear_step_leaves_flows_alone() -> None:
    handlers = lrp_tf.Explainer(convnet(), rules.WSquare()).clone.handlers
    assert {repr(rule) for rule in handlers.values() if isinstance(rule, rules.Rule)} == {"WSquare()"}
    assert any(isinstance(rule, flows.WinnerTakesAll) for rule in handlers.values())


def test_a_rule_that_names_a_whole_block_skips_its_pooling() -> None:
    composite = composites.Composite([(composites.named("pool|b"), rules.Flat()), (None, rules.Zero())])
    assert assigned(convnet(), composite)["b"] == "Flat()"


@pytest.mark.parametrize(
    "entries", [[rules.Zero()], [(None, rules.Zero)], [("conv", rules.Zero())], [(kl.Dense, rules.Zero())]]
)
def test_entries_of_the_wrong_kind(entries: list) -> None:
    with pytest.raises(TypeError, match=r"Received|Did you mean"):
        composites.Composite(entries)


def test_bounds_pass_flatten_and_padding() -> None:
    """The box of the image is the box of the flattened image; padded cells have the box (0, 0)."""
    dense = kl.Dense(3, dtype="float64")
    inputs = keras.Input((2, 2, 2), dtype="float64")
    padded = kl.ZeroPadding2D(1, dtype="float64")(kl.Rescaling(2.0, 1.0, dtype="float64")(inputs))
    model = keras.Model(inputs, dense(kl.Flatten(dtype="float64")(padded)))
    low, high = np.array([-1.0, -2.0]), np.array([1.0, 3.0])
    x = np.random.default_rng(0).uniform(-1, 1, (2, 2, 2, 2))
    found = lrp_tf.Explainer(model, composites.get("epsilon_gamma_box", low=low, high=high))(x, target=0)
    pad = lambda v: np.pad(v, ((0, 0), (1, 1), (1, 1), (0, 0)))  # noqa: E731
    box = [pad(np.broadcast_to(2 * b + 1, (1, 2, 2, 2))).reshape(-1) for b in (low, high)]
    flat = keras.Model(other := keras.Input((32,), dtype="float64"), dense(other))
    want = lrp_tf.Explainer(flat, rules.ZBox(*box))(pad(2 * x + 1).reshape(2, -1), target=0)
    np.testing.assert_allclose(found, np.reshape(want, (2, 4, 4, 2))[:, 1:3, 1:3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "pooling"),
    [
        ((9, 3), lambda: keras.layers.MaxPooling1D(3, 2, padding="same")),
        ((9, 3), lambda: keras.layers.GlobalMaxPooling1D()),
        ((9, 3), lambda: keras.layers.AdaptiveMaxPooling1D(4)),
        ((8, 7, 3), lambda: keras.layers.MaxPooling2D(1, 2)),  # as in ResNetV2: strides larger than the window
        ((5, 6, 7, 2), lambda: keras.layers.MaxPooling3D(2, 2, padding="same")),
        ((5, 6, 7, 2), lambda: keras.layers.MaxPooling3D(1, 2)),
    ],
)
def test_tutorial_propagates_every_max_pooling_as_an_average(shape, pooling) -> None:
    inputs = keras.Input(shape)
    layer = pooling()
    model = randomize(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(layer(inputs)))))
    x = np.random.default_rng(0).uniform(0.1, 1, (2, *shape)).astype("float32")
    composite = composites.get("tutorial", low=0.0, high=1.0)
    explainer = lrp_tf.Explainer(model, composite)
    assert "MaxAsAverage" in explainer.summary(None).column("rule")
    relevance = check(model, x, composite, tolerance=1e-5).relevance.numpy()
    if max(getattr(layer, "strides", (1,))) <= max(getattr(layer, "pool_size", (9,))):
        assert np.count_nonzero(relevance) == relevance.size  # the whole window has its share


# --- options of a preset -----------------------------------------------------------------------


def test_the_explainer_passes_options_to_the_preset() -> None:
    model, x = convnet(), np.random.default_rng(0).uniform(size=(2, 10, 10, 3)).astype("float32")
    options = {"low": 0.0, "high": [1.0, 2.0, 3.0], "gamma": 0.5, "zero_bias": True}
    wanted = lrp_tf.Explainer(model, composites.get("epsilon_gamma_box", **options))
    explainer = lrp_tf.Explainer(model, "epsilon_gamma_box", max_batch=1, **options)
    assert repr(explainer.composite) == repr(wanted.composite)
    np.testing.assert_array_equal(explainer(x), lrp_tf.Explainer(model, wanted.composite, max_batch=1)(x))
    clone = lrp_tf.clone_with_rules(model, "epsilon_gamma_box", **options)
    assert repr(clone.composite) == repr(wanted.composite)


@pytest.mark.parametrize("build", [lrp_tf.Explainer, lrp_tf.clone_with_rules])
def test_options_that_do_not_fit(build) -> None:
    with pytest.raises(
        TypeError, match=r"'epsilon_plus' takes the options epsilon, stab.*, when_empty, flow_epsilon\. .*'low'"
    ):
        build(convnet(), "epsilon_plus", low=0.0)
    with pytest.raises(ValueError, match="needs low and high"):
        build(convnet(), "tutorial", gamma=0.5)
    for instance in (composites.get("epsilon"), rules.ZPlus()):
        with pytest.raises(TypeError, match=r"Expected no options beside .*Received: \['epsilon'\]"):
            build(convnet(), instance, epsilon=0.1)


# --- the matchers of the presets ---------------------------------------------------------------


def test_presets_can_be_written_by_public_matchers() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, activation="relu", name="a")(inputs)
    x = kl.Conv2D(4, 3, activation="relu", name="b")(x)
    x = kl.GlobalAveragePooling2D(keepdims=True)(x)
    x = kl.Conv2D(5, 1, activation="relu", name="pixel")(x)
    model = keras.Model(inputs, kl.Dense(3, name="dense")(kl.Flatten()(x)))
    written = composites.Composite([
        (composites.first_convolution(), rules.Flat()),
        (composites.dense_like(), rules.Epsilon(1e-6)),
        (composites.of_type(kl.Conv2D), rules.ZPlus()),
    ])  # fmt: skip
    assert assigned(model, written) == assigned(model, preset("epsilon_plus_flat"))
    assert assigned(model, written) == {"a": "Flat()", "b": Z, "pixel": E, "dense": E}
    text = repr(preset("epsilon_plus_flat"))
    assert "first_convolution() -> Flat()" in text
    assert "dense_like() -> Epsilon(1e-06)" in text


def test_a_first_dense_is_no_first_convolution() -> None:
    model = keras.Sequential([keras.Input((5,)), kl.Dense(4, activation="relu", name="a"), kl.Dense(3, name="b")])
    entries = [(composites.first_convolution(), rules.Flat()), (None, rules.ZPlus())]
    assert assigned(model, composites.Composite(entries)) == {"a": Z, "b": Z}

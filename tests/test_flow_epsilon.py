"""`flow_epsilon`: one stabilizer for all built-in flows of a model."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest

import lrp_tf
from lrp_tf import composites, flows, rules

kl = keras.layers
X = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 2)).astype("float32")


def residual() -> keras.Model:
    """A sum, average and max pooling, and a normalisation."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, padding="same", activation="relu", name="a")(inputs)
    x = kl.Add(name="add")([x, kl.Conv2D(4, 1, name="b")(inputs)])
    x = kl.LayerNormalization(name="norm")(kl.AveragePooling2D(2, name="average")(x))
    x = kl.MaxPooling2D(2, name="max")(x)
    return keras.Model(inputs, kl.Dense(3, name="head")(kl.Flatten()(x)))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return residual()


def stabilizers(explainer: lrp_tf.Explainer) -> dict[str, object]:
    handlers = explainer.clone.handlers.items()
    return {s.name: h.stabilizer for s, h in handlers if isinstance(h, flows.Flow) and hasattr(h, "stabilizer")}


def test_the_default_changes_nothing(model) -> None:
    plain, same = (lrp_tf.Explainer(model, "epsilon", **o) for o in ({}, {"flow_epsilon": 1e-6}))
    assert stabilizers(plain) == stabilizers(same) == dict.fromkeys(["add", "average", "norm"], 1e-6)
    np.testing.assert_array_equal(plain(X), same(X))
    assert plain.composite.flow_epsilon is None


@pytest.mark.parametrize("epsilon", [1e-9, 0.1, rules.Relative(0.2)], ids=repr)
def test_it_reaches_every_flow_that_divides(model, epsilon) -> None:
    explainer = lrp_tf.Explainer(model, "epsilon", flow_epsilon=epsilon)
    assert stabilizers(explainer) == dict.fromkeys(["add", "average", "norm"], epsilon)
    named = {"add": "sum", "average": "hull"}
    entries = [(composites.named(name), flows.Share(bounds, stabilizer=epsilon)) for name, bounds in named.items()]
    entries += [(composites.named("norm"), flows.LayerNorm(stabilizer=epsilon)), (None, rules.Epsilon())]
    np.testing.assert_array_equal(explainer(X), lrp_tf.Explainer(model, composites.Composite(entries))(X))
    assert np.abs(explainer(X) - lrp_tf.Explainer(model, "epsilon")(X)).max() > 0
    assert explainer.check(X, print_fn=None)


@pytest.mark.parametrize("epsilon", [1e-9, 0.1, rules.Relative(0.2)], ids=repr)
def test_the_epsilon_of_a_preset_reaches_flows(model, epsilon) -> None:
    found = lrp_tf.Explainer(model, "epsilon", epsilon=epsilon)
    assert stabilizers(found) == dict.fromkeys(["add", "average", "norm"], epsilon)
    np.testing.assert_array_equal(
        found(X), lrp_tf.Explainer(model, "epsilon", epsilon=epsilon, flow_epsilon=epsilon)(X)
    )
    apart = lrp_tf.Explainer(model, "epsilon", epsilon=epsilon, flow_epsilon=1e-6)
    assert stabilizers(apart) == dict.fromkeys(["add", "average", "norm"], 1e-6)


def test_a_default_epsilon_leaves_flows_their_own(model, monkeypatch) -> None:
    assert composites.get("epsilon", epsilon=1e-6) == composites.get("epsilon")
    tutorial = composites.get("tutorial", low=0.0, high=1.0)
    assert composites.get("tutorial", low=0.0, high=1.0, epsilon=rules.Relative(0.25)) == tutorial
    monkeypatch.setattr(composites.presets, "PRESETS", dict(composites.PRESETS))
    composites.register("own", lambda epsilon=1e-6: [(None, rules.Epsilon(epsilon))])
    assert composites.get("own", epsilon=0.1).flow_epsilon is None


def test_the_registry_is_left_alone(model) -> None:
    lrp_tf.Explainer(model, "epsilon", flow_epsilon=0.5)
    assert flows.entry(kl.Add).stabilizer == 1e-6


def test_flows_of_entries_keep_their_own(model) -> None:
    entries = [(composites.named("add"), flows.Share("sum", stabilizer=0.5)), (None, rules.Epsilon())]
    found = stabilizers(lrp_tf.Explainer(model, composites.Composite(entries, flow_epsilon=0.25)))
    assert found == {"add": 0.5, "average": 0.25, "norm": 0.25}


@pytest.mark.parametrize("name", composites.PRESETS)
def test_every_preset_takes_it(model, name) -> None:
    bounds = {"low": -1.0, "high": 1.0} if composites.needs_bounds(name) else {}
    explainer = lrp_tf.Explainer(model, name, flow_epsilon=0.25, **bounds)
    assert set(stabilizers(explainer).values()) == {0.25}
    assert len(stabilizers(explainer)) == 3 + (name == "tutorial")  # whose max pooling is an average


def test_presets_of_the_user(model, monkeypatch) -> None:
    monkeypatch.setattr(composites.presets, "PRESETS", dict(composites.PRESETS))
    composites.register("plain", lambda: [(None, rules.Zero())])
    composites.register("whole", lambda: composites.Composite([(None, rules.Zero())], flow_epsilon=0.5))
    composites.register("aware", lambda flow_epsilon=0.125: [(None, rules.Epsilon(flow_epsilon))])
    assert composites.get("plain").flow_epsilon is None
    assert composites.get("plain", flow_epsilon=0.25).flow_epsilon == 0.25
    assert composites.get("whole").flow_epsilon == 0.5
    assert composites.get("whole", flow_epsilon=0.25).flow_epsilon == 0.25
    assert repr(composites.get("aware", flow_epsilon=0.25)) == (
        "Composite(aware: None -> Epsilon(0.25), flow_epsilon=0.25)"
    )


@pytest.mark.parametrize("epsilon", [0, 1e-9, 1 / 3, rules.Relative(0.25)])
def test_copies_and_text_keep_it(epsilon) -> None:
    composite = composites.get("epsilon_plus_flat", flow_epsilon=epsilon)
    again = composites.parse(str(composite))
    for found in (again, copy.copy(composite), copy.deepcopy(composite), pickle.loads(pickle.dumps(composite))):
        assert found.flow_epsilon == epsilon
        assert found == composite
    assert composite != composites.get("epsilon_plus_flat")


def test_text_and_toml() -> None:
    assert composites.parse("flow_epsilon=1e-9; all: flat").flow_epsilon == 1e-9
    assert composites.parse("all: flat\nflow_epsilon = relative 0.5").flow_epsilon == rules.Relative(0.5)
    toml = 'flow_epsilon = {}\n[[entry]]\nmatch = "all"\nrule = "flat"'
    assert composites.parse(toml.format("1e-9")).flow_epsilon == 1e-9
    assert composites.parse(toml.format('"relative 0.5"')).flow_epsilon == rules.Relative(0.5)
    for text, message in {
        "flow_epsilon=1; flow_epsilon=1; all: flat": "expected flow_epsilon once",
        "flow_epsilon=x; all: flat": r"\('flow_epsilon=x'\): expected a number or relative NUMBER for flow_epsilon",
        "flow_epsilon=-1; all: flat": "flow_epsilon must be a number >= 0",
        "flow_epsilon=1 2; all: flat": "Received: '2'",
        "flow_epsilon=1": "expected at least one entry",
        toml.format("true"): "expected flow_epsilon to be a number",
        toml.format("-1"): "flow_epsilon must be a number >= 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            composites.parse(text)


@pytest.mark.parametrize("wrong", [-1, "x", True, float("inf")])
def test_what_is_no_stabilizer(wrong) -> None:
    for make in (
        lambda e: composites.Composite([], flow_epsilon=e),
        lambda e: composites.get("epsilon", flow_epsilon=e),
    ):
        with pytest.raises(ValueError, match=r"flow_epsilon must be a number >= 0 .*Received"):
            make(wrong)

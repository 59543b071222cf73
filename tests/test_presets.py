"""Presets that a user registers, and composites with canonizers of their own."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.composites import presets
from lrp_tf.engine import canonize

kl = keras.layers
MODEL = keras.Sequential([
    keras.Input((6, 6, 1)),
    kl.Conv2D(3, 3, activation="relu", name="a"),
    kl.Flatten(),
    kl.Dense(3, name="b"),
])  # fmt: skip


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "PRESETS", dict(presets.PRESETS))


def everywhere(gamma=0.25, epsilon=1e-6):
    return [(composites.dense_like(), rules.Epsilon(epsilon)), (None, rules.Gamma(gamma))]


def test_a_registered_preset_is_known_by_name() -> None:
    assert composites.register("everywhere", everywhere) is everywhere
    explainer = lrp_tf.Explainer(MODEL, "everywhere", gamma=0.5)
    assert repr(explainer.composite) == "Composite(everywhere: dense_like() -> Epsilon(1e-06), None -> Gamma(0.5))"
    x = np.ones((1, 6, 6, 1), "float32")
    written = lrp_tf.Explainer(MODEL, composites.Composite(everywhere(0.5)))
    np.testing.assert_array_equal(explainer(x), written(x))
    assert not composites.needs_bounds("everywhere")
    with pytest.raises(TypeError, match="'everywhere' takes the options gamma, epsilon"):
        composites.get("everywhere", low=0.0)


def test_the_decorator_gives_the_function_back() -> None:
    @composites.register("boxed")
    def boxed(low, high, gamma):
        return composites.Composite([(None, rules.ZBox(low, high))], "of its own")

    assert composites.needs_bounds("boxed")
    assert boxed(0, 1, 2).name == "of its own"
    with pytest.raises(ValueError, match="'boxed' needs high, the bounds"):
        composites.get("boxed", low=0.0, gamma=1)
    with pytest.raises(TypeError, match=r"'boxed' needs the options gamma\. Received: .*low"):
        composites.get("boxed", low=0.0, high=1.0)
    assert repr(composites.get("boxed", low=0, high=1, gamma=1)) == "Composite(boxed: None -> ZBox(0, 1))"


def test_bounds_with_a_default_are_not_needed() -> None:
    composites.register("unit_box", lambda low=0.0, high=1.0: [(None, rules.ZBox(low, high))])
    assert not composites.needs_bounds("unit_box")
    assert repr(composites.get("unit_box").entries) == "[(None, ZBox(0, 1))]"


def test_the_composite_that_a_preset_returns_stays_as_it_is() -> None:
    own = composites.Composite([(lambda step: True, rules.Zero())], "own", canonizers=[lambda graph: graph])
    composites.register("shared", lambda: own)
    found = composites.get("shared")
    assert (found.name, own.name) == ("shared", "own")
    assert found.canonizers == own.canonizers


def test_names_of_presets() -> None:
    composites.register("everywhere", everywhere)
    composites.register("everywhere", lambda: [(None, rules.Zero())])  # a cell of a notebook that runs again
    assert repr(composites.get("everywhere").entries) == "[(None, Zero())]"
    with pytest.raises(ValueError, match=r"'epsilon' is a built-in preset\. Expected another .*overwrite=True"):
        composites.register("epsilon", everywhere)
    composites.register("epsilon", everywhere, overwrite=True)
    assert "Gamma" in repr(composites.get("epsilon"))
    with pytest.raises(ValueError, match=r"built-in"):  # it stays built in
        composites.register("epsilon", everywhere)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x.toml", "a;b", "1st", None, 3])
def test_names_that_a_command_line_could_not_tell(name) -> None:
    with pytest.raises(ValueError, match=r"register expects the name of a preset.*Received"):
        composites.register(name, everywhere)


@pytest.mark.parametrize("function", ["epsilon", lambda *args: [], lambda **options: [], lambda low, /: []])
def test_functions_that_take_no_options_by_name(function) -> None:
    with pytest.raises(TypeError, match=r"(?s)Received: "):
        composites.register("odd", function)


def test_a_preset_that_returns_something_else() -> None:
    composites.register("odd", lambda: rules.Zero())
    with pytest.raises(TypeError, match=r"preset 'odd' returned Zero\(\)\. Expected a list of .*Received: Zero"):
        composites.get("odd")


def test_names_that_look_like_text_or_file() -> None:
    with pytest.raises(ValueError, match=r"Remedy.*composites\.parse\('first: flat'\)"):
        composites.get("first: flat")
    with pytest.raises(ValueError, match=r"Remedy: composites\.load\('mine\.toml'\)"):
        composites.get("mine.toml")


# --- canonizers --------------------------------------------------------------------------------


def unchanged(graph):
    return graph


def test_canonizers_are_kept_by_copies() -> None:
    composite = composites.Composite([(None, rules.Zero())], "mine", canonizers=[unchanged])
    assert composite.canonizers == (unchanged,)
    for again in (pickle.loads(pickle.dumps(composite)), copy.deepcopy(composite), copy.copy(composite)):
        assert again.canonizers == (unchanged,)
        assert repr(again) == repr(composite)
    assert composites.get("epsilon").canonizers is None
    assert composites.Composite([], canonizers=()).canonizers == ()


def test_a_copy_needs_no_names_and_a_pickle_does() -> None:
    composite = composites.Composite([(None, rules.Zero())], "mine", canonizers=[lambda graph: graph])
    assert copy.copy(composite).canonizers == composite.canonizers
    with pytest.raises(pickle.PicklingError, match=r"its canonizer <function .*Remedy: define it there"):
        pickle.dumps(composite)


@pytest.mark.parametrize("wrong", [unchanged, [unchanged, None], "abc", [composites.Composite], 3, ["fold"]])
def test_canonizers_of_the_wrong_kind(wrong) -> None:
    with pytest.raises(TypeError, match=r"canonizers expects a sequence of functions graph -> graph.*Received: "):
        composites.Composite([(None, rules.Zero())], canonizers=wrong)


def test_canonizers_replace_those_of_the_engine() -> None:
    inputs = keras.Input((6, 6, 1))
    x = kl.ReLU()(kl.BatchNormalization(name="norm")(kl.Conv2D(3, 3, name="a")(inputs)))
    model = keras.Model(inputs, kl.Dense(3, name="b")(kl.Flatten()(x)))
    folding = (canonize.fold_behind, canonize.fold_ahead)
    kept = [rewrite for rewrite in canonize.PASSES if rewrite not in folding]
    steps = {}
    for canonizers in (None, canonize.PASSES, kept):
        composite = composites.Composite([(None, rules.Epsilon())], canonizers=canonizers)
        for built in (lrp_tf.Explainer(model, composite), lrp_tf.Explainer(model, copy.deepcopy(composite))):
            assert built.check(np.ones((2, 6, 6, 1), "float32"), print_fn=None)
            steps.setdefault(canonizers and tuple(canonizers), []).append([step.name for step in built.graph.steps])
    assert steps[None] == steps[canonize.PASSES]
    assert "norm" not in steps[None][0]
    assert all("norm" in names for names in steps[tuple(kept)])

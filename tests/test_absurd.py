"""Relevance out of all proportion to the start: a warning, a note, a mark; and where zero_bias leads to it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from helpers.checking import randomize
from helpers.pictures import photos, table
from helpers.small_nets import deep_net

import lrp_tf
from lrp_tf import composites, rules

layers = keras.layers
DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, 8, 8, 3)).clip(-3, 3)


def absurd() -> pytest.WarningsRecorder:
    return pytest.warns(lrp_tf.RelevanceWarning, match=r"Sample\(s\) \[0.*times the start relevance.*zero_bias")


def test_every_kind_of_call_warns(x: np.ndarray) -> None:
    explainer = lrp_tf.Explainer(deep_net(), composites.get("epsilon", zero_bias=True))
    calls = {
        "call": lambda: explainer(x),
        "k targets": lambda: explainer(x, [[0, 1]] * 4),
        "start": lambda: explainer(x, start=np.ones((4, 4))),
        "explain": lambda: explainer.explain(x),
        "map": lambda: list(explainer.map([x])),
        "parts": lambda: explainer(x, max_batch=3),
    }
    for name, call in calls.items():
        with absurd() as found:
            call()
        assert len(found) == 1, name
        assert found[0].filename == __file__, name  # the line of the caller


@pytest.fixture
def eager() -> Iterator[None]:
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_sound_explanations_do_not_warn(x: np.ndarray, eager: None) -> None:
    """Warnings are errors here: no preset trips it, with zero_bias neither, but for those of Epsilon alone."""
    model = deep_net()
    for name, zero_bias in itertools.product(composites.PRESETS, (False, True)):
        if name in ("epsilon", *composites.FOR_TRANSFORMERS) and zero_bias:
            continue
        bounds = {"low": -3.0, "high": 3.0} if composites.needs_bounds(name) else {}
        found = lrp_tf.Explainer(model, composites.get(name, zero_bias=zero_bias, **bounds)).explain(x)
        assert found.amplification.numpy().max() < 1e4, (name, zero_bias)


def sizes(relevance, axes: int = 1) -> np.ndarray:
    values = np.abs(np.asarray(relevance, "float64"))
    return values.reshape(*values.shape[:axes], -1).sum(-1)


def test_amplification_is_what_it_says(x: np.ndarray) -> None:
    model = deep_net(blocks=2)
    explainer, pooling = lrp_tf.Explainer(model, "epsilon"), model.layers[-2].name
    start = np.array([[1.0, -1.0, 0.0, 0.0]] * 3 + [[0.0] * 4])
    calls = [({}, 1), ({"target": [[0, 1, 2]] * 4}, 2), ({"start": start}, 1)]
    for options, axes in calls:
        found = explainer.explain(x, **options, layers=[pooling])
        below = sizes(found.layers[pooling], axes)
        first = np.abs(start).sum(1) if "start" in options else np.abs(found.conservation.start)
        begin = np.maximum(first, below)
        assert (begin > first).any()
        np.testing.assert_allclose(found.begin, begin, rtol=1e-5)
        want = np.divide(sizes(found.relevance, axes), begin, where=begin > 0, out=np.zeros_like(begin))
        np.testing.assert_allclose(found.amplification, want, rtol=1e-5)
        assert found.amplification.dtype == found.begin.dtype == tf.float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_output_near_zero_is_no_absurdity(dtype: str, rng: np.random.Generator) -> None:
    """Its contributions cancel, and so R is large against the output; a regression may well come out as 1e-7."""
    x = tf.constant(rng.normal(size=(3, 20)), dtype)
    dense = [layers.Dense(512, "relu", dtype=dtype), layers.Dense(512, "relu", dtype=dtype)]
    model = randomize(keras.Sequential([keras.Input((20,), dtype=dtype), *dense, layers.Dense(4, dtype=dtype)]))
    head = model.layers[-1]
    head.bias.assign(head.bias - model(x)[0])  # the first sample
    explainer, largest = lrp_tf.Explainer(model), 0
    for near in (0.0, 1e-9, 1e-7, 1e-6, 1e-5):
        head.bias.assign(head.bias + near)
        for options in ({"target": 1}, {"target": [[0, 1]] * 3, "start": "one"}):
            found = explainer.explain(x, **options)
            assert found.amplification.numpy().max() < 100
            largest = max(largest, sizes(found.relevance).max())
    assert largest > 1e6  # which would be blamed, against a start of 1
    assert "Absurd" not in str(explainer.report(x, 1, print_fn=None))


def test_a_start_on_zeros_behind_an_activation_is_no_absurdity(rng: np.random.Generator) -> None:
    """The last layer is looked for behind activations and scalings."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(6)(inputs)
    outputs = layers.Rescaling(0.5)(layers.Activation("tanh")(layers.Dense(2)(hidden)))
    model = randomize(keras.Model(inputs, outputs))
    x = rng.normal(size=(2, 4))
    head = model.layers[2]
    head.bias.assign(head.bias - head(model.layers[1](x))[0])
    found = lrp_tf.Explainer(model, "epsilon").explain(x, start=np.ones((2, 2)))
    assert sizes(found.relevance)[0] > 1e5
    assert found.amplification.numpy().max() < 100


def test_growth_below_the_last_layer_counts_behind_moves_and_time_steps() -> None:
    """A layer whose sums cancel, below one that shares by Flat."""
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False), layers.Dense(2, name="head")])
    inner.layers[0].set_weights([np.array([[1.0, 1.0], [-1.0, -1.0]])])
    model = keras.Sequential([keras.Input((3, 2)), layers.TimeDistributed(inner), layers.Flatten()])
    composite = composites.Composite([(composites.named(".*head"), rules.Flat()), (None, rules.Epsilon())])
    explainer, x = lrp_tf.Explainer(model, composite), np.ones((2, 3, 2))
    x[1, :, 1] = -1.0  # nothing cancels
    with pytest.warns(lrp_tf.RelevanceWarning, match=r"Sample\(s\) \[0\]"):
        found = explainer.explain(x, start=np.ones((2, 6)))
    np.testing.assert_allclose(found.begin, [6.0, 6.0], rtol=1e-5)
    np.testing.assert_allclose(found.amplification, [2e6, 1.0], rtol=1e-5)


def test_of_two_inputs_both_count() -> None:
    inputs = [keras.Input((2,)), keras.Input((3,))]
    model = randomize(keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(inputs))))
    x = [np.ones((2, 2)), np.ones((2, 3))]
    found = lrp_tf.Explainer(model, "epsilon").explain(x, 1)
    np.testing.assert_allclose(found.amplification, sum(map(sizes, found.relevance)) / found.begin, rtol=1e-5)


def test_inside_a_graph_nothing_warns_and_the_factor_tells(x: np.ndarray) -> None:
    explainer = lrp_tf.Explainer(deep_net(), composites.get("epsilon", zero_bias=True))
    inside = tf.function(lambda x: explainer.explain(x).amplification)
    assert inside(tf.constant(x, tf.float32)).numpy().max() > 1e6


class Doubling(rules.Epsilon):
    """Sends on three times what arrived."""

    def backward(self, step, op):
        propagate = super().backward(step, op)
        return lambda relevances, account: [3.0 * r for r in propagate(relevances, account)]


def test_a_score_that_is_unexplained_warns() -> None:
    model = randomize(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    with pytest.warns(lrp_tf.RelevanceWarning, match="is unexplained"):
        lrp_tf.Explainer(model, Doubling()).explain(np.ones((2, 4)))


def test_report_has_a_note(x: np.ndarray) -> None:
    model = deep_net()
    table = lrp_tf.Explainer(model, composites.get("epsilon", zero_bias=True)).report(x, print_fn=None)
    assert "Absurd: the sum of |relevance| is" in str(table)
    assert "Absurd" not in str(lrp_tf.Explainer(model, "epsilon").report(x, print_fn=None))


def test_the_command_marks_absurd_maps(lrp, tmp_path) -> None:
    deep_net(16).save(tmp_path / "deep.keras")
    photos(tmp_path / "in", 2)
    common = ("explain", tmp_path / "deep.keras", "in", "--preprocess", "scale:1/255", "--composite", "epsilon")
    code, _, err = lrp(*common, "--out", "absurd", "--zero-bias")
    assert code == 1
    assert err.count("warning: ") == 2
    assert "the sum of |relevance| is" in err
    assert "2 map(s) are absurd" in err
    assert "RelevanceWarning" not in err  # no line of Python's beside
    rows = table(tmp_path / "absurd/results.csv")
    assert [row["warning"].startswith("the sum of |relevance| is") for row in rows] == [True, True]
    code, _, err = lrp(*common, "--out", "sound")
    assert code == 0, err
    assert "warning" not in err
    rows = table(tmp_path / "sound/results.csv")
    assert [row["warning"] for row in rows] == ["", ""]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the trained MobileNet and photographs of ../shared/data")
def test_trained_mobilenet() -> None:
    """What README and docs say of zero_bias, on a trained net."""
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(DATA / "mobilenet075.weights.h5")
    files = sorted((DATA / "photos").glob("*.jpg"))[:4]
    x = np.stack([keras.utils.img_to_array(keras.utils.load_img(file, target_size=(224, 224))) for file in files])
    x = x / 127.5 - 1.0

    def shares(**options) -> tuple[np.ndarray, np.ndarray]:
        parts = lrp_tf.Explainer(model, composites.get("epsilon_plus_flat", **options)).explain(x).conservation
        return np.asarray(parts.relevance / parts.start), np.asarray(parts.other / parts.start)

    relevance, _ = shares()
    assert relevance.max() < 1e-3
    relevance, other = shares(zero_bias=True)
    assert relevance.max() < 0.1 < 0.9 < other.min()
    for how in ("magnitude", "uniform"):
        relevance, other = shares(zero_bias=True, when_empty=how)
        assert relevance.min() > 0.95
        np.testing.assert_array_equal(other, 0.0)
    with absurd():
        lrp_tf.Explainer(model, composites.get("epsilon", zero_bias=True))(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lrp_tf.Explainer(model, "epsilon").explain(x).amplification.numpy().max() < 1e4

"""Explainer: targets, start relevance, intermediate relevance, tables and inputs."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, randomize
from helpers.small_nets import IMG, VEC, dense_net, image_net, logits_of, maps_net
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules

# --- targets -----------------------------------------------------------------------------------


def test_kinds_of_targets_agree():
    model = dense_net()
    explain = lrp_tf.Explainer(model)
    every = np.stack([explain(VEC, k) for k in range(3)], axis=1)  # [B, k, ...]
    top = np.argmax(model(VEC), axis=1)
    close(explain(VEC), every[np.arange(3), top], 1e-5)
    close(explain(VEC, [2, 0, 1]), every[np.arange(3), [2, 0, 1]], 1e-5)
    close(explain(VEC, [[2, 0], [1, 1], [0, 2]]), every[np.arange(3)[:, None], [[2, 0], [1, 1], [0, 2]]], 1e-5)
    close(explain(VEC, [[2], [1], [0]]), every[np.arange(3)[:, None], [[2], [1], [0]]], 1e-5)
    start = np.eye(3)[[2, 0, 1]] * np.asarray(model(VEC))
    close(explain(VEC, start=start), every[np.arange(3), [2, 0, 1]], 1e-5)


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda t: np.array(t, "uint8"), tf.constant])
def test_targets_of_any_container(make):
    explain = lrp_tf.Explainer(dense_net())
    close(explain(VEC, make([2, 0, 1])), explain(VEC, np.array([2, 0, 1])), 0)


@pytest.mark.parametrize("target", [1, np.int64(1), np.array(1), tf.constant(1), tf.constant(1, tf.int64)])
def test_one_target_for_all(target):
    explain = lrp_tf.Explainer(dense_net())
    close(explain(VEC, target), explain(VEC, [1, 1, 1]), 0)


def test_explanation_tells_what_was_explained():
    model = dense_net(activation="softmax")
    explain = lrp_tf.Explainer(model).explain
    top = np.argmax(model(VEC), axis=1)
    found = explain(VEC)
    np.testing.assert_array_equal(found.target, top)
    close(found.output, model(VEC), 1e-6)
    np.testing.assert_allclose(found.conservation.start, np.asarray(found.logits)[np.arange(3), top], rtol=1e-6)
    np.testing.assert_array_equal(explain(VEC, 1).target, [1, 1, 1])
    found = explain(VEC, [[0, 1]] * 3)
    np.testing.assert_array_equal(found.target, [[0, 1]] * 3)
    assert found.relevance.shape == (3, 2, 4)
    assert found.output.shape == found.logits.shape == (3, 3)
    for part in found.conservation:
        assert part.shape == (3, 2)
        assert part.dtype == "float64"
    np.testing.assert_allclose(found.conservation.start, np.asarray(found.logits)[:, :2], rtol=1e-6)
    assert explain(VEC, start=np.ones((3, 3))).target is None


def test_start_one_is_the_relevance_of_a_unit():
    model = dense_net()
    explain = lrp_tf.Explainer(model)
    logits = np.asarray(model(VEC))
    close(explain(VEC, 1, start="one") * logits[:, 1:2], explain(VEC, 1), 1e-5)
    found = explain.explain(VEC, [[0, 2]] * 3, start="one")
    np.testing.assert_array_equal(found.conservation.start, np.ones((3, 2)))
    np.testing.assert_array_equal(explain.explain(VEC, start="one").conservation.start, np.ones(3))


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_single_output_unit(activation):
    model = dense_net(1, activation)
    bias = model.get_layer("logits").bias
    bias.assign(bias - np.median(logits_of(model, VEC)) + 0.01)  # positive for some samples, negative for others
    explain = lrp_tf.Explainer(model)
    value = logits_of(model, VEC)[:, 0]
    assert np.any(value > 0)
    assert np.any(value < 0)
    yes, no = explain.explain(VEC, 1), explain.explain(VEC, 0)
    np.testing.assert_allclose(yes.conservation.start, value, rtol=1e-6)
    np.testing.assert_allclose(no.conservation.start, -value, rtol=1e-6)
    close(yes.relevance, -np.asarray(no.relevance), 1e-6)
    either = explain.explain(VEC)
    np.testing.assert_array_equal(either.target, value >= 0)
    np.testing.assert_allclose(either.conservation.start, np.abs(value), rtol=1e-6)
    both = explain(VEC, [[0, 1]] * 3)
    close(both, np.stack([no.relevance, yes.relevance], axis=1), 1e-6)
    np.testing.assert_array_equal(explain.explain(VEC, [1, 0, 1], start="one").conservation.start, [1, -1, 1])


@pytest.mark.parametrize("size", [8, None])
def test_output_of_higher_rank_takes_index_tuples(size):
    model = maps_net(size)
    explain = lrp_tf.Explainer(model, "epsilon")
    z = np.asarray(model(IMG))
    for target in ([2, 3, 1], [[2, 3, 1], [0, 7, 3], [7, 0, 0]]):
        index = np.broadcast_to(target, (3, 3))
        found = explain.explain(IMG, target)
        np.testing.assert_allclose(found.conservation.start, z[np.arange(3), *index.T], rtol=1e-6)
        start = np.zeros_like(z)
        start[np.arange(3), *index.T] = z[np.arange(3), *index.T]
        close(found.relevance, explain(IMG, start=start), 1e-6)
        np.testing.assert_array_equal(found.target, index)
    np.testing.assert_array_equal(explain.explain(IMG, [2, 3, 1], start="one").conservation.start, np.ones(3))


def test_sequence_output():
    model = randomize(keras.Sequential([keras.Input((5, 4)), kl.Dense(3, activation="softmax")]))
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    r = np.asarray(lrp_tf.Explainer(model)(x, [[1, 2], [3, 0]]))
    assert [np.flatnonzero(np.abs(sample).sum(-1)).tolist() for sample in r] == [[1], [3]]


# --- intermediate relevance --------------------------------------------------------------------


def test_relevance_of_layers():
    model = image_net()
    explain = lrp_tf.Explainer(model, composites.get("epsilon_plus", zero_bias=True))
    names = ["pool", "max", "sum", "conv2", "relu1"]
    found = explain.explain(IMG, 1, layers=names)
    assert list(found.layers) == names
    for name in names:
        assert found.layers[name].shape == (3, *model.get_layer(name).output.shape[1:])
    total = {name: np.sum(r, axis=tuple(range(1, r.ndim))) for name, r in found.layers.items()}
    start = np.asarray(found.conservation.start)
    for name in ("pool", "max", "sum", "relu1"):  # conv2 is one of two ways
        np.testing.assert_allclose(total[name], start, rtol=1e-3)
    close(explain(IMG, 1), found.relevance, 1e-6)


def test_relevance_of_layers_that_were_rewritten():
    """A convolution with a BatchNormalization folded in stands for it; the logits for the softmax behind them."""
    explain = lrp_tf.Explainer(image_net())
    found = explain.explain(IMG, 1, layers=["conv1", "norm1", "relu1", "probabilities"]).layers
    close(found["conv1"], found["norm1"], 0)
    close(found["conv1"], found["relu1"], 0)
    logits = explain.explain(IMG, 1).logits
    close(found["probabilities"], np.eye(3)[1] * np.asarray(logits), 1e-6)


def test_relevance_of_layers_for_several_targets():
    explain = lrp_tf.Explainer(image_net())
    found = explain.explain(IMG, [[0, 2]] * 3, layers="sum").layers["sum"]
    assert found.shape == (3, 2, 8, 8, 3)
    close(found[:, 1], explain.explain(IMG, 2, layers=("sum",)).layers["sum"], 1e-5)


def test_names_inside_nested_models():
    def block(name):
        stack = [kl.Dense(4, activation="relu", name="same"), kl.Dense(4, name=f"own_{name}")]
        return keras.Sequential([keras.Input((4,)), *stack], name=name)

    i = keras.Input((4,))
    a = block("a")
    model = randomize(keras.Model(i, kl.Dense(2)(block("b")(a(a(i))))))
    explain = lrp_tf.Explainer(model).explain
    found = explain(VEC, layers=["b/same", "own_b", "b", "a/same", "a"]).layers
    assert found["b/same"].shape == (3, 4)
    close(found["own_b"], found["b"], 0)
    assert [r.shape for r in found["a/same"]] == [(3, 4), (3, 4)]
    assert len(found["a"]) == 2
    with pytest.raises(ValueError, match=r"'same'.*2 layers.*a/same.*b/same"):
        explain(VEC, layers=["same"])


def test_layer_off_the_way_to_the_output():
    i = keras.Input((4,))
    model = keras.Model(i, [kl.Dense(2, name="left")(i), kl.Dense(2, name="right")(i)])
    with pytest.raises(ValueError, match=r"'right'.*way to the output"):
        lrp_tf.Explainer(model, output="left").explain(VEC, layers=["right"])


# --- tables ------------------------------------------------------------------------------------


def test_summary_tells_rule_and_rewrite_of_every_layer():
    model = image_net()
    lines = []
    table = lrp_tf.Explainer(model, "epsilon_plus_flat").summary(lines.append)
    assert str(table) == "\n".join(lines)
    rows = {row[0]: row for row in table.rows}
    assert rows["conv1"][1:] == ("Conv2D", "(None, 8, 8, 3)", "Flat(), with pad, norm1")
    assert rows["conv2"][-1] == "ZPlus()"
    assert rows["probabilities"][-1] == "Epsilon(1e-06)"
    assert rows["norm1"][-1] == "folded into conv1"
    assert rows["pad"][-1] == "absorbed into conv1"
    assert "stripped" in rows["probabilities:softmax"][-1]
    for layer in model.layers[1:]:
        assert layer.name in rows
    assert "epsilon_plus_flat" in table.title
    assert re.search(r"softmax \(probabilities:softmax\) is stripped", lines[0])
    order = [name for name in table.column("layer") if name in ("pad", "conv1", "norm1", "sum", "probabilities")]
    assert order == ["pad", "conv1", "norm1", "sum", "probabilities"]


def test_report_adds_up():
    explain = lrp_tf.Explainer(image_net())
    lines = []
    table = explain.report(IMG, 1, print_fn=lines.append)
    assert len(lines) == 1
    found = explain.explain(IMG, 1)
    total = dict(zip(table.columns, table.rows[-1], strict=True))
    assert total["layer"] == "total"
    sums = {name: float(np.sum(getattr(found.conservation, name))) for name in found.conservation._fields}
    assert total["relevance out"] == pytest.approx(sums["start"])
    assert total["relevance in"] == pytest.approx(sums["relevance"])
    for name in ("bias", "stabilizer", "other"):
        assert total[name] == pytest.approx(sums[name], abs=1e-9)
        assert sum(table.column(name)[:-1]) == pytest.approx(total[name], abs=1e-6)
    assert np.max(np.abs(table.column("unexplained"))) < 1e-5
    assert not any(table.column("NaN/Inf"))
    assert table.rows[0][0] == "probabilities"
    several = explain.report(IMG, [[1, 2]] * 3, print_fn=None)
    expected = sums["start"] + float(np.sum(explain.explain(IMG, 2).conservation.start))
    assert several.rows[-1][3] == pytest.approx(expected, rel=1e-5)


def test_report_shows_a_leak():
    class Leaky(rules.Rule):
        """Epsilon that drops one percent."""

        def terms(self, op):
            return [rules.Term([(op.x, op.w)], op.b, weight=0.99)]

        def backward(self, step, op):
            propagate = rules.Epsilon().backward(step, op)
            return lambda relevances, account: [0.99 * r for r in propagate(relevances, account)]

    composite = composites.Composite([(composites.named("hidden"), Leaky()), (None, rules.Epsilon())])
    explain = lrp_tf.Explainer(dense_net(), composite)
    start = np.abs(np.random.default_rng(0).normal(size=(3, 3)))
    table = explain.report(VEC, start=start, print_fn=None)
    rest = dict(zip(table.column("layer"), table.column("unexplained"), strict=True))
    row = dict(zip(table.columns, table.rows[table.column("layer").index("hidden")], strict=True))
    assert rest["hidden"] == pytest.approx(row["relevance in"] / 0.99 * 0.01 / start.sum(), rel=1e-3)
    assert abs(rest["logits"]) < 1e-6
    assert rest["total"] == pytest.approx(rest["hidden"], rel=1e-3)
    assert np.abs(explain.explain(VEC, start=start).conservation.unexplained).max() > 1e-4


# --- inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_arrays_of_any_precision(dtype):
    explain = lrp_tf.Explainer(dense_net())
    x = np.round(4 * VEC).astype(dtype)
    r = explain(x)
    assert r.dtype == "float32"
    close(r, explain(x.astype("float32")), 0)


def test_lists_tensors_and_keras_variables_as_input():
    explain = lrp_tf.Explainer(dense_net())
    expected = explain(VEC)
    for x in (VEC.tolist(), tuple(map(tuple, VEC)), tf.constant(VEC), tf.Variable(VEC), VEC[:, ::-1][:, ::-1]):
        close(explain(x), expected, 1e-7)


def test_lists_as_one_of_several_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    model = randomize(keras.Model([a, b], kl.Dense(2)(kl.Concatenate()([a, b]))))
    explain = lrp_tf.Explainer(model)
    close(explain([VEC.tolist(), VEC]), explain((VEC, VEC.tolist())), 0)


def test_lists_to_a_model_of_one_input_with_as_many_samples_as_inputs():
    """A list of one sample is a batch, not a list of one input."""
    explain = lrp_tf.Explainer(dense_net())
    close(explain([VEC[0].tolist()]), explain(VEC[:1]), 0)
    close(explain([VEC[0]]), explain(VEC[:1]), 0)


def test_integer_input_that_relevance_does_not_reach_gets_none():
    a, b = keras.Input((4,)), keras.Input((4,), dtype="int32")
    model = randomize(keras.Model([a, b], [kl.Dense(2)(a), kl.Rescaling(2.0)(b)]))
    r = lrp_tf.Explainer(model, output=0)([VEC, np.ones((3, 4), int)])
    assert r[0].shape == (3, 4)
    assert r[1] is None


def test_a_single_sample_and_a_large_batch():
    explain = lrp_tf.Explainer(dense_net())
    assert explain(VEC[:1]).shape == (1, 4)
    assert explain(np.tile(VEC, (100, 1))).shape == (300, 4)


def test_composite_as_rule_name_or_instance():
    model = dense_net()
    expected = lrp_tf.Explainer(model, "epsilon")(VEC)
    for composite in (rules.Epsilon(1e-6), composites.get("epsilon"), composites.Composite([(None, rules.Epsilon())])):
        close(lrp_tf.Explainer(model, composite)(VEC), expected, 0)

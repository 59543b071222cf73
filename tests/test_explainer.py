"""Explainer: targets, start relevance, intermediate relevance, tables, compilation, and the clone's gradient."""

import gc
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, randomize, vectors
from keras import layers as kl
from tensorflow.python.framework import ops

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine.clone import Clone

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


def dense_net(classes=3, activation=None):
    stack = [kl.Dense(5, activation="relu", name="hidden"), kl.Dense(classes, activation=activation, name="logits")]
    return randomize(keras.Sequential([keras.Input((4,)), *stack], name="net"))


def image_net(activation="softmax"):
    i = keras.Input((8, 8, 2), name="photo")
    h = kl.ZeroPadding2D(1, name="pad")(i)
    h = kl.ReLU(name="relu1")(kl.BatchNormalization(name="norm1")(kl.Conv2D(3, 3, name="conv1")(h)))
    h = kl.Add(name="sum")([h, kl.Conv2D(3, 3, padding="same", activation="relu", name="conv2")(h)])
    h = kl.GlobalAveragePooling2D(name="pool")(kl.MaxPooling2D(name="max")(h))
    return randomize(keras.Model(i, kl.Dense(3, activation=activation, name="probabilities")(h), name="images"))


def maps_net(size=None):
    return randomize(keras.Sequential([keras.Input((size, size, 2)), kl.Conv2D(4, 3, padding="same", name="maps")]))


def logits_of(model, x):
    return np.asarray(lrp_tf.Explainer(model).explain(x).logits)


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


# --- compilation -------------------------------------------------------------------------------


@pytest.fixture
def traces(monkeypatch):
    """How often the forward pass ran in Python."""
    calls, forward = [], Clone.forward
    monkeypatch.setattr(Clone, "forward", lambda self, inputs: calls.append(1) or forward(self, inputs))
    return calls


def test_each_kind_of_call_is_traced_once(traces):
    explain = lrp_tf.Explainer(image_net())
    for batch in (3, 1, 5):
        explain(images(batch))
        explain(tf.constant(images(batch), tf.float32))
    assert len(traces) == 1
    for batch in (3, 1, 5):
        for target in (0, 1, [2] * batch, np.zeros(batch, "uint8")):
            explain(images(batch), target)
    assert len(traces) == 2
    for batch, k in ((3, 2), (1, 3), (5, 1)):
        explain(images(batch), np.zeros((batch, k), int))
    assert len(traces) == 3
    for batch in (3, 1):
        explain(images(batch), start=np.ones((batch, 3)))
    assert len(traces) == 4


def test_explainers_do_not_warn_of_retracing(caplog):
    model = dense_net()
    for _ in range(8):
        lrp_tf.Explainer(model)(VEC)
    assert "retracing" not in caplog.text


def test_unknown_image_sizes_share_one_trace(traces):
    i = keras.Input((None, None, 2))
    model = randomize(keras.Model(i, kl.Dense(2)(kl.GlobalAveragePooling2D()(kl.Conv2D(3, 3)(i)))))
    explain = lrp_tf.Explainer(model)
    for size in (8, 5, 9):
        assert explain(images(size=size)).shape == (3, size, size, 2)
    assert len(traces) == 1


def test_inside_a_function_of_the_user():
    model = image_net()
    explain, again = lrp_tf.Explainer(model), lrp_tf.Explainer(model)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 2])])
    def inside(x):
        return explain(x), explain(x, 1), explain.explain(x, 1).conservation.start

    top, one, start = inside(IMG)
    close(top, again(IMG), 1e-6)
    close(one, again(IMG, 1), 1e-6)
    assert start.shape == (3,)
    close(explain(IMG, 1), one, 1e-6)  # the same compiled function, called eagerly after
    assert inside(images(5, dtype="float32"))[0].shape == (5, 8, 8, 2)


def test_inside_a_function_targets_fit_a_batch_of_unknown_size():
    net, maps, binary = dense_net(), maps_net(), dense_net(1)
    explain, index, single = lrp_tf.Explainer(net), lrp_tf.Explainer(maps, "epsilon"), lrp_tf.Explainer(binary)

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)])
    def classes(x, target):
        return explain(x, target), explain.explain(x, 1).target, single(x, 1), explain(x, target[:, None])

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 2])])
    def pixel(x):
        return index(x, [2, 3, 1])

    some, target, one, many = classes(VEC, [2, 0, 1])
    close(some, explain(VEC, [2, 0, 1]), 1e-6)
    close(many, explain(VEC, [[2], [0], [1]]), 1e-6)
    close(one, single(VEC, 1), 1e-6)
    close(pixel(IMG), index(IMG, [2, 3, 1]), 1e-6)
    np.testing.assert_array_equal(target, [1, 1, 1])


def test_inside_a_function_a_target_out_of_range_is_an_error():
    explain = lrp_tf.Explainer(dense_net())
    inside = tf.function(lambda x, target: explain(x, target))
    with pytest.raises(tf.errors.InvalidArgumentError, match="target out of range"):
        inside(tf.constant(VEC), tf.constant([0, 3, 1]))


def test_in_a_tf_data_pipeline():
    explain = lrp_tf.Explainer(dense_net())
    found = list(tf.data.Dataset.from_tensor_slices(VEC).batch(2).map(explain))
    close(tf.concat(found, 0), explain(VEC), 1e-6)


def test_with_functions_run_eagerly():
    model = dense_net()
    expected = lrp_tf.Explainer(model)(VEC)
    tf.config.run_functions_eagerly(True)
    try:
        close(lrp_tf.Explainer(model)(VEC), expected, 1e-6)
    finally:
        tf.config.run_functions_eagerly(False)


# --- a model that goes on training -------------------------------------------------------------


def test_follows_assigned_weights():
    model = image_net()
    explain = lrp_tf.Explainer(model)
    clone = lrp_tf.clone_with_rules(model)
    before = np.asarray(explain(IMG, 1))
    for weight in model.weights:  # folded statistics too
        old = weight.numpy()
        weight.assign(old * 1.5 + 0.1)
        fresh = lrp_tf.Explainer(model)(IMG, 1)
        close(explain(IMG, 1), fresh, 1e-6)
        weight.assign(old)
    np.testing.assert_array_equal(explain(IMG, 1), before)
    randomize(model, seed=9)
    close(explain(IMG, 1), lrp_tf.Explainer(model)(IMG, 1), 1e-6)
    close(clone.finish(clone(IMG)), model(IMG), 1e-6)
    assert np.abs(np.asarray(explain(IMG, 1)) - before).max() > 1e-3


def test_follows_training():
    model = image_net()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    explain = lrp_tf.Explainer(model)
    explain(IMG, 1)
    statistics = model.get_layer("norm1").moving_mean.numpy()
    model.fit(IMG, np.array([0, 1, 2]), epochs=2, verbose=0)
    assert np.any(statistics != model.get_layer("norm1").moving_mean.numpy())
    close(explain(IMG, 1), lrp_tf.Explainer(model)(IMG, 1), 1e-6)
    close(explain.explain(IMG, 1).output, model(IMG, training=False), 1e-5)


def test_follows_an_adapted_normalization():
    norm = kl.Normalization()
    norm.build((None, 4))
    model = randomize(keras.Sequential([keras.Input((4,)), norm, kl.Dense(3)]))
    norm.adapt(VEC)
    explain = lrp_tf.Explainer(model)
    close(explain.explain(VEC, 1).output, model(VEC), 1e-5)
    norm.adapt(5 * VEC + 2)
    close(explain.explain(VEC, 1).output, model(VEC), 1e-5)


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


# --- the gradient of the clone -----------------------------------------------------------------


def test_gradient_of_the_clone_is_the_relevance():
    model = image_net()
    explain, clone = lrp_tf.Explainer(model), lrp_tf.clone_with_rules(model)
    start = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
    expected = explain(IMG, start=start)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        return z, tape.gradient(z, x, output_gradients=start)

    z, eager = gradient(tf.constant(IMG))
    close(eager, expected, 1e-6)
    close(z, logits_of(model, IMG), 1e-6)
    close(clone.finish(z), model(IMG), 1e-6)
    close(tf.function(gradient)(tf.constant(IMG))[1], expected, 1e-6)
    _, double = gradient(tf.constant(IMG, tf.float64))
    assert double.dtype == "float64"
    close(double, np.asarray(expected, "float64"), 1e-6)


def test_gradient_under_a_persistent_tape():
    model = dense_net()
    clone, explain = lrp_tf.clone_with_rules(model, rules.ZPlus()), lrp_tf.Explainer(model, rules.ZPlus())
    x = tf.constant(VEC)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = clone(x)
        top = tf.reduce_sum(z[:, 1])
    for k in range(3):
        start = np.eye(3, dtype="float32")[[k] * 3] * np.asarray(z)
        close(tape.gradient(z, x, output_gradients=tf.constant(start)), explain(x, k), 1e-6)
    close(tape.gradient(top, x), explain(x, 1, start="one"), 1e-6)
    assert tape.gradient(z, model.trainable_variables) == [None] * 4


def test_gradient_through_what_stands_before_and_behind_the_clone():
    clone = lrp_tf.clone_with_rules(dense_net(), rules.Epsilon())
    x, scale = tf.constant(VEC), tf.Variable(2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(clone(x * scale) * 3)
    close(tape.gradient(total, x), 2 * 3 * lrp_tf.Explainer(clone.graph.model, rules.Epsilon())(
        2 * VEC, start=np.ones((3, 3))), 1e-5)  # fmt: skip


def test_gradient_of_a_clone_with_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = randomize(keras.Model({"b": b, "a": a}, kl.Dense(2)(kl.Concatenate()([b, a]))))
    clone, explain = lrp_tf.clone_with_rules(model), lrp_tf.Explainer(model)
    x = {"b": tf.constant(VEC), "a": tf.constant(2 * VEC)}
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = clone(x)
    close(tape.gradient(z, x, output_gradients=tf.ones((3, 2))), explain(x, start=np.ones((3, 2))), 1e-6)


def test_clone_is_called_on_arrays():
    model = dense_net()
    close(lrp_tf.clone_with_rules(model)(VEC), model(VEC), 1e-6)


def registry_size():
    return len(ops._gradient_registry._registry)


def test_explainers_leave_nothing_in_the_gradient_registry():
    model = dense_net()

    def use():
        lrp_tf.Explainer(model)(VEC)
        clone, x = lrp_tf.clone_with_rules(model), tf.constant(VEC)
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        tape.gradient(z, x)

    use()
    before = registry_size()
    for _ in range(30):
        use()
    assert registry_size() == before


def test_dropped_explainers_are_freed():
    model = dense_net()

    def alive():
        gc.collect()
        return sum(isinstance(thing, Clone) for thing in gc.get_objects())

    before = alive()
    for _ in range(5):
        lrp_tf.Explainer(model).explain(VEC)
    assert alive() == before


def test_one_entry_a_trace_at_most_under_the_tape_of_a_function():
    clone = lrp_tf.clone_with_rules(image_net())

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        return tape.gradient(z, x)

    before = registry_size()
    gradient(tf.constant(IMG))
    assert registry_size() <= before + 1

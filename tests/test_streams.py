"""Streams, large batches, ranked targets and the relevance filter: the same relevance, asked for otherwise."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, image_net, images, raises, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf.core.numerics import keep_largest


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = kl.Conv2D(4, 3, activation="relu", name="second")(x)
    return randomize(keras.Model(inputs, kl.Dense(5, activation="softmax", name="logits")(kl.Flatten()(x))))


@pytest.fixture(scope="module")
def explainer(model):
    return lrp_tf.Explainer(model, "epsilon_plus")


X = images(7, dtype="float32")
LABELS = np.arange(7) % 5
TIGHT = 1e-5


# --- ranked targets ----------------------------------------------------------------------------


def test_top_k_is_the_order_of_the_logits(explainer):
    found = explainer.explain(X, "topK:3")
    order = np.argsort(-found.logits.numpy(), axis=1)[:, :3]
    np.testing.assert_array_equal(found.target, order)
    close(found.relevance, explainer(X, order), TIGHT)
    assert found.conservation.start.shape == (7, 3)


def test_targets_may_be_mixed_for_all_samples(explainer):
    found = explainer.explain(X, ["top1", 2, "topK:2"])
    order = np.argsort(-found.logits.numpy(), axis=1)
    expected = np.stack([order[:, 0], np.full(7, 2), order[:, 0], order[:, 1]], axis=1)
    np.testing.assert_array_equal(found.target, expected)
    close(explainer(X, "top1"), explainer(X), TIGHT)


def test_ranks_of_a_single_unit():
    inputs = keras.Input((4,))
    explainer = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Dense(1, activation="sigmoid")(inputs))))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    found = explainer.explain(x, "topK:2")
    top = (found.logits.numpy()[:, 0] >= 0).astype(int)
    np.testing.assert_array_equal(found.target, np.stack([top, 1 - top], axis=1))
    close(found.relevance, explainer(x, np.stack([top, 1 - top], axis=1)), TIGHT)


@pytest.mark.parametrize("target", ["topK:6", "topK:0", "top", "first", ["top1", 5], ["top1", 1.5], ["top1", -1]])
def test_wrong_ranks_are_refused(explainer, target):
    with pytest.raises((ValueError, TypeError), match=r"topK|out of range"):
        explainer(X, target)


def test_ranks_need_classes():
    inputs = keras.Input((8, 8, 2))
    explainer = lrp_tf.Explainer(randomize(keras.Model(inputs, kl.Conv2D(3, 1)(inputs))))
    with pytest.raises(ValueError, match="without a top class"):
        explainer(X, "topK:2")


# --- large batches -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 3, LABELS, "topK:2", np.stack([LABELS, LABELS], 1)], ids=str)
def test_parts_of_a_batch_give_what_the_whole_gives(explainer, target):
    whole = explainer.explain(X, target, layers=["first"])
    parts = explainer.explain(X, target, layers=["first"], max_batch=3)
    close(parts.relevance, whole.relevance, TIGHT)
    close(parts.layers["first"], whole.layers["first"], TIGHT)
    close(parts.output, whole.output, TIGHT)
    close(parts.conservation.bias, whole.conservation.bias, TIGHT)
    np.testing.assert_array_equal(parts.target, whole.target)
    close(explainer(X, target, max_batch=3), whole.relevance, TIGHT)


def test_parts_with_a_start_of_ones_own(explainer, model):
    start = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    small = lrp_tf.Explainer(model, "epsilon_plus", max_batch=2)
    close(small(X, start=start), explainer(X, start=start), TIGHT)
    assert small.explain(X, start=start).target is None


def test_report_of_parts_is_the_report_of_the_whole(explainer, model):
    whole = explainer.report(X, print_fn=None)
    parts = lrp_tf.Explainer(model, "epsilon_plus", max_batch=2).report(X, print_fn=None)
    assert parts.columns == whole.columns
    close(np.array(parts.column("bias")), np.array(whole.column("bias")), TIGHT)
    close(np.array(parts.column("relevance out")), np.array(whole.column("relevance out")), TIGHT)


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_wrong_sizes_are_refused(explainer, model, size):
    assert lrp_tf.Explainer(model, max_batch=np.int64(2)).max_batch == 2
    for call in (
        lambda: lrp_tf.Explainer(model, max_batch=size),
        lambda: explainer(X, max_batch=size),
        lambda: explainer.map([X], batch=size),
    ):
        with pytest.raises(ValueError, match="expects a number of samples"):
            call()


# --- streams -----------------------------------------------------------------------------------


def streams():
    whole = tf.data.Dataset.from_tensor_slices(X)
    labelled = tf.data.Dataset.from_tensor_slices((X, LABELS))
    return {
        "samples": (whole, 3),
        "batches": (whole.batch(3), None),
        "labelled": (labelled, 3),
        "labelled batches": (labelled.batch(3), None),
        "list": (list(X), 3),
        "generator": ((x for x in X), 3),
        "labelled list": (list(zip(X, LABELS, strict=True)), 3),
        "arrays": ([X[:3], X[3:6], X[6:]], None),
    }


@pytest.mark.parametrize("name", streams())
def test_streams_give_what_one_call_gives(explainer, name):
    dataset, batch = streams()[name]
    found = list(explainer.map(dataset, batch=batch))
    assert [len(r) for r in found] == [3, 3, 1]
    close(np.concatenate(found), np.asarray(explainer(X)), TIGHT)


def test_a_stream_of_explanations_with_targets_from_labels(explainer):
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS))
    pairs = list(explainer.map(dataset, lambda e: e[1], batch=4, full=True, layers=["first"], with_inputs=True))
    assert [len(element[0]) for element, _ in pairs] == [4, 3]
    np.testing.assert_array_equal(np.concatenate([e.target for _, e in pairs]), LABELS)
    assert pairs[0][1].layers["first"].shape == (4, 6, 6, 4)


def test_streams_of_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    model = randomize(keras.Model([a, b], kl.Dense(2)(kl.Concatenate()([a, b]))))
    explainer = lrp_tf.Explainer(model)
    x = [np.random.default_rng(i).normal(size=(5, n)).astype("float32") for i, n in enumerate((4, 3))]
    for dataset in (
        tf.data.Dataset.from_tensor_slices(tuple(x)),
        tf.data.Dataset.from_tensor_slices((tuple(x), np.arange(5))),
    ):
        first, second = next(explainer.map(dataset, batch=5))
        close([first, second], list(explainer(x)), TIGHT)


def test_samples_may_be_plain_lists():
    """A list of numbers is one sample, and no structure: three samples of three features must not be transposed."""
    inputs = keras.Input((3,))
    model = randomize(keras.Model(inputs, kl.Dense(3)(inputs)))
    x = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
    labels = [[0, 1], [2, 1], [1, 0]]
    for method in (lrp_tf.Explainer(model, "epsilon"), lrp_tf.gradients.InputTimesGradient(model)):
        close(next(method.map(x.tolist(), 1, batch=3)), np.asarray(method(x, 1)), TIGHT)
        pairs = list(zip(x.tolist(), labels, strict=True))
        close(next(method.map(pairs, lambda e: e[1], batch=3)), np.asarray(method(x, labels)), TIGHT)
    other = keras.Input((2,))
    model = randomize(keras.Model([inputs, other], kl.Dense(3)(kl.Concatenate()([inputs, other]))))
    explainer = lrp_tf.Explainer(model, "epsilon")
    found = next(explainer.map([[row.tolist(), row[:2].tolist()] for row in x], 1, batch=3))
    close(list(found), list(explainer([x, x[:, :2]], 1)), TIGHT)


def test_a_stream_is_read_as_it_is_asked_for(explainer):
    """Constant memory: of an endless stream only what is due is read."""
    read = []

    def endless():
        while True:
            read.append(1)
            yield X[0]

    stream = explainer.map(endless(), batch=2)
    next(stream)
    next(stream)
    assert len(read) == 4


def test_wrong_streams_are_refused(explainer):
    for method in (explainer, lrp_tf.gradients.Gradient(explainer)):
        with pytest.raises(TypeError, match="iterable"):
            method.map(5)
    with raises(ValueError, "of one shape", r"\(4, 4, 2\)", "Remedy"):
        next(explainer.map([X[0], X[0, :4, :4]], batch=2))
    with pytest.raises(ValueError, match='"output" or "one"'):
        explainer.map([X], start=np.ones(3))
    with raises(ValueError, "wrong shape", "Expected"):
        next(explainer.map([X[:, :4]]))


def test_batches_where_samples_are_expected_are_refused_with_a_hint(explainer):
    batches = [X[:2], X[2:3]]
    hint = r"map\(batch=4\) .*which is a batch already. Remedy: leave batch out, or dataset.unbatch\(\)"
    with pytest.raises(ValueError, match=hint):
        next(explainer.map(batches, batch=4))
    with pytest.raises(ValueError, match=hint):
        next(explainer.map([(x, np.zeros(len(x))) for x in batches], batch=4))
    for dataset in (
        tf.data.Dataset.from_tensor_slices(X).batch(2),
        tf.data.Dataset.from_tensor_slices((X, X)).batch(2),
    ):
        with pytest.raises(ValueError, match=hint):
            explainer.map(dataset, batch=4)
        found = np.concatenate(list(explainer.map(dataset.unbatch(), batch=4)))
        np.testing.assert_allclose(found, explainer(X), atol=1e-6)


# --- relevance filter --------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_entries_stay(fraction, dtype):
    values = np.random.default_rng(0).normal(size=(3, 4, 25)).astype(dtype)
    found = keep_largest(tf.constant(values), fraction, tf.constant(3)).numpy().reshape(3, -1)
    for row, kept in zip(values.reshape(3, -1), found, strict=True):
        count = max(1, int(np.ceil(fraction * 100 - 1e-9)))
        largest = np.argsort(-np.abs(row))[:count]
        np.testing.assert_array_equal(np.flatnonzero(kept), np.sort(largest))
        np.testing.assert_array_equal(kept[largest], row[largest])


def test_ties_zeros_and_infinities():
    values = tf.constant([[0.0, 0.0, 0.0, 0.0], [2.0, -2.0, 1.0, 2.0], [np.nan, 1.0, np.inf, 0.0]])
    found = keep_largest(values, 0.5, tf.constant(3)).numpy()
    np.testing.assert_array_equal(found[:2], [[0, 0, 0, 0], [2, -2, 0, 2]])
    assert np.isnan(found[2, 0])  # what is not finite is not hidden
    assert np.isinf(found[2, 2])


def test_a_filter_makes_maps_sparser_and_says_what_it_drops(model, explainer):
    plain = explainer.explain(X)
    strict = lrp_tf.Explainer(model, "epsilon_plus", relevance_filter=0.05)
    found = strict.explain(X)
    close(found.output, plain.output, TIGHT)
    assert (np.asarray(found.relevance) != 0).mean() < 0.5 * (np.asarray(plain.relevance) != 0).mean()
    assert np.abs(found.conservation.unexplained).max() < 1e-4
    assert np.abs(found.conservation.other).max() > 0.1
    report = strict.report(X, print_fn=None)
    assert report.columns[-3:] == ("filter", "unexplained", "NaN/Inf")
    rows = dict(zip(report.column("layer"), report.column("filter"), strict=True))
    assert rows["logits"] == 0  # the start is the caller's
    assert rows["second"] != 0
    close(np.array(rows["total"]), np.array(rows["first"] + rows["second"]), TIGHT)
    assert max(map(abs, report.column("unexplained"))) < 1e-4
    assert "filter" not in explainer.report(X, print_fn=None).columns


def test_a_filter_by_hand():
    """One layer after the other, by the plain Explainer: what reaches a layer is cut before it goes on."""
    model = randomize(keras.Sequential([keras.Input((6,)), kl.Dense(8, name="low"), kl.Dense(3, name="top")]))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    reached = lrp_tf.Explainer(model, "epsilon").explain(x, layers=["low"]).layers["low"].numpy()
    threshold = np.sort(np.abs(reached), axis=1)[:, -2:-1]  # a quarter of 8
    below = lrp_tf.Explainer(keras.Model(model.inputs, model.get_layer("low").output), "epsilon")
    expected = below(x, start=np.where(np.abs(reached) >= threshold, reached, 0))
    close(lrp_tf.Explainer(model, "epsilon", relevance_filter=0.25)(x), expected, TIGHT)


def test_a_filter_for_several_targets_and_in_the_clone(model):
    strict = lrp_tf.Explainer(model, "epsilon_plus", relevance_filter=0.2)
    many = strict(X, [[0, 3]] * 7)
    close(many[:, 1], strict(X, 3), TIGHT)
    clone = lrp_tf.clone_with_rules(model, "epsilon_plus", relevance_filter=0.2)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = clone(x)
    close(tape.gradient(z, x, output_gradients=tf.one_hot([3] * 7, 5) * z), strict(X, 3), TIGHT)


def test_all_is_no_filter_and_wrong_fractions_are_refused(model, explainer):
    close(lrp_tf.Explainer(model, "epsilon_plus", relevance_filter=1.0)(X), explainer(X), TIGHT)
    for fraction in (0, -0.1, 1.5, "much", True):
        with pytest.raises(ValueError, match="relevance_filter expects"):
            lrp_tf.Explainer(image_net(), relevance_filter=fraction)


def test_the_former_name_of_full_warns(explainer):
    with pytest.warns(DeprecationWarning, match="full"):
        stream = explainer.map([X], explain=True)
    close(next(stream).relevance, explainer(X), TIGHT)

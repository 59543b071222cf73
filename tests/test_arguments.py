"""Inputs, targets and start relevance that do not fit: errors that name the thing, what was expected and the remedy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import dense_net, image_net, images, raises, randomize, vectors
from keras import layers as kl

import lrp_tf

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


# --- targets and start -------------------------------------------------------------------------


@pytest.mark.parametrize("target", [3, -1, [0, 1, 3], [0, -2, 1], [[0, 1], [2, 3], [0, 0]], 2**40])
def test_target_out_of_range(target):
    with raises(ValueError, "target out of range", "Expected 0 to 2", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, target)


@pytest.mark.parametrize("target", [2, [0, 1, 2]])
def test_target_of_a_single_unit_out_of_range(target):
    with raises(ValueError, "target out of range", "Expected 0 to 1"):
        lrp_tf.Explainer(dense_net(classes=1))(VEC, target)


@pytest.mark.parametrize("target", [[0, 1], [[0, 1]], [[[0]], [[1]], [[2]]], np.zeros((3, 0), int)])
def test_target_of_the_wrong_shape(target):
    with raises(ValueError, "target has the wrong shape", r"Expected an integer, \[B\]", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, target)


@pytest.mark.parametrize("target", [1.0, [0.0, 1.0, 2.0], "cat", [True, False, True], np.float32(1), [None]])
def test_target_that_is_no_integer(target):
    with raises(TypeError, "target must be integers", "Expected an integer", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, target)


def test_ragged_target():
    with raises((TypeError, ValueError), "target"):
        lrp_tf.Explainer(dense_net())(VEC, [[0, 1], [2], [0]])


def test_start_and_target_exclude_each_other():
    with raises(ValueError, "Expected no target"):
        lrp_tf.Explainer(dense_net())(VEC, 1, start=np.ones((3, 3)))


@pytest.mark.parametrize("start", ["ones", "logit", ""])
def test_unknown_start(start):
    with raises(ValueError, "start must be", '"output", "one"', "Received"):
        lrp_tf.Explainer(dense_net())(VEC, start=start)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3), (1, 3), (3, 3, 1), (2, 2, 3), (3, 1, 3, 1)])
def test_start_of_the_wrong_shape(shape):
    expected = r"\(3, None, 3\)" if len(shape) == 3 else r"\(3, 3\)"  # k starts for each sample, or one
    with raises(ValueError, "start has the wrong shape", f"Expected: {expected}", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, start=np.ones(shape))


@pytest.mark.parametrize("target", [None, 0, [0, 1]])
def test_output_of_higher_rank_without_an_index(target):
    model = randomize(keras.Sequential([keras.Input((8, 8, 2)), kl.Conv2D(4, 3, padding="same")]))
    with raises((TypeError, ValueError), r"\(None, 8, 8, 4\)", "3 integers", "start="):
        lrp_tf.Explainer(model)(IMG, target)


def test_index_out_of_range():
    model = randomize(keras.Sequential([keras.Input((8, 8, 2)), kl.Conv2D(4, 3, padding="same")]))
    with raises(ValueError, "target out of range", "axis 2", "Expected 0 to 7"):
        lrp_tf.Explainer(model)(IMG, [0, 8, 0])


@pytest.mark.parametrize("compiled", [True, False])
def test_index_out_of_range_where_only_the_call_knows_the_size(compiled):
    model = randomize(keras.Sequential([keras.Input((None, None, 2)), kl.Conv2D(4, 3, padding="same")]))
    with raises(ValueError, "target out of range"):
        lrp_tf.Explainer(model)(IMG, tf.constant([0, 8, 0]) if compiled else [0, 8, 0])


def test_unknown_layer_name():
    with raises(ValueError, "'convv'", "no layer", "conv"):
        lrp_tf.Explainer(image_net()).explain(IMG, layers=["convv"])


# --- inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (3, 9, 8, 2), (3, 128), (3, 8, 8, 2, 1), ()])
def test_input_of_the_wrong_shape(shape):
    with raises(ValueError, "photo", "wrong shape", r"Expected: \(None, 8, 8, 2\)", "Received: \\(.*\\)"):
        lrp_tf.Explainer(image_net())(np.ones(shape))


@pytest.mark.parametrize("make", [np.ones, tf.ones])
def test_forgotten_batch_axis(make):
    with raises(ValueError, "photo", "batch axis is missing", r"photo\[None\]", r"Received: \(8, 8, 2\)"):
        lrp_tf.Explainer(image_net())(make((8, 8, 2)))
    with raises(ValueError, "batch axis is missing"):
        lrp_tf.Explainer(dense_net())(make(4))


@pytest.mark.parametrize("size", [8, None])
def test_missing_channel_axis(size):
    model = keras.Sequential([keras.Input((size, size, 1), name="photo"), kl.Conv2D(1, 3), kl.GlobalMaxPooling2D()])
    with raises(ValueError, "photo", "channel axis is missing", r"\[\.\.\., None\]", r"Received: \(3, 8, 8\)"):
        lrp_tf.Explainer(model)(np.ones((3, 8, 8)))


def test_empty_batch():
    for x in (np.ones((0, 8, 8, 2)), tf.ones((0, 8, 8, 2))):
        with raises(ValueError, "photo", "empty batch", "Expected at least one sample", r"\(0, 8, 8, 2\)"):
            lrp_tf.Explainer(image_net())(x)


@pytest.mark.parametrize("x", [None, "cat.png", [["a"] * 4], np.ones((3, 4), complex), tf.constant([["a"] * 4])])
def test_input_that_is_no_array_of_numbers(x):
    with raises(TypeError, "numbers", "Received"):
        lrp_tf.Explainer(dense_net())(x)


@pytest.mark.parametrize("x", [{"a": VEC}, {"a": VEC, "c": VEC}, [VEC], [VEC, VEC, VEC], VEC])
def test_inputs_in_another_structure(x):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    for inputs in ({"a": a, "b": b}, [a, b]):
        model = keras.Model(inputs, kl.Dense(2)(a + b))
        with raises(ValueError, "Expected inputs in the structure", r"\(None, 4\)", "Received"):
            lrp_tf.Explainer(model)(x)


def test_inputs_of_different_batch_sizes():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    with raises(ValueError, "same batch size", "'a': 3", "'b': 2"):
        lrp_tf.Explainer(keras.Model([a, b], kl.Dense(2)(a + b)))([VEC, VEC[:2]])

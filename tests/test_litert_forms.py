"""The forms that LiteRT's files compute in, against TensorFlow's own operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_tf.exporting.lite import convolutions, kernels, masks
from lrp_tf.exporting.lite.folding import fold_scales
from lrp_tf.exporting.lite.kernels import COLUMNS, ROWS, Kernels
from lrp_tf.exporting.lite.nodes import Nodes, Value
from lrp_tf.exporting.lite.pooling import avg_pool_grad, max_pool_grad

sides = st.tuples(st.integers(1, 3), st.integers(1, 3))
steps = st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2), (3, 2)])
images = st.tuples(st.integers(3, 9), st.integers(3, 9))
paddings = st.sampled_from(["SAME", "VALID"])


def image(side: tuple[int, int], channels: int, seed: int, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (1, *side, channels)
    return (rng.integers(-1, 2, shape) if ties else rng.normal(size=shape)).astype("float32")


@settings(deadline=None, max_examples=60)
@given(sides, steps, paddings, images, st.booleans(), st.integers(0, 9))
def test_max_pooling_goes_back_as_in_tensorflow_to_the_bit(
    size: Any, strides: Any, padding: str, side: Any, ties: bool, seed: int
) -> None:
    x = image(side, 2, seed, ties)  # ties: three values alone, so that most windows have several maxima
    y = tf.nn.max_pool2d(x, size, strides, padding)
    r = image(y.shape[1:3], 2, seed + 10)
    window = {"ksize": [1, *size, 1], "strides": [1, *strides, 1], "padding": padding}
    want = tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=r, **window)
    np.testing.assert_array_equal(max_pool_grad(tf.constant(x), y, tf.constant(r), size, strides, padding), want)


@settings(deadline=None, max_examples=30)
@given(sides, steps, paddings, images, st.integers(0, 9))
def test_average_pooling_goes_back_as_in_tensorflow(
    size: Any, strides: Any, padding: str, side: Any, seed: int
) -> None:
    x = image(side, 2, seed)
    r = image(tf.nn.avg_pool2d(x, size, strides, padding).shape[1:3], 2, seed)
    window = {"ksize": [1, *size, 1], "strides": [1, *strides, 1], "padding": padding}
    want = tf.raw_ops.AvgPoolGrad(orig_input_shape=x.shape, grad=r, **window)
    np.testing.assert_allclose(avg_pool_grad(x.shape, tf.constant(r), size, strides, padding), want, atol=2e-6)


@settings(deadline=None, max_examples=30)
@given(sides, st.integers(1, 3), paddings, images, st.integers(1, 2), st.integers(0, 9))
def test_depthwise_goes_back_as_in_tensorflow(
    size: Any, stride: int, padding: str, side: Any, multiplier: int, seed: int
) -> None:
    x, w = image(side, 3, seed), image(size, 3 * multiplier, seed).reshape(*size, 3, multiplier)
    attributes = {"strides": [1, stride, stride, 1], "padding": padding, "data_format": "NHWC", "dilations": [1] * 4}
    g = image(tf.raw_ops.DepthwiseConv2dNative(input=x, filter=w, **attributes).shape[1:3], 3 * multiplier, seed)
    want = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(input_sizes=x.shape, filter=w, out_backprop=g, **attributes)
    got = convolutions.depthwise_backward(tf.constant(g), tf.constant(w), attributes, x.shape)
    np.testing.assert_allclose(got, want, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(sides, steps, paddings, images, st.sampled_from(["rows", "columns", "computed"]), st.integers(0, 9))
def test_convolutions_of_kernels_that_are_held_or_computed(
    size: Any, strides: Any, padding: str, side: Any, how: str, seed: int
) -> None:
    x, raw = image(side, 3, seed), image(size, 15, seed).reshape(*size, 3, 5)
    nodes = Nodes()
    leaf = nodes.constant(raw)
    value = Value(nodes.apply("Relu", {}, [leaf], [raw.shape]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SMALL", 0)
        patch.setattr(convolutions, "SMALL", 0)
        held = Kernels()
        held.wish(leaf, ROWS, 0)
        held.wish(value, ROWS if how == "rows" else COLUMNS, 1)
        total = held.settle(10**9 if how != "computed" else 0)
        assert total == 4 * raw.size * (1 if how == "computed" else 2)
        attributes = {"strides": [1, *strides, 1], "padding": padding, "data_format": "NHWC", "dilations": [1] * 4}
        want = tf.nn.conv2d(x, np.maximum(raw, 0), strides, padding)
        g = image(want.shape[1:3], 5, seed)

        def both() -> tuple[tf.Tensor, tf.Tensor]:
            back = convolutions.backward(tf.constant(g), value, attributes, x.shape, held)
            return convolutions.forward(tf.constant(x), value, attributes, held), back

        held.begin([])
        both()
        held.begin([tf.constant(one.array.reshape(one.shape)) for one in held.arrays])
        z, back = both()
    np.testing.assert_allclose(z, want, atol=1e-5)
    want_back = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=x.shape, filter=np.maximum(raw, 0), out_backprop=g, strides=[1, *strides, 1], padding=padding
    )
    np.testing.assert_allclose(back, want_back, atol=1e-5)


@pytest.mark.parametrize("comparison", ["Greater", "GreaterEqual", "Less", "LessEqual"])
@pytest.mark.parametrize("kind", ["value or 0", "0 or value", "two numbers"])
def test_choices_by_sign_are_exact(comparison: str, kind: str) -> None:
    z = np.array([[-3e38, -1.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1.0, 3e38]], "float32")
    r = np.arange(1, 10, dtype="float32")[None] / 7
    nodes = Nodes()
    shape = z.shape
    inputs = [Value(nodes.input(name, shape, tf.float32)) for name in "zr"]
    zero, small = nodes.constant(np.float32(0)), nodes.constant(np.float32(1e-6))
    condition = Value(nodes.apply(comparison, {}, [inputs[0], zero], [shape]))
    yes, no = {
        "value or 0": (inputs[1], nodes.constant(np.zeros(shape, "float32"))),
        "0 or value": (nodes.constant(np.zeros(shape, "float32")), inputs[1]),
        "two numbers": (small, nodes.constant(np.float32(-1e-6))),
    }[kind]
    node = nodes.apply("SelectV2", {}, [condition, yes, no], [shape])

    def tensor(value: Value) -> tf.Tensor:
        for known, array in zip(inputs, (z, r), strict=True):
            if value == known:
                return tf.constant(array)
        return tf.constant(value.array)

    found = masks.chosen(node, tensor)
    mask = {"Greater": z > 0, "GreaterEqual": z >= 0, "Less": z < 0, "LessEqual": z <= 0}[comparison]
    assert found is not None
    np.testing.assert_array_equal(found, np.where(mask, tensor(yes), tensor(no)))


def test_choices_that_arithmetic_would_change_stay() -> None:
    nodes = Nodes()
    z = Value(nodes.input("z", (1, 4), tf.float32))
    condition = Value(nodes.apply("Greater", {}, [z, nodes.constant(np.float32(0))], [(1, 4)]))
    numbers = [nodes.constant(np.float32(n)) for n in (1e-8, 1.0)]
    assert masks.chosen(nodes.apply("SelectV2", {}, [condition, *numbers], [(1, 4)]), lambda v: None) is None
    one = nodes.constant(np.float32(1))
    condition = Value(nodes.apply("Greater", {}, [z, one], [(1, 4)]))
    assert masks.chosen(nodes.apply("SelectV2", {}, [condition, z, one], [(1, 4)]), lambda v: None) is None


def test_scales_move_into_kernels_that_are_then_the_same() -> None:
    nodes, rng = Nodes(), np.random.default_rng(0)
    w, a = (nodes.constant(rng.normal(size=shape).astype("float32")) for shape in ((9, 100), (100,)))
    x = Value(nodes.input("x", (1, 9), tf.float32))
    plain = {"transpose_a": False, "transpose_b": False}
    scaled = nodes.apply("Mul", {}, [w, a], [w.shape])
    forward = nodes.apply("MatMul", plain, [x, w], [(1, 100)])
    behind = nodes.apply("Mul", {}, [Value(forward), a], [(1, 100)])
    between = nodes.apply("Tanh", {}, [Value(behind)], [(1, 100)])
    again = nodes.apply("Mul", {}, [Value(between), a], [(1, 100)])
    back = nodes.apply("MatMul", plain | {"transpose_b": True}, [Value(again), w], [(1, 9)])
    (found,) = fold_scales(nodes, [Value(back)])
    assert found.node.inputs[1].node is scaled
    (arrived, _) = found.node.inputs
    assert arrived.node is between
    assert between.inputs[0].node.type == "MatMul"
    assert between.inputs[0].node.inputs[1].node is scaled

"""Operations, folding, bounds, padding, pooling and sums against exact values in float64."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import jacobian
from helpers.exactness import HIGH, LAYERS, LOW, RULES, expected, gradient, gradient_of_clone, layer_and_data

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine.clone import Clone


class ByOperation(keras.layers.Layer):
    """A layer of nobody's: an operation of keras.ops with a kernel, and a sum with a bias."""

    def __init__(self, apply: Callable, weights: list[np.ndarray], **options) -> None:
        super().__init__(**options)
        self.apply, self.values = apply, weights

    def build(self, shape: tuple) -> None:
        self.w, self.b = (self.add_weight(shape=v.shape, name=n) for n, v in zip("wb", self.values, strict=True))
        self.set_weights(self.values)

    def call(self, x):
        return self.apply(x, self.w) + self.b


# name -> (layer that computes the same, operation)
OPERATIONS = {
    "matmul": ("dense", keras.ops.matmul),
    "@ on sequences": ("dense on sequences", lambda x, w: x @ w),
    "dot": ("dense on sequences", keras.ops.dot),
    "tensordot": ("dense on sequences", lambda x, w: keras.ops.tensordot(x, w, axes=1)),
    "einsum": ("einsum to a lower rank", lambda x, w: keras.ops.einsum("abcd,cde->abe", x, w)),
    "einsum, kernel first": ("einsum to a higher rank", lambda x, w: keras.ops.einsum("cde,abc->abde", w, x)),
    "conv": ("conv same stride 2 dilation 1 groups 1", lambda x, w: keras.ops.conv(x, w, 2, "same")),
    "channels_first conv": (
        "channels_first conv2d same stride 2",
        lambda x, w: keras.ops.conv(x, w, (2, 2), "same", data_format="channels_first"),
    ),
    "conv3d": ("conv3d same stride 2", lambda x, w: keras.ops.conv(x, w, 2, "same")),
    "depthwise": ("depthwise2d same stride 2", lambda x, w: keras.ops.depthwise_conv(x, w, 2, "same")),
    "depthwise1d": ("depthwise1d valid dilation 2", lambda x, w: keras.ops.depthwise_conv(x, w, dilation_rate=2)),
    "transpose": ("transpose2d same stride 2", lambda x, w: keras.ops.conv_transpose(x, w, 2, "same")),
    "transpose, output_padding": (
        "transpose1d valid stride 3 output_padding 1",
        lambda x, w: keras.ops.conv_transpose(x, w, 3, output_padding=1),
    ),
}


@pytest.mark.parametrize("sign", ["signed", pytest.param("nonnegative", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.usefixtures("seldom_compiled")
def test_operation_with_a_kernel_is_the_layer(name: str, sign: str) -> None:
    """The kernel is a variable of a custom layer, and `+ self.b` is the bias: every rule gives what the layer gives."""
    twin, apply = OPERATIONS[name]
    model, layer, x, start = layer_and_data(twin, sign, "positive", "float64")
    kernel, bias = layer.get_weights()
    if "channels_first" in twin:
        bias = bias[:, None, None]
    inputs = keras.Input(x.shape[1:], dtype="float64")
    tensor = keras.layers.ReLU(dtype="float64")(inputs) if sign == "nonnegative" else inputs
    custom = keras.Model(inputs, ByOperation(apply, [kernel, bias], dtype="float64")(tensor))
    graph, other = (lrp_tf.clone_with_rules(m, rules.Epsilon()).graph for m in (custom, model))
    assert sum(step.linear is not None for step in graph.steps) == 1
    assert not any(step.kind == "ops.Add" for step in graph.steps)
    for rule, _, _ in RULES.values():
        composite = composites.get(rule)
        found, want = gradient(Clone(graph, composite), x, start), gradient(Clone(other, composite), x, start)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-12 * np.abs(want).max(), err_msg=str(rule))


FOLDING = [
    "dense",
    "conv same stride 2 dilation 1 groups 2",
    "conv1d same stride 2 groups 3",
    "conv3d same stride 2",
    "depthwise1d same stride 2",
    "depthwise2d same stride 2",
]


@pytest.mark.parametrize("side", ["behind", "ahead"])
@pytest.mark.parametrize("name", FOLDING)
def test_batch_norm_folds_exactly(name: str, side: str, rng: np.random.Generator) -> None:
    """The layer with a folded BatchNormalization computes what both compute, and gives what their matrix gives."""
    shape, make = LAYERS[name]
    layer, norm = make(dtype="float64"), keras.layers.BatchNormalization(dtype="float64")
    inputs = keras.Input(shape, dtype="float64")
    outputs = norm(layer(inputs)) if side == "behind" else layer(norm(inputs))
    model = keras.Model(inputs, outputs)
    for weights in (layer, norm):
        weights.set_weights(
            [rng.uniform(0.5, 2.0, w.shape) * rng.choice([-1, 1], w.shape) for w in weights.get_weights()]
        )
    norm.moving_variance.assign(rng.uniform(0.5, 2.0, norm.moving_variance.shape))
    x, start = rng.normal(size=(2, *shape)), rng.normal(size=(2, *model.output_shape[1:]))
    clone = lrp_tf.clone_with_rules(model, rules.ZPlus())
    assert len(clone.graph.steps) == 1
    np.testing.assert_allclose(clone(x), model(x), rtol=1e-10, atol=1e-10)
    at_zero = model(np.zeros((1, *shape))).numpy()
    w = jacobian.dense_matrix(lambda basis: model(basis) - at_zero, shape)
    want = [
        jacobian.relevance("ZPlus", a.ravel(), w, at_zero.ravel(), r.ravel()) for a, r in zip(x, start, strict=True)
    ]
    found = gradient_of_clone(model, rules.ZPlus(), x, start)
    np.testing.assert_allclose(found.reshape(2, -1), want, rtol=0, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("bounds", ["numbers", "channels", "arrays"])
def test_zbox_bounds(bounds: str, rng: np.random.Generator) -> None:
    """Bounds as numbers, per channel and per entry; padding sees 0 for x, low and high."""
    model, layer, x, start = layer_and_data("conv same stride 2 dilation 1 groups 1", "signed", "positive", "float64")
    shape = x.shape[1:]
    low, high = {
        "numbers": (LOW, HIGH),
        "channels": (rng.uniform(-3, -2, 4), rng.uniform(2, 3, 4)),
        "arrays": (rng.uniform(-3, -2, shape), rng.uniform(2, 3, shape)),
    }[bounds]
    found = gradient_of_clone(model, rules.ZBox(low, high), x, start)
    want = expected(layer, "ZBox", x, start, low=np.broadcast_to(low, shape), high=np.broadcast_to(high, shape))
    assert np.abs(found - want).max() <= 1e-10 * np.abs(want).max()


def test_bounds_are_carried_through_rescaling() -> None:
    """A z^B preset on a model that rescales equals ZBox on the bare layer with the rescaled bounds."""
    inputs = keras.Input((6, 6, 3), dtype="float64")
    scaled = keras.layers.Rescaling(-2.0 / 255, 1.0, dtype="float64")(inputs)  # turns the box around
    conv = keras.layers.Conv2D(4, 3, dtype="float64", bias_initializer="normal")
    tail = [keras.layers.Flatten(dtype="float64"), keras.layers.Dense(3, dtype="float64")]
    model = keras.Model(inputs, tail[1](tail[0](conv(scaled))))
    bare = keras.Model(other := keras.Input((6, 6, 3), dtype="float64"), tail[1](tail[0](conv(other))))
    x = np.random.default_rng(0).uniform(0, 255, (2, 6, 6, 3))
    carried = lrp_tf.Explainer(model, composites.get("epsilon_gamma_box", low=0, high=[255, 200, 255]))
    low, high = [-1.0, 1.0 - 400 / 255, -1.0], [1.0, 1.0, 1.0]
    own = lrp_tf.Explainer(bare, composites.get("epsilon_gamma_box", low=low, high=high))
    np.testing.assert_allclose(carried(x, target=1), own(x * (-2 / 255) + 1, target=1), rtol=1e-9, atol=1e-12)
    without = lrp_tf.Explainer(bare, composites.get("epsilon_gamma_box", low=0, high=255))
    assert not np.allclose(carried(x, target=1), without(x * (-2 / 255) + 1, target=1), rtol=1e-3)


def test_padding_layer_is_absorbed_exactly() -> None:
    """ZeroPadding2D + valid convolution gives what "same" gives, under every rule."""
    conv = keras.layers.Conv2D(5, 3, padding="same", dtype="float64", bias_initializer="normal")
    same = keras.Model(inputs := keras.Input((6, 6, 2), dtype="float64"), conv(inputs))
    valid = keras.layers.Conv2D(5, 3, dtype="float64")
    padded = keras.layers.ZeroPadding2D(1, dtype="float64")(inputs)
    model = keras.Model(inputs, valid(padded))
    valid.set_weights(conv.get_weights())
    rng = np.random.default_rng(3)
    x, start = rng.normal(size=(2, 6, 6, 2)), rng.normal(size=(2, 6, 6, 5))
    for rule, _, _ in RULES.values():
        found, want = gradient_of_clone(model, rule, x, start), gradient_of_clone(same, rule, x, start)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-9 * np.abs(want).max())


def test_pass_needs_equal_shapes() -> None:
    square = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    start = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
    np.testing.assert_array_equal(lrp_tf.Explainer(square, rules.Pass())(np.ones((1, 4)), start=start), start)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="narrow")])
    with pytest.raises(ValueError, match="narrow"):
        lrp_tf.Explainer(model, rules.Pass())(np.ones((1, 4)))


def test_max_pooling_takes_the_first_of_equals() -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.MaxPooling2D(3, strides=2, padding="same")])
    start = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")[None, :, :, None]
    found = lrp_tf.Explainer(model, "epsilon")(np.zeros((1, 4, 4, 1)), start=start)[0, :, :, 0]
    want = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(found, want)


def test_global_max_pooling_takes_the_first_of_equals() -> None:
    for data_format, axis in (("channels_last", -1), ("channels_first", 1)):
        x = np.moveaxis(np.array([[[5.0, 1.0], [5.0, 2.0]], [[0.0, 2.0], [5.0, 2.0]]])[None], -1, axis)
        model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.GlobalMaxPooling2D(data_format=data_format)])
        found = np.moveaxis(lrp_tf.Explainer(model, "epsilon")(x, start=np.array([[1.0, 1.0]])), axis, -1)[0]
        np.testing.assert_array_equal(found[..., 0], [[1, 0], [0, 0]])
        np.testing.assert_array_equal(found[..., 1], [[0, 1], [0, 0]])


def test_residual_branches_share_in_proportion() -> None:
    a, b = keras.Input((2,), dtype="float64"), keras.Input((2,), dtype="float64")
    model = keras.Model([a, b], keras.layers.Add(dtype="float64")([a, b]))
    found = lrp_tf.Explainer(model, rules.Epsilon(0.1))(
        [np.array([[3.0, 1.0]]), np.array([[1.0, -3.0]])], start=np.ones((1, 2))
    )
    # 3 of 4 and 1 of 4; 1 of -2 and -3 of -2; epsilon stays 1e-6 whatever the linear steps have.
    np.testing.assert_allclose(found[0], [[3 / (4 + 1e-6), 1 / (-2 - 1e-6)]], rtol=1e-12)
    np.testing.assert_allclose(found[1], [[1 / (4 + 1e-6), -3 / (-2 - 1e-6)]], rtol=1e-12)


def test_average_pooling_shares_by_contribution() -> None:
    x = tf.constant([[[[1.0], [3.0]], [[0.0], [4.0]]]], tf.float64)
    for layer in (
        keras.layers.AveragePooling2D(2, dtype="float64"),
        keras.layers.GlobalAveragePooling2D(dtype="float64"),
    ):
        model = keras.Sequential([keras.Input((2, 2, 1), dtype="float64"), layer])
        start = np.full((1, *model.output_shape[1:]), 8.0)
        found = lrp_tf.Explainer(model, "epsilon")(x, start=start)
        np.testing.assert_allclose(found[0, :, :, 0], [[1, 3], [0, 4]], rtol=1e-6)

"""Every rule x every linear layer kind against the slow float64 computation from the dense Jacobian."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import jacobian

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine.clone import Clone

LOW, HIGH = -1.5, 2.0

# name -> (rule, formula, parameters of the formula)
RULES = {
    "zero": (rules.Zero(), "Zero", {}),
    "epsilon": (rules.Epsilon(1e-6), "Epsilon", {}),
    "epsilon 0.1": (rules.Epsilon(0.1), "Epsilon", {"stabilizer": 0.1}),
    "epsilon relative": (rules.Epsilon(rules.Relative(0.25)), "Epsilon", {"stabilizer": ("relative", 0.25)}),
    "epsilon zero_bias": (rules.Epsilon(zero_bias=True), "Epsilon", {"zero_bias": True}),
    "zplus": (rules.ZPlus(), "ZPlus", {}),
    "zplus relative": (rules.ZPlus(rules.Relative(0.01)), "ZPlus", {"stabilizer": ("relative", 0.01)}),
    "zplus zero_bias": (rules.ZPlus(zero_bias=True), "ZPlus", {"zero_bias": True}),
    "alphabeta 1 0": (rules.AlphaBeta(1, 0), "AlphaBeta", {"alpha": 1.0, "beta": 0.0}),
    "alphabeta 2 1": (rules.AlphaBeta(2, 1), "AlphaBeta", {"alpha": 2.0, "beta": 1.0}),
    "alphabeta zero_bias": (rules.AlphaBeta(2, 1, zero_bias=True), "AlphaBeta",
                            {"alpha": 2.0, "beta": 1.0, "zero_bias": True}),
    "gamma": (rules.Gamma(0.25), "Gamma", {"gamma": 0.25}),
    "gamma 10": (rules.Gamma(10.0, stabilizer=1e-3), "Gamma", {"gamma": 10.0, "stabilizer": 1e-3}),
    "gamma zero_bias": (rules.Gamma(0.25, zero_bias=True), "Gamma", {"gamma": 0.25, "zero_bias": True}),
    "flat": (rules.Flat(), "Flat", {}),
    "wsquare": (rules.WSquare(), "WSquare", {}),
    "zbox": (rules.ZBox(LOW, HIGH), "ZBox", {}),
}  # fmt: skip

LAYERS = {
    "dense": ((7,), lambda **kw: keras.layers.Dense(5, **kw)),
    "dense on sequences": ((3, 4), lambda **kw: keras.layers.Dense(5, **kw)),
}
for _padding, _stride, _dilation, _groups in itertools.product(("valid", "same"), (1, 2, 3), (1, 2), (1, 2, 4)):
    if _stride > 1 and _dilation > 1:
        continue  # Keras refuses it
    _name = f"conv {_padding} stride {_stride} dilation {_dilation} groups {_groups}"
    LAYERS[_name] = (
        (6, 7, 4),
        lambda p=_padding, s=_stride, d=_dilation, g=_groups, **kw: keras.layers.Conv2D(
            8, (3, 2), strides=s, padding=p, dilation_rate=d, groups=g, **kw
        ),
    )
LAYERS |= {
    "conv1d causal dilation 2": (
        (7, 3),
        lambda **kw: keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2, **kw),
    ),
    "conv1d same stride 2 groups 3": ((7, 3), lambda **kw: keras.layers.Conv1D(6, 2, 2, "same", groups=3, **kw)),
    "conv3d same stride 2": ((3, 4, 3, 2), lambda **kw: keras.layers.Conv3D(3, 2, 2, "same", **kw)),
    "conv3d valid": ((3, 3, 4, 2), lambda **kw: keras.layers.Conv3D(3, 2, **kw)),
    "depthwise1d same stride 2": ((7, 3), lambda **kw: keras.layers.DepthwiseConv1D(3, 2, "same", 2, **kw)),
    "depthwise1d valid dilation 2": ((7, 3), lambda **kw: keras.layers.DepthwiseConv1D(3, dilation_rate=2, **kw)),
    "depthwise2d same stride 2": ((6, 5, 3), lambda **kw: keras.layers.DepthwiseConv2D(3, 2, "same", 2, **kw)),
    "depthwise2d valid dilation 2": ((6, 5, 3), lambda **kw: keras.layers.DepthwiseConv2D(2, dilation_rate=2, **kw)),
}


def _einsum(equation: str, shape: tuple, bias_axes: str):
    return lambda use_bias, **kw: keras.layers.EinsumDense(
        equation, shape, bias_axes=bias_axes if use_bias else None, **kw
    )


LAYERS |= {
    "einsum": ((3, 4), _einsum("abc,cd->abd", (None, 5), "d")),
    "einsum bias on the time axis": ((3, 4), _einsum("abc,cd->abd", (3, 5), "b")),
    "einsum to a higher rank": ((3, 4), _einsum("abc,cde->abde", (None, 2, 3), "de")),
    "einsum to a higher rank, bias on one axis": ((3, 4), _einsum("abc,cde->abde", (None, 2, 3), "e")),
    "einsum to a lower rank": ((3, 2, 4), _einsum("abcd,cde->abe", (None, 5), "e")),
    "einsum that turns the axes": ((3, 4), _einsum("abc,cd->adb", (5, 3), "d")),
    "einsum with a kernel for each position": ((3, 4), _einsum("abc,bcd->abd", (3, 5), "bd")),
}
# Keras refuses strides beside dilations here, and TensorFlow has no dilation of these on CPUs at all.
_TRANSPOSED = {1: (keras.layers.Conv1DTranspose, (5, 3)), 2: (keras.layers.Conv2DTranspose, (3, 4, 3))}
_TRANSPOSED[3] = (keras.layers.Conv3DTranspose, (2, 3, 2, 2))
for _rank, _padding, _stride in itertools.product(_TRANSPOSED, ("valid", "same"), (1, 2, 3)):
    for _more in (None, 1) if _stride > 1 else (None,):
        _class, _shape = _TRANSPOSED[_rank]
        _name = f"transpose{_rank}d {_padding} stride {_stride}" + (f" output_padding {_more}" if _more else "")
        LAYERS[_name] = (
            _shape,
            lambda c=_class, p=_padding, s=_stride, o=_more, **kw: c(2, 3, s, p, output_padding=o, **kw),
        )
LAYERS["transpose2d stride (2, 1) kernel (2, 3)"] = (
    (3, 4, 3),
    lambda **kw: keras.layers.Conv2DTranspose(2, (2, 3), (2, 1), output_padding=(1, 0), **kw),
)
# TensorFlow runs most of these on GPUs only; the clone turns them around.
for _name, _shape, _make in (
    ("conv1d same stride 2", (3, 7), lambda **kw: keras.layers.Conv1D(4, 3, 2, "same", **kw)),
    ("conv1d groups 3", (3, 7), lambda **kw: keras.layers.Conv1D(6, 2, groups=3, **kw)),
    ("conv2d same stride 2", (3, 6, 5), lambda **kw: keras.layers.Conv2D(4, (3, 2), 2, "same", **kw)),
    ("conv2d valid dilation 2", (3, 6, 5), lambda **kw: keras.layers.Conv2D(4, 2, dilation_rate=2, **kw)),
    ("conv3d same stride 2", (2, 3, 4, 3), lambda **kw: keras.layers.Conv3D(3, 2, 2, "same", **kw)),
    ("depthwise1d same stride 2", (3, 7), lambda **kw: keras.layers.DepthwiseConv1D(3, 2, "same", 2, **kw)),
    ("depthwise2d valid", (3, 6, 5), lambda **kw: keras.layers.DepthwiseConv2D((3, 2), depth_multiplier=2, **kw)),
    ("transpose1d valid stride 2", (3, 5), lambda **kw: keras.layers.Conv1DTranspose(2, 3, 2, **kw)),
    ("transpose2d same stride 2", (3, 3, 4), lambda **kw: keras.layers.Conv2DTranspose(2, 3, 2, "same", **kw)),
    ("transpose3d same stride 2", (2, 2, 3, 2), lambda **kw: keras.layers.Conv3DTranspose(2, 3, 2, "same", **kw)),
):
    LAYERS[f"channels_first {_name}"] = (
        _shape,
        lambda make=_make, **kw: make(data_format="channels_first", **kw),
    )
QUICK = [
    "dense",
    "dense on sequences",
    "conv valid stride 1 dilation 1 groups 1",
    "conv same stride 2 dilation 1 groups 1",
    "conv same stride 1 dilation 2 groups 2",
    "conv same stride 3 dilation 1 groups 4",
    "conv1d causal dilation 2",
    "conv3d same stride 2",
    "depthwise1d same stride 2",
    "depthwise2d same stride 2",
    "einsum to a higher rank",
    "transpose2d same stride 2",
    "channels_first conv2d same stride 2",
]
SIGNS = ["signed", "nonnegative"]
BIASES = ["positive", "negative", "absent"]


@functools.lru_cache(maxsize=16)
def layer_and_data(name: str, sign: str, bias: str, dtype: str):
    """A model of one linear layer, its input and a start relevance, all from one seed whatever the dtype."""
    shape, make = LAYERS[name]
    layer = make(use_bias=bias != "absent", dtype=dtype)
    inputs = keras.Input(shape, dtype=dtype)
    # A ReLU ahead declares the input non-negative, so that the shorter forms of the rules are tested too.
    tensor = keras.layers.ReLU(dtype=dtype)(inputs) if sign == "nonnegative" else inputs
    model = keras.Model(inputs, layer(tensor))
    rng = np.random.default_rng(7)
    values = [rng.normal(size=w.shape) for w in layer.get_weights()]
    if bias != "absent":
        values[1] = np.abs(values[1]) * (1.0 if bias == "positive" else -1.0)
    layer.set_weights(values)
    x = np.clip(rng.normal(size=(2, *shape)), LOW, HIGH)
    if sign == "nonnegative":
        x = np.abs(x)  # some entries exactly zero, as behind a ReLU
        x[rng.random(x.shape) < 0.3] = 0.0
    start = rng.normal(size=(2, *(size or shape[0] for size in model.output_shape[1:])))  # None: the axis that it keeps
    return model, layer, x, start


def bias_free(layer: keras.Layer, kernel: np.ndarray, shape: tuple) -> Callable[[tf.Tensor], tf.Tensor]:
    """The map of the layer in float64 without its bias, with another kernel. Channels last, which CPUs can."""
    config = {**layer.get_config(), "dtype": "float64"}
    config |= {"bias_axes": None} if "bias_axes" in config else {"use_bias": False}
    first = config.get("data_format") == "channels_first"
    if first:
        config["data_format"] = "channels_last"
    clone = type(layer).from_config(config)
    clone.build((None, *shape[1:], shape[0]) if first else (None, *shape))
    clone.set_weights([kernel])
    return lambda x: np.moveaxis(clone(np.moveaxis(x, 1, -1)), -1, 1) if first else clone(x)


@functools.lru_cache(maxsize=16)
def matrices(layer: keras.Layer, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The dense matrices of the layer and of the same layer with a kernel of ones."""
    kernel = layer.get_weights()[0].astype("float64")
    found = [jacobian.dense_matrix(bias_free(layer, w, shape), shape) for w in (kernel, np.ones_like(kernel))]
    return found[0], found[1]


def bias_map(layer: keras.Layer, shape: tuple) -> np.ndarray:
    """The bias at every output of one sample, flat."""
    if layer.bias is None:
        return np.zeros(np.prod(shape))
    bias = layer.get_weights()[1].astype("float64")
    if getattr(layer, "data_format", None) == "channels_first":
        bias = bias.reshape(-1, *[1] * (len(shape) - 1))
    return np.broadcast_to(bias, shape).reshape(-1)


def expected(layer, formula: str, x: np.ndarray, start: np.ndarray, **parameters) -> np.ndarray:
    shape = x.shape[1:]
    w, ones = matrices(layer, shape)
    b = bias_map(layer, start.shape[1:])
    if formula == "Flat":
        parameters["ones"] = ones
    if formula == "ZBox":
        parameters = {"low": np.full(shape, LOW), "high": np.full(shape, HIGH)} | parameters
    pairs = zip(x, start, strict=True)
    rows = [jacobian.relevance(formula, xi.ravel(), w, b, ri.ravel(), **parameters) for xi, ri in pairs]
    return np.array(rows).reshape(x.shape)


def gradient_of_clone(model: keras.Model, rule: rules.Rule, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    return gradient(lrp_tf.clone_with_rules(model, rule), x, start)


def gradient(clone: Clone, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        z = clone(tensor)
    return tape.gradient(z, tensor, output_gradients=tf.constant(start)).numpy()


# Here signed contributions can cancel, and R is divided by what little is left. In float32 that rest has a relative
# error of up to 2^-23 sum |x w| / |z| (the condition number of the sum), and so has the relevance. Gamma's denominators
# cannot vanish where it uses them.
CANCELLING = {"zero", "epsilon", "epsilon zero_bias"}


def condition(layer: keras.Layer, x: np.ndarray, shape: tuple, zero_bias: bool) -> float:
    """Largest sum |x w| + |b| over |z| of the denominators that are not exactly zero; `shape` of a sample of z."""
    w, _ = matrices(layer, x.shape[1:])
    flat = x.reshape(len(x), -1)
    b = np.zeros(w.shape[1]) if zero_bias else bias_map(layer, shape)
    z, total = np.abs(flat @ w + b), np.abs(flat) @ np.abs(w) + np.abs(b)
    return float((total[z > 0] / z[z > 0]).max())


def check(name: str, rule: str, sign: str, bias: str, dtype: str, tolerance: float) -> None:
    # The eager clone: nothing to compile in thousands of cases. test_compiled_equals_eager covers the rest.
    instance, formula, parameters = RULES[rule]
    model, layer, x, start = layer_and_data(name, sign, bias, dtype)
    x, start = x.astype(dtype), start.astype(dtype)
    found = gradient_of_clone(model, instance, x, start)
    want = expected(layer, formula, x.astype("float64"), start.astype("float64"), **parameters)
    if dtype == "float32" and rule in CANCELLING:
        tolerance = max(
            tolerance, 2.0**-23 * condition(layer, x.astype("float64"), start.shape[1:], "zero_bias" in rule)
        )
    assert found.dtype == dtype
    assert np.abs(found - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dense", "conv same stride 2 dilation 1 groups 1"])
def test_compiled_equals_eager(name: str, rule: str) -> None:
    model, _, x, start = layer_and_data(name, "signed", "positive", "float64")
    found = lrp_tf.Explainer(model, RULES[rule][0])(x, start=start).numpy()
    want = gradient_of_clone(model, RULES[rule][0], x, start)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-11 * np.abs(want).max())


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", QUICK)
def test_rule_float64(name: str, rule: str, sign: str) -> None:
    check(name, rule, sign, "positive", "float64", 1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dense", "conv same stride 2 dilation 1 groups 1"])
def test_rule_float32(name: str, rule: str) -> None:
    check(name, rule, "signed", "negative", "float32", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("name", LAYERS)
def test_rule_everywhere(name: str, dtype: str, tolerance: float, rule: str, sign: str, bias: str) -> None:
    check(name, rule, sign, bias, dtype, tolerance)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", QUICK)
def test_sign_knowledge_changes_nothing(name: str, rule: str) -> None:
    """The shorter forms for x >= 0 give what the long ones give."""
    model, layer, x, start = layer_and_data(name, "nonnegative", "negative", "float64")
    ignorant = keras.Model(inputs := keras.Input(x.shape[1:], dtype="float64"), layer(inputs))
    instance = RULES[rule][0]
    found = gradient_of_clone(model, instance, x, start)
    want = gradient_of_clone(ignorant, instance, x, start)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-12 * np.abs(want).max())


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

"""Every rule and every linear layer kind, and the slow float64 computation from the dense Jacobian."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import lrp_tf
from helpers import jacobian
from lrp_tf import rules
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.savings import switched_off

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
    "joint wsquare": (rules.JointWSquare(), "JointWSquare", {}),
    "joint wsquare zero_bias": (rules.JointWSquare(zero_bias=True), "JointWSquare", {"zero_bias": True}),
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
# cannot vanish where it uses them. JointWSquare squares what was divided and divides by the sum of squares: four times.
CANCELLING = {"zero": 1, "epsilon": 1, "epsilon zero_bias": 1, "joint wsquare": 4, "joint wsquare zero_bias": 4}


def condition(layer: keras.Layer, x: np.ndarray, shape: tuple, zero_bias: bool) -> float:
    """Largest sum |x w| + |b| over |z| of the denominators that are not exactly zero; `shape` of a sample of z."""
    w, _ = matrices(layer, x.shape[1:])
    flat = x.reshape(len(x), -1)
    b = np.zeros(w.shape[1]) if zero_bias else bias_map(layer, shape)
    z, total = np.abs(flat @ w + b), np.abs(flat) @ np.abs(w) + np.abs(b)
    return float((total[z > 0] / z[z > 0]).max())


Case = tuple[str, str, str, str, str, bool]  # layer, rule, sign, bias, dtype, savings


def matrix() -> list[Case]:
    """Every rule x layer kind: all signs and biases in float64, a seeded half of them in float32, one without savings.

    Kinds are never left out: what is thinned is how they combine.
    """
    rng, found = random.Random(7), []
    for name, rule in itertools.product(LAYERS, RULES):
        ways = list(itertools.product(SIGNS, BIASES))
        found += [(name, rule, sign, bias, "float64", True) for sign, bias in ways]
        found += [(name, rule, sign, bias, "float32", True) for sign, bias in rng.sample(ways, 3)]
        sign, bias = rng.choice(ways)
        found.append((name, rule, sign, bias, "float64", False))
    return found


def check(name: str, rule: str, sign: str, bias: str, dtype: str, savings: bool = True) -> None:
    # The eager clone: nothing to compile in thousands of cases. test_compiled_equals_eager covers the rest.
    instance, formula, parameters = RULES[rule]
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    model, layer, x, start = layer_and_data(name, sign, bias, dtype)
    x, start = x.astype(dtype), start.astype(dtype)
    with contextlib.nullcontext() if savings else switched_off():
        found = gradient_of_clone(model, instance, x, start)
    want = expected(layer, formula, x.astype("float64"), start.astype("float64"), **parameters)
    if dtype == "float32" and rule in CANCELLING:
        rounding = CANCELLING[rule] * 2.0**-23
        tolerance = max(
            tolerance, rounding * condition(layer, x.astype("float64"), start.shape[1:], "zero_bias" in rule)
        )
    assert found.dtype == dtype
    assert np.abs(found - want).max() <= tolerance * np.abs(want).max()

"""Products, normalisation and what passes relevance on, against NumPy written from the definitions."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import RULE, close
from helpers.flowing import Flow, s, shared, values
from keras import layers as kl
from keras import ops

import lrp_tf

pytestmark = [
    pytest.mark.usefixtures("mode"),
    pytest.mark.usefixtures("double_precision"),
]
C = np.linspace(-1, 2, 4)


# --- products ----------------------------------------------------------------------------------


def summed(r, like):
    """Relevance of what was broadcast."""
    axes = tuple(a for a in range(r.ndim) if like.shape[a] == 1 < r.shape[a])
    return r.sum(axes, keepdims=True)


def gate(x):
    return ops.sigmoid(x)


# what is multiplied or divided, what share each tensor gets; None: it is held
PRODUCTS = {
    "x * y": (lambda x, y: x * y, [0.5, 0.5]),
    "Multiply": (lambda *t: kl.Multiply()(t), [1 / 3, 1 / 3, 1 / 3]),
    "x * x": (lambda x: x * x, [1]),
    "(x * y) * z": (lambda x, y, z: (x * y) * z, [0.25, 0.25, 0.5]),
    "number": (lambda x: 2 * (x * -3.0), [1]),
    "array": (lambda x: x * C, [1]),
    "-x": (lambda x: -x, [1]),
    "sigmoid": (lambda x, g: x * gate(g), [1, None]),
    "sigmoid ahead": (lambda g, x: kl.Multiply()([kl.Activation("sigmoid")(g), x]), [None, 1]),
    "softmax": (lambda x, g: x * kl.Softmax()(g), [1, None]),
    "hard_sigmoid": (lambda x, g: kl.Multiply()([x, kl.Activation("hard_sigmoid")(g)]), [1, None]),
    "gate of two signals": (lambda x, g, y: kl.Multiply()([x, gate(g), y]), [0.5, None, 0.5]),
    "two gates": (lambda g, h: gate(g) * gate(h), [0.5, 0.5]),
    "two gates, one signal": (lambda g, h, x: gate(g) * gate(h) * x, [None, None, 1]),
    "half a gate": (lambda x, g: x * (0.5 * gate(g)), [1, None]),
    "gate through dropout": (lambda x, g: x * kl.Reshape((4,))(kl.Dropout(0.5)(gate(g))), [1, None]),
    "swish": (lambda x: x * gate(x), [1]),
    "x / y": (lambda x, y: x / (1 + ops.exp(y)), [1, None]),
    "x / number": (lambda x: x / 7, [1]),
    "1 / x": (lambda x: 1 / x, [1]),
    "x * rsqrt(y)": (lambda x, y: x * ops.rsqrt(1 + ops.exp(y)), [1, None]),
    "where a gate is": (lambda x, g: ops.where(g > 0, gate(g), 0.0) * x, [1, None]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    function, shares = PRODUCTS[name]
    x = [values(4, seed=k) for k in range(len(shares))]
    flow = Flow(function, *x)
    close(flow.R, [np.zeros((3, 4)) if share is None else share * flow.start for share in shares])
    np.testing.assert_allclose(flow.bias, 0, atol=1e-12)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 2, 1)])
def test_products_broadcast(shape, held):
    x, g = values(3, 2, 4), values(*shape, seed=2)
    flow = Flow(lambda a, b: kl.Multiply()([a, gate(b) if held else b]), x, g)
    half = flow.start / 2
    close(flow.R, [flow.start, np.zeros_like(g)] if held else [half, summed(half, g)])


@pytest.mark.parametrize("ahead", [False, True])
def test_mask_that_is_an_input_is_held(ahead):
    x, mask = values(4), np.array([[True, False, True, True]] * 3)
    cast = lambda t, m: ops.cast(m, t.dtype)  # noqa: E731
    flow = Flow(lambda t, m: cast(t, m) * t if ahead else t * cast(t, m), x, mask)
    close(flow.R[0], flow.start)
    assert flow.R[1] is None


def both(equation, x, y, start):
    """Half to each factor, in proportion to its contributions."""
    inputs, output = equation.split("->")
    first, second = inputs.split(",")
    g = start / s(np.einsum(equation, x, y)) / 2
    return [
        x * np.einsum(f"{output},{second}->{first}", g, y),
        y * np.einsum(f"{output},{first}->{second}", g, x),
    ]


CONTRACTIONS = {
    "Dot": (lambda x, y: kl.Dot(1)([x, y]), "bi,bi->b", (4,), (4,)),
    "Dot of matrices": (lambda x, y: kl.Dot((2, 1))([x, y]), "bij,bjk->bik", (3, 4), (4, 2)),
    "matmul": (lambda x, y: ops.matmul(x, y), "bij,bjk->bik", (3, 4), (4, 2)),
    "@": (lambda x, y: x @ y, "bij,bjk->bik", (3, 4), (4, 2)),
    "einsum": (lambda x, y: ops.einsum("bij,bkj->bik", x, y), "bij,bkj->bik", (3, 4), (2, 4)),
    "outer": (lambda x, y: ops.einsum("bi,bj->bij", x, y), "bi,bj->bij", (3,), (4,)),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_products_that_sum(name):
    function, equation, *shapes = CONTRACTIONS[name]
    x, y = (values(*shape, seed=k) for k, shape in enumerate(shapes))
    flow = Flow(function, x, y)
    start = flow.start.reshape(np.einsum(equation, x, y).shape)
    close(flow.R, both(equation, x, y, start))


@pytest.mark.parametrize(
    ("axes", "equation", "shapes"), [(1, "bi,bi->b", [(4,)] * 2), ((2, 1), "bij,bjk->bik", [(3, 4), (4, 2)])]
)
def test_dot_of_normalized_tensors(axes, equation, shapes):
    """The norms are held."""
    x, y = (values(*shape, seed=k) for k, shape in enumerate(shapes))
    flow = Flow(lambda a, b: kl.Dot(axes, normalize=True)([a, b]), x, y)
    first, second = (axes, axes) if isinstance(axes, int) else axes
    unit = [t / np.sqrt((t**2).sum(a, keepdims=True)) for t, a in ((x, first), (y, second))]
    close(flow.R, both(equation, *unit, flow.start.reshape(np.einsum(equation, *unit).shape)))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_weights_of_an_attention_are_held():
    q, k, v = values(3, 4, seed=1), values(5, 4, seed=2), values(5, 2, seed=3)
    flow = Flow(lambda q, k, v: ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 2), v), q, k, v)
    a = softmax(q @ k.transpose(0, 2, 1) / 2)
    close(flow.R, [np.zeros_like(q), np.zeros_like(k), v * (a.transpose(0, 2, 1) @ (flow.start / s(a @ v)))])


# --- normalisation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": False},
        {"center": False},
        {"axis": 1},
        {"axis": (1, 2)},
        {"axis": [1, 3], "epsilon": 0.1},
        {"axis": (3, 2)},
    ],
    ids=str,
)
def test_layer_normalization(options):
    x = values(3, 2, 4)
    layer = kl.LayerNormalization(**options)
    flow = Flow(lambda t: layer(t), x)
    axes = tuple(np.atleast_1d(options.get("axis", -1)) % 4)
    form = [n if a in axes else 1 for a, n in enumerate(x.shape)]
    gamma, beta = (0 if w is None else np.reshape(w.numpy(), form) for w in (layer.gamma, layer.beta))
    gamma = 1 if layer.gamma is None else gamma
    c = gamma / np.sqrt(x.var(axes, keepdims=True) + layer.epsilon) * flow.start / s(flow.y)
    close(flow.R[0], x * (c - c.mean(axes, keepdims=True)))
    np.testing.assert_allclose(flow.bias, (beta * flow.start / s(flow.y)).sum((1, 2, 3)), atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 1},
        {"groups": 2, "axis": 1},
        {"groups": -1},
        {"groups": 4, "scale": False},
        {"groups": 2, "center": False},
    ],
)
def test_group_normalization(options):
    x = values(4, 2, 4)
    layer = kl.GroupNormalization(**options)
    flow = Flow(lambda t: layer(t), x)
    axis = options.get("axis", -1) % 4
    groups = 4 if layer.groups == -1 else layer.groups
    form = [n if a == axis else 1 for a, n in enumerate(x.shape)]
    gamma = np.reshape(layer.gamma.numpy(), form) if layer.scale else 1
    beta = np.reshape(layer.beta.numpy(), form) if layer.center else 0
    R = []
    for group in np.split(np.arange(4), groups):
        t, y, r = (np.take(v, group, axis) for v in (x, flow.y, flow.start))
        weight = np.take(gamma, group, axis) if layer.scale else 1
        c = weight / np.sqrt(t.var((1, 2, 3), keepdims=True) + layer.epsilon) * r / s(y)
        R.append(t * (c - c.mean((1, 2, 3), keepdims=True)))
    close(flow.R[0], np.concatenate(R, axis))
    np.testing.assert_allclose(flow.bias, (beta * flow.start / s(flow.y)).sum((1, 2, 3)), atol=1e-9)


# --- what passes -------------------------------------------------------------------------------

PASSES = {
    "RMSNormalization": lambda x: kl.RMSNormalization()(x),
    "rms_normalization": lambda x: ops.rms_normalization(x),
    "UnitNormalization": lambda x: kl.UnitNormalization()(x),
    "normalize": lambda x: ops.normalize(x),
    "Masking": lambda x: kl.Masking()(x),
    "PReLU": lambda x: kl.PReLU()(x),
    "gelu": lambda x: ops.gelu(x),
    "clip": lambda x: ops.clip(x, -0.5, 0.5),
    "square": lambda x: ops.square(x),
    "power": lambda x: x**2,
    "softmax": lambda x: kl.Softmax()(x) * 2,  # alone, it would be stripped
}


@pytest.mark.parametrize("name", PASSES)
def test_relevance_passes(name):
    flow = Flow(PASSES[name], values(3, 4))
    close(flow.R[0], flow.start)


SCALINGS = {
    "x / 255 - 0.5": lambda x: x / 255 - 0.5,
    "x / 127.5 - 1": lambda x: ops.subtract(ops.divide(x, 127.5), 1.0),
    "1 - x": lambda x: 1 - x,
    "2 x + 3": lambda x: 2 * x + 3,
    "(x - mean) / std": lambda x: (x - np.array([1.0, 2, 3])) / np.array([4.0, 5, 6]),
    "Rescaling": lambda x: kl.Rescaling(1 / 255, -0.5)(x),
    "Normalization": lambda x: kl.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6])(x),
    "reshaped": lambda x: ops.reshape(x, (-1, 6)) / 255 - 0.5,
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaling_of_the_input_absorbs_nothing(name):
    flow = Flow(SCALINGS[name], values(2, 3), at_input=True, tolerance=1e-6)
    close(flow.R[0], flow.start.reshape(3, 2, 3))
    np.testing.assert_array_equal(flow.bias, 0)


def test_the_same_in_the_middle_is_a_sum():
    x = values(3)
    flow = Flow(lambda t: t / 255 - 0.5, x)
    R, bias = shared(lambda t: t / 255 - 0.5, [x], flow.start)
    close(flow.R, R)
    close(flow.bias, bias)


# --- bounds ------------------------------------------------------------------------------------

AHEAD = {"relu": ops.relu, "sigmoid": ops.sigmoid, "tanh": ops.tanh, "anything": ops.sin}
BEHIND = {
    "-x": lambda x: -x,
    "negative numbers": lambda x: x * -1.5 / -2.0 / -1.0,
    "x - 1": lambda x: x - 1,
    "1 - x": lambda x: 1 - x,
    "0.5 - x": lambda x: 0.5 - x,
    "array": lambda x: x * C + 2,
    "pad": lambda x: ops.pad(x, [[0, 0], [1, 1]]),
    "pad with a number": lambda x: ops.pad(x, [[0, 0], [1, 1]], constant_values=-2.0),
    "where": lambda x: ops.where(x > 0.2, x, -0.3),
    "maximum": lambda x: ops.maximum(x, 0.1),
    "minimum": lambda x: ops.minimum(x, -0.3),
    "maximum of arrays": lambda x: ops.maximum(x, C),
    "mean": lambda x: x - ops.mean(x, axis=1, keepdims=True),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "product": lambda x: x * ops.max(x, axis=1, keepdims=True),
    "quotient": lambda x: x / (0.5 - ops.exp(x)),
    "reciprocal": lambda x: 1 / (x + 2),
    "Average": lambda x: kl.Average()([x, ops.sin(3 * x)]),
    "Minimum": lambda x: kl.Minimum()([x, ops.sin(3 * x)]),
    "LayerNormalization": lambda x: kl.LayerNormalization()(x),
    "BatchNormalization": lambda x: kl.BatchNormalization()(x),
    "cast": lambda x: ops.cast(ops.cast(3 * x, "int32"), "float64"),
    "concatenate": lambda x: ops.concatenate([x, -x], 1),
}


@pytest.mark.parametrize("behind", BEHIND)
def test_what_is_said_to_be_nonnegative_is(behind):
    """AlphaBeta, ZPlus and Gamma would take a negative contribution for a positive one."""
    x, heads = values(4), {name: kl.Dense(2) for name in AHEAD}
    dense = kl.Dense(4)
    read = lambda t: [heads[name](BEHIND[behind](AHEAD[name](dense(t)))) for name in AHEAD]  # noqa: E731
    flow = Flow(lambda t: ops.stack(read(t), 1), x, composite=RULE, tolerance=1e-6)
    clone = lrp_tf.clone_with_rules(flow.model, RULE)
    found = clone.forward([tf.constant(x)]).values
    steps = {name: next(s for s in clone.graph.steps if s.op is head) for name, head in heads.items()}
    lowest = {name: np.min(found[step.inputs[step.signals[0]]]) for name, step in steps.items()}
    assert not [name for name, step in steps.items() if step.marks.nonnegative and lowest[name] < 0]
    if behind in ("pad", "cumsum", "maximum", "product", "reciprocal"):
        assert steps["relu"].marks.nonnegative

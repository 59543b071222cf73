"""What attn_lrp and cp_lrp do at single steps: softmax of every form, masks, gates, scales, activations by hand."""

import keras
import numpy as np
import pytest
from helpers.checking import close, randomize
from helpers.flowing import Flow, values
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import composites, flows, rules

pytestmark = [pytest.mark.usefixtures("mode"), pytest.mark.usefixtures("double_precision")]
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)[:, None].repeat(5, 1)


def taylor(x, R, axis, s):
    return np.where(s > 0, x * (R - s * R.sum(axis, keepdims=True)), 0.0)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


# --- softmax ------------------------------------------------------------------------------------

SOFTMAX = {
    "layer": (lambda x: kl.Softmax()(x), -1),
    "layer, axis 1": (lambda x: kl.Softmax(axis=1)(x), 1),
    "layer, two axes": (lambda x: kl.Softmax(axis=(1, 2))(x), (1, 2)),
    "Activation": (lambda x: kl.Activation("softmax")(x), -1),
    "ops": (ops.softmax, -1),
    "ops, axis -2": (lambda x: ops.softmax(x, axis=-2), -2),
    "keras.activations": (lambda x: keras.activations.softmax(x, axis=1), 1),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_in_every_form(name):
    """tanh behind it keeps it from being stripped, and passes R."""
    function, axis = SOFTMAX[name]
    x = values(5, 4)
    flow = Flow(lambda t: ops.tanh(function(t)), x, composite="attn_lrp")
    expected = taylor(x, flow.start, axis, softmax(x, axis))
    close(flow.R[0], expected)
    close(flow.bias, (flow.start - expected).sum((1, 2)))


def test_softmax_as_the_activation_of_a_layer():
    layer = kl.Dense(4, activation="softmax")
    flow = Flow(lambda t: ops.tanh(layer(t)), x := values(5, 4), composite="attn_lrp")
    z = x @ layer.kernel.numpy() + layer.bias.numpy()
    R = taylor(z, flow.start, -1, softmax(z, -1))
    close(flow.R[0], x * ((R / z) @ layer.kernel.numpy().T), 1e-7)


MASKED = {
    "mask of the layer": lambda x, m: kl.Softmax()(x, mask=m),
    "where": lambda x, m: ops.softmax(ops.where(m, x, -1e9)),
    "where, half precision": lambda x, m: ops.softmax(ops.where(m, x, -3e4)),
    "added": lambda x, m: ops.softmax(x + (1.0 - ops.cast(m, "float64")) * -1e9),
    "added where": lambda x, m: ops.softmax(x + ops.where(m, 0.0, -1e9)),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_scores_get_nothing(name):
    """Nor do rows that are masked as a whole, as those of the third sample; and the books close."""
    x = values(5, 4)
    flow = Flow(lambda x, m: ops.tanh(MASKED[name](x, m)), x, MASK, composite="attn_lrp")
    s = np.where(MASK, softmax(np.where(MASK, x, -1e9), -1), 0)
    close(flow.R[0], taylor(x, flow.start, -1, s))
    assert not flow.R[0][~MASK].any()


def test_scores_of_minus_infinity():
    x, mask = values(5, 4), MASK | (np.arange(4) == 1)
    for function in (
        lambda x, m: ops.softmax(ops.where(m, x, -np.inf)),
        lambda x, m: ops.softmax(x + ops.where(m, 0.0, -np.inf)),
    ):
        flow = Flow(lambda x, m, f=function: ops.tanh(f(x, m)), x, mask, composite="attn_lrp")
        close(flow.R[0], taylor(x, flow.start, -1, np.where(mask, softmax(np.where(mask, x, -1e9), -1), 0)), 1e-7)
        assert np.isfinite(flow.bias).all()


def test_another_step_is_no_softmax():
    composite = composites.Composite([(composites.activation("tanh"), flows.TaylorSoftmax()), (None, rules.Epsilon())])
    with pytest.raises(ValueError, match=r"TaylorSoftmax expects a softmax. Received: .*Remedy"):
        Flow(ops.tanh, values(4), composite=composite)


# --- products -----------------------------------------------------------------------------------


def mean_square(x):
    return ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6


PASSING = {
    "RMSNorm": lambda x: x * ops.rsqrt(mean_square(x)),
    "RMSNorm, the scale first": lambda x: ops.rsqrt(mean_square(x)) * x * np.array([1.0, 2.0, -1.0, 3.0]),
    "RMSNorm, divided": lambda x: x / ops.sqrt(mean_square(x)),
    "RMSNorm, 1 / root": lambda x: x * (1.0 / ops.sqrt(mean_square(x))),
    "RMSNorm, power": lambda x: x * ops.power(mean_square(x), -0.5),
    "RMSNorm, reciprocal": lambda x: x * ops.reciprocal(ops.sqrt(mean_square(x))),
    "RMSNormalization": lambda x: kl.RMSNormalization()(x),
    "gelu": ops.gelu,
    "silu": ops.silu,
    "tanh": ops.tanh,
    "silu by hand": lambda x: x * ops.sigmoid(x),
    "gelu by hand": lambda x: 0.5 * x * (1 + ops.erf(x / np.sqrt(2.0))),
    "gelu, tanh by hand": lambda x: 0.5 * x * (1 + ops.tanh(0.8 * (x + 0.044715 * x**3))),
    "quick gelu by hand": lambda x: x * ops.sigmoid(1.702 * x),
    "mish by hand": lambda x: x * ops.tanh(ops.log(1 + ops.exp(x))),
}


@pytest.mark.parametrize("method", ["attn_lrp", "cp_lrp"])
@pytest.mark.parametrize("name", PASSING)
def test_scales_and_activations_pass_relevance_on(name, method):
    """However they are written."""
    flow = Flow(PASSING[name], values(5, 4), composite=method)
    close(flow.R[0], flow.start)


# name: function of g and u, the shares of each under attn_lrp, and under cp_lrp
GATED = {
    "silu": (lambda g, u: ops.silu(g) * u, [0.5, 0.5], [None, 1]),
    "gelu, the gate last": (lambda g, u: u * ops.gelu(g), [0.5, 0.5], [None, 1]),
    "silu by hand": (lambda g, u: g * ops.sigmoid(g) * u, [0.5, 0.5], [None, 1]),
    "reshaped": (lambda g, u: ops.reshape(ops.silu(g), (-1, 20)) * ops.reshape(u, (-1, 20)), [0.5, 0.5], [None, 1]),
    "sigmoid": (lambda g, u: ops.sigmoid(g) * u, [0.5, 0.5], [None, 1]),
    "1 - sigmoid": (lambda g, u: (1 - ops.sigmoid(g)) * u, None, [None, 1]),
    "both activated": (lambda g, u: ops.silu(g) * ops.silu(u), [0.5, 0.5], [0.5, 0.5]),
    "an activation and a gate": (lambda g, u: ops.sigmoid(g) * ops.silu(u), [0.5, 0.5], [None, 1]),
    "two signals": (lambda g, u: g * u, [0.5, 0.5], [0.5, 0.5]),
    "scaled": (lambda g, u: u * ops.rsqrt(mean_square(g)), [None, 1], [None, 1]),
    "divided": (lambda g, u: ops.sigmoid(g) / (u + 9.0), [1, None], [1, None]),
}


@pytest.mark.parametrize("name", GATED)
def test_gates(name):
    function, *shares = GATED[name]
    for method, expected in zip(("attn_lrp", "cp_lrp"), shares, strict=True):
        flow = Flow(function, values(5, 4), values(5, 4, seed=2), composite=method)
        for R, share in zip(flow.R, expected or (), strict=bool(expected)):
            close(R, (share or 0) * flow.start.reshape(R.shape))


def test_one_less_a_sigmoid_is_a_gate_in_every_preset():
    flow = Flow(lambda g, u: (1 - ops.sigmoid(g)) * u, values(4), values(4, seed=2))
    close(flow.R, [np.zeros((3, 4)), flow.start])


@pytest.mark.parametrize("method", ["attn_lrp", "cp_lrp"])
@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_masks_are_held(method, dtype):
    """Of the mean of the tokens that count, all goes to these."""
    x, mask = values(5, 4), np.array([[1, 1, 0, 1, 0]] * 3, dtype)

    def function(x, m):
        weight = ops.cast(m, "float64")[..., None]
        return ops.sum(x * weight, axis=1) / ops.sum(weight, axis=1)

    flow = Flow(function, x, mask, composite=method)
    total = (x * mask[..., None]).sum(1)
    close(flow.R[0], x * mask[..., None] * (flow.start / total)[:, None], 1e-7)


def test_attention_by_hand_shares_half_and_half():
    """Queries, keys and values are three inputs: relevance of each follows from the formulas."""
    q, k, v = values(5, 4), values(6, 4, seed=2), values(6, 3, seed=3)
    flow = Flow(
        lambda q, k, v: ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v),
        q,
        k,
        v,
        composite="attn_lrp",
    )
    z = q @ k.transpose(0, 2, 1)
    a = softmax(z, -1)
    g = flow.start / (2 * (a @ v))
    Rz = taylor(z, a * (g @ v.transpose(0, 2, 1)), -1, a) / (2 * z)
    expected = [q * (Rz @ k), k * (Rz.transpose(0, 2, 1) @ q), v * (a.transpose(0, 2, 1) @ g)]
    close(flow.R, expected, 1e-6)
    held = Flow(
        lambda q, k, v: ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v),
        q,
        k,
        v,
        composite="cp_lrp",
    )
    close(held.R, [np.zeros_like(q), np.zeros_like(k), v * (a.transpose(0, 2, 1) @ (held.start / (a @ v)))], 1e-6)


# --- the presets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attn_lrp", "cp_lrp"])
def test_their_text_reads_back(name):
    for options in ({}, {"epsilon": 1e-6}, {"gamma": 0.1, "zero_bias": True}, {"flow_epsilon": rules.Relative(0.1)}):
        composite = composites.get(name, **options)
        assert composites.parse(str(composite)) == composite
    assert "contractions: Contraction stabilizer=1e-09 gates=" in str(composites.get(name))
    assert str(composites.get(name)).endswith("all: epsilon 1e-09; flow_epsilon=1e-09")
    with pytest.raises(TypeError, match="takes the options epsilon, gamma, zero_bias, when_empty, flow_epsilon"):
        composites.get(name, low=0)


def test_one_epsilon_for_all_that_divides(capsys):
    i = keras.Input((5, 4))
    h = kl.LayerNormalization()(i + kl.MultiHeadAttention(2, 2)(i, i))
    model = randomize(keras.Model(i, kl.Dense(2)(kl.GlobalAveragePooling1D()(h))))
    for options, expected in (({}, {1e-9}), ({"epsilon": 1e-5}, {1e-5})):
        handlers = lrp_tf.Explainer(model, "attn_lrp", **options).clone.handlers.items()
        assert {h.stabilizer for s, h in handlers if getattr(h, "divides", False)} == expected
    lrp_tf.Explainer(model, "attn_lrp").summary()
    shown = capsys.readouterr().out
    assert "TaylorSoftmax" in shown
    assert "gates='share'" in shown


def test_gamma_leaves_the_last_linear_step(capsys):
    model = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(4, activation="gelu"), kl.Dense(2)]))
    handlers = lrp_tf.Explainer(model, "attn_lrp", gamma=0.1).clone.handlers.items()
    found = [h for s, h in handlers if s.linear is not None]
    assert found == [rules.Gamma(0.1, 1e-9), rules.Epsilon(1e-9)]

"""The stabilizer of flows: every flow that divides, with several values of epsilon, against formulas in NumPy."""

import keras
import numpy as np
import pytest
from helpers.checking import close, raises
from helpers.flowing import Flow, values
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import composites, flows, rules

pytestmark = pytest.mark.usefixtures("double_precision")
STABILIZERS = [0.0, 1e-9, 1e-6, 0.5, 3, rules.Relative(0.3)]


def stabilized(z, stabilizer):
    """s(z); the root mean square of a sample goes over all its entries."""
    epsilon = stabilizer
    if isinstance(stabilizer, rules.Relative):
        axes = tuple(range(1, z.ndim))
        epsilon = stabilizer.fraction * np.sqrt(np.mean(z**2, axes, keepdims=True))
    return z + epsilon * np.where(z >= 0, 1, -1)


def explained(function, *inputs, stabilizer):
    return Flow(function, *inputs, composite=composites.Composite([(None, rules.Epsilon())], flow_epsilon=stabilizer))


@pytest.fixture(params=STABILIZERS, ids=repr)
def epsilon(request):
    return request.param


# --- sums --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("add", [lambda a, b: kl.Add()([a, b]), ops.add], ids=["layer", "ops"])
def test_sums(add, epsilon):
    a, b = values(4, 3), values(4, 3, seed=2)
    flow = explained(add, a, b, stabilizer=epsilon)
    g = flow.start / stabilized(a + b, epsilon)
    close(flow.R, [a * g, b * g])


def test_sums_ahead_of_a_relu(epsilon):
    """Where relevance arrives above zero alone, a `Relative` is relative to all of the sum."""
    a, b = values(4, 3), values(4, 3, seed=2)
    flow = explained(lambda a, b: ops.relu(kl.Add()([a, b])), a, b, stabilizer=epsilon)
    above = a + b > 0
    g = flow.start / stabilized(a + b, epsilon)
    close([r * above for r in flow.R], [a * g * above, b * g * above])


@pytest.mark.parametrize("savings", [True, False])
@pytest.mark.usefixtures("seldom_compiled")
def test_residual_branches_ahead_of_a_relu(epsilon, savings):
    """The summand of a residual sum that savings compute anew."""
    x, left, right = values(6, 6, 2), kl.Conv2D(3, 3), kl.Conv2D(3, 3)
    inputs = keras.Input((6, 6, 2))
    both = [left(inputs), right(inputs)]
    model = keras.Model(inputs, ops.relu(kl.Add()(both)))
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    composite = composites.Composite([(None, rules.Epsilon(1e-6))], flow_epsilon=epsilon)
    start = np.random.default_rng(7).normal(size=(3, 4, 4, 3))
    with lrp_tf.engine.savings.switched_off() if not savings else np.errstate():
        explainer = lrp_tf.Explainer(model, composite)
    a, b = (np.asarray(z) for z in keras.Model(inputs, both)(x))
    start = start * (a + b > 0)  # zeros give relevance away where nothing is saved
    found = explainer.explain(x, start=start, layers=[left.name, right.name])
    g = start / stabilized(a + b, epsilon)
    close([np.asarray(found.layers[layer.name]) for layer in (left, right)], [a * g, b * g])


def test_a_relative_epsilon_is_that_of_each_sample_wherever_samples_lie():
    a, b = values(4, 5), values(4, 5, seed=2)

    def function(a, b):
        turned = ops.transpose(a, (1, 0, 2)) + ops.transpose(b, (1, 0, 2))
        return ops.transpose(turned, (1, 0, 2))

    flow = explained(function, a, b, stabilizer=rules.Relative(0.3))
    g = flow.start / stabilized(a + b, rules.Relative(0.3))
    close(flow.R, [a * g, b * g])


def test_average_pooling(epsilon):
    x = values(4, 4, 2)
    flow = explained(kl.AveragePooling2D(2), x, stabilizer=epsilon)
    g = flow.start / stabilized(flow.y, epsilon) / 4
    close(flow.R[0], x * g.repeat(2, 1).repeat(2, 2))


def test_max_pooling_as_average():
    x = values(4, 4, 2)
    entries = [(composites.max_pooling(), flows.MaxAsAverage(stabilizer=0.25)), (None, rules.Epsilon())]
    flow = Flow(kl.MaxPooling2D(2), x, composite=composites.Composite(entries))
    mean = x.reshape(3, 2, 2, 2, 2, 2).mean((2, 4))
    close(flow.R[0], x * (flow.start / stabilized(mean, 0.25) / 4).repeat(2, 1).repeat(2, 2))


def test_interpolation(epsilon):
    """UpSampling by two with bilinear interpolation: its matrix, from the layer itself."""
    x, layer = values(3, 3, 1), kl.UpSampling2D(2, interpolation="bilinear")
    J = np.asarray(layer(np.eye(9).reshape(9, 3, 3, 1))).reshape(9, -1)
    flow = Flow(
        layer, x, composite=composites.Composite([(None, rules.Epsilon())], flow_epsilon=epsilon), tolerance=1e-6
    )
    g = flow.start.reshape(3, -1) / stabilized(x.reshape(3, -1) @ J, epsilon)
    close(flow.R[0].reshape(3, -1), x.reshape(3, -1) * (g @ J.T), 1e-4)


def test_products_that_sum(epsilon):
    a, b = values(4, 5), values(5, 3, seed=2)
    flow = explained(ops.matmul, a, b, stabilizer=epsilon)
    g = flow.start / stabilized(a @ b, epsilon) / 2
    close(flow.R, [a * (g @ b.transpose(0, 2, 1)), b * (a.transpose(0, 2, 1) @ g)])


# --- norms, normalisation, affine steps --------------------------------------------------------


def test_norms(epsilon):
    x = values(4, 5)
    flow = explained(lambda x: ops.norm(x, axis=-1), x, stabilizer=epsilon)
    g = flow.start / stabilized(flow.y, epsilon) / flow.y
    close(flow.R[0], x**2 * g[..., None])


def test_layer_normalization(epsilon):
    x, layer = values(4, 6), kl.LayerNormalization()
    flow = explained(layer, x, stabilizer=epsilon)
    gamma, beta = (w.numpy() for w in layer.weights)
    scale = gamma / np.sqrt(x.var(-1, keepdims=True) + layer.epsilon)
    c = scale * flow.start / stabilized((x - x.mean(-1, keepdims=True)) * scale + beta, epsilon)
    close(flow.R[0], x * (c - c.mean(-1, keepdims=True)))


def test_group_normalization(epsilon):
    x, layer = values(5, 4), kl.GroupNormalization(2)
    flow = explained(layer, x, stabilizer=epsilon)
    gamma, beta = (w.numpy().reshape(1, 1, 2, 2) for w in layer.weights)
    t, R = x.reshape(3, 5, 2, 2), flow.start.reshape(3, 5, 2, 2)
    mean = t.mean((1, 3), keepdims=True)
    scale = gamma / np.sqrt(t.var((1, 3), keepdims=True) + layer.epsilon)
    c = scale * R / stabilized((t - mean) * scale + beta, epsilon)
    close(flow.R[0], (t * (c - c.mean((1, 3), keepdims=True))).reshape(x.shape))


def test_batch_normalization_of_its_own(epsilon):
    a, b, layer = values(4, 4, 3), values(4, 4, 3, seed=2), kl.BatchNormalization()
    flow = explained(lambda a, b: layer(ops.maximum(a, b)), a, b, stabilizer=epsilon)
    x, scale = np.maximum(a, b), layer.gamma.numpy() / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    R = x * scale * flow.start / stabilized(flow.y, epsilon)
    close(flow.R, [np.where(a >= b, R, 0), np.where(a >= b, 0, R)])


# --- where a sum is zero -----------------------------------------------------------------------


@pytest.mark.parametrize("stabilizer", [0, 1e-6, rules.Relative(0.0)], ids=repr)
def test_sums_that_are_zero_close_their_books(stabilizer):
    """Without an epsilon 0 / 0 is 0, and what arrives there is booked as "other"."""
    a, b = values(4), values(4, seed=2)
    a[:, 0] = -b[:, 0]
    a[1] = b[1] = 0
    flow = explained(ops.add, a, b, stabilizer=stabilizer)
    z = a + b
    if stabilizer == 1e-6:
        close(flow.other, np.zeros(3))
        g = flow.start / stabilized(z, stabilizer)
    else:
        close(flow.other, np.where(z == 0, flow.start, 0).sum(-1))
        g = np.divide(flow.start, z, out=np.zeros_like(z), where=z != 0)
    close(flow.R, [a * g, b * g])


# --- the field ---------------------------------------------------------------------------------

FLOWS = [
    *(flows.Share, flows.Contraction, flows.MaxAsAverage, flows.Homogeneous, flows.LayerNorm, flows.GroupNorm),
    flows.Affine,
]


@pytest.mark.parametrize("make", FLOWS)
def test_the_field(make):
    assert make().stabilizer == 1e-6
    assert repr(make()) == make.__name__
    assert repr(make(stabilizer=0.25)) == f"{make.__name__}(stabilizer=0.25)"
    assert repr(make(stabilizer=rules.Relative(0.1))) == f"{make.__name__}(stabilizer=Relative(0.1))"
    changed = make().with_stabilizer(0.25)
    assert changed == make(stabilizer=0.25)
    assert make().stabilizer == 1e-6
    for wrong in (-1, "x", True, None):
        with raises(ValueError, "stabilizer must be a number >= 0", "Received: stabilizer="):
            make(stabilizer=wrong)
        with raises(ValueError, "stabilizer must be a number >= 0"):
            make().with_stabilizer(wrong)


def test_flows_that_do_not_divide_have_none():
    for flow in (flows.Product(), flows.Move(), flows.PassThrough(), flows.WinnerTakesAll()):
        assert flow.with_stabilizer(0.25) is flow


def test_the_rest_of_a_flow_stays():
    assert flows.Contraction(gates="share").with_stabilizer(0.5) == flows.Contraction(gates="share", stabilizer=0.5)
    assert flows.Share("hull").with_stabilizer(0.5) == flows.Share("hull", 0.5)
    assert repr(flows.Contraction(gates="share")) == "Contraction(gates='share')"

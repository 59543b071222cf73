"""Functions of several entries against NumPy, written from the formulas in their docstrings; what linear steps read."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import RULE, check, close, dense_net, randomize, relevance, vectors
from helpers.custom_layers import Followed
from helpers.flowing import Flow, s, ties, values
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import rules

pytestmark = [
    pytest.mark.usefixtures("mode"),
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:NotImplemented should not be used:DeprecationWarning"),
]


def numbers(*shape, seed=1):
    """No zeros, both signs."""
    return values(*shape, seed=seed)


# --- norms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1, (1, 2)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_norm_shares_by_squares(axis, keepdims):
    x = numbers(3, 4)
    flow = Flow(lambda t: ops.norm(t, axis=axis, keepdims=keepdims), x)
    y = np.sqrt((x**2).sum(axis, keepdims=True))
    close(flow.R[0], x**2 / y * flow.start.reshape(y.shape) / s(y))


def test_norms_of_other_orders():
    x = numbers(4)
    for order, share in ((1, np.abs(x)), (3, np.abs(x) ** 3), (np.inf, np.abs(x) == np.abs(x).max(1, keepdims=True))):
        flow = Flow(lambda t, order=order: ops.norm(t, ord=order, axis=1), x)
        share = share / share.sum(1, keepdims=True)
        y = flow.y[:, None]
        close(flow.R[0], share * y * flow.start[:, None] / s(y))
    flow = Flow(lambda t: ops.norm(t, ord=0, axis=1), x)
    close(flow.R[0], np.zeros_like(x))
    close(flow.bias, flow.start)


def test_norm_of_zeros_is_finite():
    x = numbers(4)
    x[1] = 0
    flow = Flow(lambda t: ops.norm(t, axis=1), x)
    assert np.all(np.isfinite(flow.R[0]))
    assert np.all(flow.R[0][1] == 0)


def test_what_is_divided_by_its_norm_keeps_all():
    x = numbers(3, 4)
    close(Flow(lambda t: t / ops.norm(t, axis=-1, keepdims=True), x).R[0], Flow(lambda t: t * 1, x).start)


def test_hypot():
    x, y = numbers(4, seed=1), numbers(4, seed=2)
    x[0, 0] = y[0, 0] = 0
    flow = Flow(ops.hypot, x, y)
    z = np.hypot(x, y)
    safe = np.where(z == 0, 1, z)
    close(flow.R, [t**2 / safe * flow.start / s(z) for t in (x, y)])
    flow = Flow(lambda t: ops.hypot(t, np.full(4, 2.0)), x)
    z = np.hypot(x, 2)
    close(flow.R[0], x**2 / z * flow.start / s(z))
    close(flow.bias, (4 / z * flow.start / s(z)).sum(1))


# --- smooth maxima, products, angles -----------------------------------------------------------


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [1, (1, 2)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_logsumexp_shares_by_softmax(axis, keepdims):
    x = numbers(3, 4)
    flow = Flow(lambda t: ops.logsumexp(t, axis=axis, keepdims=keepdims), x)
    close(flow.R[0], softmax(x, axis) * np.broadcast_to(flow.start.reshape(x.sum(axis, keepdims=True).shape), x.shape))


@pytest.mark.parametrize(("name", "base"), [("logaddexp", np.e), ("logaddexp2", 2.0)])
def test_logaddexp(name, base):
    if not hasattr(ops, name):  # younger than the oldest Keras
        return
    function = getattr(ops, name)
    x, y = numbers(4, seed=1), numbers(4, seed=2)
    p = 1 / (1 + base ** (y - x))
    flow = Flow(function, x, y)
    close(flow.R, [p * flow.start, (1 - p) * flow.start])
    flow = Flow(lambda t: function(t, 0.5), x)
    p = 1 / (1 + base ** (0.5 - x))
    close(flow.R[0], p * flow.start)
    close(flow.bias, ((1 - p) * flow.start).sum(1))


@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_prod_shares_equally(axis):
    x = numbers(3, 4)
    flow = Flow(lambda t: ops.prod(t, axis=axis, keepdims=True), x)
    count = 3 if axis == 1 else 12
    close(flow.R[0], np.broadcast_to(flow.start / count, x.shape))


def test_arctan2_shares_equally_and_mod_holds_its_divisor():
    x, y = numbers(4, seed=1), numbers(4, seed=2)
    flow = Flow(ops.arctan2, x, y)
    close(flow.R, [flow.start / 2, flow.start / 2])
    flow = Flow(lambda t: ops.arctan2(t, np.full(4, 2.0)), x)
    close(flow.R[0], flow.start)
    flow = Flow(ops.mod, x, y)
    close(flow.R, [flow.start, np.zeros_like(y)])


# --- movement ----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
def test_sort_moves(axis):
    x = numbers(3, 4)
    flow = Flow(lambda t: ops.sort(t, axis=axis), x)
    R = np.zeros_like(x)
    np.put_along_axis(R, np.argsort(x, axis), flow.start, axis)
    close(flow.R[0], R)


def test_top_k_moves():
    x = numbers(3, 4)
    flow = Flow(lambda t: ops.top_k(t, 2)[0], x)
    R = np.zeros_like(x)
    np.put_along_axis(R, np.argsort(-x, -1)[..., :2], flow.start, -1)
    close(flow.R[0], R)
    chosen = Flow(lambda t: ops.take_along_axis(t, ops.top_k(t, 2)[1], axis=-1), x)
    close(chosen.R[0], R)


def test_slice_update_replaces():
    x, u = numbers(3, 4, seed=1), numbers(2, 2, seed=2)
    flow = Flow(lambda t, v: ops.slice_update(t, [0, 1, 2], v), x, u)
    around = flow.start.copy()
    around[:, 1:3, 2:] = 0
    close(flow.R, [around, flow.start[:, 1:3, 2:]])


def test_select_asks_who_gave_the_entry():
    x, y = numbers(4, seed=1), numbers(4, seed=2)
    flow = Flow(lambda a, b: ops.select([a > 0.5, b > 0], [a, b * 2], 0.25), x, y)
    first, second = x > 0.5, (x <= 0.5) & (y > 0)
    close(flow.R, [np.where(first, flow.start, 0), np.where(second, flow.start, 0)])
    close(flow.bias, np.where(first | second, 0, flow.start).sum(1))


def test_moments_are_a_mean_and_a_variance():
    x = numbers(3, 4)
    both = Flow(lambda t: ops.moments(t, axes=[1])[0] + ops.moments(t, axes=[1])[1], x)
    parts = Flow(lambda t: ops.mean(t, axis=1) + ops.var(t, axis=1), x)
    close(both.R[0], parts.R[0])
    close(both.bias, parts.bias)
    normal = lambda t: (t - ops.moments(t, [2], keepdims=True)[0]) / ops.sqrt(ops.moments(t, [2], keepdims=True)[1])  # noqa: E731
    same = lambda t: (t - ops.mean(t, 2, keepdims=True)) / ops.sqrt(ops.var(t, 2, keepdims=True))  # noqa: E731
    close(Flow(normal, x).R[0], Flow(same, x).R[0])


# --- a constant among the entries of a maximum --------------------------------------------------


@pytest.mark.parametrize("initial", [0.3, -0.7, 1.0, 9.0])
@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_initial_is_one_more_entry(name, initial, axis):
    x, sign = ties(3, 4) if initial == 1.0 else numbers(3, 4), 1 if name == "max" else -1
    flow = Flow(lambda t: getattr(ops, name)(t, axis=axis, initial=initial), x)
    plain = Flow(lambda t: getattr(ops, name)(t, axis=axis), x)
    top = (sign * x).max(axis)
    won = top >= sign * initial
    keep = np.expand_dims(won, axis)
    close(flow.R[0], np.where(keep, plain.R[0], 0))
    close(flow.bias, np.where(won, 0, flow.start).reshape(3, -1).sum(1))


def test_a_minimum_with_a_negative_constant_is_not_said_to_be_nonnegative():
    """AlphaBeta and Gamma would take a negative input for a positive one."""
    dense = kl.Dense(2)
    model = dense_net(kl.Dense(4), kl.ReLU(), Followed(lambda t: ops.min(t[:, :, None], axis=2, initial=-0.7)), dense)
    found = check(model, vectors(), RULE, target=0)
    clone = lrp_tf.clone_with_rules(model, RULE)
    assert not next(step for step in clone.graph.steps if step.op is model.layers[-2]).marks.nonnegative
    assert np.all(np.isfinite(found.relevance))
    raised = Followed(lambda t: ops.max(t[:, :, None], axis=2, initial=0.1))
    positive = dense_net(kl.Dense(4), kl.ReLU(), raised, kl.Dense(2))
    clone = lrp_tf.clone_with_rules(positive, RULE)
    assert next(step for step in clone.graph.steps if step.op is positive.layers[-2]).marks.nonnegative


# --- what linear steps read --------------------------------------------------------------------

RULES = [rules.ZPlus(), rules.AlphaBeta(2, 1), rules.Gamma(), rules.Epsilon(), rules.Flat(), rules.WSquare()]
DETACHED = {
    "std": lambda h: ops.std(h, axis=1),
    "var": lambda h: ops.var(h, axis=1),
    "argmax": lambda h: ops.cast(ops.argmax(h, axis=1), h.dtype),
    "comparison": lambda h: ops.cast(ops.any(h > 0, axis=1), h.dtype),
}


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", DETACHED)
def test_relevance_ends_at_a_linear_step_fed_by_detached_values(name, rule):
    i = keras.Input((6, 4))
    h = Followed(DETACHED[name])(kl.Dense(4)(i))
    h = kl.BatchNormalization()(kl.Dense(4, activation="relu")(h))
    model = randomize(keras.Model(i, kl.Dense(3)(h)))
    e = check(model, values(6, 4), rule, target=0)
    assert np.all(np.asarray(e.relevance) == 0)
    shares = e.conservation
    close(shares.start, shares.bias + shares.stabilizer + shares.other, 1e-6)


def test_a_statistic_beside_a_signal_takes_its_share():
    i = keras.Input((6, 4))
    h = kl.Dense(4)(i)
    pooled = ops.concatenate([ops.mean(h, axis=1), ops.std(h, axis=1)], axis=-1)
    e = check(randomize(keras.Model(i, kl.Dense(3)(pooled))), values(6, 4), rules.Epsilon(), target=0)
    assert np.abs(e.relevance).max() > 0


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_weighted_average_keeps_its_rank(rule):
    weights = np.linspace(1, 2, 6)
    i = keras.Input((6, 4))
    h = ops.average(kl.Dense(4)(i), axis=1, weights=ops.convert_to_tensor(weights))
    model = randomize(keras.Model(i, kl.Dense(3)(h)))
    check(model, values(6, 4), rule, target=0)


# --- activations that are functions of others ---------------------------------------------------


def gelu_approximate(x):
    """As keras_hub has it."""
    return keras.activations.gelu(x, approximate=True)


def swish(x):
    return x * ops.sigmoid(1.7 * x)


def softmax_of_the_last(x):
    return ops.softmax(x, axis=-1)


ACTIVATIONS = {
    "partial": functools.partial(keras.activations.gelu, approximate=True),
    "function": gelu_approximate,
    "product": swish,
    "leaky": functools.partial(keras.activations.relu, negative_slope=0.3),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("apart", [True, False])
def test_activation_that_consists_of_elementwise_functions(name, apart):
    function = ACTIVATIONS[name]
    ahead = [kl.Dense(4, name="hidden"), kl.Activation(function)] if apart else [kl.Dense(4, function, name="hidden")]
    model = dense_net(*ahead)
    found = check(model, vectors(), RULE, target=0, layers=["hidden"])
    explainer = lrp_tf.Explainer(model, RULE)
    paths = explainer.summary(None).column("layer")
    assert not [path for path in paths if "None" in path]
    if not apart:
        assert f"hidden:{getattr(function, '__name__', None) or function.func.__name__}" in paths
    assert np.abs(found.relevance).max() > 0


def test_looking_into_an_activation_leaves_the_names_of_later_operations():
    def doubled(x):
        return x * ops.tanh(x)

    name = lambda: ops.tanh(keras.KerasTensor((None, 2)))._keras_history.operation.name  # noqa: E731
    keras.backend.clear_session()
    before = name()
    lrp_tf.Explainer(dense_net(kl.Dense(4, doubled, name="hidden")), RULE)
    keras.backend.clear_session()
    model = dense_net(kl.Dense(4, doubled, name="hidden"))
    keras.backend.clear_session()
    lrp_tf.Explainer(model, RULE)
    assert name() == before


def test_activation_along_an_axis_is_followed():
    found, same = (dense_net(kl.Dense(4, function)) for function in (softmax_of_the_last, "softmax"))
    close(relevance(found, vectors()), relevance(same, vectors()))


# --- what the refusal of a layer says -----------------------------------------------------------


class Decoder(kl.Layer):
    """Layers, and one line that cannot be followed."""

    def __init__(self, line, **options):
        super().__init__(**options)
        self.line, self.inner = line, kl.Dense(4)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.line(self.inner(x))


def message(layer, *shape):
    i = keras.Input(shape)
    with pytest.raises(lrp_tf.UnsupportedLayerError) as error:
        lrp_tf.Explainer(keras.Model(i, kl.Dense(2)(layer(i))), RULE)
    return str(error.value)


def own_row(h):
    """The entry of each sample with its own number: the size of the batch is asked for."""
    rows = ops.arange(ops.shape(h)[0])
    return h * ops.cast(rows[:, None] >= 0, h.dtype)


def test_no_length_is_proposed_where_all_are_known():
    text = message(Decoder(own_row, name="decoder"), 4)
    assert "keras.Input((128,))" not in text
    assert "size of the batch" in text
    assert "take_along_axis" in text
    positions = lambda h: h + ops.cast(ops.arange(0, ops.shape(h)[1]), h.dtype)[:, None]  # noqa: E731
    assert "keras.Input((128,))" in message(Decoder(positions, name="decoder"), None, 4)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [(lambda h: tf.nn.relu(h), "keras.ops"), (own_row, "take_along_axis")],
    ids=["TensorFlow", "size of the batch"],
)
def test_a_layer_of_layers_is_not_proposed_to_pass_relevance_through(line, remedy):
    text = message(Decoder(line, name="decoder"), 4)
    assert "'decoder'" in text
    assert "PassThrough" not in text
    assert "linear.register" not in text
    assert "could not be followed" in text
    assert remedy in text.partition("Remedy: ")[2]
    assert "PassThrough" in message(Followed(lambda h: tf.nn.relu(h)), 4)  # a single step it may be

"""SmoothGrad, integrated and expected gradients against loops over single points."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, raises, randomize, vectors
from keras import layers as kl

import lrp_tf
from lrp_tf import gradients

X = images(3, dtype="float64")
TOLERANCE = 1e-10


def build(activation=None):
    """A smooth net, so that finite sums converge."""
    inputs = keras.Input((8, 8, 2), dtype="float64")
    x = kl.Conv2D(4, 3, activation="tanh", dtype="float64")(inputs)
    x = kl.Dense(5, activation="softplus", dtype="float64")(kl.Flatten(dtype="float64")(x))
    return randomize(keras.Model(inputs, kl.Dense(4, activation=activation, dtype="float64")(x)))


@pytest.fixture(scope="module")
def net():
    return build("softmax"), build()


def taped(plain, x, weights):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(plain(x, training=False) * weights)
    return tape.gradient(value, x).numpy()


def hot(target):
    return np.eye(4)[np.asarray(target)]


def noisy(number, x, noise=0.15, seed=0):
    """x with the noise of one draw, as documented: the same pattern for every sample, scaled to each."""
    key = tf.random.fold_in(tf.constant([seed, 0]), 0, alg="philox")
    key = tf.random.fold_in(key, number, alg="philox")
    pattern = tf.random.stateless_normal(x.shape[1:], key, dtype=x.dtype, alg="philox").numpy()
    span = x.max((1, 2, 3), keepdims=True) - x.min((1, 2, 3), keepdims=True)
    return x + noise * span * pattern


@pytest.mark.parametrize(("reduce", "change"), [
    ("mean", lambda g: g), ("mean_square", np.square), ("mean_abs", np.abs)
])  # fmt: skip
def test_smoothgrad_is_a_mean_over_noise(net, reduce, change):
    model, plain = net
    expected = np.mean([change(taped(plain, noisy(i, X), hot([2, 0, 1]))) for i in range(7)], 0)
    method = gradients.SmoothGrad(model, n=7, reduce=reduce, chunk=6)
    close(method(X, [2, 0, 1]), expected, TOLERANCE)
    close(method(X[1:2], 0), expected[1:2], TOLERANCE)  # whatever batch a sample comes in
    close(pickle.loads(pickle.dumps(method))(X, [2, 0, 1], max_batch=2), expected, TOLERANCE)


def test_the_target_is_that_of_the_input_itself(net):
    model, plain = net
    top = plain(X).numpy().argmax(1)
    method = gradients.SmoothGrad(model, n=5, noise=1.0)
    assert any((plain(noisy(i, X, 1.0)).numpy().argmax(1) != top).any() for i in range(5))
    close(method(X), method(X, top), TOLERANCE)
    ranks = np.argsort(-plain(X).numpy(), axis=1)[:, :2]
    close(method(X, "topK:2"), np.stack([method(X, ranks[:, 0]), method(X, ranks[:, 1])], 1), TOLERANCE)
    z = plain(X).numpy()
    w = np.where(hot(top) == 1, 0, np.exp(z))
    c = hot(top) - w / w.sum(1, keepdims=True)
    expected = np.mean([taped(plain, noisy(i, X, 1.0), c) for i in range(5)], 0)
    close(method(X, contrast="softmax"), expected, TOLERANCE)


def test_smoothgrad_of_relevance(net):
    model, _ = net
    explainer = lrp_tf.Explainer(model, "epsilon_plus_flat")
    expected = np.mean([explainer(noisy(i, X), [[2, 1], [0, 1], [1, 3]]) for i in range(4)], 0)
    for method in (gradients.SmoothGrad(explainer, n=4), gradients.SmoothGrad(model, "epsilon_plus_flat", n=4)):
        assert method.start == "output"
        close(method(X, [[2, 1], [0, 1], [1, 3]]), expected, TOLERANCE)
    again = method.with_model(model)
    close(
        again(X, [0, 1, 2], start="one"), np.mean([explainer(noisy(i, X), [0, 1, 2], start="one") for i in range(4)], 0)
    )


def integrated(plain, x, b, c, places, shares):
    total = sum(share * taped(plain, b + place * (x - b), c) for place, share in zip(places, shares, strict=True))
    return (x - b) * total


PLACES = {
    "left": ([0, 0.25, 0.5, 0.75], [0.25] * 4),
    "right": ([0.25, 0.5, 0.75, 1], [0.25] * 4),
    "middle": ([0.125, 0.375, 0.625, 0.875], [0.25] * 4),
    "trapezoid": ([0, 1 / 3, 2 / 3, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    "gauss_legendre": (  # Abramowitz and Stegun, table 25.4, on [0, 1]
        [0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970262],
        [0.17392742256872692, 0.32607257743127307, 0.32607257743127307, 0.17392742256872692],
    ),
}


@pytest.mark.parametrize("rule", PLACES)
@pytest.mark.usefixtures("seldom_compiled")
def test_integrated_gradients_are_a_sum_on_the_path(net, rule):
    model, plain = net
    method = gradients.IntegratedGradients(model, n=4, rule=rule, baseline=0.3, chunk=4)
    expected = integrated(plain, X, 0.3, hot([2, 0, 1]), *PLACES[rule])
    close(method(X, [2, 0, 1]), expected, TOLERANCE)
    close(method(X, [[2, 0], [0, 2], [1, 2]], max_batch=2)[:, 0], expected, TOLERANCE)


def test_baselines(net):
    model, plain = net
    channel, batch = np.array([0.1, -0.2]), images(3, seed=7, dtype="float64")
    each = X.mean((1, 2), keepdims=True)
    cases = [(channel, channel), (batch, batch), (lambda x: x.mean((1, 2), keepdims=True), each), (batch[0], batch[0])]
    for given, b in cases:
        expected = integrated(plain, X, np.broadcast_to(b, X.shape), hot([1, 1, 1]), *PLACES["middle"])
        found = gradients.IntegratedGradients(model, n=4, rule="middle", baseline=given)(X, 1, max_batch=2)
        close(found, expected, TOLERANCE)


def test_integrated_gradients_become_complete(net):
    model, plain = net
    rest = {}
    for rule, n in (("left", 8), ("left", 64), ("trapezoid", 64), ("gauss_legendre", 8)):
        method = gradients.IntegratedGradients(model, n=n, rule=rule, baseline=0.1, chunk=64)
        z, start = plain(X).numpy(), plain(np.full_like(X, 0.1)).numpy()
        rest[rule, n] = np.abs(method(X, 2).numpy().sum((1, 2, 3)) - (z - start)[:, 2]).max()
    assert rest["left", 64] < rest["left", 8] / 4
    assert rest["trapezoid", 64] < 1e-2
    assert rest["gauss_legendre", 8] < 1e-3


def test_guided_backpropagation_on_the_path():
    model = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(6, activation="relu"), kl.Dense(2)]))
    x = vectors(dtype="float32")
    one = gradients.Gradient(model, "guided_backprop")
    mean = sum(one(x * place, 1).numpy() for place in PLACES["middle"][0]) / 4
    method = gradients.IntegratedGradients(model, "guided_backprop", n=4, rule="middle")
    close(method(x, 1), x * mean, 5e-6)
    plain = gradients.IntegratedGradients(model, "guided_backprop", n=4, rule="middle", times_inputs=False)
    close(plain(x, 1), mean, 5e-6)


def test_expected_gradients(net):
    model, plain = net
    background, rng = images(6, seed=9, dtype="float64"), np.random.default_rng(3)
    rows, places = rng.integers(0, 6, 5), rng.uniform(size=5)
    total = 0.0
    for row, place in zip(rows, places, strict=True):
        b = background[row]
        total = total + (X - b) * taped(plain, b + place * (X - b), hot([2, 0, 1])) / 5
    method = gradients.ExpectedGradients(model, background, n=5, seed=3, chunk=7)
    close(method(X, [2, 0, 1]), total, TOLERANCE)
    close(method(X[2:], "top1"), method(X)[2:], TOLERANCE)
    close(pickle.loads(pickle.dumps(method))(X, [[2, 1], [0, 1], [1, 0]])[:, 0], total, TOLERANCE)
    many = gradients.ExpectedGradients(model, background, n=3000, chunk=3000)(X[:1], 1).numpy().sum()
    change = (plain(X[:1]).numpy()[0] - plain(background).numpy().mean(0))[1]
    assert abs(many - change) < 0.1 * abs(change)


def test_several_inputs():
    a, t = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="t")
    h = kl.Concatenate()([kl.Dense(3, activation="tanh")(a), kl.Flatten()(kl.Embedding(5, 2)(t))])
    model = randomize(keras.Model({"a": a, "t": t}, kl.Dense(2)(kl.Dense(4, activation="tanh")(h))))
    x = {"a": vectors(2, dtype="float32"), "t": np.array([[0, 1, 2], [3, 4, 0]], "int32")}
    for method in (
        gradients.SmoothGrad(model, n=3, noise=0.0),
        gradients.IntegratedGradients(model, n=30, rule="gauss_legendre", baseline={"a": 0.2, "t": 0}),
        gradients.ExpectedGradients(model, {k: v[:1] for k, v in x.items()}, n=3),
    ):
        found = method(x, 1)
        assert found["t"] is None
        assert found["a"].shape == (2, 4)
    found = gradients.IntegratedGradients(model, n=30, rule="gauss_legendre", baseline={"a": 0.2, "t": 0})(x, 1)[
        "a"
    ].numpy()
    explainer = lrp_tf.Explainer(model, "epsilon")  # relevance reaches the tokens, which stay where they are
    mean = gradients.IntegratedGradients(explainer, n=3, times_inputs=False)(x, 1, max_batch=1)
    on_path = ((0, 0.25), (0.5, 0.5), (1, 0.25))
    parts = [share * explainer({**x, "a": place * x["a"]}, 1)["t"] for place, share in on_path]
    close(mean["t"], sum(parts), 5e-6)
    for method in (
        gradients.IntegratedGradients(explainer, n=3),
        gradients.ExpectedGradients(model, {k: v[:1] for k, v in x.items()}, "epsilon", n=3),
    ):
        assert method(x, 1, max_batch=1)["t"] is None
    assert repr(method).startswith("ExpectedGradients('functional")
    assert "background={'a': <array (1, 4)>, 't': <array (1, 3)>}, n=3" in repr(method)
    change = model(x).numpy() - model({**x, "a": np.full((2, 4), 0.2, "float32")}).numpy()
    np.testing.assert_allclose(found.sum(1), change[:, 1], rtol=1e-3)


def test_a_mixed_policy_computes_in_float32():
    def net(policy):
        stack = [kl.Conv2D(3, 3, activation="tanh", dtype=policy), kl.Flatten(dtype=policy), kl.Dense(2, dtype=policy)]
        return randomize(keras.Sequential([keras.Input((8, 8, 2)), *stack]))

    x, before = X.astype("float32"), [w.numpy() for w in net("mixed_float16").weights]
    mixed = net("mixed_float16")
    close(gradients.SmoothGrad(mixed, n=3)(x, 1), gradients.SmoothGrad(net("float32"), n=3)(x, 1), 5e-6)
    for w, b in zip(mixed.weights, before, strict=True):
        np.testing.assert_array_equal(w.numpy(), b)


def test_bad_options(net):
    model, _ = net
    for kind, options, words in (
        (gradients.SmoothGrad, {"n": 0}, ["n expects", "at least 1"]),
        (gradients.SmoothGrad, {"noise": -1.0}, ["noise", "at least 0"]),
        (gradients.SmoothGrad, {"reduce": "max"}, ["reduce", "mean_abs"]),
        (gradients.IntegratedGradients, {"rule": "simpson"}, ["rule", "gauss_legendre"]),
        (gradients.IntegratedGradients, {"n": 1}, ["n expects", "at least 2"]),
        (gradients.IntegratedGradients, {"chunk": 0}, ["chunk"]),
    ):
        with raises(ValueError, *words):
            kind(model, **options)
    with raises(ValueError, "baseline", "wrong shape", r"\(8, 8, 2\)", r"\(7,\)"):
        gradients.IntegratedGradients(model, baseline=np.zeros(7))(X)
    with raises(ValueError, "baseline", "finite"):
        gradients.IntegratedGradients(model, baseline=np.nan)(X)
    with raises(ValueError, "wrong shape"):
        gradients.ExpectedGradients(model, np.zeros((3, 4)))
    pixels = keras.Input((4,), dtype="uint8")
    with raises(ValueError, "SmoothGrad", "uint8", "Remedy"):
        gradients.SmoothGrad(keras.Model(pixels, kl.Dense(2)(kl.Rescaling(0.1)(pixels))))
    with raises(ValueError, "NaN or Inf"):
        gradients.SmoothGrad(model, n=2)(X * np.inf)

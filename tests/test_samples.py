"""The samples of a batch are explained apart: what mixes them is refused by name, what does not is not."""

import keras
import numpy as np
import pytest
from helpers.checking import RULE, check, raises, randomize
from helpers.custom_layers import Followed
from keras import layers as kl
from keras import ops

import lrp_tf

pytestmark = [
    pytest.mark.usefixtures("mode"),
    pytest.mark.filterwarnings("ignore:NotImplemented should not be used:DeprecationWarning"),  # of Keras
]
X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
V = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
SQUARE = np.random.default_rng(2).normal(size=(3, 4, 4)).astype("float32")
W = np.random.default_rng(3).normal(size=(4, 4)).astype("float32")


def model_of(function, x, behind=True):
    """Functions of h, which is x on the way."""
    i = keras.Input(x.shape[1:])
    y = Followed(function, name="own")(kl.Activation("linear")(i))
    if behind:
        y = kl.Dense(2)(kl.Flatten()(y))
    return randomize(keras.Model(i, y))


def column(x):
    return ops.sum(x, axis=-1)


# h is [B, 4] or [B, 6, 4]; each of them computes over the samples
MIXES = {
    "flip": (lambda h: ops.flip(h, axis=0), V),
    "flip all": (lambda h: ops.flip(h), V),
    "flipud": (lambda h: ops.flipud(h), V),
    "roll": (lambda h: ops.roll(h, 1, axis=0), V),
    "roll all": (lambda h: ops.roll(h, 1), V),
    "rot90": (lambda h: h + ops.rot90(ops.rot90(h)), V),
    "softmax": (lambda h: ops.softmax(h, axis=0), V),
    "softmax all": (lambda h: ops.softmax(h, axis=None), V),
    "log_softmax": (lambda h: ops.log_softmax(h, axis=0), V),
    "softmax of the last": (lambda h: h * ops.softmax(column(h), axis=-1)[:, None], V),
    "argsort": (lambda h: h + ops.cast(ops.argsort(h, axis=0), h.dtype), V),
    "sort": (lambda h: ops.sort(h, axis=0), V),
    "argmax": (lambda h: h + ops.cast(ops.argmax(h, axis=0), h.dtype), V),
    "argmax all": (lambda h: h + ops.cast(ops.argmax(h), h.dtype), V),
    "compared with an argmax": (lambda h: ops.where(ops.argmax(h, axis=0) > 0, h, -h), V),
    "any": (lambda h: ops.where(ops.any(h > 1, axis=0), h, -h), V),
    "cumsum": (lambda h: ops.cumsum(h, axis=0), V),
    "cumprod": (lambda h: ops.cumprod(h, axis=0), V),
    "logsumexp": (lambda h: h - ops.logsumexp(h, axis=0, keepdims=True), V),
    "var": (lambda h: h / ops.var(h, axis=0), V),
    "std": (lambda h: h / ops.std(h), V),
    "norm": (lambda h: h / ops.norm(h, axis=0), V),
    "average": (lambda h: h - ops.average(h, axis=0), V),
    "median": (lambda h: h - ops.median(h, axis=0), V),
    "quantile": (lambda h: h - ops.quantile(h, 0.5, axis=0), V),
    "moments": (lambda h: h - ops.moments(h, axes=[0])[0], V),
    "prod": (lambda h: h * ops.prod(h, axis=0), V),
    "max": (lambda h: h - ops.max(h, axis=(0, 1), keepdims=True), V),
    "normalize": (lambda h: ops.normalize(h, axis=0), V),
    "diff": (lambda h: h + ops.pad(ops.diff(h, axis=0), [[1, 0], [0, 0]]), V),
    "matmul with its transpose": (lambda h: h @ ops.matmul(ops.transpose(h), h), V),
    "matmul of samples": (lambda h: ops.matmul(h, ops.transpose(h)) @ h, V),
    "dot": (lambda h: ops.dot(h, ops.transpose(h)) @ h, V),
    "inner": (lambda h: ops.inner(h, h) @ h, V),
    "vdot": (lambda h: h * ops.vdot(h, h), V),
    "outer": (lambda h: ops.reshape(ops.outer(h, h), (-1, 4)), V),
    "einsum": (lambda h: ops.einsum("bi,ci->bc", h, h) @ h, V),
    "einsum of two samples": (lambda h: ops.einsum("bi,ci->bi", h, h), V),
    "einsum without the samples": (lambda h: h * ops.einsum("bi->i", h), V),
    "einsum of one that is summed": (lambda h: h * ops.einsum("bi,bi->i", h, h), V),
    "tensordot": (lambda h: h @ ops.tensordot(h, h, axes=[[0], [0]]), V),
    "take": (lambda h: h + ops.take(h, [0], axis=0), V),
    "take from all": (lambda h: h + ops.take(h, [0, 1, 2, 3]), V),
    "take along": (lambda h: h + ops.take_along_axis(h, ops.zeros((1, 4), "int32"), axis=0), V),
    "the first sample": (lambda h: h - h[0], V),
    "the first sample, kept": (lambda h: h - ops.slice(h, [0, 0], [1, 4]), V),
    "the first two": (lambda h: ops.repeat(h[:2, :], 2, axis=1), V),
    "backwards": (lambda h: h[::-1, :], V),
    "backwards, the index alone": (lambda h: h[::-1], V),
    "before an axis of one": (lambda h: ops.cumsum(h[None], axis=1)[0], V),
    "stack": (lambda h: ops.stack([h, h[::-1, :]], axis=1), V),
    "cumsum all": (lambda h: ops.reshape(ops.cumsum(h), (-1, 4)), V),
    "pad": (lambda h: ops.pad(h, [[1, 0], [0, 0]]), V),
    "ravel": (lambda h: ops.reshape(ops.softmax(ops.ravel(h)), (-1, 4)), V),
    "repeat all": (lambda h: ops.reshape(ops.cumsum(ops.repeat(h, 2), axis=0), (-1, 4)), V),
    "concatenate": (lambda h: ops.concatenate([h, h], axis=0), V),
    "split": (lambda h: ops.split(ops.tile(h, (2, 1)), 2, axis=0)[0], V),
    "tile": (lambda h: ops.tile(h, (2, 1)), V),
    "reshape": (lambda h: ops.repeat(ops.reshape(h, (-1, 8)), 2, axis=1), V),
    "reshape to one row": (lambda h: ops.reshape(ops.cumsum(ops.reshape(h, (1, -1)), axis=1), (-1, 4)), V),
    "diagonal": (lambda h: h + ops.diagonal(h)[0], V),
    "trace": (lambda h: h + ops.trace(h), V),
    "tril": (lambda h: ops.tril(h), V),
    "triu": (lambda h: ops.triu(h), V),
    "transposition": (lambda h: h + ops.transpose(h)[0][0], V),
    "another axis": (lambda h: h + ops.sum(ops.transpose(h), axis=1), V),
    "squeeze": (lambda h: h + ops.squeeze(ops.max(h, axis=0, keepdims=True), 0), V),
    "aligned at the end": (lambda h: h - ops.mean(h, axis=1), V),
    "a rank less": (lambda h: h + ops.mean(h, axis=1), SQUARE),
    "resize": (lambda h: ops.image.resize(h, (3, 4)), SQUARE),
    "one sample's size": (lambda h: h / ops.cast(ops.size(h), h.dtype), V),
    "UnitNormalization": (lambda h: kl.UnitNormalization(axis=0)(h), V),
    "UnitNormalization of both": (lambda h: kl.UnitNormalization(axis=(0, 1))(h), V),
    "Softmax": (lambda h: kl.Softmax(axis=0)(h), V),
    "Concatenate": (lambda h: kl.Concatenate(axis=0)([h, h]), V),
}


@pytest.mark.parametrize("name", MIXES)
def test_what_computes_over_the_samples_is_refused_by_name(name):
    function, x = MIXES[name]
    with raises(lrp_tf.UnsupportedLayerError, "'own/", "sample", "Remedy: "):
        lrp_tf.Explainer(model_of(function, x, behind=False), "epsilon")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: kl.LayerNormalization(axis=0),
        lambda: kl.UnitNormalization(axis=0),
        lambda: kl.Softmax(axis=0),
        lambda: kl.EinsumDense("bi,ij->bj", 4),
    ],
)
def test_layers_in_a_model(layer):
    """With a batch of fixed size, as Keras needs it to build some of them."""
    i = keras.Input(batch_shape=(3, 4))
    made = layer()
    model = randomize(keras.Model(i, kl.Dense(2)(made(kl.Activation("linear")(i)))))
    if isinstance(made, kl.EinsumDense):
        check(model, V, "epsilon", tolerance=1e-4)
        return
    with raises(lrp_tf.UnsupportedLayerError, made.name, "over the samples", "Remedy: "):
        lrp_tf.Explainer(model, "epsilon")


def windows(h):
    """[B, 6, 4] -> three windows of two for each sample, among the samples, and back."""
    rows = ops.reshape(h, (-1, 2, 4))
    return ops.reshape(ops.softmax(rows @ ops.transpose(rows, (0, 2, 1))) @ rows, (-1, 6, 4))


def time_first(h):
    """Steps in time on the first axis, as recurrent code has them."""
    steps = ops.transpose(h, (1, 0, 2))
    state, found = 0 * h[:, 0], []
    for t in range(6):
        state = ops.tanh(ops.matmul(steps[t], W) + state)
        found.append(state)
    return ops.transpose(ops.stack(found, axis=0), (1, 0, 2))


def turned(h):
    """Between two transpositions: functions of an entry, sums over other axes, numbers."""
    t = ops.transpose(h, (1, 0, 2))
    t = ops.relu(t + 1.0) * 2 + ops.max(t, axis=0, keepdims=True)
    t = t / (1 + ops.sum(ops.square(t), axis=2, keepdims=True)) + ops.convert_to_tensor(W[0])
    return ops.transpose(t[1:, :] + t[:5, :], (1, 0, 2))


# name -> (function, input); None of them computes over the samples.
APART = {
    "windows": (windows, X),
    "time first": (time_first, X),
    "turned for a while": (turned, X),
    "swapaxes": (lambda h: ops.swapaxes(ops.relu(ops.swapaxes(h, 0, 1)), 0, 1), X),
    "moveaxis": (lambda h: ops.moveaxis(ops.moveaxis(h, 0, -1) + 1.0, -1, 0), X),
    "transposed matrix": (lambda h: ops.transpose(2 * ops.transpose(h)), V),
    "indices alone": (lambda h: ops.transpose(ops.transpose(h, (1, 0, 2))[1:][::-1], (1, 0, 2))[None][0][...], X),
    "unstack": (lambda h: sum(ops.unstack(ops.transpose(h, (1, 0, 2)), num=6, axis=0)), X),
    "flip": (lambda h: ops.flip(h, axis=(1, 2)), X),
    "roll": (lambda h: ops.roll(h, (1, 2), axis=(1, 2)), X),
    "sort": (lambda h: h * ops.cast(ops.argsort(h, axis=1), h.dtype), X),
    "take": (lambda h: ops.take(h, [[0, 1], [2, 2]], axis=1), X),
    "take along": (lambda h: ops.take_along_axis(h, ops.argsort(h, axis=1), axis=1), X),
    "one hot": (lambda h: h * ops.one_hot(ops.argmax(h, axis=-1), 4, axis=-1), V),
    "one hot ahead": (lambda h: ops.transpose(ops.one_hot(ops.argmax(h, axis=-1), 4, axis=0)) * h, V),
    "einsum": (lambda h: ops.einsum("...ij,...ik->...jk", h, h), X),
    "einsum of weights": (lambda h: ops.einsum("bti,ij->btj", h, W), X),
    "einsum without an arrow": (lambda h: ops.einsum("bti,ij", h, W), X),
    "matmul of two": (lambda h: ops.matmul(h, ops.transpose(h, (0, 2, 1))), X),
    "weights ahead": (lambda h: ops.matmul(W, ops.transpose(h, (0, 2, 1))), X),
    "tensordot": (lambda h: ops.tensordot(h, W, axes=[[2], [0]]), X),
    "dot": (lambda h: ops.dot(h, W), X),
    "triangle": (lambda h: ops.tril(h), SQUARE),
    "diagonal": (lambda h: ops.diagonal(h, axis1=1, axis2=2), SQUARE),
    "cross": (lambda h: ops.cross(h[:, :3], h[:, 1:]), V),
    "norms": (lambda h: ops.normalize(h, axis=(1, 2)), X),
    "quantiles": (lambda h: h - ops.expand_dims(ops.std(h, axis=1), 1), X),
    "all together, of each": (lambda h: ops.reshape(h, (-1, 24)), X),
    "constants ahead": (lambda h: ops.sum(h * W[None, None, 0], axis=0), V),
    "repeat": (lambda h: ops.repeat(h, 3, axis=1), X),
    "one row for a while": (lambda h: ops.reshape(ops.tanh(ops.reshape(h, (1, -1))) * 2, (-1, 6, 4)), X),
}


@pytest.mark.parametrize("name", APART)
def test_what_keeps_the_samples_apart_is_explained(name):
    function, x = APART[name]
    model = model_of(function, x)
    explainer = lrp_tf.Explainer(model, "epsilon")
    e = explainer.explain(x, 0)
    np.testing.assert_allclose(e.output, model(x), rtol=1e-4, atol=1e-5)
    shares = e.conservation
    np.testing.assert_allclose(shares.unexplained, 0, atol=1e-4)
    alone = [explainer.explain(x[b : b + 1], 0) for b in range(3)]
    R = np.concatenate([a.relevance for a in alone])
    np.testing.assert_allclose(e.relevance, R, rtol=0, atol=1e-5 * np.abs(R).max())
    for name in ("bias", "stabilizer", "other"):
        each = np.concatenate([getattr(a.conservation, name) for a in alone])
        np.testing.assert_allclose(getattr(shares, name), each, rtol=1e-3, atol=1e-5)


def test_a_product_with_weights_finds_the_samples_where_they_are():
    moved = lrp_tf.Explainer(model_of(lambda h: ops.transpose(ops.matmul(W, ops.transpose(h))), V), "epsilon")(V, 0)
    plain = lrp_tf.Explainer(model_of(lambda h: ops.matmul(h, W.T), V), "epsilon")(V, 0)
    np.testing.assert_allclose(moved, plain, rtol=0, atol=1e-6 * np.abs(plain).max())


def test_a_layer_wants_the_samples_first():
    i = keras.Input((6, 4))
    h = kl.LayerNormalization(name="norm")(ops.transpose(i, (1, 0, 2)))
    with raises(lrp_tf.UnsupportedLayerError, "'norm'", "axis 1", "Remedy: transpose"):
        lrp_tf.Explainer(keras.Model(i, ops.max(h, axis=0)), "epsilon")


def test_an_output_has_the_samples_first():
    i = keras.Input((4,))
    with raises(lrp_tf.UnsupportedLayerError, "output", "axis 1", "Remedy: transpose"):
        lrp_tf.Explainer(keras.Model(i, ops.transpose(kl.Dense(2)(i))), "epsilon")
    with raises(lrp_tf.UnsupportedLayerError, "output", "2 rows", "Remedy: reshape"):
        lrp_tf.Explainer(model_of(lambda h: ops.repeat(h, 2, axis=0), V, behind=False), "epsilon")


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_of_fixed_size(size):
    """Reshapes say the size, and a batch of one may lose its axis."""
    i = keras.Input(batch_shape=(size, 6, 4))
    h = ops.reshape(i, (size, 24))
    h = ops.reshape(ops.squeeze(ops.expand_dims(h, 0), 0), (size, 4, 6)) if size > 1 else ops.reshape(h, (1, -1))
    model = randomize(keras.Model(i, kl.Dense(2)(kl.Flatten()(h))))
    check(model, X[:size], "epsilon", tolerance=1e-4)


def test_an_operation_that_nothing_knows_is_tried(monkeypatch):
    """Registered by name: what its rule is, lrp_tf does not know."""
    monkeypatch.setattr(lrp_tf.flows.base, "_REGISTRY", dict(lrp_tf.flows.base._REGISTRY))
    monkeypatch.setattr(lrp_tf.tracing.samples, "_RULES", {})  # of the sum of squares, say
    lrp_tf.flows.register("ops.Erfinv", lrp_tf.flows.PassThrough())
    check(model_of(lambda h: ops.erfinv(ops.tanh(h)), V), V, RULE, tolerance=1e-4)
    with raises(lrp_tf.UnsupportedLayerError, "'own/", "over the samples"):
        lrp_tf.Explainer(model_of(lambda h: ops.cumsum(h, axis=0), V, behind=False))


def test_what_does_not_lead_to_the_output_may_mix_samples():
    i = keras.Input((4,))
    h = kl.Dense(4)(i)
    model = randomize(keras.Model(i, {"apart": kl.Dense(2)(h), "mixed": h - ops.mean(h, axis=0)}))
    lrp_tf.Explainer(model, "epsilon", output="apart")(V)
    with raises(lrp_tf.UnsupportedLayerError, "mean", "over the samples"):
        lrp_tf.Explainer(model, "epsilon", output="mixed")


def test_a_softmax_over_the_samples_is_not_stripped():
    i = keras.Input((4,))
    with raises(lrp_tf.UnsupportedLayerError, "softmax", "over the samples"):
        lrp_tf.Explainer(keras.Model(i, ops.softmax(kl.Dense(2)(i), axis=0)), "epsilon")

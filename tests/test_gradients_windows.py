"""Occlusion and Grad-CAM against loops and tapes written out."""

import itertools
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, images, raises, randomize, vectors
from helpers.small_nets import image_net
from keras import layers as kl

import lrp_tf
from lrp_tf import gradients

X = images(3, dtype="float32")
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def net():
    model, plain = image_net(), image_net(None)
    plain.set_weights(model.get_weights())
    return model, plain


def occluded(value, x, axes, window, stride, fill=0.0, keep=False):
    """The definition as a loop over windows; `value` is [B] of x."""
    triples = zip([x.shape[axis] for axis in axes], window, stride, strict=True)
    starts = [sorted({*range(0, size - width + 1, step), size - width}) for size, width, step in triples]
    total, count = np.zeros(x.shape), np.zeros(x.shape)
    for corner in itertools.product(*starts):
        place = [slice(None)] * x.ndim
        for axis, start, width in zip(axes, corner, window, strict=True):
            place[axis] = slice(start, start + width)
        place = tuple(place)
        covered = np.full_like(x, fill) if keep else x.copy()
        covered[place] = x[place] if keep else fill
        change = value(covered) - value(np.full_like(x, fill)) if keep else value(x) - value(covered)
        share = change / np.prod(x[place].shape[1:])
        total[place] += share.reshape(-1, *[1] * (x.ndim - 1))
        count[place] += 1
    return total / count


@pytest.mark.parametrize("mode", ["mask", "keep"])
@pytest.mark.parametrize(("window", "stride"), [(2, None), ((3, 4), (2, 3))])
@pytest.mark.usefixtures("seldom_compiled")
def test_occlusion_of_images(net, mode, window, stride):
    model, plain = net
    sizes = (2, 2) if window == 2 else window
    method = gradients.Occlusion(model, window=window, stride=stride, mode=mode, fill=0.5, chunk=7)
    columns = []
    for classes in ([2, 0, 1], [1, 2, 2]):
        value = lambda x, c=classes: plain(x).numpy()[np.arange(3), c]  # noqa: E731
        columns.append(occluded(value, X, (1, 2), sizes, stride or sizes, 0.5, mode == "keep"))
    close(method(X, [2, 0, 1]), columns[0].astype("float32"), TOLERANCE)
    found = method(X, [[2, 1], [0, 2], [1, 2]], max_batch=2)
    close(found, np.stack(columns, 1).astype("float32"), TOLERANCE)
    z = plain(X).numpy()[range(3), [2, 0, 1]].reshape(3, 1, 1, 1)
    close(method(X, [2, 0, 1], start="output"), (columns[0] * z).astype("float32"), TOLERANCE)


def test_occlusion_sets_the_weights_of_a_contrast_at_the_input(net):
    model, plain = net
    z = plain(X).numpy()
    w = np.where(np.eye(3)[0] == 1, 0, np.exp(z))
    c = np.eye(3)[[0, 0, 0]] - w / w.sum(1, keepdims=True)
    expected = occluded(lambda x: (plain(x).numpy() * c).sum(1), X, (1, 2), (4, 4), (4, 4))
    close(gradients.Occlusion(model, window=4)(X, 0, contrast="softmax"), expected.astype("float32"), TOLERANCE)


def test_occlusion_of_series_features_and_tokens():
    series = randomize(keras.Sequential([keras.Input((9, 2)), kl.LSTM(3), kl.Dense(2)]))  # no rule of LRP is needed
    x = vectors(2, 18, dtype="float32").reshape(2, 9, 2)
    expected = occluded(lambda x: series(x).numpy()[:, 1], x, (1,), (4,), (3,))
    close(gradients.Occlusion(series, window=4, stride=3)(x, 1), expected.astype("float32"), TOLERANCE)
    features = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(5, activation="relu"), kl.Dense(2)]))
    x = vectors(dtype="float32")
    expected = occluded(lambda x: features(x).numpy()[:, 0], x, (1,), (1,), (1,))
    method = gradients.Occlusion(lrp_tf.Explainer(features), window=1)
    close(method(x, 0), expected.astype("float32"), TOLERANCE)
    tokens = randomize(keras.Sequential([
        keras.Input((5,), dtype="int32"), kl.Embedding(6, 3), kl.Flatten(), kl.Dense(2)
    ]))  # fmt: skip
    x = np.array([[1, 2, 3, 4, 5], [5, 5, 1, 0, 2]], "int32")
    expected = occluded(lambda x: tokens(x).numpy()[:, 0], x, (1,), (1,), (1,))
    method = gradients.Occlusion(tokens, window=1)
    close(pickle.loads(pickle.dumps(method))(x, 0), expected.astype("float32"), TOLERANCE)


def cam(model, layer, x, c, plus=False, relu=True):
    """Grad-CAM by hand: a tape on the layer's output, and the image operations of TensorFlow."""
    parts = keras.Model(model.inputs[0], [model.get_layer(layer).output, model.outputs[0]])
    with tf.GradientTape() as tape:
        maps, z = parts(x, training=False)
        value = tf.reduce_sum(z * c)
    g, maps = tape.gradient(value, maps).numpy().astype("float64"), maps.numpy().astype("float64")
    w = g.mean((1, 2))
    if plus:
        below = 2 * g**2 + g**3 * maps.sum((1, 2), keepdims=True)
        alpha = np.divide(g**2, below, out=np.zeros_like(g), where=below != 0)
        w = (alpha * np.maximum(g, 0)).sum((1, 2))
    total = np.einsum("bk,bhwk->bhw", w, maps)
    total = np.maximum(total, 0) if relu else total
    total = tf.image.resize(total[..., None].astype("float32"), x.shape[1:3]).numpy()
    return (np.repeat(total, x.shape[-1], -1) / x.shape[-1]).astype(x.dtype)


def deep():
    """In float64: without ReLU ahead, a denominator of Grad-CAM++ may come near 0, where float32 is too coarse."""
    i, only = keras.Input((12, 10, 3), dtype="float64"), {"dtype": "float64"}
    h = kl.Conv2D(4, 3, padding="same", name="first", **only)(i)
    h = kl.ReLU(**only)(kl.BatchNormalization(name="norm", **only)(h))
    h = kl.MaxPooling2D(name="pool", **only)(h)
    h = kl.Conv2D(5, 3, activation="relu", name="second", **only)(h)
    h = kl.Dropout(0.1, **only)(kl.GlobalAveragePooling2D(**only)(h))
    return randomize(keras.Model(i, kl.Dense(3, **only)(h)))


@pytest.mark.parametrize("kind", [gradients.GradCAM, gradients.GradCAMPlusPlus])
@pytest.mark.parametrize("layer", ["first", "norm", "pool", None])
@pytest.mark.usefixtures("seldom_compiled")
def test_gradcam_of_every_layer(kind, layer):
    model, x = deep(), np.random.default_rng(0).normal(size=(2, 12, 10, 3))
    name, plus = layer or "second", kind is gradients.GradCAMPlusPlus
    eye = np.eye(3)
    expected = [cam(model, name, x, eye[row], plus, relu=False) for row in ([1, 2], [0, 0])]
    method = kind(model, layer=layer, relu=False)
    close(method(x, [1, 2]), expected[0], TOLERANCE)
    close(method(x, [[1, 0], [2, 0]], max_batch=1), np.stack(expected, 1), TOLERANCE)
    close(kind(model, layer=layer)(x, [1, 2]), cam(model, name, x, eye[[1, 2]], plus), TOLERANCE)


@pytest.mark.parametrize("kind", [gradients.GradCAM, gradients.GradCAMPlusPlus])
def test_copies_of_gradcam(kind):
    model, x = deep(), np.random.default_rng(0).normal(size=(2, 12, 10, 3))
    method, other = kind(model, layer="second"), randomize(deep(), 9)
    expected = cam(other, "second", x, np.eye(3)[[0, 0]], kind is gradients.GradCAMPlusPlus)
    close(method.with_model(other)(x, 0), expected, TOLERANCE)
    close(pickle.loads(pickle.dumps(method))(x, 0), method(x, 0), 1e-12)


def test_gradcam_inside_nested_models_and_of_series():
    body = keras.Sequential([keras.Input((8, 6, 2)), kl.Conv2D(4, 3, name="inner"), kl.ReLU()], name="body")
    i = keras.Input((8, 6, 2))
    model = randomize(keras.Model(i, kl.Dense(3)(kl.GlobalAveragePooling2D()(body(i)))))
    x = np.random.default_rng(0).normal(size=(2, 8, 6, 2)).astype("float32")
    found = gradients.GradCAM(model, layer="body/inner")(x, 1)
    close(gradients.GradCAM(model, layer="inner")(x, 1), found, 1e-12)
    inner = [kl.Conv2D(4, 3, name="inner"), kl.ReLU()]
    flat = keras.Sequential([keras.Input((8, 6, 2)), *inner, kl.GlobalAveragePooling2D(), kl.Dense(3)])
    flat.set_weights(model.get_weights())
    close(found, cam(flat, "inner", x, np.eye(3, dtype="float32")[[1, 1]]), TOLERANCE)
    stack = [kl.Conv1D(4, 3, strides=2, activation="relu"), kl.GlobalAveragePooling1D(), kl.Dense(2)]
    series = randomize(keras.Sequential([keras.Input((9, 2)), *stack]))
    x = vectors(2, 18, dtype="float32").reshape(2, 9, 2)
    maps, w = series.layers[0](x).numpy(), series.layers[-1].kernel.numpy()[:, 1] / 4
    total = np.maximum(maps @ w, 0)[..., None, None]
    expected = np.repeat(tf.image.resize(total, (9, 1)).numpy()[..., 0], 2, -1) / 2
    close(gradients.GradCAM(series)(x, 1), expected, TOLERANCE)


def transformer(token):
    """Patches of 4 × 4, an attention, and a head that reads the first token, or the mean of all if there is none."""
    i = keras.Input((12, 8, 3))
    h = kl.Reshape((6, 8))(kl.Conv2D(8, 4, strides=4)(i))
    h = kl.ZeroPadding1D((1, 0))(h) if token else h
    n = kl.LayerNormalization(name="ahead")(h)
    h = kl.LayerNormalization(name="behind")(h + kl.MultiHeadAttention(2, 4)(n, n))
    return randomize(keras.Model(i, kl.Dense(3)(h[:, 0] if token else kl.GlobalAveragePooling1D()(h))))


@pytest.mark.parametrize("token", [True, False])
def test_gradcam_of_patches(token):
    model, x = transformer(token), np.random.default_rng(0).normal(size=(2, 12, 8, 3)).astype("float32")
    parts = keras.Model(model.inputs[0], [model.get_layer("ahead").output, model.outputs[0]])
    with tf.GradientTape() as tape:
        tokens, z = parts(x, training=False)
        value = z[0, 1] + z[1, 2]
    g, a = (t.numpy()[:, int(token) :].reshape(2, 3, 2, 8) for t in (tape.gradient(value, tokens), tokens))
    total = tf.image.resize((g.mean((1, 2), keepdims=True) * a).sum(-1, keepdims=True), (12, 8)).numpy()
    method = gradients.GradCAM(model, layer="ahead", grid=(3, 2), relu=False)
    close(method(x, [1, 2]), np.repeat(total, 3, -1) / 3, TOLERANCE)
    close(pickle.loads(pickle.dumps(method))(x, [[1, 0], [2, 1]])[:, 0], method(x, [1, 2]), TOLERANCE)
    if token:  # the first token alone is read: no patch has a gradient here
        assert not gradients.GradCAM(model, layer="behind", grid=(3, 2))(x, 1).numpy().any()


def test_grids_that_do_not_fit_are_refused():
    model = transformer(True)
    for options, words in (
        ({"layer": "ahead"}, ["needs one input with 1 axes", r"grid=\(rows, columns\)"]),
        ({"layer": "ahead", "grid": (4, 2)}, [r"\[B, 8, C\], or \[B, 9, C\]", r"\(None, 7, 8\)"]),
        ({"layer": "ahead", "grid": 6}, ["grid expects sizes"]),
        ({"layer": "ahead", "grid": (0, 6)}, ["grid expects an integer of at least 1"]),
        ({"layer": "conv2d", "grid": (3, 2)}, ["no layer has this name|needs a layer"]),
        ({"grid": (3, 2)}, ["Expected its name, layer="]),
    ):
        with raises(ValueError, *words):
            gradients.GradCAM(model, **options)


def test_gradcam_follows_a_model_whose_layers_change():
    model, x = deep(), np.random.default_rng(0).normal(size=(2, 12, 10, 3))
    method = gradients.GradCAM(model, layer="second")
    before = method(x, 1)
    model.get_layer("second").activation = keras.activations.tanh
    close(method(x, 1), gradients.GradCAM(model, layer="second")(x, 1), 1e-12)
    assert np.abs(method(x, 1) - before).max() > 1e-3


def test_channels_first():
    last = keras.Sequential([
        keras.Input((8, 6, 2)), kl.Conv2D(4, 3), kl.ReLU(), kl.GlobalAveragePooling2D(), kl.Dense(3)
    ])  # fmt: skip
    first = keras.Sequential([
        keras.Input((2, 8, 6)), kl.Conv2D(4, 3, data_format="channels_first"), kl.ReLU(),
        kl.GlobalAveragePooling2D(data_format="channels_first"), kl.Dense(3)
    ])  # fmt: skip
    first.set_weights(randomize(last).get_weights())
    x = np.random.default_rng(0).normal(size=(2, 8, 6, 2)).astype("float32")
    moved = np.moveaxis(x, -1, 1)
    for method in (
        lambda model: gradients.Occlusion(model, window=(3, 2), stride=(2, 1), fill=0.1),
        gradients.GradCAM,
        gradients.GradCAMPlusPlus,
    ):
        close(method(first)(moved, 1), np.moveaxis(method(last)(x, 1).numpy(), -1, 1), TOLERANCE)


def test_inside_a_function_of_tensorflow(net):
    method = gradients.Occlusion(net[0], window=4)
    inside = tf.function(lambda x: method(x, 1), input_signature=[tf.TensorSpec([None, 8, 8, 2])])
    close(inside(X), method(X, 1), TOLERANCE)
    method = gradients.Occlusion(net[0], window=4, fill=lambda x: x.mean((1, 2), keepdims=True))
    with raises(ValueError, "fill is a function of arrays"):
        tf.function(lambda x: method(x, 1), autograph=False)(X)
    i = keras.Input((None, None, 2))
    model = randomize(keras.Model(i, kl.Dense(3)(kl.GlobalAveragePooling2D()(kl.Conv2D(4, 3)(i)))))
    for method in (
        gradients.IntegratedGradients(model, n=3, baseline=np.array([0.1, 0.2])),
        gradients.ExpectedGradients(model, X, n=3),
    ):
        spec = [tf.TensorSpec([None, None, None, 2])]
        inside = tf.function(lambda x, m=method: m(x, 1), input_signature=spec, autograph=False)
        close(inside(X), method(X, 1), TOLERANCE)
    sized = gradients.GradCAM(lrp_tf.Explainer(model, sizes=(8, 8, 2)))
    assert sized.graph.inputs[0].shape == (8, 8, 2)
    close(sized(X, 1), gradients.GradCAM(model)(X, 1), TOLERANCE)
    with raises(ValueError, "baseline of .* expects values", "graph"):
        tf.function(lambda x: gradients.IntegratedGradients(model, baseline=0 * x, n=3)(x, 1), autograph=False)(X)


def test_one_of_several_inputs_has_positions():
    photo, size = keras.Input((8, 8, 2), name="photo"), keras.Input((2,), name="size")
    h = kl.GlobalAveragePooling2D()(kl.Conv2D(4, 3, name="conv")(photo))
    model = randomize(keras.Model([photo, size], kl.Dense(3)(kl.Concatenate()([h, size]))))
    x = [X, vectors(3, 2, dtype="float32")]
    found = gradients.GradCAM(model)(x, 1)
    assert found[1] is None
    assert found[0].shape == X.shape
    covered = gradients.Occlusion(model, window=2)(x, 1)
    value = lambda photo: model([photo, x[1]]).numpy()[:, 1]  # noqa: E731
    close(covered[0], occluded(value, X, (1, 2), (2, 2), (2, 2)).astype("float32"), TOLERANCE)
    assert covered[1].shape == (3, 2)
    each = gradients.Occlusion(model, window={"photo": (4, 2), "size": 1}, stride={"photo": 2, "size": 1})(x, 1)
    close(each[0], occluded(value, X, (1, 2), (4, 2), (2, 2)).astype("float32"), TOLERANCE)
    value = lambda size: model([X, size]).numpy()[:, 1]  # noqa: E731
    close(each[1], occluded(value, x[1], (1,), (1,), (1,)).astype("float32"), TOLERANCE)
    for window, words in ((4, ["larger", "by name"]), ({"photo": 4}, ["a size for each input, photo, size"])):
        with raises(ValueError, *words):
            gradients.Occlusion(model, window=window)


def test_occlusion_of_tokens_that_no_gradient_reaches():
    tokens, table = keras.Input((4,), dtype="int32", name="tokens"), keras.Input((2,), name="table")
    h = kl.Flatten()(keras.ops.one_hot(tokens, 6))
    x = np.array([[1, 2, 3, 4], [5, 1, 0, 2]], "int32")
    alone = randomize(keras.Model(tokens, kl.Dense(2)(h)))
    value = lambda x: alone(x).numpy()[:, 1]  # noqa: E731
    close(gradients.Occlusion(alone, window=1)(x, 1), occluded(value, x, (1,), (1,), (1,)).astype("float32"), TOLERANCE)
    beside = randomize(keras.Model([tokens, table], kl.Dense(2)(kl.Concatenate()([h, table]))))
    size = vectors(2, 2, dtype="float32")
    found = gradients.Occlusion(beside, window=1)([x, size], 1, max_batch=1)[0]
    value = lambda x: beside([x, size]).numpy()[:, 1]  # noqa: E731
    close(found, occluded(value, x, (1,), (1,), (1,)).astype("float32"), TOLERANCE)


def test_occlusion_of_volumes():
    stack = [kl.Conv3D(3, 2, activation="relu", name="conv"), kl.GlobalAveragePooling3D(), kl.Dense(2)]
    model = randomize(keras.Sequential([keras.Input((4, 5, 3, 2)), *stack]))
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3, 2)).astype("float32")
    value = lambda x: model(x).numpy()[:, 1]  # noqa: E731
    expected = occluded(value, x, (1, 2, 3), (2, 3, 2), (2, 1, 1)).astype("float32")
    close(gradients.Occlusion(model, window=(2, 3, 2), stride=(2, 1, 1))(x, 1), expected, TOLERANCE)


def test_bad_options(net):
    model, _ = net
    for options, words in (
        ({"window": 9}, ["window is larger", r"\(8, 8\)", r"\(9, 9\)"]),
        ({"window": 0}, ["window", "at least 1"]),
        ({"window": (2, 2, 2)}, ["window", "2, one for each axis"]),
        ({"window": 2, "stride": 3}, ["stride leaves gaps"]),
        ({"mode": "blur"}, ["mode", "keep"]),
    ):
        with raises(ValueError, *words):
            gradients.Occlusion(model, **options)
    for layer, words in (
        ("none", ["no layer has this name"]),
        ("pool", ["GradCAM needs a layer", "pool", "Remedy"]),
    ):
        with raises(ValueError, *words):
            gradients.GradCAM(model, layer=layer)
    with raises(ValueError, "GradCAM needs a layer whose output has positions", "Remedy"):
        gradients.GradCAM(keras.Sequential([keras.Input((4,)), kl.Dense(2)]))
    with raises(ValueError, "NaN or Inf"):
        gradients.GradCAM(model)(X * np.nan)
    with raises(ValueError, "NaN or Inf"):
        gradients.Occlusion(model)(X * np.nan)

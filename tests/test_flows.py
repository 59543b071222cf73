"""The flows against slow NumPy written from their definitions."""

import keras
import numpy as np
import pytest
from helpers.checking import close, randomize, relevance
from helpers.flowing import Flow, adaptive, moved, pooled, shared, strided, ties, to_all, to_first_maximum, values
from keras import layers as kl
from keras import ops

pytestmark = [
    pytest.mark.usefixtures("mode"),
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:NotImplemented should not be used:DeprecationWarning"),  # Keras 3.12 on trace
]


# --- maxima ------------------------------------------------------------------------------------

WINDOWS = [((3, 2, 2), (1, 2, 1), "same"), ((2, 3, 2), (2, 1, 1), "valid"), ((3, 3, 3), (2, 2, 2), "same")]
SPATIAL = (5, 4, 3)


def example(kind, *shape):
    """Equal maxima; sums that are no small differences, which single precision would not stand."""
    return ties(*shape) if kind == "Max" else 1 + np.abs(values(*shape))


@pytest.fixture
def single_precision():
    """TensorFlow has no pooling in three dimensions in double precision on CPUs."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("size", "strides", "padding"), WINDOWS)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_pooling(kind, rank, size, strides, padding, request):
    if rank == 3:
        request.getfixturevalue("single_precision")
    size, strides, spatial = size[:rank], strides[:rank], SPATIAL[:rank]
    x = example(kind, *spatial, 2)
    flat = lambda t: t if rank > 1 else t[0]  # noqa: E731
    layer = getattr(kl, f"{kind}Pooling{rank}D")(flat(size), strides=flat(strides), padding=padding)
    flow = Flow(layer, x, tolerance=1e-9 if rank < 3 else 1e-5)
    axes = [strided(n, *a, padding) for n, *a in zip(spatial, size, strides, strict=True)]
    take = to_first_maximum if kind == "Max" else to_all
    close(flow.R[0], pooled(x, flow.start, axes, take), 1e-9 if rank < 3 else 1e-4)


@pytest.mark.parametrize("count", [(2, 3, 2), (3, 4, 3), (7, 3, 5)])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_adaptive_pooling(kind, rank, count, request):
    if not hasattr(kl, f"Adaptive{kind}Pooling{rank}D"):  # younger than the oldest Keras
        return
    if rank == 3:
        request.getfixturevalue("single_precision")
    count, spatial = count[:rank], SPATIAL[:rank]
    x = example(kind, *spatial, 2)
    layer = getattr(kl, f"Adaptive{kind}Pooling{rank}D")(count if rank > 1 else count[0])
    flow = Flow(layer, x, tolerance=1e-9 if rank < 3 else 1e-5)
    axes = [adaptive(n, m) for n, m in zip(spatial, count, strict=True)]
    take = to_first_maximum if kind == "Max" else to_all
    close(flow.R[0], pooled(x, flow.start, axes, take), 1e-9 if rank < 3 else 1e-4)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_global_pooling(kind, rank, keepdims):
    spatial = SPATIAL[:rank]
    x = example(kind, *spatial, 2)
    flow = Flow(getattr(kl, f"Global{kind}Pooling{rank}D")(keepdims=keepdims), x)
    take = to_first_maximum if kind == "Max" else to_all
    start = flow.start.reshape(3, *[1] * rank, 2)
    close(flow.R[0], pooled(x, start, [[(0, n)] for n in spatial], take))


@pytest.mark.parametrize("axis", [1, -1, (1, 3), (2, 3), (1, 2, 3), [3, 1]])
@pytest.mark.parametrize("name", ["max", "amax", "min", "amin"])
def test_maximum_over_axes(name, axis):
    x, sign = ties(3, 2, 4), -1 if "min" in name else 1
    flow = Flow(lambda t: getattr(ops, name)(t, axis=axis, keepdims=axis == 1), x)
    axes = sorted(a % 4 for a in np.atleast_1d(axis))
    kept = [a for a in range(4) if a not in axes]
    rows = np.transpose(x, [*kept, *axes]).reshape(-1, np.prod([x.shape[a] for a in axes]))
    R = np.stack([to_first_maximum(sign * row, r) for row, r in zip(rows, flow.start.ravel(), strict=True)])
    R = R.reshape([x.shape[a] for a in [*kept, *axes]])
    close(flow.R[0], np.transpose(R, np.argsort([*kept, *axes])))


@pytest.mark.parametrize("name", ["Maximum", "Minimum"])
def test_first_winner_of_several_tensors(name):
    x = [ties(3, 4, seed=k) for k in range(3)]
    flow = Flow(lambda *t: getattr(kl, name)()(t), *x)
    first = np.argmax(np.stack(x) if name == "Maximum" else -np.stack(x), 0)
    close(flow.R, [np.where(first == k, flow.start, 0) for k in range(3)])


# Sums of integers are 0 at many places, where any start relevance is amplified a million times.
@pytest.mark.filterwarnings("ignore:Sample:UserWarning")
@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (4,)])
@pytest.mark.parametrize("name", ["Maximum", "Minimum", "Add", "Multiply", "Average", "Subtract"])
def test_merging_layers_broadcast(name, shape):
    """A tensor of lower rank gets its axes behind the batch axis."""
    x, y = ties(3, 4, seed=1), ties(*shape, seed=2)
    flow = Flow(lambda a, b: getattr(kl, name)()([a, b]), x, y)
    whole = np.broadcast_to(y.reshape(3, 1, 4) if shape == (4,) else y, x.shape)
    wide = Flow(lambda a, b: getattr(kl, name)()([a, b]), x, np.array(whole))
    close(flow.R[0], wide.R[0])
    axes = (1,) if shape in ((1, 4), (4,)) else (2,)
    close(flow.R[1], wide.R[1].sum(axes).reshape(y.shape))


def test_maximum_of_a_tensor_and_constants():
    x = ties(4)
    for function in (lambda t: ops.maximum(t, 0.5), lambda t: ops.maximum(t, np.full(4, 0.5))):
        flow = Flow(function, x)
        close(flow.R[0], np.where(x >= 0.5, flow.start, 0))
        close(flow.bias, np.where(x >= 0.5, 0, flow.start).sum(1))


# --- sums --------------------------------------------------------------------------------------

C = np.linspace(-1, 2, 4)


def bilinear(sizes):
    def interpolated(x):
        for axis, m in enumerate(sizes):
            n = x.shape[axis]
            place = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
            low = np.minimum(np.floor(place).astype(int), n - 2)
            W = np.zeros((m, n))
            W[np.arange(m), low], W[np.arange(m), low + 1] = 1 - place + low, place - low
            x = np.moveaxis(np.tensordot(W, x, (1, axis)), 0, axis)
        return x

    return interpolated


def batch_normalized(layer):
    """Its NumPy function, of a model that has no other layer with weights."""
    gamma, beta, mean, variance = (w.numpy() for w in layer.weights)
    return lambda x: (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


# in Keras, in NumPy without the batch, shapes of the tensors, tolerance where TensorFlow computes in float32
SUMS = {
    "add": (lambda x, y: x + y, lambda x, y: x + y, [(3, 4)] * 2),
    "Add": (lambda *t: kl.Add()(t), lambda x, y, z: x + y + z, [(3, 4)] * 3),
    "Add twice": (lambda x, y: kl.Add()([x, y, x]), lambda x, y: 2 * x + y, [(4,)] * 2),
    "Add broadcast": (lambda *t: kl.Add()(t), lambda x, y: x + y, [(3, 4), (1, 4)]),
    "Add constant": (lambda x: kl.Add()([x, ops.convert_to_tensor(C[None])]), lambda x: x + C, [(4,)]),
    "Average": (lambda *t: kl.Average()(t), lambda x, y, z: (x + y + z) / 3, [(4,)] * 3),
    "Average constant": (lambda x: kl.Average()([x, ops.convert_to_tensor(C[None])]), lambda x: (x + C) / 2, [(4,)]),
    "Subtract": (lambda *t: kl.Subtract()(t), lambda x, y: x - y, [(3, 4)] * 2),
    "Subtract constant": (lambda x: kl.Subtract()([x, ops.convert_to_tensor(C[None])]), lambda x: x - C, [(4,)]),
    "number": (lambda x: x + 3, lambda x: x + 3, [(4,)]),
    "number ahead": (lambda x: 3 + x, lambda x: x + 3, [(4,)]),
    "array": (lambda x: x + C, lambda x: x + C, [(3, 4)]),
    "array of one sample": (lambda x: x - C[None], lambda x: x - C, [(4,)]),
    "less": (lambda x: x - 1, lambda x: x - 1, [(4,)]),
    "from one": (lambda x: 1 - x, lambda x: 1 - x, [(4,)]),
    "sum": (lambda x: ops.sum(x, axis=1), lambda x: x.sum(0), [(3, 4)]),
    "sum of axes": (lambda x: ops.sum(x, axis=(1, -1), keepdims=True), lambda x: x.sum((0, 2)), [(2, 3, 4)]),
    "mean": (lambda x: ops.mean(x, axis=-1), lambda x: x.mean(-1), [(3, 4)]),
    "mean of axes": (lambda x: ops.mean(x, axis=[1, 2]), lambda x: x.mean((0, 1)), [(2, 3, 4)]),
    "average": (
        lambda x: ops.average(x, axis=1, weights=ops.convert_to_tensor(C[:3] + 2)),
        lambda x: np.average(x, 0, C[:3] + 2),
        [(3, 4)],
    ),
    "cumsum": (lambda x: ops.cumsum(x, axis=1), lambda x: x.cumsum(0), [(3, 4)]),
    "diff": (lambda x: ops.diff(x, axis=1), lambda x: np.diff(x, axis=0), [(3, 4)]),
    "trace": (lambda x: ops.trace(x, axis1=1, axis2=2), lambda x: np.trace(x), [(3, 4)]),
    "UpSampling2D": (
        lambda x: kl.UpSampling2D((2, 3), interpolation="bilinear")(x),
        bilinear((6, 12)),
        [(3, 4, 2)],
        1e-5,
    ),
    "Resizing": (lambda x: kl.Resizing(5, 3)(x), bilinear((5, 3)), [(3, 4, 2)], 1e-4),
    "resize": (lambda x: ops.image.resize(x, (5, 3)), bilinear((5, 3)), [(3, 4, 2)], 1e-4),
    "masked mean": (
        lambda x: kl.GlobalAveragePooling1D()(x, mask=ops.convert_to_tensor([[True, False, True]])),
        lambda x: (x[0] + x[2]) / 2,
        [(3, 4)],
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_share_in_proportion(name):
    function, definition, shapes, *tolerance = SUMS[name]
    x = [values(*shape, seed=k) for k, shape in enumerate(shapes)]
    flow = Flow(function, *x, tolerance=(tolerance or [1e-9])[0])
    R, bias = shared(definition, x, flow.start)
    close(flow.R, R, (tolerance or [1e-9])[0])
    np.testing.assert_allclose(flow.bias, bias, atol=1e-9 * np.abs(bias).max())


def test_batch_normalization_behind_a_sum():
    x, y = values(3, 4, seed=1), values(3, 4, seed=2)
    layer = kl.BatchNormalization()
    flow = Flow(lambda a, b: layer(a + b), x, y)
    affine = batch_normalized(layer)
    (inner,), bias = shared(affine, [x + y], flow.start)
    close(flow.R, shared(lambda a, b: a + b, [x, y], inner)[0])
    close(flow.bias, bias)


# --- movement ----------------------------------------------------------------------------------

INDICES = [2, 0, 2]
MOVES = {
    "nearest UpSampling2D": (lambda x: kl.UpSampling2D((2, 3))(x), lambda x: x.repeat(2, 0).repeat(3, 1), [(3, 4, 2)]),
    "UpSampling1D": (lambda x: kl.UpSampling1D(2)(x), lambda x: x.repeat(2, 0), [(3, 4)]),
    "UpSampling3D": (
        lambda x: kl.UpSampling3D(2)(x),
        lambda x: x.repeat(2, 0).repeat(2, 1).repeat(2, 2),
        [(1, 2, 2, 2)],
    ),
    "nearest Resizing": (
        lambda x: kl.Resizing(5, 3, interpolation="nearest")(x),
        lambda x: x[((np.arange(5) + 0.5) * 3 / 5).astype(int)][:, ((np.arange(3) + 0.5) * 4 / 3).astype(int)],
        [(3, 4, 2)],
    ),
    "Cropping1D": (lambda x: kl.Cropping1D((1, 2))(x), lambda x: x[1:-2], [(5, 2)]),
    "Cropping2D": (lambda x: kl.Cropping2D(((1, 0), (0, 2)))(x), lambda x: x[1:, :-2], [(3, 4, 2)]),
    "Cropping3D": (lambda x: kl.Cropping3D(1)(x), lambda x: x[1:-1, 1:-1, 1:-1], [(3, 4, 3, 2)]),
    "CenterCrop": (lambda x: kl.CenterCrop(2, 3)(x), lambda x: x[1:3, 1:4], [(4, 5, 2)]),
    "ZeroPadding1D": (lambda x: kl.ZeroPadding1D((1, 2))(x), lambda x: np.pad(x, [(1, 2), (0, 0)]), [(3, 2)]),
    "ZeroPadding2D": (
        lambda x: kl.ZeroPadding2D(((1, 0), (0, 2)))(x),
        lambda x: np.pad(x, [(1, 0), (0, 2), (0, 0)]),
        [(3, 4, 2)],
    ),
    "pad": (lambda x: ops.pad(x, [[0, 0], [1, 2]]), lambda x: np.pad(x, (1, 2)), [(4,)]),
    "pad with a number": (
        lambda x: ops.pad(x, [[0, 0], [1, 2]], constant_values=5.0),
        lambda x: np.pad(x, (1, 2), constant_values=5.0),
        [(4,)],
    ),
    "pad by reflection": (
        lambda x: ops.pad(x, [[0, 0], [1, 2]], "reflect"),
        lambda x: np.pad(x, (1, 2), "reflect"),
        [(4,)],
    ),
    "triu": (lambda x: ops.triu(x), np.triu, [(3, 4)]),
    "Reshape": (lambda x: kl.Reshape((4, -1))(x), lambda x: x.reshape(4, -1), [(2, 3, 4)]),
    "Permute": (lambda x: kl.Permute((3, 1, 2))(x), lambda x: x.transpose(2, 0, 1), [(2, 3, 4)]),
    "Flatten": (
        lambda x: kl.Flatten(data_format="channels_first")(x),
        lambda x: x.transpose(1, 2, 0).ravel(),
        [(2, 3, 4)],
    ),
    "RepeatVector": (lambda x: kl.RepeatVector(3)(x), lambda x: np.stack([x] * 3), [(4,)]),
    "Concatenate": (lambda *t: kl.Concatenate(axis=1)(t), lambda x, y: np.concatenate([x, y]), [(3, 4), (2, 4)]),
    "concatenate twice": (
        lambda x, y: ops.concatenate([x, y, x], -1),
        lambda x, y: np.concatenate([x, y, x], -1),
        [(3, 2)] * 2,
    ),
    "take": (lambda x: ops.take(x, INDICES, axis=1), lambda x: x[INDICES], [(3, 4)]),
    "take along an axis": (
        lambda x: ops.take_along_axis(x, ops.convert_to_tensor([[[2], [0]]] * 3), axis=2),
        lambda x: np.take_along_axis(x, np.array([[2], [0]]), 1),
        [(2, 4)],
    ),
    "stack": (lambda x, y: ops.stack([x, y], axis=1), lambda x, y: np.stack([x, y]), [(3, 4)] * 2),
    "split": (
        lambda x: ops.concatenate(ops.split(x, 2, axis=1)[::-1], 2),
        lambda x: np.concatenate([x[2:], x[:2]], 1),
        [(4, 3)],
    ),
    "split at": (lambda x: ops.split(x, [1, 3], axis=1)[1], lambda x: x[1:3], [(4, 3)]),
    "unstack": (lambda x: ops.unstack(x, axis=1)[2], lambda x: x[2], [(3, 4)]),
    "flip": (lambda x: ops.flip(x, axis=1), lambda x: x[::-1], [(3, 4)]),
    "rot90": (lambda x: ops.rot90(x, axes=(1, 2)), np.rot90, [(3, 4)]),
    "roll": (lambda x: ops.roll(x, 2, axis=2), lambda x: np.roll(x, 2, 1), [(3, 4)]),
    "tile": (lambda x: ops.tile(x, (1, 2, 3)), lambda x: np.tile(x, (2, 3)), [(3, 4)]),
    "repeat": (lambda x: ops.repeat(x, 2, axis=1), lambda x: x.repeat(2, 0), [(3, 4)]),
    "slice": (lambda x: x[:, 1:, ::2], lambda x: x[1:, ::2], [(3, 4)]),
    "index": (lambda x: x[:, 0], lambda x: x[0], [(3, 4)]),
    "ellipsis": (lambda x: x[..., -1, None], lambda x: x[..., -1, None], [(3, 4)]),
    "ops.slice": (lambda x: ops.slice(x, [0, 1, 0], [3, 2, 4]), lambda x: x[1:3], [(3, 4)]),
    "expand": (lambda x: ops.expand_dims(x, 2), lambda x: x[:, None], [(3, 4)]),
    "squeeze": (lambda x: ops.squeeze(x, 2), lambda x: x[:, 0], [(3, 1)]),
    "broadcast": (lambda x: ops.broadcast_to(x, (3, 3, 4)), lambda x: np.broadcast_to(x, (3, 4)), [(1, 4)]),
    "swapaxes": (lambda x: ops.swapaxes(x, 1, 2), lambda x: x.T, [(3, 4)]),
    "moveaxis": (lambda x: ops.moveaxis(x, 1, -1), lambda x: np.moveaxis(x, 0, -1), [(2, 3, 4)]),
    "diagonal": (lambda x: ops.diagonal(x, axis1=1, axis2=2), np.diagonal, [(3, 4)]),
    "patches": (
        lambda x: ops.image.extract_patches(x, 2, padding="valid"),
        lambda x: x.reshape(2, 2, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(2, 2, 12),
        [(4, 4, 3)],
    ),
    "padded patches": (
        lambda x: ops.image.extract_patches(x, 2, padding="same"),
        lambda x: np.pad(x, [(0, 1), (0, 1), (0, 0)]).reshape(2, 2, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(2, 2, 12),
        [(3, 3, 3)],
    ),
    "cast": (lambda x: ops.cast(x, "float32"), lambda x: x, [(4,)], 1e-6),
    "dropout": (lambda x: kl.Dropout(0.5)(x), lambda x: x, [(4,)]),
    "augmentation": (lambda x: kl.RandomFlip()(x), lambda x: x, [(3, 4, 2)]),
    "stop_gradient": (lambda x: ops.stop_gradient(x), lambda x: x, [(4,)]),
}


@pytest.mark.parametrize("name", MOVES)
def test_relevance_moves_with_the_entries(name):
    function, definition, shapes, *tolerance = MOVES[name]
    x = [values(*shape, seed=k) for k, shape in enumerate(shapes)]
    flow = Flow(function, *x, tolerance=(tolerance or [1e-9])[0])
    R, rest = moved(definition, x, flow.start)
    close(flow.R, R)
    np.testing.assert_allclose(flow.other, rest, atol=1e-9)


def test_constants_that_are_moved_absorb_relevance():
    x = values(2, 4)
    flow = Flow(lambda t: ops.concatenate([ops.broadcast_to(C, (3, 1, 4)), t], 1), x)
    close(flow.R[0], flow.start[:, 1:])
    close(flow.bias, flow.start[:, 0].sum(1))


def test_where_asks_who_gave_the_entry():
    x, y = values(4, seed=1), values(4, seed=2)
    flow = Flow(lambda a, b: ops.where(a > b, a, b), x, y)
    close(flow.R, [np.where(x > y, flow.start, 0), np.where(x > y, 0, flow.start)])
    flow = Flow(lambda a: ops.where(a > 0, a, -1.0), x)
    close(flow.R[0], np.where(x > 0, flow.start, 0))
    close(flow.bias, np.where(x > 0, 0, flow.start).sum(1))
    mask = np.array([True, False, True, True])
    flow = Flow(lambda a: ops.where(ops.convert_to_tensor(mask), a, ops.convert_to_tensor(C)), x)
    close(flow.R[0], np.where(mask, flow.start, 0))
    close(flow.bias, np.where(mask, 0, flow.start).sum(1))
    flow = Flow(lambda a, b: ops.where(b > 0, a, 2 * b), values(3, 4), values(1, 4, seed=2))
    keep = values(1, 4, seed=2) > 0
    close(flow.R, [np.where(keep, flow.start, 0), np.where(keep, 0, flow.start).sum(1, keepdims=True)])


@pytest.mark.parametrize("name", ["Resizing", "nearest Resizing", "CenterCrop", "RandomFlip", "MaxPooling2D"])
def test_uint8_images(name):
    """They get the relevance that the same pixels get as floats."""
    make = {
        "Resizing": lambda: kl.Resizing(4, 5),
        "nearest Resizing": lambda: kl.Resizing(4, 5, interpolation="nearest"),
        "CenterCrop": lambda: kl.CenterCrop(4, 5),
        "RandomFlip": kl.RandomFlip,
        "MaxPooling2D": kl.MaxPooling2D,
    }[name]
    x = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3)).astype("uint8")

    def build(dtype):
        stack = [make(), kl.Rescaling(1 / 127.5, -1.0), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(2)]
        return randomize(keras.Sequential([keras.Input((6, 6, 3), dtype=dtype), *stack]))

    tolerance = 5e-2 if name == "Resizing" else 1e-5  # Keras interpolates to whole numbers
    close(relevance(build("uint8"), x), relevance(build("float64"), x.astype("float64")), tolerance)

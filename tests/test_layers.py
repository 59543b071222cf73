"""Every layer of Keras has its place, and those that are supported are sound in a model."""

from inspect import signature

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import RULE, close, randomize
from helpers.layer_cases import CASES, LAYERS, SPECIMENS, values

import lrp_tf
from lrp_tf import flows, linear
from lrp_tf.core import unsupported

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning"),  # it ends there
]


# --- supported ---------------------------------------------------------------------------------

NO_DOUBLE = {f"{kind}Pooling3D" for kind in ("Max", "Average", "AdaptiveMax", "AdaptiveAverage")}  # TensorFlow on CPUs
ROUNDED = {"Rescaling", "Normalization", "MultiHeadAttention", "GroupQueryAttention"}  # a number, to float32, by Keras
RESIZED = {"Resizing", "UpSampling2D", "CenterCrop", "Pipeline"}  # TensorFlow interpolates in float32


FOUND = [(name, k, build) for name, builds in sorted(CASES.items()) for k, build in enumerate(builds) if name in LAYERS]


def slow(name, k):
    """Three cases of a class run by default; in one and three dimensions two each, so that each case runs in two."""
    left_out = {"1D": 2, "3D": 1}.get(name.removesuffix("Transpose")[-2:])
    return k > 2 or (k == left_out and len(CASES[name]) > 2 and not name.startswith("Global"))


PARAMETERS = [
    pytest.param(name, build, id=f"{name}-{k}", marks=[pytest.mark.slow] * slow(name, k)) for name, k, build in FOUND
]


def set_precision(name):
    """Single where TensorFlow has no double. Returns the tolerances of values and of the unexplained rest."""
    if name in NO_DOUBLE:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        return 1e-5, 1e-5
    return (1e-6 if name in ROUNDED | RESIZED else 1e-9), (1e-6 if name in RESIZED else 1e-9)


def check_soundness(name, build):
    tolerance, rest = set_precision(name)
    model, x = build()
    weights = [w.numpy() for w in model.weights]
    found = lrp_tf.Explainer(model, RULE).explain(x)
    close(np.asarray(found.output), np.asarray(model(x, training=False)), tolerance)
    assert np.abs(found.conservation.unexplained).max() < rest
    inputs, relevances = keras.tree.flatten(x), keras.tree.flatten(found.relevance)
    for value, r in zip(inputs, relevances, strict=True):
        assert r is None or (r.shape == value.shape and np.all(np.isfinite(r)))
        assert r is not None or value.dtype == bool
    assert any(np.any(r) for r in relevances if r is not None)
    for before, weight in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, weight.numpy())


@pytest.fixture
def eagerly():
    """Not compiled, which takes a fraction of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("name", "build"), PARAMETERS)
def test_supported_layer_is_sound_in_a_model(name, build):
    check_soundness(name, build)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "build"), PARAMETERS)
def test_supported_layer_is_sound_when_compiled(name, build):
    check_soundness(name, build)


def moved(t, start, end):
    return np.moveaxis(t, start, end) if np.ndim(t) > 2 else np.asarray(t)


TRANSPOSED = [name for name in SPECIMENS if name in LAYERS and "data_format" in signature(LAYERS[name]).parameters]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", TRANSPOSED)
def test_channels_first_is_the_transpose_of_channels_last(name):
    """Keras itself runs no convolution with channels first on CPUs; the clone does."""
    tolerance, _ = set_precision(name)
    shape, options = SPECIMENS[name]
    found = []
    for form, turn, back in (
        ("channels_last", lambda t: t, lambda t: t),
        ("channels_first", lambda t: moved(t, -1, 1), lambda t: moved(t, 1, -1)),
    ):
        i = keras.Input(turn(np.zeros((1, *shape))).shape[1:])
        model = randomize(keras.Model(i, LAYERS[name](**options, data_format=form)(i)))
        explainer, x = lrp_tf.Explainer(model, RULE, check=False), values(*shape)
        start = values(*(found[0][0].shape[1:] if found else model.output.shape[1:]), seed=2)
        e = explainer.explain(turn(x), start=turn(start))
        assert np.abs(e.conservation.unexplained).max() < max(tolerance, 1e-9)
        found.append((back(e.output), back(e.relevance)))
    close(found[1], found[0], tolerance)


# --- every class has its place -----------------------------------------------------------------


def test_every_layer_of_keras_is_in_exactly_one_list():
    refused = [set(table) & set(LAYERS) for table in (unsupported.UNSUPPORTED, unsupported.NOT_APPLICABLE)]
    entries = {name for name, cls in LAYERS.items() if linear.entry(cls) or flows.entry(cls)}
    followed = set(unsupported.FOLLOWED) & set(LAYERS)
    lists = [*refused, entries, followed]
    assert sorted(name for names in lists for name in names) == sorted(LAYERS)
    assert {name for name in CASES if name in LAYERS} == entries | followed

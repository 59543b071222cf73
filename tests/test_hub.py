"""Layers as KerasHub writes them: experts, Fourier transforms, windows, caches, refusals. KerasHub itself is slow."""

import importlib.util
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import RULE, check, close, raises, randomize
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf.tools import hub_coverage

pytestmark = pytest.mark.usefixtures("double_precision")

SEQUENCES = np.random.default_rng(3).normal(size=(3, 4, 4))
IMAGES = np.random.default_rng(4).normal(size=(3, 4, 4, 2))


class Written(kl.Layer):
    """Kernels of three experts, and a function that takes them; its `compute_output_shape` says nothing true."""

    def __init__(self, function, inner=None, **options):
        super().__init__(**options)
        self.function, self.inner = function, inner

    def build(self, shape):
        self.experts = self.add_weight(shape=(3, 4, 4), name="experts")
        self.gate = self.add_weight(shape=(4, 3), name="gate")

    def call(self, x, training=None):
        return self.function(self, x)

    def compute_output_shape(self, shape):
        return (*shape, 7)


class Holding(kl.Layer):
    """A layer that holds another one, which KerasHub's blocks do."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def compute_output_shape(self, shape):
        return shape


def experts(s, x):
    """As Mixtral: tokens among the samples, the axis of the experts ahead of them, and back."""
    length = x.shape[1]
    h = ops.reshape(x, (-1, 4))
    gates, chosen = ops.top_k(ops.softmax(h @ s.gate, axis=-1), k=2)
    gates = ops.sum(ops.cast(ops.one_hot(chosen, 3), h.dtype) * gates[..., None], axis=1)
    h = ops.silu(ops.einsum("th,ehm->etm", h, s.experts))
    h = ops.matmul(h, s.experts)
    return ops.reshape(ops.sum(h * ops.transpose(gates)[:, :, None], axis=0), (-1, length, 4))


def fourier(s, x):
    """As FNet: the imaginary part is dropped, and so are the steps that make it."""
    return ops.fft2((x, ops.zeros_like(x)))[0]


def gathered(s, x):
    """As DeBERTa: TensorFlow's function on symbolic tensors."""
    places = ops.broadcast_to(ops.cast([[3, 0], [1, 1], [2, 3], [0, 0]], "int32"), (ops.shape(x)[0], 4, 2))
    return ops.concatenate([tf.gather(x, indices=places, batch_dims=2), x[..., :2]], axis=-1)


def dropped(s, x):
    """As BLOOM: a layer inside that Keras never built, since it trusts `compute_output_shape`."""
    return s.inner(x) * 2.0


@pytest.mark.parametrize("function", [experts, fourier, gathered, dropped])
def test_what_the_models_of_keras_hub_are_made_of(function):
    inputs = keras.Input((4, 4), dtype="float64")
    layer = Holding(Written(function, kl.Dropout(0.5), name="written"), name="block")
    model = randomize(keras.Model(inputs, kl.Dense(2)(_flat(layer, inputs))))
    check(model, SEQUENCES, RULE, target=0, layers=["written"])
    paths = lrp_tf.Explainer(model, RULE).summary(None).column("layer")
    assert any(path.startswith("block/written/") for path in paths)


def _flat(layer, inputs):
    return kl.GlobalAveragePooling1D()(layer(inputs))


def gated(x):
    """An activation that mixes its entries: it passes no relevance as it is, and is followed."""
    return x * ops.softmax(x, axis=-1)


@pytest.mark.parametrize("layer", [lambda: kl.Dense(4, activation=gated), lambda: kl.Activation(gated)])
def test_an_activation_that_nobody_knows_is_followed(layer):
    inputs = keras.Input((4,), dtype="float64")
    found, same = [layer() for _ in range(2)]
    model = randomize(keras.Model(inputs, kl.Dense(2)(found(inputs))))
    same.activation = keras.activations.linear
    twin = keras.Model(inputs, kl.Dense(2)(gated(same(inputs))))
    twin.set_weights(model.get_weights())
    x = SEQUENCES[:, 0]
    close(check(model, x, RULE, target=0).relevance, check(twin, x, RULE, target=0).relevance)


def test_an_input_that_is_added_to_a_larger_constant_is_no_shift_of_the_input():
    """As T5: a mask of tokens, and biases of heads and positions in front of it."""
    mask = keras.Input((4,), dtype="float64")
    bias = ops.convert_to_tensor(np.random.default_rng(5).normal(size=(1, 2, 4, 4)))
    h = ops.add(ops.multiply(ops.subtract(1.0, mask), 3.0)[:, None, None, :], bias)
    model = randomize(keras.Model(mask, kl.Dense(2)(kl.Flatten()(h))))
    check(model, SEQUENCES[:, 0], RULE, target=0)


def test_relevance_passes_a_sum_of_integers():
    """As Falcon: positions are counted from the mask, and enter as biases."""
    mask = keras.Input((4,), dtype="int32")
    counted = ops.cast(ops.cumsum(mask, axis=1) - 1, "float64") * 0.5
    model = randomize(keras.Model(mask, kl.Dense(2)(counted)))
    explain = lrp_tf.Explainer(model, "epsilon")
    found = explain.explain(np.array([[1, 1, 1, 0], [1, 1, 0, 0]], "int32"), 0)
    assert np.abs(found.conservation.unexplained).max() < 1e-9
    assert not np.any(found.relevance[:, 3])
    assert np.all(found.relevance[:, 0] != 0)


def windows(s, x):
    """As Swin: how many windows there are of all samples together, divided by those of a sample."""
    h = ops.transpose(ops.reshape(x, (-1, 2, 2, 2, 2, 2)), (0, 1, 3, 2, 4, 5))
    h = ops.reshape(h, (-1, 4, 2))
    h = ops.softmax(h @ ops.transpose(h, (0, 2, 1))) @ h
    batch = ops.shape(h)[0] // 4
    return ops.transpose(ops.reshape(h, (batch, 2, 2, 2, 2, -1)), (0, 1, 3, 2, 4, 5))


class Flattened(kl.Layer):
    def call(self, x):
        return ops.reshape(windows(self, x), (-1, 32))


def test_sizes_of_batches_are_divided_as_windows_are_counted():
    inputs = keras.Input((4, 4, 2), dtype="float64")
    check(randomize(keras.Model(inputs, kl.Dense(2)(Flattened()(inputs)))), IMAGES, RULE)


def test_each_image_with_each_text_is_refused():
    images, texts = keras.Input((4,), name="images"), keras.Input((4,), name="texts")
    logits = ops.matmul(kl.Dense(3)(images), ops.transpose(kl.Dense(3)(texts)))
    with raises(lrp_tf.UnsupportedLayerError, "'matmul", "every sample of another", "images with texts", "Remedy"):
        lrp_tf.Explainer(keras.Model([images, texts], logits))


class Scored(kl.Layer):
    """It destroys masks, as Keras then says: a warning, and here an error."""

    def call(self, x):
        return x * 2.0


def test_what_keras_says_about_masks_is_no_error_of_the_trace():
    tokens = keras.Input((4,), dtype="int32")
    h = kl.Embedding(5, 3, mask_zero=True)(tokens)
    with pytest.warns(UserWarning, match="destroy the mask"):
        model = randomize(keras.Model(tokens, kl.Dense(2)(_flat(Holding(Scored()), h))))
    explain = lrp_tf.Explainer(model, RULE, check=False)
    assert np.any(explain(np.array([[1, 2, 0, 0]], "int32"), 0))


def test_the_innermost_layer_that_is_not_followed_is_named_with_its_line():
    layer = Holding(Written(lambda s, x: tf.math.cumsum(x), name="written"), name="block")
    inputs = keras.Input((4, 4), dtype="float64")
    model = keras.Model(inputs, layer(inputs))
    with raises(lrp_tf.UnsupportedLayerError, "'written'", "in test_hub.py, line [0-9]+: .*cumsum", "Remedy"):
        lrp_tf.Explainer(model)


def test_the_model_is_as_it_was():
    layer = Written(dropped, kl.Dropout(0.5), name="written")
    inputs = keras.Input((4, 4), dtype="float64")
    model = randomize(keras.Model(inputs, kl.Dense(2)(_flat(Holding(layer), inputs))))
    before = [layer.inner.built, len(layer.inner._inbound_nodes), set(vars(layer.inner))]
    lrp_tf.Explainer(model, RULE)
    assert before == [layer.inner.built, len(layer.inner._inbound_nodes), set(vars(layer.inner))]


def test_without_keras_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(hub_coverage.sys.modules, "keras_hub", None)
    with raises(ImportError, r"lrp_tf\[hub\]"):
        hub_coverage.keras_hub()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="KerasHub, of the extra hub, is missing")
def test_models_of_keras_hub(tmp_path):
    """Every row runs or is refused for the reason that is right for it."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    assert hub_coverage.main(["--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) >= 42
    assert sum(not row["error"] for row in rows) >= 33
    assert sum(bool(row["static"]) for row in rows) >= 20

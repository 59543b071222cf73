"""A layer that changes what it computes after an explainer was built: the explainer notices and is built anew."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, dense_net, image_net, images, raises, randomize, vectors
from keras import layers as kl

import lrp_tf
from lrp_tf.tracing import changes

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


def lora(layer):
    def change(model):
        model.get_layer(layer).enable_lora(2)
        randomize(model, 5)

    return change


def activation(model):
    model.get_layer("dense").activation = keras.activations.tanh


def new_bias(model):
    layer = model.get_layer("dense")
    layer._tracker.unlock()
    layer.bias = keras.Variable(np.array([3.0, -2.0, 1.0, 2.0], "float32"), name="other")


def epsilon_of_the_norm(model):
    model.get_layer("norm").epsilon = 0.7


def another_policy(model):
    model.get_layer("act").negative_slope = 0.5


def net():
    """Dense alone, so that every map is of the same kind."""
    ahead = [kl.Dense(4, activation="relu", name="dense"), kl.BatchNormalization(name="norm")]
    return dense_net(*ahead, kl.LeakyReLU(0.1, name="act"))


CHANGES = {
    "lora": lora("dense"),
    "activation": activation,
    "bias": new_bias,
    "epsilon": epsilon_of_the_norm,
    "slope": another_policy,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_explainer_and_clone_follow_a_layer_that_changed(change):
    model = net()
    explain, clone = lrp_tf.Explainer(model, "epsilon"), lrp_tf.clone_with_rules(model, "epsilon")
    before = explain(VEC, 1)
    clone(VEC)
    change(model)
    fresh = lrp_tf.Explainer(model, "epsilon")
    close(explain(VEC, 1), fresh(VEC, 1), 1e-6)
    close(clone(VEC), model(VEC), 1e-5)
    close(explain.explain(VEC).output, model(VEC), 1e-5)
    assert np.abs(np.asarray(explain(VEC, 1)) - before).max() > 1e-3
    assert explain.summary(print_fn=None).rows == fresh.summary(print_fn=None).rows


def test_lora_in_a_convolution_too():
    model = image_net()
    explain, clone = lrp_tf.Explainer(model), lrp_tf.clone_with_rules(model)
    before = explain.explain(IMG).output
    lora("conv")(model)
    close(explain.explain(IMG).output, model(IMG), 1e-5)
    close(clone(IMG), model(IMG), 1e-5)
    assert np.abs(np.asarray(before) - model(IMG)).max() > 1e-2


def test_a_clone_that_noticed_first_tells_its_explainer():
    model = net()
    explain = lrp_tf.Explainer(model, "epsilon")
    explain(VEC)
    lora("dense")(model)
    close(explain.clone(VEC), model(VEC), 1e-5)
    close(explain.explain(VEC).output, model(VEC), 1e-5)


class Swapped(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.head = kl.Dense(4, activation="relu"), kl.Dense(3)

    def call(self, x):
        return self.head(self.block(x))


def test_a_layer_that_was_replaced():
    model = Swapped()
    model(VEC)
    randomize(model)
    explain = lrp_tf.Explainer(model, "epsilon")
    explain(VEC)
    model._tracker.unlock()
    model.block = kl.Dense(4, activation="tanh")
    model(VEC)
    close(explain.explain(VEC).output, model(VEC), 1e-5)


def test_inside_a_function_of_the_user():
    model = net()
    explain = lrp_tf.Explainer(model, "epsilon")
    explain(VEC)
    lora("dense")(model)
    close(tf.function(explain)(VEC), lrp_tf.Explainer(model, "epsilon")(VEC), 1e-6)


def test_training_and_predicting_change_nothing():
    model, images_net = net(), image_net()
    snapshots = [changes.Snapshot(m) for m in (model, images_net)]
    for m, x in ((model, VEC), (images_net, IMG)):
        m.compile("adam", "mse", metrics=["mae"])
        m.fit(x, np.ones((3, 3)), verbose=0)
        m.predict(x, verbose=0)
        m.evaluate(x, np.ones((3, 3)), verbose=0)
        m.trainable = False
        m(x, training=True)
        m.set_weights(m.get_weights())
        lrp_tf.Explainer(m)(x)
    assert [snapshot.outdated() for snapshot in snapshots] == [False, False]


# --- quantized layers --------------------------------------------------------------------------


def tokens(layer):
    i = keras.Input((5,), dtype="int32")
    return randomize(keras.Model(i, kl.Dense(3, name="logits")(kl.Flatten()(layer(i)))))


def attention():
    i = keras.Input((5, 4))
    h = kl.MultiHeadAttention(2, 2, name="attention")(i, i)
    return randomize(keras.Model(i, kl.Dense(3, name="logits")(kl.Flatten()(h))))


BUILDS = {
    "Dense": lambda: dense_net(kl.Dense(4, name="small")),
    "EinsumDense": lambda: dense_net(kl.EinsumDense("ab,bc->ac", 4, name="small")),
    "Embedding": lambda: tokens(kl.Embedding(6, 4, name="small")),
    "ReversibleEmbedding": lambda: tokens(kl.ReversibleEmbedding(6, 4, name="small")),
}


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("name", BUILDS)
def test_a_quantized_layer_is_refused_by_name(name, mode):
    if not hasattr(kl, name):
        pytest.skip(f"this Keras has no {name}")
    model = BUILDS[name]()
    x = np.ones((2, *model.inputs[0].shape[1:]), model.inputs[0].dtype)
    explain, clone = lrp_tf.Explainer(model, "epsilon"), lrp_tf.clone_with_rules(model, "epsilon")
    explain(x)
    try:
        model.get_layer("small").quantize(mode)
    except (ValueError, NotImplementedError):
        pytest.skip(f"Keras does not quantize {name} to {mode}")
    for use in (lambda: lrp_tf.Explainer(model, "epsilon"), lambda: explain(x), lambda: explain(x), lambda: clone(x)):
        with raises(lrp_tf.UnsupportedLayerError, f"'small' [(]{name}, {mode}[)]", "Expected", "Received", "Remedy"):
            use()


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantized_model_names_every_quantized_layer(mode):
    model = attention()
    lrp_tf.Explainer(model, "epsilon")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras: layers without a kernel are not quantized
        model.quantize(mode)
    with raises(lrp_tf.UnsupportedLayerError, "'query'", "'value'", "'logits' [(]Dense, " + mode):
        lrp_tf.Explainer(model, "epsilon")


@pytest.mark.parametrize("mode", ["gptq", "awq"])
def test_modes_that_are_calibrated_are_refused_before_and_after(mode):
    config = {"gptq": "GPTQConfig", "awq": "AWQConfig"}[mode]
    if not hasattr(keras.quantizers, config):
        pytest.skip(f"this Keras has no {config}")
    model = dense_net(kl.Dense(4, name="small"))
    config = getattr(keras.quantizers, config)(dataset=["a"], tokenizer=None, weight_bits=4, group_size=2)
    model.get_layer("small").quantize(mode, config=config)
    with raises(lrp_tf.UnsupportedLayerError, "'small' [(]Dense, " + mode):
        lrp_tf.Explainer(model, "epsilon")


def test_a_layer_quantized_from_the_start():
    with raises(lrp_tf.UnsupportedLayerError, "'small' [(]Dense, int8"):
        lrp_tf.Explainer(dense_net(kl.Dense(4, dtype="int8_from_float32", name="small")))


def test_a_flag_of_a_layer_of_your_own_is_noticed_and_a_counter_is_not():
    class Switch(kl.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.on, self.calls = True, 0

        def call(self, x):
            self.calls += 1
            return keras.ops.relu(x) if self.on else -2.0 * x

    model = dense_net(Switch(name="switch"))
    explain = lrp_tf.Explainer(model, "epsilon")
    explain(VEC)
    graph = explain.graph
    model(VEC)
    explain(VEC)
    assert explain.graph is graph
    model.get_layer("switch").on = False
    close(explain.explain(VEC).output, model(VEC), 1e-5)

"""Every mistake gets an error that names the thing, what was expected and the remedy."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import dense_net, image_net, images, raises, randomize, vectors
from helpers.custom_layers import Around, Encoder, Raw
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


class RawDense(kl.Dense):
    """Not its base class: taking it for that one would explain another function."""

    def call(self, x, training=None):
        return tf.tanh(super().call(x))


class Standardized(kl.Conv2D):
    """The pattern of Keras' documentation, weights standardized inside `convolution_op`, in raw TensorFlow."""

    def convolution_op(self, inputs, kernel):
        kernel = kernel - tf.reduce_mean(kernel, axis=(0, 1, 2), keepdims=True)
        return tf.nn.convolution(inputs, kernel, padding="VALID")


# --- layers ------------------------------------------------------------------------------------


REFUSED = ("not supported", "cannot be traced", "raw TensorFlow", "The reason was: .*KerasTensor", "Remedy", "register")


def test_unsupported_custom_layer():
    with raises(lrp_tf.UnsupportedLayerError, "'odd'", "Raw", *REFUSED, r"keras\.ops"):
        lrp_tf.Explainer(dense_net(Raw(name="odd")))


def test_unsupported_layer_inside_a_nested_model_is_named_by_its_path():
    inner = keras.Sequential([keras.Input((4,)), Raw(name="odd")], name="inner")
    with raises(lrp_tf.UnsupportedLayerError, "'inner/odd'", "Raw", *REFUSED):
        lrp_tf.Explainer(dense_net(inner))


def test_unsupported_layer_inside_a_layer_that_is_followed_is_named_by_its_path():
    with raises(lrp_tf.UnsupportedLayerError, "'around/odd'", "Raw", *REFUSED):
        lrp_tf.Explainer(dense_net(Around(name="around")))
    i = keras.Input((5, 4))
    inner = keras.Model(i, Encoder(inner=Around(name="around"), name="encoder")(i), name="inner")
    with raises(lrp_tf.UnsupportedLayerError, "'inner/encoder/around/odd'", *REFUSED):
        lrp_tf.Explainer(keras.Model(i, kl.Dense(2)(inner(i))))


def test_unsupported_layer_in_a_time_distributed():
    class Shaped(Raw):
        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((5, 4)), kl.TimeDistributed(Shaped(name="odd"), name="each"), kl.Dense(2)])
    with raises(lrp_tf.UnsupportedLayerError, "'each/odd'", *REFUSED):
        lrp_tf.Explainer(model)


def test_unsupported_keras_layer():
    model = keras.Sequential([keras.Input((64,)), kl.MelSpectrogram(fft_length=64, name="mel"), kl.Dense(2)])
    with raises(lrp_tf.UnsupportedLayerError, "'mel'", "MelSpectrogram", "not supported", "Remedy"):
        lrp_tf.Explainer(model)


def test_unsupported_operation():
    i = keras.Input((4,))
    model = keras.Model(i, kl.Dense(2)(keras.ops.erfinv(i)))
    with raises(lrp_tf.UnsupportedLayerError, "Erfinv", "not supported", "Remedy"):
        lrp_tf.Explainer(model)


@pytest.mark.parametrize("layer", [lambda: RawDense(4, name="mine"), lambda: Standardized(4, 3, name="mine")])
def test_subclass_that_changes_the_computation_in_raw_tensorflow(layer):
    model = randomize(keras.Sequential([keras.Input((8, 8, 2)), layer(), kl.Flatten(), kl.Dense(2)]))
    with raises(lrp_tf.UnsupportedLayerError, "'mine'", *REFUSED):
        lrp_tf.Explainer(model)


def test_subclass_that_keeps_the_computation_is_its_base_class():
    class Mine(kl.Dense):
        pass

    model = dense_net(Mine(4, activation="relu"))
    assert lrp_tf.Explainer(model)(VEC).shape == (3, 4)


def test_unknown_activation_function():
    with raises(lrp_tf.UnsupportedLayerError, "'dense_act.*'", "Expected an element-wise", "register_activation"):
        lrp_tf.Explainer(dense_net(kl.Dense(4, activation=lambda x: tf.pow(x, 3), name="dense_act")))


def test_unknown_activation_layer():
    with raises(lrp_tf.UnsupportedLayerError, "cube", "'act'", "register_activation"):
        lrp_tf.Explainer(dense_net(kl.Activation(cube, name="act")))


def cube(x):
    return tf.pow(x, 3)


def test_quantized_layer():
    model = dense_net(kl.Dense(4, name="small"))
    model.get_layer("small").quantize("int8")
    with raises(lrp_tf.UnsupportedLayerError, "'small'", "int8", "Remedy"):
        lrp_tf.Explainer(model)


# --- models ------------------------------------------------------------------------------------


class Untraceable(keras.Model):
    def __init__(self, body, **options):
        super().__init__(**options)
        self.dense, self.body = kl.Dense(2), body

    def call(self, x):
        return self.body(self.dense(x))


def branch(z):
    return z if float(keras.ops.sum(z)) > 0 else -z


@pytest.mark.parametrize(
    "body", [lambda z: tf.nn.relu(z), branch, lambda z: np.maximum(z, 0)], ids=["raw TensorFlow", "branch", "NumPy"]
)
def test_subclassed_model_that_cannot_be_traced(body):
    model = Untraceable(body, name="opaque")
    model(VEC)
    nodes = len(model.dense._inbound_nodes)
    with raises(ValueError, "'opaque'", "Untraceable", "cannot be traced", "Expected keras layers", "Remedy"):
        lrp_tf.Explainer(model)
    assert len(model.dense._inbound_nodes) == nodes


def test_subclassed_model_that_was_never_built():
    with raises(ValueError, "'fresh'", "not built", "Expected", "Remedy: call it once"):
        lrp_tf.Explainer(Untraceable(keras.ops.relu, name="fresh"))


def test_sequential_without_an_input_shape():
    with raises(ValueError, "'fresh'", "Expected a built model", "Remedy", r"keras\.Input"):
        lrp_tf.Explainer(keras.Sequential([kl.Dense(2)], name="fresh"))


@pytest.mark.parametrize("thing", [None, 3, "model.keras", kl.Dense, keras.Model, lambda x: x])
def test_not_a_model(thing):
    with raises(TypeError, r"Expected a Keras 3 model \(keras.Model\)", "Received"):
        lrp_tf.Explainer(thing)


def test_layer_is_not_a_model():
    with raises(TypeError, "Expected a Keras 3 model", "Received", "Dense"):
        lrp_tf.Explainer(kl.Dense(2))


@pytest.mark.parametrize("module", ["tf_keras.src.models", "tensorflow.python.keras.engine.training"])
def test_keras_2_model(module):
    class Functional:
        name = "old"

    Functional.__module__ = module
    model = type("Trainer", (Functional,), {"__module__": "users_script"})()
    for old in (Functional(), model):
        with raises(TypeError, "Expected a Keras 3 model", "'old'", "Keras 2", "Remedy"):
            lrp_tf.Explainer(old)


def test_clone_with_rules_raises_the_same():
    with raises(TypeError, "Expected a Keras 3 model", "Received"):
        lrp_tf.clone_with_rules("model.keras")
    with raises(ValueError, "Unknown composite", "Expected one of"):
        lrp_tf.clone_with_rules(dense_net(), "epsilom")


@pytest.mark.parametrize("output", ["lefd", 2, -3, True, 0.5])
def test_unknown_output(output):
    i = keras.Input((4,))
    model = keras.Model(i, [kl.Dense(2, name="left")(i), kl.Dense(3, name="right")(i)], name="two")
    with raises(ValueError, "'two'", "2 output", "'left', 'right'", "Expected output=", "Received"):
        lrp_tf.Explainer(model, output=output)


def test_several_outputs_and_none_chosen():
    i = keras.Input((4,))
    with raises(ValueError, "2 output", "Expected output="):
        lrp_tf.Explainer(keras.Model(i, [kl.Dense(2)(i), kl.Dense(3)(i)]))


def test_output_name_that_two_outputs_share():
    a, head = keras.Input((4,)), kl.Dense(2, name="head")
    model = keras.Model(a, [head(a), head(2 * a)])
    with raises(ValueError, "head", "index"):
        lrp_tf.Explainer(model, output="head")


# --- composites --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("epsilon_pluss", "epsilon_plus"),
        ("epsilon-plus-flat", "epsilon_plus_flat"),
        ("EpsilonPlus", "epsilon_plus"),
        ("tutorail", "tutorial"),
    ],
)
def test_unknown_composite(name, meant):
    with raises(ValueError, "Unknown composite", "Expected one of", f"Received: '{name}'", f"Did you mean '{meant}'"):
        lrp_tf.Explainer(dense_net(), name)


@pytest.mark.parametrize("thing", [rules.Epsilon, composites.Composite, None, 1e-6, [rules.Epsilon()]])
def test_neither_composite_nor_rule(thing):
    with raises(TypeError, "Expected a composite's name, a Composite or a Rule", "Received"):
        lrp_tf.Explainer(dense_net(), thing)


def test_rule_class_instead_of_an_instance():
    with raises(TypeError, "instance", "Epsilon", r"Did you mean Epsilon\(\)"):
        composites.Composite([(None, rules.Epsilon)])
    with raises(TypeError, r"Did you mean Epsilon\(\)"):
        lrp_tf.Explainer(dense_net(), rules.Epsilon)


@pytest.mark.parametrize("match", [kl.Dense, "dense", 3])
def test_match_that_is_none(match):
    with raises(TypeError, "of_type", "named", "Received"):
        composites.Composite([(match, rules.Epsilon())])


def test_entries_that_are_no_pairs():
    with raises(TypeError, "pairs", "Received"):
        composites.Composite([rules.Epsilon()])


@pytest.mark.parametrize("name", ["epsilon_gamma_box", "tutorial"])
def test_missing_bounds(name):
    with raises(ValueError, name, "low and high", "bounds", r"composites\.get\(.*low=0\.0, high=1\.0\)", "Received"):
        lrp_tf.Explainer(image_net(), name)
    with raises(ValueError, "needs high"):
        composites.get(name, low=0.0)
    with raises(ValueError, "low and high", "Received"):
        rules.ZBox()


def test_bounds_of_the_wrong_shape():
    explainer = lrp_tf.Explainer(image_net(), composites.get("epsilon_gamma_box", low=[0, 0, 0], high=1.0))
    with raises(ValueError, "low", "2 channels", "Received"):
        explainer(IMG)


@pytest.mark.parametrize("match", [composites.named("block9_.*"), composites.named("log"), composites.at(7)])
def test_match_that_matches_nothing(match):
    composite = composites.Composite([(match, rules.ZPlus()), (None, rules.Epsilon())], "mine")
    with raises(ValueError, "matches nothing", "'mine'", "'net'", "logits"):
        lrp_tf.Explainer(dense_net(), composite)


def test_composite_that_leaves_a_linear_layer_out():
    composite = composites.Composite([(composites.first(), rules.ZPlus())])
    with raises(lrp_tf.UnsupportedLayerError, "'logits'", "no rule", "Remedy", r"\(None, rules.Epsilon\(\)\)"):
        lrp_tf.Explainer(dense_net(kl.Dense(4, activation="relu")), composite)


def test_options_that_the_preset_does_not_take():
    with raises(TypeError, "epsilon", "Received", "alpha"):
        composites.get("epsilon", alpha=2)
    with raises(TypeError, "Options", "Received"):
        composites.get(rules.Epsilon(), zero_bias=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rules.Epsilon(-1.0),
        lambda: rules.Epsilon("small"),
        lambda: rules.Epsilon(float("nan")),
        lambda: rules.ZPlus(stabilizer=True),
        lambda: rules.AlphaBeta(2.0, 2.0),
        lambda: rules.AlphaBeta(0.0, -1.0),
        lambda: rules.Gamma(-0.1),
        lambda: rules.Relative(-1),
    ],
)
def test_parameters_out_of_range(make):
    with raises(ValueError, "Received"):
        make()


def test_pass_where_shapes_differ():
    with raises(ValueError, "Pass", "same shape", "'logits'", "Remedy"):
        lrp_tf.Explainer(dense_net(), rules.Pass())(VEC)


# --- NaN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer", ["conv", "norm"])
def test_nan_weights_even_behind_max_pooling(layer, bad):
    model = image_net()
    weight = model.get_layer(layer).weights[-1 if layer == "norm" else 0]  # the moving variance; the kernel
    value = weight.numpy()
    value[..., 1] = bad
    weight.assign(value)
    if layer == "norm" and np.isinf(bad):
        return  # an infinite variance is a scale of zero: finite
    with raises(ValueError, f"{layer}", weight.path, "NaN or Inf", "Expected finite weights", "Remedy"):
        lrp_tf.Explainer(model)(IMG)


def test_nan_weight_in_a_nested_model():
    inner = keras.Sequential([keras.Input((4,)), kl.Dense(4, name="deep")], name="inner")
    model = dense_net(inner)
    inner.layers[0].bias.assign([0, np.nan, 0, 0])
    for target in (None, 0, [0, 1, 2], [[0, 1]] * 3):
        with raises(ValueError, "'inner/deep'", "bias", "finite"):
            lrp_tf.Explainer(model)(VEC, target)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_input_names_the_sample(bad):
    x = IMG.copy()
    x[1, 2, 3, 0] = bad
    with raises(ValueError, "'photo'", "1 NaN or Inf", r"sample\(s\) \[1\]", "Expected finite"):
        lrp_tf.Explainer(image_net())(x)
    with raises(ValueError, "'photo'", r"sample\(s\) \[1\]"):
        lrp_tf.Explainer(image_net()).explain(x)


def test_nan_start():
    with raises(ValueError, "start relevance", "NaN or Inf", "Expected finite"):
        lrp_tf.Explainer(dense_net())(VEC, start=np.full((3, 3), np.nan))


def test_overflow_names_the_layer():
    model = dense_net(kl.Dense(4, name="wide"))
    model.get_layer("wide").kernel.assign(np.full((4, 4), 3e38))
    with raises(ValueError, "'wide'", "overflow", "Remedy"):
        lrp_tf.Explainer(model)(1e3 * np.abs(VEC))


def test_report_shows_nan_instead_of_raising():
    model = dense_net(kl.Dense(4, name="bad"))
    model.get_layer("bad").bias.assign([0, np.nan, 0, 0])
    table = lrp_tf.Explainer(model).report(VEC, print_fn=None)
    assert dict(zip(table.column("layer"), table.column("NaN/Inf"), strict=True))["bad"] > 0


# --- backend -----------------------------------------------------------------------------------


def python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_other_backend_before_the_import(backend):
    done = python("import lrp_tf", KERAS_BACKEND=backend)
    assert done.returncode
    for word in ("lrp_tf needs Keras on TensorFlow", "Expected KERAS_BACKEND=tensorflow", f"Received: '{backend}'"):
        assert word in done.stderr


def test_other_backend_once_keras_was_imported(monkeypatch):
    model = dense_net()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with raises(RuntimeError, "lrp_tf needs Keras on TensorFlow", "KERAS_BACKEND=tensorflow", "Received: 'jax'"):
        lrp_tf.Explainer(model)


def test_other_backend_in_the_configuration_file(tmp_path):
    """~/.keras/keras.json chooses the backend where the environment does not."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax", "floatx": "float32"}))
    done = python("import os; os.environ.pop('KERAS_BACKEND', None); import lrp_tf", KERAS_HOME=str(tmp_path))
    assert done.returncode
    for word in ("lrp_tf needs Keras on TensorFlow", "KERAS_BACKEND=tensorflow", "Received: 'jax'"):
        assert word in done.stderr

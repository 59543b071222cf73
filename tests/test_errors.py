"""Every mistake gets an error that names the thing, what was expected and the remedy; none changes the model."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from checking import images, randomize, vectors
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules


def dense_net(*ahead, classes=3):
    return randomize(keras.Sequential([keras.Input((4,)), *ahead, kl.Dense(classes, name="logits")], name="net"))


def image_net(channels=2):
    stack = [kl.Conv2D(3, 3, name="conv"), kl.BatchNormalization(name="norm"), kl.MaxPooling2D(), kl.Flatten()]
    return randomize(keras.Sequential([keras.Input((8, 8, channels), name="photo"), *stack, kl.Dense(3)], name="net"))


VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


def raises(error, *words):
    """The error, with each of `words` in its message (a regular expression each)."""
    return pytest.raises(error, match="".join(f"(?=[\\s\\S]*{word})" for word in words))


class Mystery(kl.Layer):
    def call(self, x):
        return x * x


class Halved(kl.Dense):
    def call(self, x, training=None):
        return super().call(x) / 2


class Standardized(kl.Conv2D):
    """The pattern of Keras' documentation: weights standardized inside `convolution_op`."""

    def convolution_op(self, inputs, kernel):
        kernel = kernel - keras.ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, kernel)


class Flipped(kl.Activation):
    def call(self, x):
        return keras.ops.flip(x, axis=-1)


class Quiet(kl.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return x


# --- layers ------------------------------------------------------------------------------------


def test_unsupported_custom_layer():
    with raises(lrp_tf.UnsupportedLayerError, "'odd'", "Mystery", "Remedy", "register"):
        lrp_tf.Explainer(dense_net(Mystery(name="odd")))


def test_unsupported_layer_inside_a_nested_model_is_named_by_its_path():
    inner = keras.Sequential([keras.Input((4,)), Mystery(name="odd")], name="inner")
    with raises(lrp_tf.UnsupportedLayerError, "'inner/odd'", "Mystery", "Remedy"):
        lrp_tf.Explainer(dense_net(inner))


def test_unsupported_keras_layer():
    model = keras.Sequential([keras.Input((5, 4)), kl.LSTM(3, name="memory"), kl.Dense(2)])
    with raises(lrp_tf.UnsupportedLayerError, "'memory'", "LSTM", "not supported", "Remedy"):
        lrp_tf.Explainer(model)


def test_unsupported_operation():
    i = keras.Input((4,))
    model = keras.Model(i, kl.Dense(2)(keras.ops.sort(i)))
    with raises(lrp_tf.UnsupportedLayerError, "Sort", "not supported", "Remedy"):
        lrp_tf.Explainer(model)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: Halved(4, name="mine"), (8, 8, 2)),
        (lambda: Standardized(4, 3, name="mine"), (8, 8, 2)),
        (lambda: Quiet(name="mine"), (8, 8, 2)),
        (lambda: Flipped("relu", name="mine"), (8, 8, 2)),
    ],
    ids=["Dense.call", "Conv2D.convolution_op", "BatchNormalization.call", "Activation.call"],
)
def test_subclass_that_changes_the_computation(layer, shape):
    """It is not its base class: taking it for that one would explain another function."""
    model = randomize(keras.Sequential([keras.Input(shape), layer(), kl.Flatten(), kl.Dense(2)]))
    with raises(lrp_tf.UnsupportedLayerError, "'mine'", "Remedy", "register"):
        lrp_tf.Explainer(model)


def test_subclass_that_keeps_the_computation_is_its_base_class():
    class Mine(kl.Dense):
        pass

    model = dense_net(Mine(4, activation="relu"))
    assert lrp_tf.Explainer(model)(VEC).shape == (3, 4)


def test_unknown_activation_function():
    with raises(lrp_tf.UnsupportedLayerError, "'dense_act.*'", "Expected an element-wise", "register_activation"):
        lrp_tf.Explainer(dense_net(kl.Dense(4, activation=lambda x: x**3, name="dense_act")))


def test_unknown_activation_layer():
    with raises(lrp_tf.UnsupportedLayerError, "cube", "'act'", "register_activation"):
        lrp_tf.Explainer(dense_net(kl.Activation(cube, name="act")))


def cube(x):
    return x**3


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


# --- targets and start -------------------------------------------------------------------------


@pytest.mark.parametrize("target", [3, -1, [0, 1, 3], [0, -2, 1], [[0, 1], [2, 3], [0, 0]], 2**40])
def test_target_out_of_range(target):
    with raises(ValueError, "target out of range", "Expected 0 to 2", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, target)


@pytest.mark.parametrize("target", [2, [0, 1, 2]])
def test_target_of_a_single_unit_out_of_range(target):
    with raises(ValueError, "target out of range", "Expected 0 to 1"):
        lrp_tf.Explainer(dense_net(classes=1))(VEC, target)


@pytest.mark.parametrize("target", [[0, 1], [[0, 1]], [[[0]], [[1]], [[2]]], np.zeros((3, 0), int)])
def test_target_of_the_wrong_shape(target):
    with raises(ValueError, "target has the wrong shape", r"Expected an integer, \[B\]", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, target)


@pytest.mark.parametrize("target", [1.0, [0.0, 1.0, 2.0], "cat", [True, False, True], np.float32(1), [None]])
def test_target_that_is_no_integer(target):
    with raises(TypeError, "target must be integers", "Expected an integer", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, target)


def test_ragged_target():
    with raises((TypeError, ValueError), "target"):
        lrp_tf.Explainer(dense_net())(VEC, [[0, 1], [2], [0]])


def test_start_and_target_exclude_each_other():
    with raises(ValueError, "Expected no target"):
        lrp_tf.Explainer(dense_net())(VEC, 1, start=np.ones((3, 3)))


@pytest.mark.parametrize("start", ["ones", "logit", ""])
def test_unknown_start(start):
    with raises(ValueError, "start must be", '"output", "one"', "Received"):
        lrp_tf.Explainer(dense_net())(VEC, start=start)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3), (1, 3), (3, 3, 1)])
def test_start_of_the_wrong_shape(shape):
    with raises(ValueError, "start has the wrong shape", r"Expected: \(3, 3\)", "Received"):
        lrp_tf.Explainer(dense_net())(VEC, start=np.ones(shape))


@pytest.mark.parametrize("target", [None, 0, [0, 1]])
def test_output_of_higher_rank_without_an_index(target):
    model = randomize(keras.Sequential([keras.Input((8, 8, 2)), kl.Conv2D(4, 3, padding="same")]))
    with raises((TypeError, ValueError), r"\(None, 8, 8, 4\)", "3 integers", "start="):
        lrp_tf.Explainer(model)(IMG, target)


def test_index_out_of_range():
    model = randomize(keras.Sequential([keras.Input((8, 8, 2)), kl.Conv2D(4, 3, padding="same")]))
    with raises(ValueError, "target out of range", "axis 2", "Expected 0 to 7"):
        lrp_tf.Explainer(model)(IMG, [0, 8, 0])


@pytest.mark.parametrize("compiled", [True, False])
def test_index_out_of_range_where_only_the_call_knows_the_size(compiled):
    model = randomize(keras.Sequential([keras.Input((None, None, 2)), kl.Conv2D(4, 3, padding="same")]))
    with raises(ValueError, "target out of range"):
        lrp_tf.Explainer(model)(IMG, tf.constant([0, 8, 0]) if compiled else [0, 8, 0])


def test_unknown_layer_name():
    with raises(ValueError, "'convv'", "no layer", "conv"):
        lrp_tf.Explainer(image_net()).explain(IMG, layers=["convv"])


# --- inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (3, 9, 8, 2), (3, 128), (3, 8, 8, 2, 1), ()])
def test_input_of_the_wrong_shape(shape):
    with raises(ValueError, "photo", "wrong shape", r"Expected: \(None, 8, 8, 2\)", "Received: \\(.*\\)"):
        lrp_tf.Explainer(image_net())(np.ones(shape))


@pytest.mark.parametrize("make", [np.ones, tf.ones])
def test_forgotten_batch_axis(make):
    with raises(ValueError, "photo", "batch axis is missing", r"photo\[None\]", r"Received: \(8, 8, 2\)"):
        lrp_tf.Explainer(image_net())(make((8, 8, 2)))
    with raises(ValueError, "batch axis is missing"):
        lrp_tf.Explainer(dense_net())(make(4))


@pytest.mark.parametrize("size", [8, None])
def test_missing_channel_axis(size):
    model = keras.Sequential([keras.Input((size, size, 1), name="photo"), kl.Conv2D(1, 3), kl.GlobalMaxPooling2D()])
    with raises(ValueError, "photo", "channel axis is missing", r"\[\.\.\., None\]", r"Received: \(3, 8, 8\)"):
        lrp_tf.Explainer(model)(np.ones((3, 8, 8)))


def test_empty_batch():
    for x in (np.ones((0, 8, 8, 2)), tf.ones((0, 8, 8, 2))):
        with raises(ValueError, "photo", "empty batch", "Expected at least one sample", r"\(0, 8, 8, 2\)"):
            lrp_tf.Explainer(image_net())(x)


@pytest.mark.parametrize("x", [None, "cat.png", [["a"] * 4], np.ones((3, 4), complex), tf.constant([["a"] * 4])])
def test_input_that_is_no_array_of_numbers(x):
    with raises(TypeError, "numbers", "Received"):
        lrp_tf.Explainer(dense_net())(x)


@pytest.mark.parametrize("x", [{"a": VEC}, {"a": VEC, "c": VEC}, [VEC], [VEC, VEC, VEC], VEC])
def test_inputs_in_another_structure(x):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    for inputs in ({"a": a, "b": b}, [a, b]):
        model = keras.Model(inputs, kl.Dense(2)(a + b))
        with raises(ValueError, "Expected inputs in the structure", r"\(None, 4\)", "Received"):
            lrp_tf.Explainer(model)(x)


def test_inputs_of_different_batch_sizes():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    with raises(ValueError, "same batch size", "'a': 3", "'b': 2"):
        lrp_tf.Explainer(keras.Model([a, b], kl.Dense(2)(a + b)))([VEC, VEC[:2]])


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


# --- the model stays as it was -----------------------------------------------------------------


def fingerprint(model):
    weights = [(w.path, w.dtype, w.numpy().tobytes()) for w in model.variables]
    nodes = [(x.name, len(x._inbound_nodes), len(x._outbound_nodes), x.built) for x in model._flatten_layers()]
    return json.dumps(model.get_config(), default=str, sort_keys=True), weights, nodes, model.trainable


def swallow(call):
    with pytest.raises((ValueError, TypeError)):
        call()


def test_nothing_changes_the_model():
    model = image_net()
    model.compile("sgd", "mse")
    before = fingerprint(model)
    explainer = lrp_tf.Explainer(model, composites.get("tutorial", low=-4.0, high=4.0))
    explainer.explain(IMG, [[0, 1]] * 3, layers=["conv", "norm"])
    explainer.report(IMG, print_fn=None)
    explainer.summary(None)
    with tf.GradientTape() as tape:
        x = tf.constant(IMG)
        tape.watch(x)
        z = explainer.clone(x)
    tape.gradient(z, x)
    swallow(lambda: lrp_tf.Explainer(model, "unknown"))
    swallow(lambda: lrp_tf.Explainer(model, output="unknown"))
    swallow(lambda: explainer(IMG, 17))
    swallow(lambda: explainer(IMG[0]))
    swallow(lambda: explainer(IMG[:0]))
    swallow(lambda: explainer(IMG * np.nan))
    assert fingerprint(model) == before


@pytest.mark.parametrize("layer", [lambda: Mystery(), lambda: kl.Dense(4, activation=cube), lambda: Halved(4)])
def test_a_refused_model_is_not_changed(layer):
    model = dense_net(layer())
    before = fingerprint(model)
    swallow(lambda: lrp_tf.Explainer(model))
    assert fingerprint(model) == before


def test_names_of_later_layers_do_not_depend_on_explainers():
    class Plus(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = kl.Dense(4)

        def call(self, x):
            return keras.ops.relu(self.dense(x) + x)

    subclassed = Plus()
    subclassed(VEC)

    def names(explain):
        keras.backend.clear_session()
        plain = dense_net(kl.Dense(4, activation="relu"), kl.Reshape((4,)), kl.Dropout(0.1))
        if explain:
            for model in (plain, subclassed):
                lrp_tf.Explainer(model)(VEC)
        i = keras.Input((4,))
        made = [kl.Dense(1), kl.Add(), kl.ReLU(), kl.Reshape((4,)), kl.Dropout(0.1), i + i, keras.ops.relu(i)]
        return [made_.name for made_ in made]

    assert names(True) == names(False)


def test_random_numbers_do_not_depend_on_explainers():
    model = dense_net(kl.Dropout(0.5), kl.GaussianNoise(1.0))
    keras.utils.set_random_seed(1)
    expected = np.asarray(keras.random.normal((4,))), np.random.normal(size=4), np.asarray(tf.random.normal((4,)))
    keras.utils.set_random_seed(1)
    lrp_tf.Explainer(model)(VEC)
    found = np.asarray(keras.random.normal((4,))), np.random.normal(size=4), np.asarray(tf.random.normal((4,)))
    np.testing.assert_array_equal(found, expected)


def test_model_trains_as_if_it_had_never_been_explained():
    def train(explain):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((4,)), kl.Dense(4, activation="relu"), kl.Dropout(0.5), kl.Dense(3)])
        model.compile("sgd", "mse")
        if explain:
            lrp_tf.Explainer(model).explain(VEC)
        model.fit(VEC, VEC[:, :3], epochs=2, verbose=0)
        return model.get_weights()

    for a, b in zip(train(True), train(False), strict=True):
        np.testing.assert_array_equal(a, b)

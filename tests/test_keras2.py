"""HDF5 files of Keras 2, which tests/references/keras2_references.py made: they say the same, or it is told why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl

import lrp_tf
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError

REFERENCES = Path(__file__).parent / "references" / "keras2.npz"
READ = ["bn_sequential", "bn_functional", "plain_sequential", "plain_functional", "convolutions", "recurrent", "nested",
        "nested_sequential", "attention", "adapted"]  # fmt: skip


@pytest.fixture(scope="module")
def archive():
    with np.load(REFERENCES) as found:
        return dict(found)


@pytest.fixture
def file(archive, tmp_path):
    def write(name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(archive[name].tobytes())
        return path

    return write


def inputs(archive, name):
    several = [archive[key] for key in (f"{name}_x0", f"{name}_x1") if key in archive]
    return several or archive[f"{name}_x"]


def edited(path: Path, change) -> Path:
    """The file with another configuration; `change` gets its layers and the configuration around them."""
    with h5py.File(path, "r+") as content:
        config = json.loads(content.attrs["model_config"])
        config = change(config) or config
        content.attrs["model_config"] = json.dumps(config)
    return path


def named(config, kind):
    return [layer for layer in config["config"]["layers"] if layer["class_name"] == kind]


@pytest.mark.parametrize("name", READ)
def test_a_whole_model_says_what_keras_2_said(archive, file, name):
    model = loading.load_model(file(f"{name}.h5"))
    np.testing.assert_allclose(model(inputs(archive, name)), archive[f"{name}_y"], rtol=0, atol=1e-6)
    weights = loading.load_weights(keras.models.clone_model(model), file(f"{name}_weights.h5"))
    np.testing.assert_allclose(weights(inputs(archive, name)), archive[f"{name}_y"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["bn_sequential", "bn_functional", "convolutions"])
def test_it_is_explained(archive, file, name):
    check = lrp_tf.Explainer(loading.load_model(file(f"{name}.h5")), "epsilon_plus").check(inputs(archive, name))
    assert check, check


def test_regularisers_stay(file):
    model = loading.load_model(file("bn_sequential.h5"))
    assert float(model.layers[0].kernel_regularizer.l2) == pytest.approx(1e-4)


def oldest(config):
    """A Sequential as Keras 2.0 wrote it: a list of layers, the shape of the input in the first."""
    layers = [layer for layer in config["config"]["layers"] if layer["class_name"] != "InputLayer"]
    return {"class_name": "Sequential", "config": layers}


def tensorflow_1(config):
    """Names, axes and types as TensorFlow 1.13 to 2.3 wrote them."""
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "BatchNormalization":
            layer["class_name"] = "BatchNormalizationV1"
            layer["config"] |= {"axis": [3], "fused": None, "renorm": False, "virtual_batch_size": None}
        layer["config"]["dtype"] = {"class_name": "Policy", "config": {"name": "float32"}}
        for key, value in layer["config"].items():
            if key.endswith("initializer"):
                layer["config"][key] = {
                    "class_name": value["class_name"],
                    "config": value["config"] | {"dtype": "float32"},
                }
    config["class_name"] = {"Functional": "Model"}.get(config["class_name"], config["class_name"])


@pytest.mark.parametrize(
    ("name", "change"),
    [("bn_sequential", oldest), ("bn_sequential", tensorflow_1), ("bn_functional", tensorflow_1)],
)
def test_earlier_words_of_keras_2_are_known(archive, file, name, change):
    model = loading.load_model(edited(file(f"{name}.h5"), change))
    np.testing.assert_allclose(model(inputs(archive, name)), archive[f"{name}_y"], rtol=0, atol=1e-6)


def test_a_layer_of_the_users_own_is_read_if_it_is_registered(archive, file):
    def own(config):
        for layer in named(config, "ReLU"):
            layer["class_name"] = "Keras2Own>Rectified"
            layer["config"] = {"name": layer["config"]["name"], "trainable": True, "dtype": "float32"}

    with pytest.raises(LoadError, match=r"layer 're_lu.*' \(Keras2Own>Rectified\): Keras 3 has no layer of this class"):
        loading.load_model(edited(file("bn_functional.h5"), own))

    @keras.saving.register_keras_serializable("Keras2Own")
    class Rectified(kl.Layer):
        def call(self, x):
            return keras.ops.relu(x)

    model = loading.load_model(edited(file("bn_functional.h5"), own))
    np.testing.assert_allclose(model(archive["bn_functional_x"]), archive["bn_functional_y"], rtol=0, atol=1e-6)


def test_python_code_is_run_for_trusted_files_alone(archive, file):
    with pytest.raises(LoadError, match=r"carries Python code, which is not run\. Remedy: `unsafe`"):
        loading.load_model(file("lambda.h5"))
    with h5py.File(file("lambda.h5")) as content:
        assert "4wEAAAA" in content.attrs["model_config"]  # byte code, of the Python that wrote the file


# --- what cannot be read -----------------------------------------------------------------------


def set_config(kind, **changes):
    def change(config):
        for layer in named(config, kind):
            layer["config"] |= changes

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("operation", None, r"layer 'tf.__operators__.add' \(TFOpLambda\) is a call of TensorFlow .*Remedy: build"),
        ("hard_sigmoid", None, r"layer 'lstm.*' \(LSTM\) computes hard_sigmoid, .*Remedy: build"),
        ("locally_connected", None, r"\(LocallyConnected1D\): Keras 3 has no layer of this class\. Remedy: `import`"),
        ("bn_sequential", set_config("BatchNormalization", axis=[1, 2]), r"normalises the axes \[1, 2\]"),
        (
            "bn_sequential",
            set_config("BatchNormalization", renorm=True),
            "has renorm=True, which Keras 3 does not have",
        ),
        ("bn_functional", set_config("Conv2D", invented=5), r"layer 'conv2d.*' \(Conv2D\) cannot be read .*invented"),
        ("bn_functional", lambda config: config | {"class_name": "MyNet"}, "the model is a MyNet, a class of its own"),
    ],
)
def test_the_error_tells_the_layer_the_reason_and_the_remedy(file, name, change, message):
    path = file(f"{name}.h5")
    with pytest.raises(LoadError, match=message):
        loading.load_model(edited(path, change) if change else path)


def variant(**changes):
    """The network of bn_sequential, with other layers."""
    choices = {"normalized": True, "widths": (3, 3, 4, 4, 5, 5), "bias": True} | changes
    layers = [kl.Input((8, 8, 3))]
    for i, width in enumerate(choices["widths"]):
        layers.append(kl.Conv2D(width, 3, padding="same", use_bias=choices["bias"]))
        if choices["normalized"]:
            layers.append(kl.BatchNormalization())
        layers += [kl.ReLU(), kl.MaxPooling2D()] if i % 2 else [kl.ReLU()]
    return keras.Sequential([*layers, kl.Flatten(), kl.Dense(10, activation="softmax")])


def test_weights_by_the_order_of_layers(archive, file):
    model = loading.load_weights(variant(), file("bn_sequential_weights.h5"))
    np.testing.assert_allclose(model(archive["bn_sequential_x"]), archive["bn_sequential_y"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalized": False}, "expected the weights of 7 layers: .* Received those of 13"),
        ({"widths": (3, 3, 4, 4, 5, 6)}, r"expected kernel of shape \(3, 3, 5, 6\)\. Received: .*of \(3, 3, 5, 5\)"),
        ({"bias": False}, "expected 1 weights"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(file, changes, message):
    model = variant(**changes)
    before = model.get_weights()
    with pytest.raises(LoadError, match=message):
        loading.load_weights(model, file("bn_sequential_weights.h5"))
    for weight, earlier in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, earlier)


def test_weights_in_another_order_are_refused_though_their_shapes_fit(file):
    """What was frozen comes last in its group: kernels of both convolutions would be exchanged."""

    def net():
        inner = keras.Sequential([kl.Input((6, 6, 3)), kl.Conv2D(3, 3, name="a"), kl.Conv2D(3, 3, name="b")], name="in")
        return keras.Sequential([kl.Input((6, 6, 3)), inner, kl.Flatten(), kl.Dense(2, name="out")])

    saved = net()
    saved.layers[0].layers[0].trainable = False
    path = file("bn_sequential_weights.h5").with_name("frozen.h5")
    saved.save_weights(path.with_name("frozen.weights.h5"))  # the layout of Keras 3, which has no such order
    with h5py.File(path, "w") as content:
        content.attrs["layer_names"] = [layer.name for layer in saved.layers if layer.weights]
        for layer in saved.layers:
            weights = layer.trainable_weights + layer.non_trainable_weights
            group = content.create_group(layer.name)
            group.attrs["weight_names"] = [weight.path + ":0" for weight in weights]
            for weight in weights:
                group[weight.path + ":0"] = weight.numpy()
    with pytest.raises(LoadError, match=r"have another order .*Remedy: the same values of `trainable`"):
        loading.load_weights(net(), path)
    fitting = net()
    fitting.layers[0].layers[0].trainable = False
    loading.load_weights(fitting, path)
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(fitting(x), saved(x), rtol=0, atol=1e-6)
    loading.load_weights(other := net(), path.with_name("frozen.weights.h5"))
    np.testing.assert_allclose(other(x), saved(x), rtol=0, atol=1e-6)


def test_layers_of_one_shape_are_told_by_their_names(tmp_path):
    """A file may list branches in another order than Keras 3 finds them in."""
    x = kl.Input((3,))
    model = keras.Model(x, kl.Concatenate()([kl.Dense(3, name=name, use_bias=False)(x) for name in ("a", "b")]))
    with h5py.File(tmp_path / "twins.h5", "w") as content:
        content.attrs["layer_names"] = ["b", "a"]
        for name, value in (("a", 1.0), ("b", 2.0)):
            group = content.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0"]
            group[f"{name}/kernel:0"] = np.full((3, 3), value, np.float32)
    found = loading.load_weights(model, tmp_path / "twins.h5")
    np.testing.assert_allclose(found(np.ones((1, 3), np.float32)), [[3, 3, 3, 6, 6, 6]])


def test_weights_of_keras_3_that_fit_in_part_are_refused(tmp_path):
    small = keras.Sequential([kl.Input((3,)), kl.Dense(3), kl.Dense(2)])
    small.save_weights(tmp_path / "small.weights.h5")
    large = keras.Sequential([kl.Input((3,)), kl.Dense(3), kl.Dense(2), kl.BatchNormalization()])
    with pytest.raises(LoadError, match="no weights of"):
        loading.load_weights(large, tmp_path / "small.weights.h5")


def test_the_ending_of_weights_by_layer_does_not_matter(archive, file, tmp_path):
    shutil.copy(file("bn_sequential_weights.h5"), tmp_path / "copy.weights.h5")
    model = loading.load_weights(variant(), tmp_path / "copy.weights.h5")
    np.testing.assert_allclose(model(archive["bn_sequential_x"]), archive["bn_sequential_y"], rtol=0, atol=1e-6)


def test_a_cut_file_is_an_error(file):
    path = file("bn_sequential.h5")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(LoadError, match="damaged"):
        loading.load_model(path)

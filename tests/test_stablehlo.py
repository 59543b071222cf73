"""What `export_stablehlo` writes, and what it refuses. tests/test_stablehlo_jax.py runs it in jax."""

import ast
import json
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_nets import IMG, dense_net, image_net, maps_net
from keras import layers as kl

import lrp_tf
from lrp_tf.engine.explanation import SIX
from lrp_tf.exporting import text
from lrp_tf.exporting.text import ExportError, lowered
from lrp_tf.serving.signatures import STATUS

FILES = {"explain.mlir", "manifest.json", "run.py", "weights.npz"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, the export of it for two samples)."""
    keras.utils.set_random_seed(0)
    model = image_net()
    path = tmp_path_factory.mktemp("stablehlo") / "deep" / "export"
    return model, lrp_tf.export_stablehlo(lrp_tf.Explainer(model), 2, path, contrast="mean", classes=("a", "b", "c"))


def test_the_manifest_names_arguments_and_results(exported):
    export = exported[1]
    assert {file.name for file in export.path.iterdir()} == FILES
    about = json.loads((export.path / "manifest.json").read_text())
    assert export.inputs == [("photo", (2, *IMG.shape[1:]), "float32"), ("target", (2,), "int32")]
    named = {name: (shape, kind) for name, shape, kind in export.outputs}
    assert named == {
        "conservation": ((2, 6), "float32"),
        "logits": ((2, 3), "float32"),
        "outputs": ((2, 3), "float32"),
        "relevance": ((2, *IMG.shape[1:]), "float32"),
        "status": ((2,), "int32"),
        "target": ((2,), "int32"),
    }
    for what, parts in (("inputs", export.inputs), ("outputs", export.outputs)):
        assert [(p["name"], tuple(p["shape"]), p["dtype"]) for p in about[what]] == parts
    assert (about["batch"], about["target"], about["contrast"], about["classes"]) == (2, -1, "mean", ["a", "b", "c"])
    assert (about["status"], about["conservation"]) == (list(STATUS), list(SIX))
    assert (about["composite"], about["tensorflow"]) == ("epsilon_plus_flat", tf.__version__)


def test_weights_lie_beside_the_text(exported):
    model, export = exported
    about = json.loads((export.path / "manifest.json").read_text())
    with np.load(export.path / "weights.npz") as file:
        found = {w["name"]: file[w["key"]] for w in about["weights"]}
        assert len(file) == len(about["weights"])
    weights = {v.path: v.numpy() for v in model.variables if "seed" not in v.path}
    assert set(weights) <= set(found)
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value)
    head = next(line for line in (export.path / "explain.mlir").read_text().splitlines() if "@main(" in line)
    assert len(re.findall(r"%\w+: tensor", head)) == len(export.inputs) + len(about["weights"])


def test_the_text_is_portable(exported):
    written = (exported[1].path / "explain.mlir").read_text()
    assert written.count("func.func") == 1
    for word in ("loc(", "mhlo", "DEFAULT", "custom_call", '"0x', "?x", "/"):
        assert word not in written, word
    assert "HIGHEST" in written


def test_the_runner_needs_jax_and_numpy_alone(exported):
    tree = ast.parse((exported[1].path / "run.py").read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - {"jax", "numpy"} <= set(sys.stdlib_module_names)


def test_large_constants_become_arguments(rng):
    mask, table = rng.uniform(size=(3, 67)) > 0.5, rng.normal(size=(200,)).astype("float32")

    def function(x):
        rows = tf.where(tf.constant(mask), x, -x)
        return {"a": rows, "b": tf.reduce_sum(x) * tf.constant(table)}

    module = lowered(function, [tf.TensorSpec([3, 67])])
    assert '"0x' not in module.text
    assert module.results == [("a", (3, 67), "float32"), ("b", (200,), "float32")]
    found = {array.dtype.name: array for _, array in module.values}
    np.testing.assert_array_equal(found["bool"], mask)
    np.testing.assert_array_equal(found["float32"], table)


def python(x):
    return {"y": tf.ensure_shape(tf.numpy_function(np.sin, [x], tf.float32), [2, 4])}


def texts(x):
    return {"y": tf.strings.length(tf.as_string(x))}


def tables(x):
    keys = tf.lookup.KeyValueTensorInitializer([1, 2], [3.0, 4.0], tf.int32, tf.float32)
    return {"y": tf.lookup.StaticHashTable(keys, 0.0).lookup(tf.cast(x, tf.int32))}


CASES = {
    "Python": (python, "calls Python.*Remedy: keras.ops"),
    "texts": (texts, "lacks AsString.*Remedy"),
    "tables": (tables, "looks texts up.*Remedy"),
    "random": (lambda x: {"y": x + tf.random.normal([2, 4])}, "draws random numbers"),
    "stateless": (lambda x: {"y": x + tf.random.stateless_normal([2, 4], [1, 2])}, "draws random numbers"),
    "open": (lambda x: {"y": tf.boolean_mask(x, x > 0)}, "XLA cannot compile|known only when it runs"),
    "bilinear": (lambda x: {"y": tf.image.resize(x[None, :, :, None], [9, 3])}, "XLA gets wrong.*Remedy"),
    "no kernel": (lambda x: {"y": tf.image.resize(x[None, :, :, None], [4, 4], "bicubic")}, "ResizeBicubic.*Remedy"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_runs_in_tensorflow_alone_is_refused(name):
    function, message = CASES[name]
    with pytest.raises(ExportError, match=f"(?s){message}") as caught:
        lowered(function, [tf.TensorSpec([2, 4])])
    assert "__inference" not in str(caught.value)
    assert not re.search(r"(?<![\w/])/\w+/", str(caught.value))  # a path of this machine


LINES = {
    "%1 = stablehlo.custom_call @Eigen(%0) : (tensor<2xf32>) -> tensor<2xf32>": "function of TensorFlow's own .Eigen.",
    "%1 = stablehlo.custom_call @cu.dnn$fmha(%0) : (tensor<2xf32>) -> tensor<2xf32>": "own .cu.dnn",
    "%1 = stablehlo.rng_bit_generator %0, algorithm = DEFAULT": "random numbers",
    "%1 = stablehlo.set_dimension_size %0, %c, dim = 0": "known only when it runs .stablehlo.set_dim",
    "%1 = stablehlo.dynamic_reshape %0, %c": "known only when it runs",
    "%1 = stablehlo.add %0, %0 : tensor<3x?xf32>": "known only when it runs",
    '%1 = "mhlo.unknown"(%0) : (tensor<2xf32>) -> tensor<2xf32>': "StableHLO lacks .mhlo.unknown",
}


@pytest.mark.parametrize("line", LINES)
def test_what_no_other_program_runs_is_refused(line):
    with pytest.raises(ExportError, match=LINES[line]):
        text._refuse_text(f"    {line}\n")


def test_slices_at_a_computed_place_are_portable():
    text._refuse_text(
        "%1 = stablehlo.dynamic_slice %0, %c, sizes = [1] : (tensor<4xf32>, tensor<i32>) -> tensor<1xf32>"
    )
    text._refuse_text("%1 = stablehlo.dynamic_update_slice %0, %2, %c : tensor<4xf32>")


def test_sizes_that_are_set_to_what_they_are():
    set_size = "stablehlo.set_dimension_size %1, {}, dim = 1 : (tensor<3x4xf32>, tensor<i32>) -> tensor<3x4xf32>\n"
    constants = "".join(f"%c_{n} = stablehlo.constant dense<{n}> : tensor<i32>\n" for n in (3, 4))
    again = "%c_4 = stablehlo.constant dense<3> : tensor<i32>\n"  # in a region beside the first
    plain = "stablehlo.reshape %1 : (tensor<3x4xf32>) -> tensor<3x4xf32>"
    assert plain in text._of_fixed_size(constants + set_size.format("%c_4"))
    for other in (constants + set_size.format("%c_3"), constants + again + set_size.format("%c_4")):
        assert text._of_fixed_size(other) == other


REFUSED = {
    "no explainer": (lambda: image_net(), 1, {}, TypeError, "Expected an lrp_tf.Explainer"),
    "no batch": (lambda: lrp_tf.Explainer(dense_net()), None, {}, TypeError, "Expected batch"),
    "empty batch": (lambda: lrp_tf.Explainer(dense_net()), 0, {}, ValueError, "batch"),
    "half a batch": (lambda: lrp_tf.Explainer(dense_net()), 1.5, {}, (TypeError, ValueError), "batch"),
    "open size": (lambda: lrp_tf.Explainer(maps_net()), 1, {"target": [0, 0, 0]}, ExportError, "sizes=.*with your"),
    "no index": (lambda: lrp_tf.Explainer(maps_net(4)), 1, {}, ValueError, "has no top class.*index of 3"),
    "another class": (lambda: lrp_tf.Explainer(dense_net()), 2, {"target": 3}, ValueError, "out of range"),
    "too many": (lambda: lrp_tf.Explainer(dense_net()), 2, {"target": [0, 1, 2]}, ValueError, "batch of 2"),
    "several": (lambda: lrp_tf.Explainer(dense_net()), 2, {"target": "topK:2"}, ValueError, "one target of each"),
    "itself": (
        lambda: lrp_tf.Explainer(dense_net()),
        2,
        {"target": [0, 1], "contrast": 1},
        ValueError,
        "another class as contrast",
    ),
    "contrast": (lambda: lrp_tf.Explainer(dense_net()), 2, {"contrast": "max"}, TypeError, "contrast expects"),
    "names": (lambda: lrp_tf.Explainer(dense_net()), 2, {"classes": ["a"]}, ValueError, "each of 3 classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_are_checked_before_anything_is_written(name, tmp_path):
    make, batch, options, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        lrp_tf.export_stablehlo(make(), batch, tmp_path / "new" / "export", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    explainer = lrp_tf.Explainer(dense_net(), "epsilon")

    def fail(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="no space left"):
            lrp_tf.export_stablehlo(explainer, 1, tmp_path / "export")
    assert not list(tmp_path.iterdir())
    lrp_tf.export_stablehlo(explainer, 1, tmp_path / "export", target=2)
    before = {file: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    with pytest.raises(FileExistsError, match=r"exists\. Expected a folder that does not"):
        lrp_tf.export_stablehlo(explainer, 2, tmp_path / "export")
    assert {file: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert json.loads((tmp_path / "export/manifest.json").read_text())["target"] == 2


def test_exports_follow_the_weights_and_change_nothing(tmp_path):
    model = dense_net()
    explainer = lrp_tf.Explainer(model, "epsilon")
    before = model.get_weights()
    model.set_weights([w + 1 for w in before])
    lrp_tf.export_stablehlo(explainer, 1, tmp_path / "export")
    about = json.loads((tmp_path / "export/manifest.json").read_text())
    key = {w["name"]: w["key"] for w in about["weights"]}
    with np.load(tmp_path / "export/weights.npz") as file:
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(file[key[variable.path]], value + 1)
            np.testing.assert_array_equal(variable.numpy(), value + 1)


def test_the_command(lrp, saved, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(names := ["ant", "bat", "cat", "dog", "eel", "fox", "owl"]))
    out = ("--format", "stablehlo", "--preprocess", "scale:1/255")
    command = ("export", saved, "explained", *out, "--batch", "3", "--composite", "epsilon_gamma_box")
    code, told, err = lrp(*command, "--classes", "names.txt", "--target", "dog", "--contrast", "owl")
    assert code == 0, err
    assert "inputs: " in told
    assert "float32 [3, 32, 32, 3], target int32 [3]" in told
    assert "--preprocess scale:1/255 before" in told
    about = json.loads((tmp_path / "explained/manifest.json").read_text())
    assert (about["target"], about["contrast"], about["classes"]) == (3, 6, names)
    assert "first: box low=[0.0, 0.0, 0.0] high=[1.0, 1.0, 1.0]" in about["rules"]
    assert lrp(*command)[0] == 2  # it exists
    for more, word in (("--top-k", "2"), "--top-k"), (("--resize", "pad"), "--resize"), (("--no-warmup",), "--no-warm"):
        code, _, err = lrp("export", saved, "other", *out, *more)
        assert (code, "is an option of --format savedmodel" in err, word in err) == (2, True, True)
    code, _, err = lrp("export", saved, "served/1", "--batch", "2")
    assert (code, "--batch is an option of --format stablehlo" in err) == (2, True)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "served").exists()


def test_the_command_fixes_open_sizes(lrp, tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(kl.Conv2D(2, 3, activation="relu")(inputs))))
    model.save(tmp_path / "open.keras")
    code, _, err = lrp("export", "open.keras", "explained", "--format", "stablehlo")
    assert (code, "fixed shapes" in err) == (2, True)
    code, _, err = lrp("export", "open.keras", "explained", "--format", "stablehlo", "--size", "8x12")
    assert code == 0, err
    about = json.loads((tmp_path / "explained/manifest.json").read_text())
    assert about["inputs"][0]["shape"] == [1, 8, 12, 3]

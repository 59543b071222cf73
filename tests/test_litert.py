"""`export_lite`: files of builtin operations with the relevance of their explainer, or an error that says why not."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.exporting.lite import export, flatbuffer, verify
from lrp_tf.exporting.text import ExportError

PRESETS = ["epsilon_plus_flat", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"]


def network(*middle: keras.Layer, side: int = 16) -> keras.Model:
    inputs = keras.Input((side, side, 3), name="photo")
    x = kl.Conv2D(24, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = kl.ReLU()(kl.BatchNormalization()(x))
    for layer in middle:
        x = layer(x)
    x = kl.Add()([x, kl.Conv2D(24, 3, padding="same", activation="relu")(x)])
    x = kl.MaxPooling2D(3, strides=2, padding="same")(kl.DepthwiseConv2D(3, strides=2, padding="same")(x))
    return randomize(keras.Model(inputs, kl.Dense(5, activation="softmax")(kl.Flatten()(x))))


def runner(path: Path) -> Callable[..., dict[str, np.ndarray]]:
    explain = verify.interpreter(path.read_bytes()).get_signature_runner("explain")
    return lambda x, target: explain(x=x, target=np.array([target], np.int32))


def close(got: np.ndarray, want: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_a_file_explains_with_builtin_operations_alone(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    explainer = lrp_tf.Explainer(network(), "epsilon_plus_flat")
    before = [w.numpy() for w in explainer.model.weights]
    lite = lrp_tf.export_lite(explainer, tmp_path / "net.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]
    assert lite.size == lite.path.stat().st_size
    assert lite.error is not None
    assert lite.error < 1e-5
    assert not {"CUSTOM", "DELEGATE"} & set(lite.operations)
    assert b"Flex" not in lite.path.read_bytes()
    out, err = capfd.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if "cuInit" not in line] == []  # neither converter nor interpreter speaks
    for old, new in zip(before, explainer.model.weights, strict=True):
        np.testing.assert_array_equal(old, new)

    explain = runner(lite.path)
    x = np.random.default_rng(1).normal(size=(1, 16, 16, 3)).astype("float32")  # not the sample of the check
    top = explain(x, -1)
    wanted = explainer.explain(x)
    assert top["target"].tolist() == wanted.target.numpy().tolist()
    close(top["relevance"], wanted.relevance)
    close(top["logits"], wanted.logits)
    for target in range(5):
        found = explain(x, target)
        assert found["target"].tolist() == [target]
        close(found["relevance"], explainer(x, target=target))
    for beyond in (5, -2):  # no class of the model: not the map of another one
        assert np.isnan(explain(x, beyond)["relevance"]).all()
    assert "conservation" not in top


def test_a_file_says_where_the_score_went(tmp_path: Path) -> None:
    explainer = lrp_tf.Explainer(network(side=8), composites.get("epsilon_plus_flat", epsilon=0.25))
    lite = lrp_tf.export_lite(explainer, tmp_path / "net.tflite", conservation=True, contrast="softmax")
    assert ("conservation", (1, 6), "float32") in lite.outputs
    assert lite.error is not None
    assert lite.rounding is not None
    explain = runner(lite.path)
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype("float32")
    for target in (-1, 2):
        found = explain(x, target)
        wanted = explainer.explain(x, target=None if target < 0 else target, contrast="softmax")
        shares = np.stack([np.asarray(share) for share in wanted.conservation.of_six()], axis=-1)
        assert (np.abs(shares[0, :4]) > 1e-4).all()  # each of these has something to compare
        close(found["conservation"], shares)
        close(found["relevance"].sum(), found["conservation"][0, 1])
    assert np.isnan(explain(x, 5)["conservation"]).all()


def test_logits_and_shares_are_held_to_their_own_rounding() -> None:
    rounding = verify.Apart(relevance=1e-2, logits=1e-7, shares=1e-7)
    export._refuse_difference(verify.Apart(1e-3, 9e-6, 9e-6), rounding, 1e-5)
    for part, wrong in (("relevance is", (0.2, 0, 0)), ("logits are", (0, 2e-5, 0)), ("shares are", (0, 0, np.inf))):
        with pytest.raises(ExportError, match=part):
            export._refuse_difference(verify.Apart(*wrong), rounding, 1e-5)


def test_a_file_holds_kernels_once(tmp_path: Path) -> None:
    inputs = keras.Input((7, 7, 256))
    x = kl.Conv2D(256, 3, padding="same", activation="relu")(inputs)
    x = kl.Conv2D(256, 3, padding="same", activation="relu")(kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(512, 1)(x))))
    model = randomize(keras.Model(inputs, kl.Dense(64)(kl.Flatten()(x))))
    explainer = lrp_tf.Explainer(model, rules.ZPlus(), nonnegative=True)
    lite = lrp_tf.export_lite(explainer, tmp_path / "net.tflite", check=False)
    assert lite.weights == 4 * model.count_params()
    assert lite.size <= 1.3 * lite.weights


REFUSED = {
    "several inputs": (lambda: keras.Model(two := [keras.Input((4,)), keras.Input((4,))], kl.Add()(two)), "one input"),
    "integers": (
        lambda: keras.Sequential([keras.Input((6,), dtype="int32"), kl.Embedding(9, 4), kl.Flatten(), kl.Dense(3)]),
        "indices have no relevance",
    ),
    "open sizes": (
        lambda: keras.Sequential([keras.Input((None, None, 3)), kl.Conv2D(4, 3), kl.GlobalMaxPooling2D()]),
        "sizes are known",
    ),
    "no classes": (lambda: keras.Sequential([keras.Input((8, 8, 3)), kl.Conv2D(4, 3)]), "no top class"),
    "a loop": (lambda: keras.Sequential([keras.Input((5, 3)), kl.LSTM(4), kl.Dense(3)]), "a loop"),
}


@pytest.mark.parametrize("name", [*REFUSED][:4])
def test_what_a_file_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, *REFUSED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REFUSED][4:])
def test_what_litert_cannot_run_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, *REFUSED[name])


def refused(tmp_path: Path, make: Callable[[], keras.Model], reason: str) -> None:
    explainer = lrp_tf.Explainer(make(), "epsilon", check=False)
    with pytest.raises(ExportError, match=f"(?s){reason}.*Remedy"):
        lrp_tf.export_lite(explainer, tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused(tmp_path: Path) -> None:
    model = network(side=8)
    with pytest.raises(ExportError, match="relevance_filter"):
        lrp_tf.export_lite(lrp_tf.Explainer(model, relevance_filter=0.1), tmp_path / "net.tflite")
    explainer = lrp_tf.Explainer(model)
    with pytest.raises(FileNotFoundError, match="in a folder that exists"):
        lrp_tf.export_lite(explainer, tmp_path / "no" / "net.tflite")
    with pytest.raises(ValueError, match="contrast"):
        lrp_tf.export_lite(explainer, tmp_path / "net.tflite", contrast=7)
    with pytest.raises(TypeError, match="Explainer"):
        lrp_tf.export_lite(model, tmp_path / "net.tflite")
    keras.config.set_dtype_policy("float64")
    try:
        double = network(side=8)
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ExportError, match="float64; LiteRT computes in float32"):
        lrp_tf.export_lite(lrp_tf.Explainer(double), tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_never_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = lrp_tf.Explainer(keras.Sequential([keras.Input((4,)), kl.Dense(3)]), "epsilon")
    old = lrp_tf.export_lite(explainer, tmp_path / "net.tflite").path.read_bytes()
    right = explainer.model.get_weights()
    content = export._content

    def wrong(*arguments: Any) -> bytes:
        explainer.model.set_weights([w + 0.1 for w in right])
        try:
            return content(*arguments)
        finally:
            explainer.model.set_weights(right)

    monkeypatch.setattr(export, "_content", wrong)
    with pytest.raises(ExportError, match="away from the explainer's"):
        lrp_tf.export_lite(explainer, tmp_path / "net.tflite")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [old]
    x = np.ones((1, 4), "float32")
    with pytest.raises(ValueError, match="a sample of shape"):
        lrp_tf.export_lite(explainer, tmp_path / "net.tflite", sample=x[:, :3])
    assert lrp_tf.export_lite(explainer, tmp_path / "net.tflite", sample=x, check=False).error is None


def test_operations_of_a_file_are_counted() -> None:
    function = tf.function(lambda x: tf.nn.softmax(tf.sin(x)) / tf.sin(x), [tf.TensorSpec([1, 3])])
    content = flatbuffer.converted(function.get_concrete_function())
    assert sorted(flatbuffer.operations(content)) == ["DIV", "SIN", "SOFTMAX"]
    missing = tf.function(lambda x: tf.math.erfinv(x), [tf.TensorSpec([1, 3])])
    with pytest.raises(ExportError, match="no builtin Erfinv"):
        flatbuffer.converted(missing.get_concrete_function())


@pytest.mark.slow
@pytest.mark.parametrize("composite", PRESETS)
def test_mobilenet(tmp_path: Path, composite: str) -> None:
    """Weights are random, and differences of positive and negative parts amplify rounding: 1e-5 is too much to ask."""
    model = randomize(keras.applications.MobileNet(weights=None, alpha=0.25, input_shape=(64, 64, 3), classes=20))
    options = {"low": -1.0, "high": 1.0} if composite.endswith("box") else {}
    explainer = lrp_tf.Explainer(model, composite, **options)
    lite = lrp_tf.export_lite(explainer, tmp_path / "net.tflite", contrast="softmax", tolerance=1e-4)
    explain = runner(lite.path)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
    close(explain(x, 7)["relevance"], explainer(x, target=7, contrast="softmax"), 1e-4)
    assert lite.size <= 1.3 * lite.weights + 2e5  # of a small net the operations are a part


LAYERS = {
    "pooling that overlaps": lambda: [kl.MaxPooling2D(3, strides=1, padding="same")],
    "average pooling": lambda: [kl.AveragePooling2D(2, strides=1, padding="same")],
    "groups": lambda: [kl.Conv2D(24, 3, groups=3, padding="same", activation="relu")],
    "dilation": lambda: [kl.Conv2D(24, 3, dilation_rate=2, padding="same", activation="relu")],
    "separable": lambda: [kl.SeparableConv2D(24, 3, padding="same", depth_multiplier=2, activation="relu")],
    "swish": lambda: [kl.Conv2D(24, 1, activation="swish"), kl.BatchNormalization()],
    "transposed": lambda: [kl.Conv2DTranspose(24, 3, padding="same", activation="relu")],
    "layer normalization": lambda: [kl.LayerNormalization(), kl.LeakyReLU()],
    "nearest neighbours": lambda: [kl.UpSampling2D(2), kl.AveragePooling2D(2)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_as_in_tensorflow_or_refused(tmp_path: Path, name: str) -> None:
    explainer = lrp_tf.Explainer(network(*LAYERS[name]()), "epsilon_plus_flat")
    x = np.random.default_rng(1).normal(size=(1, 16, 16, 3)).astype("float32")
    explain = runner(lrp_tf.export_lite(explainer, tmp_path / "net.tflite").path)
    close(explain(x, 2)["relevance"], explainer(x, target=2), 2e-5)


@pytest.mark.slow
def test_operations_that_litert_lacks_are_named(tmp_path: Path) -> None:
    explainer = lrp_tf.Explainer(network(kl.UpSampling2D(2, interpolation="bicubic"), kl.AveragePooling2D(2)))
    with pytest.raises(ExportError, match=r"no builtin ResizeBicubic.*Remedy"):
        lrp_tf.export_lite(explainer, tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_other_outputs(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), kl.Dense(8, activation="relu"), kl.Dense(1, activation="sigmoid")])
    explainer = lrp_tf.Explainer(model, composites.get("epsilon"))
    explain = runner(lrp_tf.export_lite(explainer, tmp_path / "net.tflite").path)
    x = np.random.default_rng(1).normal(size=(1, 6)).astype("float32")
    for target in (0, 1):
        close(explain(x, target)["relevance"], explainer(x, target=target))
    close(explain(x, -1)["relevance"], explainer(x))
    assert np.isnan(explain(x, 2)["relevance"]).all()


@pytest.mark.slow
def test_the_command_as_a_process(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.tflite"
    command = [sys.executable, "-m", "lrp_tf", "export", str(saved), str(out), "--format", "tflite", "--conservation"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert not re.search("deprecat|TensorFlow Lite|trackable_obj|Traceback", found.stderr), found.stderr
    assert "builtin operations alone" in found.stdout
    model = keras.models.load_model(saved)
    explain = runner(out)
    x = np.random.default_rng(1).uniform(size=(1, *model.input_shape[1:])).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained net
        wanted = lrp_tf.Explainer(model).explain(x, target=1)
    close(explain(x, 1)["relevance"], wanted.relevance)
    close(explain(x, 1)["conservation"][0, 1], wanted.conservation.relevance[0])
    found = subprocess.run([*command, "--top-k", "3"], capture_output=True, text=True)
    assert found.returncode != 0
    assert "--top-k is an option of --format savedmodel" in found.stderr

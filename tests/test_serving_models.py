"""What `lrp_tf.export` writes for models of many kinds, and what it refuses."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import randomize
from helpers.pictures import photo
from helpers.served import IMAGE, call, digits, exact, png, signatures
from keras import layers as kl

import lrp_tf
from lrp_tf import rules
from lrp_tf.files import loading


def export(model, tmp_path, composite="epsilon_plus_flat", **options):
    path = tmp_path / "served" / "1"
    return lrp_tf.export(lrp_tf.Explainer(model, composite), path, **{"warmup": False, "print_fn": None, **options})


def several():
    """Two inputs, one of them of integers, and two outputs in a dict."""
    a, b = keras.Input((4,), name="row"), keras.Input((3,), name="words", dtype="int32")
    both = kl.Concatenate()([a, kl.Flatten()(kl.Embedding(6, 2)(b))])
    outputs = {"label": kl.Dense(3, activation="softmax", name="y")(both), "size": kl.Dense(1, name="z")(both)}
    return randomize(keras.Model({"row": a, "words": b}, outputs))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3)

    def call(self, x):
        return self.dense(x)


def built():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return randomize(model)


def dense(name, units=3, **options):
    inputs = keras.Input((4,), name=name)
    return randomize(keras.Model(inputs, kl.Dense(units, **options)(inputs)))


@pytest.mark.parametrize("build", [several, built, lambda: dense("target"), digits])
def test_names_are_those_of_keras(build, tmp_path):
    model = build()
    explainer = lrp_tf.Explainer(model, output=0)
    exported = lrp_tf.export(explainer, tmp_path / "served" / "1", warmup=False, print_fn=None)
    model.export(str(tmp_path / "keras"), verbose=False)
    wanted = {
        name: sorted(part) for name, part in zip("io", signatures(tmp_path / "keras")["serving_default"], strict=True)
    }
    assert exported.signatures["serving_default"] == (wanted["i"], wanted["o"])
    assert set(exported.signatures["explain"][0]) == set(wanted["i"])


def test_several_inputs_and_indices_out_of_range(tmp_path):
    model = several()
    explainer = lrp_tf.Explainer(model, "epsilon", output="label")
    path = lrp_tf.export(explainer, tmp_path / "served" / "1", print_fn=None).path
    x = {"row": np.ones((3, 4), "float32"), "words": np.array([[0, 1, 2], [3, 4, 5], [1, 6, 1]], np.int32)}
    found = call(tf.saved_model.load(str(path)), "explain", **x)
    assert found["status"].tolist() == [b"ok", b"ok", b"index out of range"]
    wanted = explainer.explain({name: value[:2] for name, value in x.items()})
    np.testing.assert_allclose(found["relevance_row"][:2], wanted.relevance["row"], rtol=1e-5, atol=1e-6)
    assert ("relevance_words" in found) == (wanted.relevance["words"] is not None)


def test_a_single_unit_and_an_input_called_target(tmp_path):
    model = dense("target", 1, activation="sigmoid")
    exported = export(model, tmp_path)
    assert exported.signatures["explain_target"][0] == ["target", "target_"]
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    inputs = {"target": x, "target_": np.array([0, 1, 2], np.int32)}
    found = call(tf.saved_model.load(str(exported.path)), "explain_target", **inputs)
    assert found["status"].tolist() == [b"ok", b"ok", b"target out of range"]
    np.testing.assert_allclose(found["relevance"][:2], lrp_tf.Explainer(model)(x[:2], [0, 1]), rtol=1e-6)


def test_outputs_without_a_top_class(tmp_path, capsys):
    inputs = keras.Input((8, 8, 3))
    model = randomize(keras.Model(inputs, kl.Conv2D(2, 3, padding="same")(inputs)))
    exported = export(model, tmp_path, preprocess="none", print_fn=print)
    assert set(exported.signatures) == {"serving_default", "explain_target", "explain_contrast"}
    assert set(exported.left_out) == {"explain", "explain_image"}
    assert "left out: explain_image" in capsys.readouterr().out
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    targets = np.array([[1, 2, 0], [7, 8, 1]], np.int32)
    found = call(
        tf.saved_model.load(str(exported.path)),
        "explain_target",
        **{exported.signatures["explain"][0][0] if "explain" in exported.signatures else model.inputs[0].name: x},
        target=targets,
    )
    assert found["status"].tolist() == [b"ok", b"target out of range"]
    np.testing.assert_allclose(
        found["relevance"][:1], lrp_tf.Explainer(model)(x[:1], targets[:1]), rtol=1e-5, atol=1e-6
    )


def test_preprocessing_that_is_not_known_leaves_pictures_out(tmp_path):
    exported = export(digits(), tmp_path)
    assert "what its pixels went through in training is not known" in exported.left_out["explain_image"]
    assert not set(IMAGE) & set(exported.signatures)


def test_preprocessing_of_whole_pictures_runs_in_the_graph_or_is_refused(tmp_path):
    def centred(x):
        return x - keras.ops.mean(x)

    def arrays_only(x):
        return np.asarray(x) - np.asarray(x).mean()

    inputs = keras.Input((16, 16, 3))
    model = randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(inputs))))
    exported = export(model, tmp_path, preprocess=loading.Preprocessing("centred", centred))
    pixels = photo(0, 16, 16)
    found = call(tf.saved_model.load(str(exported.path)), "explain_image", image_bytes=np.array([png(pixels)]))
    wanted = lrp_tf.Explainer(model)(centred(pixels[None].astype("float32")))
    np.testing.assert_allclose(found["relevance"], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    refused = export(model, tmp_path / "b", preprocess=loading.Preprocessing("arrays", arrays_only))
    assert "does not run on tensors" in refused.left_out["explain_image"]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("model", ValueError, "positive integer.*Received"),
        ("0", ValueError, "positive integer"),
        ("1", FileExistsError, "the next number"),
    ],
)
def test_folders_that_are_no_new_version(tmp_path, path, error, message):
    (tmp_path / "1").mkdir()
    with pytest.raises(error, match=message):
        lrp_tf.export(lrp_tf.Explainer(dense("row")), tmp_path / path)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.prediction_log_pb2", None)
    with pytest.raises(ImportError, match=r"lrp_tf\[serving\].*warmup=False"):
        lrp_tf.export(lrp_tf.Explainer(dense("row")), tmp_path / "1")
    assert not (tmp_path / "1").exists()


def test_a_graph_that_calls_python_is_refused(tmp_path):
    inputs = keras.Input((4,))
    outputs = kl.Dense(3)(
        kl.Lambda(lambda x: tf.ensure_shape(tf.numpy_function(np.abs, [x], tf.float32), x.shape))(inputs)
    )
    explainer = lrp_tf.Explainer(keras.Sequential([keras.Input((4,)), kl.Dense(3)]))
    explainer.model = keras.Model(inputs, outputs)  # what it explains has no such thing, what is served has
    with pytest.raises(ValueError, match="calls Python"):
        lrp_tf.export(explainer, tmp_path / "served" / "1", warmup=False)
    assert list((tmp_path / "served").iterdir()) == []


def test_the_command(lrp, saved):
    code, out, err = lrp("export", saved, "served/1", "--preprocess", "scale:1/255", "--composite", "epsilon_gamma_box")
    assert code == 0, err
    assert "explain_image: image_bytes -> " in out
    about = json.loads(Path("served/1/assets.extra/lrp_tf.json").read_text(encoding="utf-8"))
    assert about["composite"] == "epsilon_gamma_box"
    assert lrp("export", saved, "served/1", "--preprocess", "none")[0] == 2
    code, out, _ = lrp("export", saved, "served/2", "--no-warmup")
    assert code == 0
    assert "left out: explain_image" in out


def test_rules_of_ones_own_are_exported_too(tmp_path):
    model = dense("row")
    exported = export(model, tmp_path, rules.Gamma(0.5))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    found = call(tf.saved_model.load(str(exported.path)), "explain", row=x)
    exact(found["relevance"], lrp_tf.Explainer(model, rules.Gamma(0.5)).explain(x).relevance)


def test_a_broken_promise_has_a_status(tmp_path):
    explainer = lrp_tf.Explainer(digits(), nonnegative=True)
    exported = lrp_tf.export(explainer, tmp_path / "1", preprocess="none", warmup=False, print_fn=None)
    explain = tf.saved_model.load(str(exported.path)).signatures["explain"]
    x = np.random.default_rng(0).random((3, 28, 28, 1), "float32")
    x[1, 3, 3, 0] = -0.5
    found = {name: value.numpy() for name, value in explain(tf.constant(x)).items()}
    assert found["status"].tolist() == [b"ok", b"input below zero", b"ok"]
    assert np.isnan(found["relevance"][1]).all()
    exact(found["relevance"][::2], explainer.explain(np.delete(x, 1, 0)).relevance)

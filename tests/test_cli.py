"""`lrp-tf` and vgg/lrp.py: preprocessing, models, class names and weights as users have them."""

import importlib.metadata
import json
import os
import subprocess
import sys
import time

import cv2
import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.broken import encoded
from helpers.checking import randomize
from helpers.pictures import classifier, photo, photos, rgb, table
from keras import layers as kl

import lrp_tf
from lrp_tf import cli
from lrp_tf.cli import composite_option as parse
from lrp_tf.cli.messages import message_of
from lrp_tf.files import images, loading
from lrp_tf.files.downloads import Download
from lrp_tf.files.errors import LoadError

# --- preprocessing and models ------------------------------------------------------------------


def test_preprocessing_is_never_guessed(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    code, _, err = lrp("explain", saved, "in")
    assert code == 2
    for choice in ("mobilenet_v2", "vgg16", "scale:1/255", "none", "module:function"):
        assert choice in err
    assert not (tmp_path / "results").exists()
    for wrong in ("vgg", "scale:x", "scale:1/0", "nomodule:f", "math:nothing"):
        assert lrp("explain", saved, "in", "--preprocess", wrong)[0] == 2


@pytest.mark.parametrize(
    "ahead",
    [[kl.Rescaling(1 / 255)], [kl.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6])]],
    ids=["Rescaling", "Normalization"],
)
def test_models_that_scale_their_input_need_none(lrp, tmp_path, ahead):
    classifier(*ahead).save("scaling.keras")
    photos(tmp_path / "in", 1)
    code, out, err = lrp("explain", "scaling.keras", "in", "--composite", "epsilon_gamma_box")
    assert code == 0, err
    assert "--preprocess none" in out


def test_a_function_of_ones_own_and_its_bounds(lrp, saved, tmp_path):
    (tmp_path / "own_preparation.py").write_text("def prepare(x):\n    return 1 - x / 255\n", encoding="utf-8")
    (tmp_path / "in.png").write_bytes(encoded("PNG", np.array([[[0, 0, 0], [255, 255, 255]]] * 2, np.uint8)))
    arguments = ("explain", saved, "in.png", "--preprocess", "own_preparation:prepare", "--composite", "tutorial")
    code, out, err = lrp(*arguments)
    assert code == 0, err
    assert "Fed to the model: 0 to 1" in out
    low, high = loading.get_preprocessing("own_preparation:prepare").bounds(3)
    assert low.tolist() == [0, 0, 0]
    assert high.tolist() == [1, 1, 1]


def test_bounds_of_each_channel_come_from_the_preprocessing():
    low, high = loading.get_preprocessing("vgg16").bounds(3)
    np.testing.assert_allclose(low, [-103.939, -116.779, -123.68], rtol=1e-5)
    np.testing.assert_allclose(high - low, 255, rtol=1e-5)


@pytest.mark.parametrize("channels_first", [False, True])
def test_grey_models_and_channels_first(lrp, tmp_path, channels_first):
    inputs = keras.Input((1, 16, 16) if channels_first else (16, 16, 1))
    x = kl.Permute((2, 3, 1))(inputs) if channels_first else inputs
    x = kl.Dense(3)(kl.Flatten()(kl.Conv2D(2, 3, activation="relu")(x)))
    randomize(keras.Model(inputs, x)).save("grey.keras")
    photos(tmp_path / "in", 1)
    code, _, err = lrp("explain", "grey.keras", "in", "--preprocess", "scale:1/255", "--save-relevance")
    assert code == 0, err
    assert np.load("results/photo0.npy").shape == (16, 16, 1)
    assert table("results/results.csv")[0]["top1_probability"] == ""  # logits are no probabilities


def test_open_sizes_ask_for_one(lrp, tmp_path):
    inputs = keras.Input((None, None, 3))
    keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(kl.Conv2D(2, 3)(inputs)))).save("open.keras")
    photos(tmp_path / "in", 1)
    code, _, err = lrp("explain", "open.keras", "in", "--preprocess", "none")
    assert code == 2
    assert "--size" in err
    assert lrp("explain", "open.keras", "in", "--preprocess", "none", "--size", "20x30", "--save-relevance")[0] == 0
    assert np.load("results/photo0.npy").shape == (20, 30, 3)


def test_models_that_take_no_image_are_refused(lrp, tmp_path):
    photos(tmp_path / "in", 1)
    inputs = keras.Input((5, 5, 2))  # no photograph has two channels
    keras.Model(inputs, kl.Dense(3)(kl.Flatten()(inputs))).save("two.keras")
    code, _, err = lrp("explain", "two.keras", "in", "--preprocess", "none")
    assert code == 2
    assert "Expected a model of images with 1 or 3 channels" in err
    inputs = keras.Input((5,))
    keras.Model(inputs, kl.Dense(3)(inputs)).save("vector.keras")
    code, _, err = lrp("explain", "vector.keras", "in", "--preprocess", "none")
    assert code == 2
    assert "holds no array" in err
    code, _, err = lrp("explain", "vector.keras", "in/photo0.png", "--preprocess", "none")
    assert code == 1
    assert "no array that can be read" in err


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_files_with_code_are_not_run(lrp, tmp_path, suffix):
    trap = tmp_path / "trapped"
    code = f"lambda x: (__import__('pathlib').Path({str(trap)!r}).touch(), x)[1]"
    model = keras.Sequential([keras.Input((32, 32, 3)), kl.Lambda(eval(code)), kl.Flatten(), kl.Dense(2)])
    model.save(f"hostile.{suffix}")
    trap.unlink(missing_ok=True)
    photos(tmp_path / "in", 1)
    for command in (("explain", f"hostile.{suffix}", "in"), ("report", f"hostile.{suffix}", "in/photo0.png")):
        code, _, err = lrp(*command, "--preprocess", "none")
        assert code == 2
        assert "carries Python code" in err
        assert "--unsafe" in err
    assert lrp("summary", f"hostile.{suffix}")[0] == 2
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [("none.keras", None, "no such file"), ("text.keras", b"text", "text.keras"), ("text.h5", b"text", "text.h5")],
)
def test_no_model(lrp, tmp_path, name, content, word):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, err = lrp("summary", name)
    assert code == 2
    assert word in err


def test_own_layers_need_their_module(lrp, tmp_path, monkeypatch):
    (tmp_path / "own_layers.py").write_text(
        "import keras\n\n@keras.saving.register_keras_serializable('own')\nclass Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n        return x * 2\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    code = "import own_layers, keras; keras.Sequential([keras.Input((8, 8, 3)), own_layers.Twice()]).save('own.keras')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    code, _, err = lrp("summary", "own.keras")
    assert code == 2
    assert "--import" in err
    code, out, _ = lrp("summary", "own.keras", "--import", "own_layers")
    assert code == 0
    assert "Twice" in out or "twice" in out


# --- other commands ----------------------------------------------------------------------------


def test_summary_report_and_composites(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    code, out, _ = lrp("summary", saved, "--composite", "tutorial")
    assert code == 0
    assert "ZBox" in out
    code, out, _ = lrp("report", saved, "in/photo0.png", "--preprocess", "scale:1/255", "--relevance-filter", "0.5")
    assert code == 0
    assert "filter" in out
    assert "fed to the model" in out
    code, out, _ = lrp("composites")
    assert code == 0
    assert all(name in out for name in lrp_tf.composites.PRESETS)
    assert lrp("report", saved, "nowhere.png", "--preprocess", "none")[0] == 2
    assert lrp("summary", saved, "--composite", "nonsense")[0] == 2


# --- options of the preset ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("epsilon", "epsilon", {}),
        ("epsilon:", "epsilon", {}),
        ("epsilon_gamma_box:gamma=0.5,low=-1,high=1e2", "epsilon_gamma_box", {"gamma": 0.5, "low": -1, "high": 100.0}),
        ("tutorial: low=[-1, -2,-3.5] ,high = [1,2,3]", "tutorial", {"low": [-1, -2, -3.5], "high": [1, 2, 3]}),
        ("epsilon:zero_bias=true", "epsilon", {"zero_bias": True}),
        ("epsilon:epsilon=relative(0.25)", "epsilon", {"epsilon": 0.25}),
    ],
)
def test_composite_with_options(text, name, options):
    found = parse.preset(text)
    assert found == (name, options)
    assert parse.preset(str(found)) == found
    assert str(parse.preset(str(found))) == str(found)


@pytest.mark.parametrize(
    "text",
    [
        "epsilon:gamma",
        "a:gamma=",
        "epsilon:0.5",
        "a:gamma=x",
        "a:gamma='x'",
        "epsilon:**{}",
        "a:gamma=f(1)",
        "a:gamma=1)+(2",
        "a:g=1,g=2",
    ],
)
def test_composite_options_that_cannot_be_read(text, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["summary", "m.keras", "--composite", text])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "expected NAME or NAME:OPTION=VALUE" in err
    assert f"Received: {text!r}" in err


def test_every_command_takes_the_options_of_a_preset(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    box = "epsilon_gamma_box:gamma=0.5,low=-2,high=300"
    rule = "ZBox(-2, 300)"
    code, out, err = lrp("summary", saved, "--composite", box)
    assert code == 0, err
    assert rule in out
    code, out, err = lrp("report", saved, "in/photo0.png", "--preprocess", "none", "--composite", box)
    assert code == 0, err
    assert rule in out
    arguments = ("--preprocess", "none", "--composite", box)
    code, _, err = lrp("explain", saved, "in", *arguments, "--save-relevance")
    assert code == 0, err
    x = images.Fit(32, 32, "squash").apply(photo(0))[None].astype("float32")
    options = {"low": -2, "high": 300, "gamma": 0.5}
    expected = lrp_tf.Explainer(keras.models.load_model(saved), "epsilon_gamma_box", **options)(x)[0]
    np.testing.assert_allclose(np.load("results/photo0.npy"), expected, atol=1e-5 * np.abs(expected).max())
    assert json.loads((tmp_path / "results/settings.json").read_text())["composite"] == (
        "epsilon_gamma_box:gamma=0.5,high=300,low=-2"
    )
    code, out, err = lrp("export", saved, "served/1", *arguments, "--no-warmup")
    assert code == 0, err
    assert rule in (tmp_path / "served/1/assets.extra/lrp_tf.json").read_text()


def test_bounds_come_from_the_preprocessing_unless_they_are_given(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    x = images.Fit(32, 32, "squash").apply(photo(0))[None] / np.float32(255)
    cases = {"tutorial": (0, 1), "tutorial:low=-3": (-3, 1), "tutorial:low=[-1,-2,-3],high=2": ([-1, -2, -3], 2)}
    for text, (low, high) in cases.items():
        command = ("explain", saved, "in", "--preprocess", "scale:1/255", "--style", "heatmap", "--save-relevance")
        code, _, err = lrp(*command, "--composite", text, "--out", text.replace(":", "_"))
        assert code == 0, err
        expected = lrp_tf.Explainer(keras.models.load_model(saved), "tutorial", low=low, high=high)(x)[0]
        found = np.load(f"{text.replace(':', '_')}/photo0.npy")
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_options_that_the_preset_does_not_take(lrp, saved):
    code, _, err = lrp("summary", saved, "--composite", "epsilon:gamma=0.5")
    assert code == 2
    assert "takes the options epsilon, zero_bias" in err
    code, _, err = lrp("summary", saved, "--composite", "epsilon:zero_bias=false", "--zero-bias")
    assert code == 2
    assert "contradict" in err
    out = lrp("summary", saved, "--composite", "epsilon:epsilon=relative(0.25)", "--zero-bias")[1]
    assert "Epsilon(Relative(0.25), zero_bias=True)" in out


def test_the_gamma_of_colours_has_a_name_of_its_own(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    command = ("explain", saved, "in", "--preprocess", "none", "--style", "heatmap")
    code, _, err = lrp(*command, "--color-gamma", "0.3", "--out", "new")
    assert (code, err) == (0, "")
    code, _, err = lrp(*command, "--gamma", "0.3", "--out", "old")
    assert code == 0
    assert "--gamma is now --color-gamma" in err
    new, old = (rgb(tmp_path / name / "photo0.heatmap.png") for name in ("new", "old"))
    np.testing.assert_array_equal(new, old)
    assert "--gamma " not in help_of(lrp, "explain")


def help_of(lrp, command):
    return lrp(command, "--help")[1]


def test_the_console_script_is_installed():
    (entry,) = [e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "lrp-tf"]
    assert entry.load() is cli.main


@pytest.mark.parametrize(
    "content",
    [
        {"0": ["n1", "dog"], "1": ["n2", "cat"]},
        {"0": "dog", "1": "cat"},
        {"dog": 0, "cat": 1},
        ["dog", "cat"],
        "dog\ncat\n",
    ],
)
def test_class_names(tmp_path, content):
    path = tmp_path / "classes"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    classes = loading.load_classes(path)
    assert classes.names == ("dog", "cat")
    assert classes.index("Cat", 2) == classes.index("1", 2) == 1
    assert classes.name(5) == "5"


@pytest.mark.parametrize("content", ['{"0": "a", "2": "b"}', '{"0": ', "[[1], 2", "{}x"])
def test_damaged_class_names(tmp_path, content):
    (tmp_path / "classes").write_text(content, encoding="utf-8")
    with pytest.raises(LoadError, match="class names"):
        loading.load_classes(tmp_path / "classes")


# --- vgg/lrp.py --------------------------------------------------------------------------------


@pytest.fixture
def small_vgg(monkeypatch, tmp_path):
    """VGG16's place taken by a net of the same kind, which needs no half gigabyte."""

    def build(weights=None):
        return classifier(size=32, classes=10)

    monkeypatch.setattr(keras.applications, "VGG16", build)
    sys.path.insert(0, str(REPOSITORY / "vgg"))
    yield build
    sys.path.remove(str(REPOSITORY / "vgg"))
    sys.modules.pop("lrp", None)


@pytest.mark.parametrize("name", ["own.weights.h5", "own.keras", "own.h5", "legacy.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_weights_of_any_kind(small_vgg, tmp_path, name):
    model = randomize(small_vgg(), seed=7)
    path = tmp_path / name
    model.save_weights(path) if ".weights." in name else model.save(path)
    loaded = loading.vgg("vgg16", str(path))
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    classifier(classes=4).save(tmp_path / "other.keras")
    with pytest.raises(LoadError, match="output shape"):
        loading.vgg("vgg16", str(tmp_path / "other.keras"))


def test_offline_the_message_names_file_and_place(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setitem(loading.IMAGENET, "vgg16", Download("http://127.0.0.1:9/vgg16_weights.h5"))
    began = time.perf_counter()
    with pytest.raises(LoadError) as caught:
        loading.vgg("vgg16", "imagenet")
    assert time.perf_counter() - began < 5
    assert str(tmp_path / "models" / "vgg16_weights.h5") in str(caught.value)
    assert "as `weights`." in str(caught.value)
    assert "as --weights FILE." in message_of(caught.value)


@pytest.mark.slow
def test_vgg16_end_to_end_offline(tmp_path):
    """The real VGG16 with seeded weights from a file; three targets of a photograph share one forward pass."""
    model = randomize(keras.applications.VGG16(weights=None))
    model.save_weights(tmp_path / "vgg16.weights.h5")
    photos(tmp_path / "in", 2)
    command = [sys.executable, "-W", "error::UserWarning", str(REPOSITORY / "vgg" / "lrp.py"), "in", "--save-relevance"]
    command += [
        "--weights",
        "vgg16.weights.h5",
        "--target",
        "topK:3",
        "--out",
        "out",
        "--composite",
        "epsilon_gamma_box",
    ]
    environment = {**os.environ, "KERAS_HOME": str(tmp_path / "keras")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "names of the classes are not known" in done.stdout
    x = np.stack([cv2.resize(photo(i), (224, 224), interpolation=cv2.INTER_LINEAR) for i in range(2)])
    x = keras.applications.vgg16.preprocess_input(x.astype("float32"))
    low, high = loading.get_preprocessing("vgg16").bounds(3)
    composite = lrp_tf.composites.get("epsilon_gamma_box", low=low, high=high)
    expected = lrp_tf.Explainer(model, composite).explain(x, "topK:3")
    rows = table(tmp_path / "out" / "results.csv")
    assert [int(row["target"]) for row in rows] == expected.target.numpy().ravel().tolist()
    for i in range(2):
        found = np.load(tmp_path / "out" / f"photo{i}.npy")
        difference = np.abs(found - expected.relevance[i]).max() / np.abs(expected.relevance[i]).max()
        assert difference < 1e-4
        assert rgb(tmp_path / "out" / f"photo{i}.png").shape[1] > 1000

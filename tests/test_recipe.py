"""A recipe is plain data that makes what the command line makes, and explainers of it pickle as it."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import pickle
from pathlib import Path

import keras
import matplotlib as mpl
import numpy as np
import pytest
from helpers.checking import close, randomize
from helpers.pictures import classifier, photo, photos, table

import lrp_tf
from lrp_tf import Recipe
from lrp_tf.cli import options, recipes
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.volumes import Slicing

FULL = Recipe(
    "model.keras",
    "epsilon_gamma_box:gamma=0.5,low=-1.0,high=[1.0, 2.0, 3.0]",
    preprocess="scale:1/255",
    classes=("a", "b"),
    targets=("topK:2", 1),
    contrast="softmax",
    look=Look(("overlay",), cmap="hot", dpi=50),
    size=(32, 32),
    layers=("conv.*",),
    kind="images",
    options={"zero_bias": True, "relevance_filter": 0.5},
    modules=("json",),
)


@pytest.mark.parametrize(
    "recipe",
    [Recipe("model.keras"), FULL, Recipe("a.h5", "first: flat; all: zplus"), Recipe("a.h5", slicing=Slicing(0, 3))],
)
def test_a_recipe_is_small_plain_data(recipe):
    content = pickle.dumps(recipe)
    assert len(content) < 600
    for again in (
        pickle.loads(content),
        copy.copy(recipe),
        copy.deepcopy(recipe),
        eval(repr(recipe), vars(lrp_tf) | globals()),
    ):
        assert again == recipe
    assert {recipe: 1}[pickle.loads(content)] == 1
    assert "Recipe('" in repr(recipe)


def test_a_recipe_says_what_it_is():
    assert repr(Recipe(Path("m.keras"), preprocess="none", targets=3)) == (
        "Recipe('m.keras', preprocess='none', targets=(3,))"
    )
    assert len(pickle.dumps(Recipe("m.keras"))) < 100


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"model": classifier}, TypeError, "plain data. Expected the path of a saved model"),
        ({"look": Look(cmap=mpl.colormaps["hot"])}, TypeError, "Expected the name of a colour map"),
        ({"options": 3}, TypeError, "Expected options as a dict"),
        ({"kind": "texts"}, ValueError, "Expected kind one of images, arrays, tables"),
        ({"composite": "epsilon:1"}, ValueError, "expected NAME or NAME:OPTION=VALUE"),
    ],
)
def test_what_is_no_plain_data_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        Recipe(**{"model": "m.keras", **given})


# --- explainers --------------------------------------------------------------------------------


def test_an_explainer_pickles_as_its_recipe(tmp_path, saved):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    recipe = Recipe(path, "epsilon_gamma_box", preprocess="scale:1/255", options={"zero_bias": True})
    explainer = recipe.explainer()
    assert explainer.recipe == recipe
    content = pickle.dumps(explainer)
    assert len(content) < 500
    x = np.stack([photo(0, 32, 32)]) / np.float32(255)
    for again in (pickle.loads(content), copy.deepcopy(explainer)):
        assert again.model is not explainer.model
        assert again.recipe == recipe
        close(again(x, 3), explainer(x, 3), 1e-6)
    shallow = copy.copy(explainer)
    assert (shallow.model is explainer.model, shallow.recipe) == (True, recipe)
    kernel = explainer.model.layers[-1].kernel
    before = kernel.numpy()
    kernel.assign(before + 1)
    with pytest.raises(pickle.PicklingError, match=r"Received: its weights changed since .* Remedy: model.save"):
        pickle.dumps(explainer)
    kernel.assign(before)
    assert pickle.dumps(explainer) == content
    os.utime(path, (1, 1))
    with pytest.raises(pickle.PicklingError, match="its file changed since"):
        copy.deepcopy(explainer)


def test_an_explainer_of_a_model_in_memory_has_no_recipe():
    explainer = lrp_tf.Explainer(classifier())
    with pytest.raises(TypeError, match=r"has no recipe.*Remedy: model.save.*Recipe"):
        explainer.recipe  # noqa: B018
    assert type(pickle.loads(pickle.dumps(explainer))) is lrp_tf.Explainer  # with its model


def _names(explainer):
    return explainer.model.name, explainer.composite.name, explainer.recipe


@pytest.mark.slow
def test_an_explainer_of_a_recipe_travels_to_a_spawned_process(saved):
    explainer = Recipe(saved, "epsilon").explainer()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_names, (explainer,)) == _names(explainer)


# --- galleries ---------------------------------------------------------------------------------


def chosen(saved, *more):
    """The options of `lrp-tf explain`."""
    given = options.parser().parse_args(["explain", str(saved), *map(str, more)])
    (given.composite,) = given.composites or [recipes.given.NamedPreset("epsilon_plus_flat", {})]
    return given


def test_a_gallery_of_a_recipe_is_that_of_the_command(lrp, saved, tmp_path):
    photos(tmp_path / "in", 2)
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    more = ["--composite", "epsilon_gamma_box:gamma=0.5", "--preprocess", "scale:1/255", "--style", "heatmap"]
    more += [
        "--classes",
        "names.txt",
        "--target",
        "topK:2",
        "c",
        "--contrast",
        "mean",
        "--layers",
        "conv2d",
        "--zero-bias",
    ]
    recipe = Recipe(
        str(saved),
        "epsilon_gamma_box:gamma=0.5",
        preprocess="scale:1/255",
        look=Look(("heatmap",)),
        classes="names.txt",
        targets=("topK:2", "c"),
        contrast="mean",
        layers=("conv2d",),
        options={"zero_bias": True},
    )
    written = recipes.recipe_of(chosen(saved, *more), "images")
    assert dataclasses.replace(written, kind=None) == recipe
    moved = pickle.loads(pickle.dumps(recipe))
    assert moved.gallery("results").run([("in/photo0.png", "photo0.png")]).done == 1
    code, out, _ = lrp("explain", saved, "in", *more, "--resume")
    assert (code, "1 finished before" in out) == (0, True)
    assert {row["target_name"] for row in table("results/results.csv")} <= set("abcdefg")
    with pytest.raises(LoadError, match="other settings: options"):
        dataclasses.replace(recipe, options={"zero_bias": True, "epsilon": 1e-3}).gallery("results").plan(
            [], resume=True
        )


def test_a_recipe_is_for_arrays_and_tables_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [keras.Input((12, 1)), keras.layers.Conv1D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    randomize(keras.Sequential(made)).save("signals.keras")
    np.save("a.npy", np.linspace(0, 1, 12, dtype="float32"))
    job = Recipe("signals.keras", "epsilon").gallery("signals")
    assert (type(job).__name__, job.preprocessing.name) == ("ArrayGallery", "none")
    assert job.run([("a.npy", "a.npy")]).done == 1
    with pytest.raises(LoadError, match="which arrays do not tell"):
        Recipe("signals.keras", "epsilon_gamma_box").gallery("signals")
    randomize(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])).save("rows.keras")
    Path("t.csv").write_text("a,b\n1,2\n3,4\n")
    tables = (lrp_tf.tables.read("t.csv", 2),)
    job = Recipe("rows.keras", "epsilon", kind="tables").gallery("rows", tables=tables)
    assert (job.batch, job.run().done) == (256, 2)


def test_a_recipe_refuses_what_the_command_refuses(saved):
    with pytest.raises(LoadError, match="`preprocess` is missing"):
        Recipe(saved).gallery("results")
    with pytest.raises(LoadError, match="contradict one another"):
        Recipe(saved, "epsilon:zero_bias=false", options={"zero_bias": True}).explainer()
    with pytest.raises(LoadError, match="`zero_bias` is an option of presets"):
        Recipe(saved, "all: epsilon", options={"zero_bias": True}).explainer()
    with pytest.raises(LoadError, match="no such file"):
        Recipe("nowhere.keras").explainer()


def test_a_recipe_for_other_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Recipe("m.keras", "mine.toml", classes="names.txt").absolute()
    assert (found.model, found.composite, found.classes) == tuple(
        str(tmp_path / name) for name in ("m.keras", "mine.toml", "names.txt")
    )
    assert Recipe("m.keras", "epsilon", classes=("a",)).absolute().composite == "epsilon"


@pytest.mark.parametrize("name", ["none", "scale:1/255", "mobilenet"])
def test_a_preprocessing_pickles(name):
    pixels = np.full((1, 2, 2, 3), 100, np.uint8)
    made = loading.get_preprocessing(name)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made))(pixels), made(pixels))


def test_a_model_that_is_no_file_brings_its_preprocessing(tmp_path):
    """vgg/lrp.py has weights that Keras downloads, and knows what their pixels go through."""
    recipe = Recipe("", "epsilon_gamma_box", kind="images")
    model = classifier()
    gallery = recipe.gallery(tmp_path, model=model, preprocessing=loading.get_preprocessing("mobilenet"))
    x = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape[1:])).astype("float32")
    close(gallery.explainer(x), lrp_tf.Explainer(model, "epsilon_gamma_box", low=-1.0, high=1.0)(x))
    with pytest.raises(LoadError, match="preprocess"):
        recipe.gallery(tmp_path, model=classifier())

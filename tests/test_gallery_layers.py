"""`--layers` and `--save-layers`: sums and maps of layers, beside pictures and after a kill."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.pictures import classifier, photo, photos, table
from keras import layers as kl

import lrp_tf
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import Gallery
from lrp_tf.gallery import layers as gallery_layers
from lrp_tf.gallery.layers import BatchLayers, chosen


def deep() -> keras.Model:
    """A net with two named blocks, a layer that is called twice, and one off the way to the output."""
    inputs = keras.Input((16, 16, 3))
    h = kl.Conv2D(3, 3, padding="same", activation="relu", name="block1_conv")(inputs)
    twice = kl.Conv2D(3, 3, padding="same", activation="relu", name="twice")
    h = twice(twice(h))
    h = kl.Conv2D(2, 3, activation="relu", name="block2_conv")(h)
    aside = kl.Dense(2, name="aside")(kl.GlobalAveragePooling2D(name="block9_pool")(h))
    out = kl.Dense(4, activation="softmax", name="head")(kl.GlobalAveragePooling2D(name="pool")(h))
    return keras.Model(inputs, [out, aside])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["pool"], ["pool"]),
        (["block._conv"], ["block1_conv", "block2_conv"]),
        ([".*conv", "block1_conv", "head"], ["block1_conv", "block2_conv", "head"]),
        (["block.*"], ["block1_conv", "block2_conv"]),  # block9_pool explains another output
        ([], []),
    ],
)
def test_names_and_expressions(names: list[str], found: list[str]) -> None:
    graph = lrp_tf.Explainer(deep(), output=0).graph
    assert list(chosen(graph, names)) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [("conv", "no layer has this name.*block1_conv"), ("aside", "not lie on a way"), ("[", "no layer has this name")],
)
def test_names_that_mean_nothing(name: str, message: str, tmp_path: Path) -> None:
    explainer = lrp_tf.Explainer(deep(), output=0)
    with pytest.raises(ValueError, match=message):
        chosen(explainer.graph, ["pool", name])
    with pytest.raises(ValueError, match=message):
        Gallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", layers=(name,))
    assert not (tmp_path / "out").exists()


def test_maps_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="save_layers"):
        Gallery(lrp_tf.Explainer(deep(), output=0), loading.get_preprocessing("none"), tmp_path, save_layers=True)


@pytest.mark.parametrize("targets", [("top1",), ("topK:2",), (1, 3)])
@pytest.mark.parametrize("save_layers", [False, True])
@pytest.mark.usefixtures("seldom_compiled")
def test_sums_and_maps_are_the_explainers(tmp_path: Path, targets: tuple, save_layers: bool) -> None:
    explainer = lrp_tf.Explainer(deep(), output=0)
    files = list(images.find([str(photos(tmp_path / "in", 3))]))
    job = Gallery(
        explainer, loading.get_preprocessing("scale:1/255"), tmp_path / "out", targets=targets, batch=2,
        layers=("block._conv", "twice"), save_layers=save_layers,
    )  # fmt: skip
    assert job.run(files).done == 3
    rows = table(tmp_path / "out" / "layers.csv")
    results = table(tmp_path / "out" / "results.csv")
    names = ["block1_conv", "block2_conv", "twice", "twice#2"]
    assert [(row["file"], row["target"], row["layer"]) for row in rows] == [
        (result["file"], result["target"], name) for result in results for name in names
    ]
    x = np.stack([images.Fit(16, 16, "squash").apply(photo(i)) for i in range(3)]).astype("float32") / 255
    several = len(results) == 6
    wanted = {"top1": None, "topK:2": "topK:2"}.get(targets[0], [list(targets)] * 3)
    found = explainer.explain(x, wanted, layers=["block1_conv", "block2_conv", "twice"])
    maps = BatchLayers(found.layers, several).calls
    starts = np.asarray(found.conservation.start).reshape(-1)
    for number, row in enumerate(rows):
        sample, target = divmod(number // 4, 2) if several else (number // 4, 0)
        relevance = maps[row["layer"]][sample, target].astype(float)
        parts = [relevance.sum(), relevance[relevance > 0].sum(), relevance[relevance < 0].sum()]
        got = [float(row[name]) for name in ("sum", "positive", "negative")]
        np.testing.assert_allclose(got, parts, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(float(row["share"]), parts[0] / starts[number // 4], rtol=1e-3)
    written = sorted(path.name for path in (tmp_path / "out").glob("*.npz"))
    assert written == ([f"photo{i}.layers.npz" for i in range(3)] if save_layers else [])
    for i in range(3 if save_layers else 0):
        with np.load(tmp_path / "out" / f"photo{i}.layers.npz") as arrays:
            assert sorted(arrays) == names
            for name in names:
                want = maps[name][i] if several else maps[name][i, 0]
                np.testing.assert_allclose(arrays[name], want, atol=1e-6)
                assert arrays[name].dtype == np.float32


@pytest.mark.parametrize("save_layers", [False, True])
def test_a_killed_run_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_layers: bool) -> None:
    """Killed behind the rows of layers of the second file, ahead of its row in the table of results."""
    explainer = lrp_tf.Explainer(deep(), output=0)
    files = list(images.find([str(photos(tmp_path / "in", 4))]))
    job = Gallery(
        explainer, loading.get_preprocessing("none"), tmp_path / "out", batch=1, layers=("pool",),
        save_layers=save_layers, settings={"layers": ["pool"]},
    )  # fmt: skip

    class Killed(Exception):
        pass

    add = gallery_layers.LayerTable.add

    def killed(self: gallery_layers.LayerTable, item: object, *rest: object) -> None:
        add(self, item, *rest)
        if len(table(tmp_path / "out" / "layers.csv")) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(gallery_layers.LayerTable, "add", killed)
        with pytest.raises(Killed):
            job.run(files)
    assert len(table(tmp_path / "out" / "results.csv")) == 1
    with open(tmp_path / "out" / "layers.csv", "ab") as file:
        file.write(b"in/photo3.png,half a li")
    if save_layers:
        os.unlink(tmp_path / "out" / "photo0.layers.npz")  # its picture counts as not finished then
    outcome = job.run(files, resume=True)
    assert (outcome.done, outcome.skipped) == ((4, 0) if save_layers else (3, 1))
    assert sorted(row["file"] for row in table(tmp_path / "out" / "layers.csv")) == [name for name, _ in files]
    assert job.run(files, overwrite=True).done == 4
    assert len(table(tmp_path / "out" / "layers.csv")) == 4


def test_on_the_command_line(lrp, saved, tmp_path: Path) -> None:
    photos(tmp_path / "in", 2)
    explain = ("explain", saved, "--preprocess", "none", "--style", "heatmap")
    code, out, _ = lrp(*explain, "--save-layers", "--layers", ".*conv2d.*", "in")  # argparse takes "in" for a layer
    assert code == 0, out
    (name,) = {row["layer"] for row in table("results/layers.csv")}
    assert "conv2d" in name
    assert sorted(path.name for path in Path("results").glob("*.npz")) == ["photo0.layers.npz", "photo1.layers.npz"]
    code, _, err = lrp(*explain, "in", "--resume", "--layers", name)
    assert code == 2
    assert "other settings" in err
    assert "save_layers" in err
    code, _, err = lrp(*explain, "in", "--out", "b", "--layers", "conv9")
    assert code == 2
    assert "no layer has this name" in err
    code, _, err = lrp(*explain, "in", "--out", "b", "--save-layers")
    assert code == 2
    assert "--save-layers needs the names of some layers. Remedy: --layers" in err
    assert not Path("b").exists()


def test_formulas_in_names_are_no_formulas(tmp_path: Path) -> None:
    """A spreadsheet would run a layer's name that begins with "="."""
    model = keras.Sequential([keras.Input((16, 16, 3)), *classifier().layers])
    explainer = lrp_tf.Explainer(model)
    layer = next(iter(explainer.graph.layers))
    found = BatchLayers({"=cmd": np.ones((1, 2))}, several=False).sample(0, [2.0], keep=False)
    with gallery_layers.LayerTable(tmp_path, ()) as of_layers:
        of_layers.add(gallery_layers.rows_of(gallery_layers.Item("=a.png", "a"), [(0, "@b")], found))
    (row,) = table(tmp_path / "layers.csv")
    assert (row["file"], row["target_name"], row["layer"], row["share"]) == ("./=a.png", "'@b", "'=cmd", "1")
    assert layer in chosen(explainer.graph, [layer])

"""Atlases on the gallery's page beside all else that a run may be asked for: shards, composites, sizes, recipes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.colours import GREEN, RED, check_colours, data_of, make_net, same, shown, squares

import lrp_tf
from lrp_tf.concepts import ImageFiles, build_reference
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError

pytestmark = pytest.mark.usefixtures("mode")
HOW = ["--preprocess", "scale:1/255"]
NAMES = ["$\\alpha_{$ <script>alert(1)</script>", "猫\u202e réd\x07 \U0001f6a2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a net of fixed size and one of any, their references, photographs, and names of classes."""
    home = tmp_path_factory.mktemp("atlases")
    files = list(images.find([str(squares(home / "pictures", 4))]))
    for name, size in (("net", (24, 24)), ("open", (None, None))):
        net = make_net(size=size)
        net.save(home / f"{name}.keras")
        explainer = lrp_tf.Explainer(
            net, "epsilon", sizes={net.inputs[0].name: (24, 24, 3)} if name == "open" else None
        )
        data = ImageFiles(explainer, files, loading.get_preprocessing("scale:1/255"), size=(24, 24))
        build_reference(explainer, data, "colours", path=home / f"{name}.h5", n=2, target=None)
    (home / "names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return home


@pytest.fixture
def explain(lrp: Callable, home: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs lrp-tf explain over a green photograph and a red one, with atlases of one channel."""

    def run(*more: object, net: str = "net") -> tuple[int, str, str]:
        given = [home / f"{net}.keras", home / "pictures/g/1.png", home / "pictures/r/2.png", *HOW, "--gallery"]
        return lrp("explain", *given, "--atlas", home / f"{net}.h5", "--atlas-top", 1, *more)

    return run


def test_shards_merge_to_the_page_of_one_run(explain, lrp, home, tmp_path):
    two = ["--target", "topK:2", "--classes", home / "names.txt", "--composite", "epsilon"]
    assert explain(*two, "--out", "whole")[0] == 0
    whole = shown(tmp_path / "whole")
    assert len(whole) == 4
    check_colours(whole)
    for i in range(2):
        assert explain(*two, "--shard", f"{i}/2", "--out", "shared")[0] == 0
        assert explain(*two, "--shard", f"{i}/2", "--out", f"apart{i}")[0] == 0
    assert lrp("merge", "shared")[0] == 0
    assert lrp("merge", "apart0", "apart1", "--out", "together")[0] == 0
    for name in ("shared", "together"):
        assert same(shown(tmp_path / name), whole), name
        assert data_of(tmp_path / name) == data_of(tmp_path / "whole")
    # Of a merged run that lost an atlas one photograph alone is drawn again.
    next((tmp_path / "shared").rglob("*.atlas.2.png")).unlink()
    code, out, _ = explain(*two, "--out", "shared", "--resume")
    assert (code, "1 explained" in out, "1 finished before" in out) == (0, True, True)
    assert same(shown(tmp_path / "shared"), whole)


def test_odd_names_of_classes_are_text(explain, home, tmp_path):
    assert explain("--classes", home / "names.txt", "--target", "topK:2", "--out", "out")[0] == 0
    data = data_of(tmp_path / "out")
    names = {target["class"]: target["name"] for target in data["items"][0]["runs"][0]}
    assert names == {RED: NAMES[0], GREEN: "猫\\u202e réd\\x07 \U0001f6a2"}  # what steers a terminal is written out
    assert "<script>alert" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert len(shown(tmp_path / "out")) == 4


def test_each_composite_has_its_atlases(explain, tmp_path):
    assert explain("--composite", "epsilon", "first: flat; all: epsilon", "--target", "topK:2", "--out", "out")[0] == 0
    data = data_of(tmp_path / "out")
    assert [one["atlas"] for one in data["composites"]] == ["colours", "colours"]
    found = shown(tmp_path / "out")
    assert len(found) == 8
    check_colours(found)
    for name in {name for name, _, _ in found}:  # flat spreads relevance over what a position sees
        assert not np.array_equal(found[name, 0, RED], found[name, 1, RED]), name
    explain("--composite", "epsilon_plus", "epsilon", "--resume", "--target", "topK:2", "--out", "out")
    assert len(shown(tmp_path / "out")) == 12  # the page keeps what an earlier run drew
    code, _, err = explain("--composite", "epsilon", "tutorial", "--resume", "--atlas-top", 2, "--out", "out")
    assert (code, "other settings" in err, "atlas" in err) == (2, True, True)


@pytest.mark.parametrize("size", ["24x24", "32x48"])
def test_a_net_of_any_size(explain, tmp_path, size):
    code, _, err = explain("--out", "none", net="open")
    assert (code, "Remedy: --size HEIGHTxWIDTH" in err) == (2, True)
    assert explain("--size", size, "--out", "out", net="open")[0] == 0
    found = shown(tmp_path / "out")
    assert len(found) == 2
    check_colours(found)  # reference crops keep the size that the reference was built with


def test_messages_name_the_options(explain, lrp, home, tmp_path):
    code, _, err = explain("--atlas-images", "nowhere")
    assert (code, "Remedy: --atlas-images where they lie now" in err) == (2, True)
    lrp("reference", home / "net.keras", home / "pictures", *HOW, "--layers", "colours", "same", "--out", "two.h5")
    code, _, err = explain("--atlas", "two.h5")
    assert (code, "one of colours, same. Received: none. Remedy: --atlas-layer" in err) == (2, True)
    code, _, err = explain("--preprocess", "none")
    assert (code, "Expected --preprocess scale:1/255, with which" in err) == (2, True)
    code, _, err = explain("--atlas", "missing.h5")
    assert (code, "Expected a file that build_reference wrote. Received: 'missing.h5', no file" in err) == (2, True)
    assert not list(tmp_path.rglob("*.png"))


# --- recipes -----------------------------------------------------------------------------------


def test_a_recipe_carries_its_atlases_to_another_folder(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    files = list(images.find(["pictures"]))
    explainer = lrp_tf.Explainer(keras.models.load_model("net.keras"), "epsilon")
    data = ImageFiles(explainer, files, loading.get_preprocessing("scale:1/255"))
    build_reference(explainer, data, ["colours", "same"], path=tmp_path / "relative.h5", n=2, target=None)
    how = {"composite": "epsilon", "preprocess": "scale:1/255"}
    recipe = lrp_tf.Recipe(
        "net.keras", atlas=os.path.relpath(tmp_path / "relative.h5"), atlas_layer="colours", atlas_top=1, **how
    )
    there = pickle.loads(pickle.dumps(recipe.absolute()))
    files = [(os.path.abspath(path), relative) for path, relative in files]
    monkeypatch.chdir(tmp_path)
    gallery = there.gallery("out", page=True)
    assert (gallery.atlas.of, gallery.atlas.top) == ("colours", 1)
    assert gallery.run(files).done == 4
    check_colours(shown(tmp_path / "out"))
    other = lrp_tf.Recipe(**{**vars(there), "atlas_top": 2})
    with pytest.raises(LoadError, match="other settings: atlas"):
        other.gallery("out", page=True).run(files, resume=True)


def test_what_a_recipe_refuses(home):
    with pytest.raises(LoadError, match=r"Expected a reference beside them. Received: none. Remedy: `atlas`"):
        lrp_tf.Recipe("net.keras", atlas_layer="colours")
    given = {"preprocess": "scale:1/255", "atlas": home / "net.h5"}
    with pytest.raises(LoadError, match="Remedy: `atlas_images` where they lie now"):
        lrp_tf.Recipe(home / "net.keras", **given, atlas_images="nowhere").gallery("out")
    with pytest.raises(LoadError, match=r"An atlas is of photographs alone. Expected none of arrays"):
        lrp_tf.Recipe(home / "net.keras", **given, kind="arrays").gallery("out")
    with pytest.raises(LoadError, match=r"`atlas` draws pictures. Expected it without `pictures`=False"):
        lrp_tf.Recipe(home / "net.keras", **given).gallery("out", pictures=False)

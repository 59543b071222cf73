"""Atlases of photographs of a gallery: from image files to the page, by Python and by command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.colours import GREEN, RED, SIDE, make_net, read, squares

import lrp_tf
from lrp_tf import concepts
from lrp_tf.concepts import Atlases, ImageFiles, Reference, build_reference
from lrp_tf.files import images, loading
from lrp_tf.gallery import Gallery

pytestmark = pytest.mark.usefixtures("mode")


@pytest.fixture(scope="module")
def net() -> keras.Model:
    return make_net()


@pytest.fixture(scope="module")
def explainer(net: keras.Model) -> lrp_tf.Explainer:
    return lrp_tf.Explainer(net, "epsilon")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three red and three green squares, the stronger the later, and a file that is no picture."""
    place = squares(tmp_path_factory.mktemp("pictures"))
    (place / "r" / "broken.png").write_bytes(b"no picture")
    return place


@pytest.fixture(scope="module")
def preprocessing() -> loading.Preprocessing:
    return loading.get_preprocessing("scale:1/255")


@pytest.fixture(scope="module")
def reference(explainer, folder, preprocessing, tmp_path_factory) -> Reference:
    files = ImageFiles(explainer, list(images.find([str(folder)])), preprocessing)
    path = tmp_path_factory.mktemp("reference") / "colours.h5"
    return build_reference(explainer, files, ["colours", "same"], path=path, n=2, target=None)


@pytest.fixture(scope="module")
def atlases(reference, explainer, preprocessing) -> Atlases:
    return Atlases(reference, reference.images(explainer, preprocessing), layer="colours", top=2, n=2)


def data_of(out: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', (out / "index.html").read_text(), re.S
    )
    return json.loads(found.group(1))


def test_a_reference_of_files_knows_them_and_what_could_not_be_read(reference, folder):
    assert len(reference.failures) == 1
    assert sum(reference.classes.values()) == 6
    names = [Path(path).name for path, _ in images.find([str(folder)])]
    assert [names[i] for i in reference.samples("colours", RED).ids] == ["4.png", "2.png"]  # the strongest first
    assert [names[i] for i in reference.samples("colours", GREEN).ids] == ["5.png", "3.png"]


@pytest.mark.parametrize("targets", [("top1",), (RED, GREEN)])
def test_each_photograph_and_class_gets_an_atlas(atlases, explainer, folder, preprocessing, tmp_path, targets):
    gallery = Gallery(explainer, preprocessing, tmp_path, targets=targets, page=True, atlas=atlases)
    outcome = gallery.run(images.find([str(folder)]))
    assert (outcome.done, outcome.failed) == (6, 1)
    drawn = sorted(path.name for path in tmp_path.rglob("*.atlas*"))
    numbers = [""] if len(targets) == 1 else [".1", ".2"]
    assert drawn == sorted(f"{i}.atlas{number}.png" for i in range(6) for number in numbers)
    for channel, name in enumerate("rg"):  # the first row is the photograph: of its colour
        sheet = read(next(tmp_path.rglob(f"{4 + channel}.atlas{numbers[0]}.png")))
        other = sheet[..., 1 - channel]
        assert (sheet[..., channel] - other > 150).sum() > 300, name
        assert (sheet[: len(sheet) // 3, :, 1 - channel] - sheet[: len(sheet) // 3, :, channel] > 150).sum() == 0, name
    data = data_of(tmp_path)
    assert data["composites"][0]["atlas"] == "colours"
    linked = [target["atlas"] for item in data["items"] for targets in item.get("runs", []) for target in targets]
    linked = [address for address in linked if address]
    assert len(linked) == len(drawn)
    assert all((tmp_path / address).is_file() for address in linked)


def test_a_run_that_lost_an_atlas_draws_it_again(atlases, explainer, folder, preprocessing, tmp_path):
    gallery = Gallery(explainer, preprocessing, tmp_path, page=True, atlas=atlases)
    files = list(images.find([str(folder)]))
    gallery.run(files)
    lost, kept = next(tmp_path.rglob("4.atlas.png")), next(tmp_path.rglob("2.atlas.png"))
    before, stamp = read(lost), kept.stat().st_mtime_ns
    lost.unlink()
    outcome = gallery.run(files, resume=True)
    assert (outcome.done, outcome.skipped) == (1, 5)
    assert np.array_equal(read(lost), before)
    assert kept.stat().st_mtime_ns == stamp


def test_an_atlas_stands_for_the_contrast_of_the_run(atlases, explainer, folder, preprocessing, tmp_path):
    files = [found for found in images.find([str(folder)]) if found[0].endswith("4.png")]
    sheets = []
    for contrast in (None, GREEN):
        out = tmp_path / str(contrast)
        Gallery(explainer, preprocessing, out, targets=(RED,), contrast=contrast, page=True, atlas=atlases).run(files)
        sheets.append(read(next(out.rglob("*.atlas.png"))))
    assert sheets[0].shape != sheets[1].shape or (sheets[0] != sheets[1]).any()


def test_what_makes_no_atlas_is_refused(reference, atlases, explainer, folder, preprocessing, tmp_path):
    files = reference.images(explainer, preprocessing)
    with pytest.raises(ValueError, match=r"An atlas is of one layer. Expected one of colours, same. Received: none"):
        Atlases(reference, files)
    with pytest.raises(ValueError, match=r"a layer that the reference holds: colours, same. Received: 'scores'"):
        Atlases(reference, files, layer="scores")
    for top in (0, True, 1.5):
        with pytest.raises(ValueError, match="top expects a number of channels"):
            Atlases(reference, files, layer="same", top=top)
    other = lrp_tf.Explainer(make_net(0.25), "epsilon")
    with pytest.raises(ValueError, match="whose layers or weights differ"):
        Gallery(other, preprocessing, tmp_path, page=True, atlas=atlases)
    with pytest.raises(ValueError, match="preprocess"):
        reference.images(explainer, loading.get_preprocessing("none"))
    x = np.zeros((SIDE, SIDE, 3), np.float32)
    x[5:15, 5:15, 0] = 1
    few = build_reference(explainer, (x[None], np.array([RED])), "colours", path=tmp_path / "few.h5", n=1)
    with pytest.raises(ValueError, match="The data set has no sample of class 1"):
        concepts.atlas(
            *(explainer, x, few, "colours"), images=x[None], path=tmp_path / "a.png", target=GREEN, same_class=True
        )
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--atlas", "reference.h5"], "Expected --gallery beside it"),
        (["--gallery", "--atlas-layer", "same"], "--atlas-layer is an option of atlases. Expected --atlas REFERENCE"),
        (["--gallery", "--atlas-top", "2"], "--atlas-top is an option of atlases"),
        (["--gallery", "--atlas", "missing.h5"], "missing.h5"),
    ],
)
def test_the_command_refuses_half_of_the_options(lrp, net, folder, tmp_path, options, expected):
    net.save("net.keras")
    finished = lrp("explain", "net.keras", str(folder), "--preprocess", "scale:1/255", *options)
    assert finished[0] == 2
    assert expected in finished[2]
    assert not list(tmp_path.rglob("*.png"))


def test_the_commands_build_merge_and_show(lrp, net, folder, tmp_path):
    net.save("net.keras")
    common = ["--preprocess", "scale:1/255"]
    layers = ["--layers", "colours", "--n", "2", "--batch", "2"]
    assert lrp("reference", "net.keras", str(folder), *common, *layers, "--out", "whole.h5")[0] == 1  # one is broken
    parts = []
    for i in range(2):
        parts.append(f"part{i}.h5")
        lrp("reference", "net.keras", str(folder), *common, *layers, "--shard", f"{i}/2", "--out", parts[i])
    assert lrp("reference", "--merge", *parts, "--out", "merged.h5")[0] == 0
    whole, merged = (Reference.load(tmp_path / f"{name}.h5") for name in ("whole", "merged"))
    for channel in (RED, GREEN):
        assert whole.samples("colours", channel).ids.tolist() == merged.samples("colours", channel).ids.tolist()
    assert "holds the reference of an earlier run" in lrp("reference", "--merge", *parts, "--out", "merged.h5")[2]
    finished = lrp("explain", "net.keras", str(folder), *common, "--gallery", "--atlas", "merged.h5", "--out", "out")
    assert finished[0] == 1
    assert len(list((tmp_path / "out").rglob("*.atlas.png"))) == 6
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["atlas"][0] == "merged.h5"

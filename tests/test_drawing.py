"""`lrp-tf explain`: what the options of its pictures draw, and what pictures and tables say of their strength."""

from __future__ import annotations

import base64
import itertools
import json
import re
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from helpers.checking import randomize
from helpers.pictures import classifier, photo, photos, rgb, table
from keras import layers as kl
from PIL import Image

import lrp_tf
from lrp_tf import heatmap
from lrp_tf.files import images, loading
from lrp_tf.gallery import draw, run
from lrp_tf.gallery.draw import where_it_went
from lrp_tf.heatmap.look import Look

FIT = images.Fit(32, 32, "squash")
SIZE = (48, 64)  # of the photographs
MAGIC = {"jpg": b"\xff\xd8\xff", "webp": b"RIFF", "pdf": b"%PDF", "svg": b"<?xml"}


def explained(lrp, saved, *options):
    """Runs `lrp-tf explain in --save-relevance` and returns the rows of its table and what it printed."""
    again = () if "--resume" in options else ("--overwrite",)
    code, out, err = lrp("explain", saved, "in", "--preprocess", "scale:1/255", "--save-relevance", *again, *options)
    assert code == 0, err
    return table("results/results.csv"), out


def drawn(name, **look):
    """The map of a saved .npy file, as `heatmap` draws it in the geometry of the photograph."""
    relevance = np.load(f"results/{name}.npy")
    show, smooth = look.pop("show", "signed"), look.pop("smooth", 0)
    entries = np.abs(relevance) if show == "abs" else relevance
    return FIT.restore(heatmap.smooth(heatmap.reduce_channels(entries), smooth), SIZE)


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((10, 6.53e-5, 9.9, 0.05, 0.05), ["0 % of the score arrives at the pixels", "biases absorb 99 %"]),
        ((10, 10, 0, 0, 0), ["100 % of the score arrives at the pixels"]),
        ((-4, -3, -1, 0, 0), ["75 % of the score", "biases absorb 25 %"]),
        ((4, 6, -2, 0, 0), ["150 % of the score", "biases add 50 %"]),
        ((4, -1e-9, 0, 1, 3), ["0 % of the", "stabilizers absorb 25 %", "other mechanisms absorb 75 %"]),
        ((4, 0.1, 3.9, 0, 0), ["2.5 % of the score"]),
        ((2, 2e18, 0, 0, -2e18), ["1e+18 times the score arrives", "other mechanisms add 1e+18 times the score"]),
        ((0, 0.5, -0.5, 0, 0), ["relevance of 0.5 arrives"]),
        ((1, np.nan, 0, 0, 0), ["relevance of nan arrives"]),
    ],
)
def test_what_became_of_the_score(shares, words):
    assert where_it_went(*shares).split(", ") == words or all(word in where_it_went(*shares) for word in words)
    if shares[1] == shares[0]:
        assert "," not in where_it_went(*shares)


def test_weak_maps_say_what_took_the_rest(lrp, tmp_path, monkeypatch):
    """Titles and console: the class, its probability and logit, the share that arrives, and the scale."""
    titles = []
    grid = heatmap.grid
    monkeypatch.setattr(heatmap, "grid", lambda *a, **k: (titles.extend(k["titles"][0]), grid(*a, **k)))
    model = classifier()
    weights = model.get_weights()
    weights[-1] = np.array([100.0, 0, 0, 0, 0, 0, 90.0], np.float32)  # the last bias is all there is to say
    model.set_weights(weights)
    model.save("weak.keras")
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    photos(tmp_path / "in", 1)
    code, out, err = lrp("explain", "weak.keras", "in", "--preprocess", "scale:1/255", "--target", "top1", "g",
                         "--classes", "names.txt")  # fmt: skip
    assert code == 0, err
    rows = table("results/results.csv")
    assert "ΣR" not in out
    for row, title in zip(rows, titles[1:], strict=True):
        share = float(row["sum_of_relevance"]) / float(row["logit"])
        assert abs(share) < 0.05
        np.testing.assert_allclose(float(row["arrived"]), share, rtol=1e-3)
        first, second, *_, last = title.splitlines()
        assert first == f"{row['target_name']}, p = {float(row['probability']):.3f}, logit {float(row['logit']):.2f}"
        assert second.startswith(f"{draw._share(share)} of the score arrives at the pixels, biases absorb ")
        assert second.split("pixels")[1] in out
        assert last.startswith("full colour: |R| = ")
        assert float(last.split("= ")[1]) == pytest.approx(float(row["largest_relevance"]), rel=0.5)


def test_the_table_has_the_probability_of_each_target(lrp, saved, tmp_path):
    photos(tmp_path / "in", 2)
    rows, _ = explained(lrp, saved, "--target", "top1", "3")
    x = np.stack([FIT.apply(photo(i)) for i in range(2)]) / np.float32(255)
    probabilities = keras.models.load_model(saved)(x).numpy()
    for row, (i, k) in zip(rows, itertools.product(range(2), range(2)), strict=True):
        np.testing.assert_allclose(float(row["probability"]), probabilities[i, int(row["target"])], rtol=1e-3)
        relevance = np.load(f"results/{row['result']}.npy")[k]
        np.testing.assert_allclose(float(row["largest_relevance"]), np.abs(relevance.sum(-1)).max(), rtol=1e-4)
        np.testing.assert_allclose(float(row["arrived"]), relevance.sum() / float(row["logit"]), rtol=1e-2, atol=1e-5)


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAGIC)
@pytest.mark.usefixtures("seldom_compiled")
def test_formats_with_every_style_and_several_targets(lrp, saved, tmp_path, kind):
    photos(tmp_path / "in", 1)
    options = ("--target", "topK:2", "--style", "all", "--smooth", "auto", "--show", "abs", "--scale", "image:99%")
    options += ("--colorbar", "--dpi", "150", "--format", kind)
    rows, _ = explained(lrp, saved, *options)
    assert len(rows) == 2
    names = {path.name for path in Path("results").iterdir()} - {"results.csv", "failures.csv", "settings.json"}
    endings = ["", *(f".{style}.{n}" for style in ("overlay", "heatmap") for n in (1, 2))]
    assert names == {*(f"photo0{e}.{kind}" for e in endings), "photo0.npy"}
    for name in names - {"photo0.npy"}:
        assert (Path("results") / name).read_bytes().startswith(MAGIC[kind])


@pytest.mark.parametrize("lost", ["photo0.pdf", "photo0.heatmap.pdf", "photo0.jpg", "photo0.overlay.webp"])
@pytest.mark.usefixtures("seldom_compiled")
def test_runs_in_other_formats_are_resumed(lrp, saved, tmp_path, lost):
    photos(tmp_path / "in", 2)
    options = ("--format", lost.rpartition(".")[2], "--style", "all")
    explained(lrp, saved, *options)
    (tmp_path / "results" / lost).unlink()
    assert "1 explained" in explained(lrp, saved, *options, "--resume")[1]
    assert (tmp_path / "results" / lost).exists()
    code, _, err = lrp("explain", saved, "in", "--preprocess", "scale:1/255", "--save-relevance", "--resume")
    assert code == 2
    assert "other settings: look" in err


def test_pixels_of_the_other_formats(lrp, saved, tmp_path):
    """WebP loses nothing; JPEG little, and no resolution of colours."""
    photos(tmp_path / "in", 1)
    found = {}
    for kind in ("png", "webp", "jpg"):
        explained(lrp, saved, "--format", kind, "--style", "all")
        found[kind] = [rgb(f"results/photo0{style}.{kind}").astype(int) for style in ("", ".overlay", ".heatmap")]
    for exact, same, near in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(same, exact)
        assert near.shape == exact.shape
        assert 0 < np.abs(near - exact).mean() < 4


@pytest.mark.parametrize("out", ["in", "in/deeper", "linked"])
def test_no_result_replaces_a_photograph(lrp, saved, tmp_path, out):
    """Results may lie among photographs of the same format."""
    folder = tmp_path / "in" / "deeper"
    folder.mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    for path in (folder / "a.png", folder.parent / "a.png", folder.parent / "B.PNG"):
        Image.fromarray(photo()).save(path)
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    files = [str(path.relative_to(tmp_path)) for path in before]
    assert lrp("explain", saved, *files, "--preprocess", "none", "--out", out)[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    assert len(table(f"{out}/results.csv")) == 3
    assert lrp("explain", saved, *files, "--preprocess", "none", "--out", out, "--resume")[0] == 0
    assert len(list((tmp_path / out).rglob("*.[pP][nN][gG]"))) == 3 + (3 if out != "in/deeper" else 1)


@pytest.mark.parametrize("composites", [["epsilon"], ["epsilon", "epsilon_plus"]], ids=len)
@pytest.mark.parametrize("out", ["in/results", "linked/results"])
@pytest.mark.usefixtures("seldom_compiled")
def test_results_of_an_earlier_run_are_not_explained(lrp, saved, tmp_path, composites, out):
    """Below the folder that is walked; photographs beside them are, and a result that is named itself."""
    photos(tmp_path / "in" / "more", 1)
    photos(tmp_path / "in", 2)
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    command = ("explain", saved, "in", "--preprocess", "none", "--out", out, "--gallery", "--composite", *composites)
    assert lrp(*command)[0] == 0
    code, said, err = lrp(*command, "--resume")
    assert code == 0, err
    assert said.count("0 explained") == said.count("3 finished before") == len(composites)
    assert f"left out: results of an earlier run in {out}" in err
    for path in [*(tmp_path / "in").glob("*.png"), *(tmp_path / "in/more").glob("*.png")]:
        path.unlink()
    code, _, err = lrp(*command, "--resume")
    assert (code, "holds no image but results" in err) == (2, True)
    result = next((tmp_path / "in/results").rglob("photo0.png"))
    code, said, err = lrp(*command[:2], result, *command[3:], "--resume")
    assert (code, said.count("1 explained")) == (0, len(composites)), err


@pytest.mark.parametrize(
    ("options", "look"),
    [
        (("--smooth", "auto"), {"smooth": 1.0}),  # the first convolution's stride is 2
        (("--smooth", "2.5", "--scale", "90%"), {"smooth": 2.5, "scale": "90%"}),
        (("--show", "abs"), {"show": "abs"}),
        (("--show", "abs", "--smooth", "1", "--cmap", "viridis"), {"show": "abs", "smooth": 1, "cmap": "viridis"}),
        (("--scale", "0.125"), {"scale": 0.125}),
        ((), {}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("seldom_compiled")
def test_overlays_and_heatmaps_are_what_heatmap_makes_of_the_saved_relevance(lrp, saved, tmp_path, options, look):
    photos(tmp_path / "in", 1)
    explained(lrp, saved, "--style", "all", *options)
    show = look.get("show", "signed")
    values = drawn("photo0", **look)
    colours = {"scale": look.get("scale"), "show": show, "cmap": look.get("cmap")}
    np.testing.assert_array_equal(rgb("results/photo0.heatmap.png"), heatmap.to_rgb(values, **colours))
    np.testing.assert_array_equal(rgb("results/photo0.overlay.png"), heatmap.overlay(photo(0), values, **colours))
    # The sheet beside the photograph has the very same colours.
    sheet = rgb("results/photo0.png").reshape(-1, 3)
    heat = rgb("results/photo0.heatmap.png").reshape(-1, 3)
    assert {tuple(c) for c in np.unique(heat, axis=0)} <= {tuple(c) for c in np.unique(sheet, axis=0)}


def test_saved_relevance_and_tables_are_not_smoothed(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    rows, _ = explained(lrp, saved)
    relevance = np.load("results/photo0.npy")
    for options in (("--smooth", "3"), ("--show", "abs", "--reduce", "mean", "--scale", "run")):
        again, _ = explained(lrp, saved, *options, "--out", "results")
        np.testing.assert_array_equal(np.load("results/photo0.npy"), relevance)
        assert again == rows


def test_one_scale_for_all_targets_of_an_image(lrp, saved, tmp_path):
    photos(tmp_path / "in", 2)
    for text, quantile in (("image", 1.0), ("image:80%", 0.8)):
        explained(lrp, saved, "--target", "topK:3", "--style", "heatmap", "--scale", text)
        for i in range(2):
            maps = [FIT.restore(heatmap.reduce_channels(r), SIZE) for r in np.load(f"results/photo{i}.npy")]
            scale = np.quantile(np.abs(maps)[np.abs(maps) > 0], quantile)
            assert len({np.abs(m).max() for m in maps}) == 3
            for k, m in enumerate(maps):
                got = rgb(f"results/photo{i}.heatmap.{k + 1}.png")
                np.testing.assert_array_equal(got, heatmap.to_rgb(m, scale=scale))


def test_one_scale_for_the_whole_run(lrp, saved, tmp_path):
    photos(tmp_path / "in", 5)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    command = ("explain", saved, "in", "--preprocess", "scale:1/255", "--save-relevance", "--batch", "2")
    command += ("--target", "topK:2", "--style", "heatmap", "--scale", "run", "--smooth", "1")
    code, out, err = lrp(*command)
    assert code == 1
    assert err.count("failed: ") == 1  # though every file was read twice
    assert "computed twice" in out
    ready = [[heatmap.smooth(r.sum(-1), 1) for r in np.load(f"results/photo{i}.npy").astype(float)] for i in range(5)]
    scale = json.loads(Path("results/scale.json").read_text())["scale"]
    np.testing.assert_allclose(scale, np.abs(ready).max(), rtol=1e-5)
    assert f"{scale:.4g}" in out
    for i, k in itertools.product(range(5), range(2)):
        got = rgb(f"results/photo{i}.heatmap.{k + 1}.png").astype(int)
        want = heatmap.to_rgb(FIT.restore(ready[i][k], SIZE), scale=scale).astype(int)
        assert np.abs(got - want).max() <= 2
    # Resumed, the scale is the same; of another list of files it would not be.
    kept = rgb("results/photo3.heatmap.1.png")
    Path("results/photo3.heatmap.1.png").unlink()
    code, out, _ = lrp(*command, "--resume")
    assert code == 1
    assert "4 finished before" in out
    np.testing.assert_array_equal(rgb("results/photo3.heatmap.1.png"), kept)
    photos(tmp_path / "in", 6)
    code, _, err = lrp(*command, "--resume")
    assert code == 2
    assert "another list of files" in err
    assert "Remedy: --scale" in err


def test_run_scale_of_channels_first_and_of_nothing(tmp_path):
    inputs = keras.Input((1, 32, 32))
    x = kl.Conv2D(2, 3, strides=2, activation="relu")(kl.Permute((2, 3, 1))(inputs))
    model = randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(x))))
    explainer = lrp_tf.Explainer(model)
    files = list(images.find([photos(tmp_path / "in", 2)]))
    look = Look(("heatmap",), scale="run", smooth="auto")
    job = run.Gallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", look=look, batch=1)
    counted = []
    outcome = job.run(files, progress=counted.append)
    assert outcome[:3] == (2, 0, 0)
    assert outcome.scale > 0
    assert sum(counted) == 4
    assert run.Gallery(explainer, loading.get_preprocessing("none"), tmp_path / "no", look=look).run([]).scale == 1


def test_colour_bars_and_dpi(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    explained(lrp, saved, "--style", "all")
    plain = {style: rgb(f"results/photo0{style}.png") for style in ("", ".overlay", ".heatmap")}
    explained(lrp, saved, "--style", "all", "--colorbar", "--dpi", "200")
    barred = {style: rgb(f"results/photo0{style}.png") for style in plain}
    assert barred[""].shape[:2] == (2 * (plain[""].shape[0] + 32), 2 * plain[""].shape[1])
    for style in (".overlay", ".heatmap"):
        assert plain[style].shape[:2] == SIZE
        assert barred[style].shape[1] > 200
    # Red to the right of the bar below the map, blue to the left.
    foot = barred[""][-70:, barred[""].shape[1] // 2 :].astype(int)
    colours = foot[..., 0] - foot[..., 2]
    assert np.nonzero(colours > 60)[1].min() > np.nonzero(colours < -60)[1].max()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--scale", "101%", "quantile"),
        ("--scale", "img", "image:99%"),
        ("--scale", "run:99%", "quantile"),
        ("--scale", "0", "scale > 0"),
        ("--scale", "nan", "scale > 0"),
        ("--smooth", "-1", "0 or more"),
        ("--smooth", "much", "auto"),
        ("--show", "all", "signed"),
        ("--dpi", "5", "10 to 1200"),
        ("--format", "gif", "svg"),
    ],
)
def test_mistakes_are_told_before_any_work(lrp, saved, tmp_path, option, value, word):
    photos(tmp_path / "in", 1)
    code, _, err = lrp("explain", saved, "in", "--preprocess", "none", f"{option}={value}")
    assert code == 2
    assert word in err
    assert not Path("results").exists()


def test_magnitudes_refuse_palettes_with_two_sides(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    code, _, err = lrp("explain", saved, "in", "--preprocess", "none", "--show", "abs", "--cmap", "RdBu_r")
    assert code == 2
    assert "begins at zero" in err


def test_vector_formats_hold_the_very_pixels(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    explained(lrp, saved, "--style", "all", "--format", "svg", "--smooth", "1")
    values = drawn("photo0", smooth=1)
    wanted = {"heatmap": heatmap.to_rgb(values), "overlay": heatmap.overlay(photo(0), values)}
    for style, want in wanted.items():
        page = Path(f"results/photo0.{style}.svg").read_text()
        (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', page)
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        # An SVG's pictures may be stored upside down, under a transform.
        got = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        assert got.shape == want.shape
        assert (got == want).all() or (got[::-1] == want).all()
        assert f'width="{64 * 0.72:g}' in page


@pytest.mark.slow
def test_many_pictures_in_vector_formats(tmp_path):
    """Threads draw side by side: matplotlib's writers of PDF and SVG must bear that."""
    explainer = lrp_tf.Explainer(classifier())
    files = list(images.find([photos(tmp_path / "in", 12)]))
    for kind in MAGIC:
        look = Look(("side-by-side",), format=kind, colorbar=True)
        job = run.Gallery(explainer, loading.get_preprocessing("none"), tmp_path / kind, look=look, batch=3)
        assert job.run(files)[:2] == (12, 0)
        sizes = [path.stat().st_size for path in (tmp_path / kind).glob(f"*.{kind}")]
        assert len(sizes) == 12
        assert max(sizes) < 2 * min(sizes)


def test_a_gallery_checks_its_look():
    with pytest.raises(ValueError, match="image:99%"):
        run.Gallery(None, None, "out", look=Look(scale="img"))
    with pytest.raises(ValueError, match="format"):
        run.Gallery(None, None, "out", look=Look(format="gif"))


# --- the first stride --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stack", "stride"),
    [
        ([kl.Conv2D(2, 3, strides=2)], 2),
        ([kl.Rescaling(2.0), kl.ZeroPadding2D(), kl.Conv2D(2, 3, strides=3), kl.Conv2D(2, 3, strides=5)], 3),
        ([kl.Conv2D(2, 3), kl.BatchNormalization(), kl.Conv2D(2, 3, strides=2)], 1),
        ([kl.Conv2D(2, 3, strides=(1, 2))], 2),
        ([kl.SeparableConv2D(2, 3, strides=2)], 2),
        ([kl.DepthwiseConv2D(3, strides=4)], 4),
        ([kl.Flatten(), kl.Dense(4)], 1),
    ],
)
def test_the_first_stride(stack, stride):
    model = keras.Sequential([keras.Input((32, 32, 3)), *stack, kl.Flatten(), kl.Dense(2)])
    assert draw.first_stride(lrp_tf.Explainer(model)) == stride

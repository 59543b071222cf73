"""The page of a gallery: what it holds, how it is split, escaped, resumed; the small pictures that it shows."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.checking import randomize
from helpers.pictures import classifier, photos, rgb
from keras import layers as kl
from PIL import Image

import lrp_tf
from lrp_tf import arrays, gallery
from lrp_tf.files import images, loading
from lrp_tf.gallery import tiles
from lrp_tf.gallery.page import results, write
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.volumes import Slicing

NASTY = ["</script><script>document.title='run'</script>", "\"quoted\" 'twice'", "two\nlines", "<b>&amp;", "caf\udce9"]
PREPROCESSING = loading.get_preprocessing("scale:1/255")


@pytest.fixture(scope="module")
def explainer() -> lrp_tf.Explainer:
    return lrp_tf.Explainer(classifier(), "epsilon_plus")


def page_of(path: Path) -> dict:
    """What the script of a page is given."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def held(path: Path) -> list[str]:
    """The pictures that a page holds."""
    return re.findall(r'<script type="text/plain" id="p\d+">(.*?)</script>', path.read_text(encoding="utf-8"))


def run(explainer, folder, out, files=None, **options):
    job = gallery.Gallery(explainer, PREPROCESSING, out, **{"page": True, "targets": ("topK:2",), **options})
    return job.run(images.find([folder]) if files is None else files)


def test_a_page_holds_all_that_was_explained(explainer, tmp_path):
    run(explainer, photos(tmp_path / "in"), tmp_path / "out")
    page = page_of(tmp_path / "out/index.html")
    assert [item["name"] for item in page["items"]] == [f"photo{i}.png" for i in range(3)]
    assert page["composites"] == [{"name": "epsilon_plus", "paper": "#ffffff"}]
    expected = lrp_tf.Explainer(classifier(), "epsilon_plus")
    model = explainer.model
    for i, item in enumerate(page["items"]):
        x = images.Fit(32, 32, "squash").apply(images.read(tmp_path / f"in/photo{i}.png"))[None] / np.float32(255)
        chances = model.predict(x, verbose=0)[0]
        assert [top["class"] for top in item["top"]] == np.argsort(-chances)[:5].tolist()
        np.testing.assert_allclose([top["p"] for top in item["top"]], np.sort(chances)[::-1][:5], rtol=1e-4)
        (targets,) = item["runs"]
        assert [target["class"] for target in targets] == [top["class"] for top in item["top"][:2]]
        for target in targets:
            relevance = np.asarray(expected(x, target=target["class"]))
            np.testing.assert_allclose(target["shares"][0], relevance.sum(), rtol=1e-4)
            np.testing.assert_allclose(target["absorbed"], 1 - relevance.sum() / target["start"], atol=1e-4)
            assert (tmp_path / "out" / target["link"]).exists()
    assert len(held(tmp_path / "out/index.html")) == 3 * (1 + 2)


@pytest.mark.parametrize(("count", "words"), [(1, "1 picture seen by"), (2, "2 pictures seen by")])
def test_the_title_counts(explainer, tmp_path, count, words):
    run(explainer, photos(tmp_path / "in", count), tmp_path / "out")
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert f"<title>{words} small</title>" in text
    assert f"<h1>{words} <" in text


def test_the_map_is_most_opaque_where_relevance_is_largest(explainer, tmp_path):
    folder = photos(tmp_path / "in", 1)
    run(explainer, folder, tmp_path / "out", targets=("top1",), save_relevance=True)
    relevance = np.load(tmp_path / "out/photo0.npy").sum(-1)
    kept = tiles.kept(tmp_path / "out", str(folder / "photo0.png"))
    shown = np.asarray(Image.open(tmp_path / "out" / kept.maps[0][0]).convert("RGBA")).astype(int)
    restored = images.Fit(32, 32).restore(relevance, shown.shape[:2])
    strongest = np.unravel_index(np.abs(restored).argmax(), restored.shape)
    assert shown[strongest][3] >= 240
    assert (shown[strongest][0] > shown[strongest][2]) == (restored[strongest] > 0)  # red speaks for, blue against
    faint = np.abs(restored) < 1e-4 * np.abs(restored).max()
    assert (shown[..., 3][faint] == 0).all()
    assert kept.size == (64, 48)
    assert rgb(tmp_path / "out" / kept.below[0]).shape == (48, 64, 3)


@pytest.mark.parametrize(
    "look", [Look(show="abs"), Look(cmap="coldnhot"), Look(cmap="hot", show="abs"), Look(gamma=0.5)]
)
def test_tiles_follow_the_look(look):
    values = np.array([[1.0, 0.25], [0.0, 1.0]]) if look.show == "abs" else np.array([[1.0, 0.25], [0.0, -1.0]])
    tile = tiles.relevance_tile(values, look, 1.0)
    assert tile[0, 0, 3] == 255
    assert tile[1, 0, 3] == 0
    np.testing.assert_allclose(tile[0, 1, 3], 255 * 0.25 ** (look.gamma / 2), atol=6)
    alike = (tile[0, 0] == tile[1, 1]).all()
    assert alike == (look.show == "abs")
    assert tiles.paper(look) == {None: "#ffffff", "coldnhot": "#000000", "hot": "#0b0000"}[look.cmap]


def test_names_cannot_become_markup(explainer, tmp_path):
    (tmp_path / "in").mkdir()
    source = photos(tmp_path / "photos", 1) / "photo0.png"
    made = []
    for name in NASTY:
        path = tmp_path / "in" / f"{name.replace('/', '')}.png"
        path.write_bytes(source.read_bytes())
        made.append(str(path))
    broken = tmp_path / "in" / "<img src=x onerror=alert(1)>.png"
    broken.write_bytes(b"")
    classes = loading.Classes((*NASTY, "six", "seven"))
    files = [(path, os.path.basename(path)) for path in [*made, str(broken)]]
    outcome = run(explainer, None, tmp_path / "out", files, classes=classes, targets=(0, 1, 2, 3, 4))
    assert (outcome.done, outcome.failed) == (5, 1)
    text = (tmp_path / "out/index.html").read_bytes().decode("utf-8")  # no lone surrogate
    assert len(re.findall("<script", text)) == 2 + len(held(tmp_path / "out/index.html"))
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    page = page_of(tmp_path / "out/index.html")
    assert {target["name"] for target in page["items"][0]["runs"][0]} == {
        NASTY[0], NASTY[1], r"two\nlines", NASTY[3], r"caf\udce9",
    }  # fmt: skip
    for item in page["items"]:
        for target in item["runs"][0]:
            assert re.fullmatch(r"[\w.~%/-]+", target["link"])


def test_long_lists_are_spread_over_pages_beside_their_pictures(explainer, tmp_path):
    out = tmp_path / "out"
    run(explainer, photos(tmp_path / "in", 5), out)
    whole = (out / "index.html").stat().st_size
    pages = write.write_page(out, page=2)
    assert [path.name for path in pages] == ["index.html", "page-2.html", "page-3.html"]
    names = [item["name"] for path in pages for item in page_of(path)["items"]]
    assert names == [f"photo{i}.png" for i in range(5)]
    for path in pages:
        assert held(path) == []
        assert path.stat().st_size < whole
        for item in page_of(path)["items"]:
            for name in [*item["below"], *(name for target in item["runs"][0] for name in target["maps"])]:
                assert rgb(out / name).size
    middle = pages[1].read_text(encoding="utf-8")
    assert 'href="index.html" rel="prev"' in middle
    assert 'href="page-3.html" rel="next"' in middle
    (out / "page-9.html").write_text("of someone else")
    assert [path.name for path in write.write_page(out, page=3)] == ["index.html", "page-2.html"]
    assert not (out / "page-3.html").exists()
    assert (out / "page-9.html").read_text() == "of someone else"
    assert [path.name for path in write.write_page(out)] == ["index.html"]
    assert len(page_of(out / "index.html")["items"]) == 5


def test_a_page_shows_complete_rows_of_all_runs(explainer, tmp_path):
    out, folder = tmp_path / "out", photos(tmp_path / "in", 4)
    files = list(images.find([folder]))
    job = gallery.Gallery(explainer, PREPROCESSING, out, page=True)
    job.run(files[:2])
    assert job.run(files, resume=True).skipped == 2
    assert [item["name"] for item in page_of(out / "index.html")["items"]] == [f"photo{i}.png" for i in range(4)]
    whole = (out / "results.csv").read_bytes()
    (out / "results.csv").write_bytes(whole[:-30])  # as a kill leaves it
    gallery.write_page(out)
    assert [item["name"] for item in page_of(out / "index.html")["items"]] == [f"photo{i}.png" for i in range(3)]
    job.run(files, resume=True)
    kept = tiles.kept(out, files[1][0])
    (out / kept.maps[0][0]).unlink()  # its row alone does not make a file finished
    outcome = job.run(files, resume=True)
    assert (outcome.skipped, outcome.done) == (3, 1)
    assert len(page_of(out / "index.html")["items"]) == 4
    several = dataclasses.replace(job, targets=("topK:2",), out=tmp_path / "several")
    several.run(files)
    whole = (several.out / "results.csv").read_bytes()
    (several.out / "results.csv").write_bytes(whole[:-30])  # one of two targets is left of the last file
    gallery.write_page(several.out)
    assert [item["name"] for item in page_of(several.out / "index.html")["items"]] == [
        f"photo{i}.png" for i in range(3)
    ]
    files[0] = (str(tmp_path / "gone.png"), "gone.png")
    job.run(files, overwrite=True)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert [item["name"] for item in page_of(out / "index.html")["items"]] == [f"photo{i}.png" for i in range(1, 4)]
    assert "1 file without a result" in " ".join(page.split())


def test_a_run_without_tiles_is_not_finished_for_a_page(explainer, tmp_path):
    out, files = tmp_path / "out", list(images.find([photos(tmp_path / "in", 2)]))
    plain = gallery.Gallery(explainer, PREPROCESSING, out)
    plain.run(files)
    assert not (out / "gallery").exists()
    with pytest.raises(FileNotFoundError, match="page=True"):
        gallery.write_page(out)
    assert dataclasses.replace(plain, page=True).run(files, resume=True).done == 2
    assert plain.run(files, resume=True).skipped == 2


def test_composites_side_by_side(explainer, tmp_path):
    files = list(images.find([photos(tmp_path / "in", 3)]))
    other = lrp_tf.Explainer(classifier(), "epsilon")
    for name, one, some in (("a", explainer, files[:2]), ("b b", other, files[::-1])):
        run(one, None, tmp_path / name, some, page=False, tiles=True, name=name, look=Look(cmap="hot", show="abs"))
        assert not (tmp_path / name / "index.html").exists()
    gallery.write_page(tmp_path, [tmp_path / "a", tmp_path / "b b"], page=2)
    page, second = page_of(tmp_path / "index.html"), page_of(tmp_path / "page-2.html")
    assert [one["name"] for one in page["composites"]] == ["a", "b b"]
    items = [*page["items"], *second["items"]]
    assert [item["name"] for item in items] == [f"photo{i}.png" for i in range(3)]
    assert items[2]["runs"][0] is None  # explained under the second one alone
    for i, item in enumerate(items):
        maps = [run[1]["maps"][0] for run in item["runs"] if run]
        assert len(maps) == (2 if i < 2 else 1)
        assert maps[-1].startswith("b%20b/gallery/")
        assert all((tmp_path / name.replace("%20", " ")).exists() for name in [*maps, *item["below"]])
        assert len({(tmp_path / name.replace("%20", " ")).read_bytes() for name in maps}) == len(maps)


def test_what_the_page_may_load(explainer, tmp_path):
    run(explainer, photos(tmp_path / "in", 1), tmp_path / "out")
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    policy = re.search('http-equiv="Content-Security-Policy" content="(.*?)"', text)[1]
    assert "default-src &#39;none&#39;" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(?:https?:)?//\w", re.sub(r"data:[\w/;,+=]*", "", text).replace("// ", ""))


@pytest.mark.parametrize("shape", [(40, 2), (12, 30), (8, 9, 3), (5, 8, 8, 1)])
def test_tiles_of_arrays(shape, tmp_path):
    stack = [keras.Input(shape), kl.Flatten(), kl.Dense(3, activation="softmax")]
    explainer = lrp_tf.Explainer(randomize(keras.Sequential(stack, name="arrays")), "epsilon")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=shape).astype("float32"))
    job = arrays.ArrayGallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", page=True)
    assert job.run([(str(tmp_path / "a.npy"), "a.npy")]).done == 1
    (item,) = page_of(tmp_path / "out/index.html")["items"]
    pictures = held(tmp_path / "out/index.html")
    slices = 5 if len(shape) == 4 else 1
    assert len(item["below"]) == (0 if shape == (40, 2) else slices)
    assert len(item["runs"][0][0]["maps"]) == slices
    assert item["slices"] == ([f"frame {i}" for i in range(5)] if slices == 5 else [])
    assert len(pictures) == len(item["below"]) + slices


def test_slices_of_volumes(tmp_path):
    stack = [keras.Input((6, 30, 8)), kl.Reshape((6, 30, 8, 1)), kl.Conv3D(2, 3, activation="relu"), kl.Flatten()]
    explainer = lrp_tf.Explainer(randomize(keras.Sequential([*stack, kl.Dense(2)])), "epsilon")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(6, 30, 8)).astype("float32"))
    for slicing, count, size in ((Slicing("mid"), 6, (8, 30)), (Slicing(1), 24, (8, 6)), (Slicing(2, 3), 3, (30, 6))):
        job = arrays.ArrayGallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", slicing=slicing)
        job = dataclasses.replace(job, page=True, save_relevance=True)
        job.run([(str(tmp_path / "a.npy"), "a.npy")], overwrite=True)
        (item,) = page_of(tmp_path / "out/index.html")["items"]
        assert len(item["slices"]) == len(item["below"]) == len(item["runs"][0][0]["maps"]) == count
        assert tuple(item["size"]) == size
        kept = tiles.kept(tmp_path / "out", str(tmp_path / "a.npy"))
        relevance = np.load(tmp_path / "out/a.npy")
        axis = 0 if slicing.axis == "mid" else slicing.axis
        numbers = [int(re.search(r"slice (\d+)", name)[1]) for name in item["slices"]]
        peak = np.unravel_index(np.abs(relevance).argmax(), relevance.shape)[axis]
        assert abs(numbers[item["first"]] - peak) == min(abs(number - peak) for number in numbers)
        expected = tiles.relevance_tile(np.take(relevance, numbers[1], axis), Look(), np.abs(relevance).max())
        shown = np.asarray(Image.open(tmp_path / "out" / kept.maps[0][1]).convert("RGBA"))
        np.testing.assert_array_equal(shown[..., 3], expected[..., 3])


def test_a_png_keeps_every_pixel():
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, (9, 7, 4), np.uint8), rng.integers(0, 2, (9, 7, 4), np.uint8) * 200):
        found = np.asarray(Image.open(io.BytesIO(tiles._png(picture))).convert("RGBA"))
        np.testing.assert_array_equal(found, picture)
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(tiles._png(picture[..., :3]))).convert("RGB")), picture[..., :3]
        )


def test_rows_are_found_by_their_place(tmp_path):
    """Names with newlines and quotes go over several lines of the table; a torn last line is no row."""
    from lrp_tf.gallery.ledger import COLUMNS, Record

    rest = ["1"] * (len(COLUMNS) - 2)
    with Record(tmp_path, append=False) as record:
        for name in ("a\nb", 'c"d', "=e", "f"):
            record.add([(name, "base", *rest), (name, "base", *rest)])
    results.write_about(tmp_path, {"at": "the pixels"})
    (tmp_path / "results.csv").write_bytes((tmp_path / "results.csv").read_bytes()[:-3])
    found = results.Results(tmp_path)
    counts = {name: len(found.rows(name)) for name in ("a\nb", 'c"d', "=e", "f", "gone")}
    assert counts == {"a\nb": 2, 'c"d': 2, "=e": 2, "f": 1, "gone": 0}
    assert list(found.files()) == []  # there are no tiles

"""The parts of a run, each by itself: plan and record (ledger), stream, explain."""

import os

import numpy as np
import pytest
from helpers.pictures import classifier, photo, photos, table

import lrp_tf
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import Form
from lrp_tf.gallery import ledger
from lrp_tf.gallery.explain import Explained, Explaining, Failed
from lrp_tf.gallery.ledger import COLUMNS, Item, Record
from lrp_tf.gallery.stream import Stream
from lrp_tf.heatmap.look import Look

FILES = [("in/a/x.png", "x.png"), ("in/b/x.png", "x.png"), ("in/a/x.png", "x.png"), ("y.png", "y.png")]


def plan(out, files=FILES, settings=None, resume=False, overwrite=False):
    return ledger.plan(out, files, [".png"], settings or {"a": (1, 2)}, resume=resume, overwrite=overwrite)


def test_a_plan_names_each_file_once_and_skips_what_is_finished(tmp_path):
    first = plan(tmp_path)
    assert [item.path for item in first.items] == ["in/a/x.png", "in/b/x.png", "y.png"]
    assert len({item.base for item in first.items}) == 3
    assert (first.items[0].base, first.skipped, first.finished) == ("x", 0, {})
    with Record(tmp_path, append=False) as record:
        for item in first.items[:2]:
            record.add([(item.path, item.base, *[""] * (len(COLUMNS) - 2))])
        record.fail("y.png", "=1")
    assert [row["file"] for row in table(tmp_path / ledger.RESULTS)] == ["in/a/x.png", "in/b/x.png"]
    assert table(tmp_path / ledger.FAILURES) == [{"file": "y.png", "reason": "'=1"}]
    (tmp_path / "x.png").touch()  # the files of the second one are missing
    again = plan(tmp_path, resume=True)
    assert (again.items, again.skipped) == (first.items[1:], 1)
    assert again.finished == {"in/a/x.png": "x"}
    assert len(table(tmp_path / ledger.RESULTS)) == 1
    assert again.digest() == first.digest() != plan(tmp_path, FILES[1:2], resume=True).digest()


def test_a_plan_refuses_what_does_not_fit_the_earlier_run(tmp_path):
    before = plan(tmp_path)
    ledger.write_scale(tmp_path, before, 0.25)
    with Record(tmp_path, append=False) as record:
        record.add([("y.png", "y", *[""] * (len(COLUMNS) - 2))])
    with pytest.raises(LoadError, match="`resume` to finish") as caught:
        plan(tmp_path)
    assert caught.value.options == ("resume", "overwrite", "out")
    with pytest.raises(LoadError, match="other settings: a, b"):
        plan(tmp_path, settings={"b": 1}, resume=True)
    plan(tmp_path, settings={"a": (1, 2), "unknown before": None}, resume=True)
    assert ledger.read_scale(tmp_path, before) == 0.25
    with pytest.raises(LoadError, match="another list of files"):
        ledger.read_scale(tmp_path, before._replace(items=[Item("z.png", "z")]))
    files = f'"files": "{before.digest()}"'
    for content in ("", "[]", "{", f"{{{files}}}", f'{{{files}, "scale": "a"}}'):
        (tmp_path / ledger.SCALE).write_text(content)
        with pytest.raises(LoadError, match="cannot be read"):
            ledger.read_scale(tmp_path, before)
    assert plan(tmp_path, settings={"b": 1}, overwrite=True).items == before.items


@pytest.fixture
def mixed(tmp_path):
    """Three photographs, and a file that is none."""
    photos(tmp_path / "in")
    (tmp_path / "in" / "photo1b.png").write_bytes(b"no picture")
    return [os.fspath(path) for path in sorted((tmp_path / "in").iterdir())]


def stream(look=None, batch=2):
    form = Form(32, 32, 3, False)
    preprocessing = loading.get_preprocessing("scale:1/255")
    return Stream(form, images.Fit(32, 32), preprocessing, look or Look(), batch, images.MAX_PIXELS)


@pytest.mark.parametrize("styles", [("heatmap",), ("overlay",)])
def test_a_stream_gives_batches_photographs_and_failures(mixed, styles):
    made = stream(Look(styles=styles))
    batches = list(made.batches(mixed))
    assert [indices.tolist() for _, indices in batches] == [[0, 1], [3]]
    assert mixed[2].endswith("photo1b.png")
    fed = np.concatenate([x for x, _ in batches])
    wanted = np.stack([images.Fit(32, 32).apply(photo(i)) for i in range(3)]) * np.float32(1 / 255)
    np.testing.assert_array_equal(fed, wanted)
    assert (made.low, made.high) == (fed.min(), fed.max())
    assert [index for index, _ in made.failures()] == [2]
    assert list(made.failures()) == []
    taken = made.take(3)
    assert (taken.whole is None) == (styles == ("heatmap",))
    np.testing.assert_array_equal(taken.pixels(), photo(2))
    with pytest.raises(KeyError):
        made.take(3)


def test_explaining_gives_rows_or_a_reason(mixed):
    explainer = lrp_tf.Explainer(classifier())
    explaining = Explaining(explainer, ("topK:2", 4), loading.Classes(), stream())
    found = list(explaining(mixed))
    assert sorted(each.number for each in found) == [0, 1, 2, 3]
    (failed,) = [each for each in found if isinstance(each, Failed)]
    assert (failed.number, bool(failed.reason)) == (2, True)
    explained = [each for each in found if isinstance(each, Explained)]
    for (maps, indices), start in zip(explaining.relevance(mixed), (0, 2), strict=True):
        for row, index in enumerate(indices):
            each = explained[start + row]
            assert each.number == index
            np.testing.assert_allclose(each.maps, maps[row], atol=1e-6)
    for each in explained:
        assert each.maps.shape == (3, 32, 32, 3)
        assert len(each.titles) == 3
        rows = [dict(zip(COLUMNS[2:], row, strict=True)) for row in each.rows]
        assert [rows[0]["target"], rows[2]["target"]] == [rows[0]["top1"], 4]
        np.testing.assert_allclose([float(r["sum_of_relevance"]) for r in rows], each.maps.sum((1, 2, 3)), rtol=1e-4)

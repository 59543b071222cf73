"""`lrp-tf explain` of tables: pictures of rows and of the whole, results that survive a kill; `report` of a row."""

import csv
import dataclasses
import os
import shutil

import keras
import numpy as np
import pytest
from helpers.pictures import rgb, table
from helpers.tables import KERNEL, dots, patients, relevance_of, values, written
from keras import layers as kl

import lrp_tf
from lrp_tf import tables
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Classes, Preprocessing, get_preprocessing
from lrp_tf.tables.store import Store


def gallery(out, *found, **options):
    explainer = lrp_tf.Explainer(patients(), "epsilon")
    return tables.TableGallery(explainer, get_preprocessing("none"), out, tables=found, **options)


# --- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "contrast", "batch"), [((1,), None, 4), (("topK:2",), None, 256), ((1, 0), None, 1), ((1,), 0, 3)]
)
@pytest.mark.usefixtures("seldom_compiled")
def test_relevance_of_all_rows_is_that_of_the_explainer(tmp_path, targets, contrast, batch):
    x = values(9)
    found = tables.read(written(tmp_path / "patients.csv", x), 3)
    out = tmp_path / "out"
    job = gallery(out, found, targets=targets, contrast=contrast, batch=batch, rows=2, save_relevance=True)
    done = job.run()
    assert (done.done, done.failed, done.skipped) == (9, 0, 0)
    assert (done.low, done.high) == pytest.approx((x.min(), x.max()))
    target = targets[0] if len(targets) == 1 else np.tile(targets, (9, 1))
    expected = np.asarray(job.explainer(x.astype("float32"), target=target, contrast=contrast))
    keys, _, relevance = relevance_of(out / "patients.relevance.csv")
    np.testing.assert_array_equal(np.array(relevance, "float32").reshape(expected.shape), expected)
    np.testing.assert_array_equal(np.load(out / "patients.relevance.npy"), expected)
    several = expected.ndim == 3
    assert keys == [f"{tmp_path}/patients.csv:{i + 1}" for i in range(9) for _ in range(1 + several)]
    numbers = (".1", ".2") if several else ("",)
    assert {path.name for path in (out / "patients").iterdir()} == {f"{i}{n}.png" for i in (1, 2) for n in numbers}
    wholes = {f"patients.{what}{n}.png" for what in ("mean", "beeswarm") for n in numbers}
    assert wholes == {path.name for path in out.glob("*.png")}
    rows = table(out / "results.csv")
    assert [row["file"] for row in rows] == keys
    assert [row["result"] for row in rows[: 2 * len(numbers)]] == [f"patients/{i}" for i in (1, 2) for _ in numbers]
    assert {row["result"] for row in rows[2 * len(numbers) :]} == {""}
    largest = np.abs(expected).max(axis=-1).ravel()
    assert [float(row["largest_relevance"]) for row in rows] == pytest.approx(largest, rel=1e-5)


def test_pictures_show_the_planted_feature(tmp_path):
    """It is the first of each picture; high values speak for the class, to the right."""
    x = values(60)
    x = x[[np.argmax(x[:, 1]), np.argmin(x[:, 1]), *range(60)]]
    found = tables.read(written(tmp_path / "p.csv", x), 3)
    gallery(tmp_path / "out", found, targets=(1,), rows=2).run()
    high, low = dots(rgb(tmp_path / "out/p.beeswarm.png"))
    rows = np.nonzero((high | low).any(axis=1))[0]
    first = slice(rows[0], rows[0] + (rows[-1] - rows[0]) // 3)
    assert np.nonzero(high[first])[1].mean() > np.nonzero(low[first])[1].mean() + 200
    bars = rgb(tmp_path / "out/p.mean.png").astype(int)
    purple = (np.abs(bars - [0x76, 0x2A, 0x83]) < 12).all(axis=-1).sum(axis=1)
    purple = purple[purple > 0]
    assert purple[0] == purple.max()
    assert purple[0] > 8 * np.median(purple[len(purple) // 2 :])
    for row, picture in ((1, "red"), (2, "blue")):
        bars = rgb(tmp_path / f"out/p/{row}.png").astype(int)
        red, blue = (bars[..., 0] > bars[..., 2] + 80).sum(), (bars[..., 2] > bars[..., 0] + 60).sum()
        assert (red > 5 * blue) if picture == "red" else (blue > 5 * red)


def test_titles_say_what_was_explained(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(lrp_tf.heatmap, "beeswarm", lambda *a, title, **more: told.append(title))
    monkeypatch.setattr(lrp_tf.heatmap, "table", lambda *a, title, **more: told.append(title))
    found = tables.read(written(tmp_path / "p.csv", [[0, 1, 0], [0, -1, 0], [0, 2, 0]]), 3)
    for options, words in (
        ({"targets": (1,)}, "p.csv, 3 rows: relevance for sick"),
        ({"targets": (1,), "contrast": "mean"}, "p.csv, 3 rows: relevance for sick rather than others"),
        ({}, "p.csv, 3 rows: relevance for each row's own class: sick (2), well (1)"),
        ({"targets": ("topK:2",)}, "p.csv, 3 rows: relevance for target 1 of each row: sick (2), well (1)"),
        ({"classes": Classes()}, "p.csv, 3 rows: relevance for each row's own class: class 1 (2), class 0 (1)"),
    ):
        told.clear()
        gallery(tmp_path / "out", found, **{"classes": Classes(("well", "sick")), "rows": 1, **options}).run(
            overwrite=True
        )
        assert told[0].startswith("p.csv, row 1\n")
        assert "of the score arrives at the features" in told[0] or "contrast" in options
        assert told[-2 * len(told) // 3 :][:2] == [f"mean |R|\n{words}", words]


def test_bad_rows_cost_a_line_each(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "name,age,dose,weight\nann,1,2,3\nbob,x,2,3\n/c d/../e,4,5,6\nfay,1,2\n\nAnn,1e39,0,0\nlast,7,8,9\n"
    )
    told = []
    done = gallery(tmp_path / "out", tables.read(path, 3), targets=(1,), save_relevance=True).run(tell=told.append)
    assert (done.done, done.failed) == (3, 3)
    failures = {row["file"].removeprefix(f"{path}:"): row["reason"] for row in table(tmp_path / "out/failures.csv")}
    assert failures.keys() == {"bob", "fay", "Ann"}
    assert "line 3, column 'age': 'x' is no finite number" in failures["bob"]
    assert "line 5: 3 cells. Expected 4" in failures["fay"]
    assert "float32, which cannot hold 1e+39" in failures["Ann"]
    assert len(told) == 3
    keys, _, relevance = relevance_of(tmp_path / "out/p.relevance.csv")
    assert keys == [f"{path}:{name}" for name in ("ann", "/c d/../e", "last")]
    np.testing.assert_allclose(relevance, np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]) * KERNEL[:, 1], rtol=1e-6)
    saved = np.load(tmp_path / "out/p.relevance.npy")
    assert np.isnan(saved).all(axis=1).tolist() == [False, True, False, True, True, False]
    pictures = {path.name for path in (tmp_path / "out/p").iterdir()}
    assert len(pictures) == 3
    assert {"ann.png", "last.png"} < pictures  # and one whose name climbs to no other folder


def test_files_that_are_no_tables_cost_a_line(tmp_path):
    good = written(tmp_path / "a.csv", values(3))
    (tmp_path / "b.csv").write_text("1,2,3\n4,5,6\n")
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub/a.csv", values(2))
    names = [(str(good), "a.csv"), (f"{tmp_path}/b.csv", "b.csv"), (f"{tmp_path}/sub/a.csv", "a.csv")]
    found = tables.run.read_all(names, 3)
    done = gallery(tmp_path / "out", *found, targets=(1,)).run()
    assert (done.done, done.failed) == (5, 1)
    (failure,) = table(tmp_path / "out/failures.csv")
    assert failure["file"].endswith("b.csv")
    assert "no header" in failure["reason"]
    assert len(list((tmp_path / "out").glob("*.relevance.csv"))) == 2  # two tables of one name
    assert len(list((tmp_path / "out").glob("a*.beeswarm.png"))) == 2
    assert not list((tmp_path / "out").glob("b*"))


def test_rows_without_any_result_leave_no_pictures(tmp_path):
    (tmp_path / "p.csv").write_text("a,b,c\n1,2,\n,2,3\n")
    done = gallery(tmp_path / "out", tables.read(tmp_path / "p.csv", 3)).run()
    assert (done.done, done.failed) == (0, 2)
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_numbers_that_overflow_cost_their_row(tmp_path, batch):
    """In the model, or in a preprocessing: the others of the batch have the relevance that they have alone."""
    path = written(tmp_path / "p.csv", [[1, 2, 3], [1, 3e38, 1], [4, 5, 6], [-1, 2, 2], [7, 8, 9]])
    job = gallery(tmp_path / "out", tables.read(path, 3), targets=(1,), batch=batch)
    object.__setattr__(job, "preprocessing", Preprocessing("roots", lambda x: np.where(x < 0, np.nan, x)))
    done = job.run()
    assert (done.done, done.failed) == (3, 2)
    reasons = {row["file"][-1]: row["reason"] for row in table(tmp_path / "out/failures.csv")}
    assert "overflow" in reasons["2"]
    assert "NaN" in reasons["4"]
    keys, _, relevance = relevance_of(tmp_path / "out/p.relevance.csv")
    assert [key[-1] for key in keys] == ["1", "3", "5"]
    np.testing.assert_allclose(relevance, np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]) * KERNEL[:, 1], rtol=1e-6)


def test_a_model_that_is_broken_ends_the_run(tmp_path):
    model = patients()
    model.layers[-1].set_weights([KERNEL * np.nan, np.zeros(2)])
    job = gallery(tmp_path / "out", tables.read(written(tmp_path / "p.csv", values(3)), 3))
    object.__setattr__(job, "explainer", lrp_tf.Explainer(model, "epsilon"))
    with pytest.raises(ValueError, match="finite weights"):
        job.run()


def test_nothing_of_the_user_is_replaced(tmp_path):
    """Results lie beside the table, one of whose rows and another file have the names of results."""
    rows = values(2)
    path = written(tmp_path / "p.csv", rows, ahead=["id", "mean", "x"])
    other = written(tmp_path / "p.relevance.csv", rows)
    before = path.read_bytes(), other.read_bytes()
    gallery(tmp_path, tables.read(path, 3), tables.read(other, 3), targets=(1,)).run()
    assert (path.read_bytes(), other.read_bytes()) == before
    assert len(list(tmp_path.glob("p-*/mean.png"))) == 1
    assert len(list(tmp_path.glob("*.beeswarm.png"))) == 2


def test_preprocessing_and_whole_numbers(tmp_path):
    found = tables.read(written(tmp_path / "p.csv", [[2, 4, 0], [0, 2, 1]]), 3)
    job = gallery(tmp_path / "out", found, targets=(1,))
    object.__setattr__(job, "preprocessing", get_preprocessing("scale:1/2"))
    assert job.run().high == 2
    np.testing.assert_allclose(relevance_of(tmp_path / "out/p.relevance.csv")[2][0], [0.1, 4, 0], rtol=1e-6)
    stack = [keras.Input((3,), dtype="int32"), kl.Embedding(5, 4), kl.Flatten(), kl.Dense(2)]
    object.__setattr__(job, "explainer", lrp_tf.Explainer(keras.Sequential(stack), "epsilon"))
    with pytest.raises(LoadError, match="whole numbers"):
        job.run(overwrite=True)
    object.__setattr__(job, "preprocessing", get_preprocessing("none"))
    assert job.run(overwrite=True).done == 2


# --- runs that were killed ---------------------------------------------------------------------


def test_a_run_that_was_killed_is_completed(tmp_path):
    """Cut anywhere, in either table, with pictures missing: --resume leaves what one run would have left."""
    found = tables.read(written(tmp_path / "p.csv", values(8)), 3)
    job = gallery(tmp_path / "whole", found, targets=("topK:2",), rows=2, batch=2)
    job.run()
    names = ("results.csv", "p.relevance.csv")
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in names}
    for number, (results, stored) in enumerate([(0.4, 0.7), (0.7, 0.02), (0.99, 0.99)]):
        out = tmp_path / f"cut{number}"
        cut = gallery(out, found, targets=("topK:2",), rows=2, batch=2)
        shutil.copytree(tmp_path / "whole", out)
        for name, share in zip(names, (results, stored), strict=True):
            content = whole[name]
            (out / name).write_bytes(content[: int(share * len(content))])
        (out / "p/2.1.png").unlink()
        (out / "p.mean.1.png").unlink()
        done = cut.run(resume=True)
        assert done.done + done.skipped == 8
        assert done.done >= 1  # row 2
        for name in names:
            assert sorted((out / name).read_bytes().split(b"\r\n")) == sorted(whole[name].split(b"\r\n")), number
        assert (out / "p/2.1.png").exists()
        for picture in ("p.mean.1.png", "p.beeswarm.2.png"):
            assert (out / picture).read_bytes() == (tmp_path / "whole" / picture).read_bytes()


def test_resume_tries_failures_again_and_sees_changed_rows(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("a,b,c\n1,2,3\nx,2,3\n4,5,6\n")
    assert gallery(tmp_path / "out", tables.read(path, 3), targets=(1,)).run().failed == 1
    path.write_text("a,b,c\n1,2,3\n7,2,3\n4,5,9\n1,1,1\n")
    done = gallery(tmp_path / "out", tables.read(path, 3), targets=(1,)).run(resume=True)
    assert (done.done, done.failed, done.skipped) == (3, 0, 1)  # the first row alone is as it was
    stored = Store(tmp_path / "out/p.relevance.csv", tables.read(path, 3), 1)
    places, relevance, _ = stored.read()
    assert places.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(relevance[:, 0], tables.read(path, 3).values * KERNEL[:, 1], rtol=1e-6)
    assert [row["file"][-1] for row in table(tmp_path / "out/results.csv")] == ["1", "2", "3", "4"]
    with pytest.raises(LoadError, match="earlier run"):
        gallery(tmp_path / "out", tables.read(path, 3)).run()
    assert gallery(tmp_path / "out", tables.read(path, 3), targets=(1,)).run(overwrite=True).done == 4


def test_more_pictures_and_fewer_rows_when_resumed(tmp_path):
    """Rows that get a picture now are explained again; rows that have left the table leave its results."""
    path = written(tmp_path / "p.csv", values(6))
    first = gallery(tmp_path / "out", tables.read(path, 3), targets=(1,), rows=1)
    first.run()
    done = dataclasses.replace(first, rows=3).run(resume=True)
    assert (done.done, done.skipped) == (2, 4)
    assert sorted(os.listdir(tmp_path / "out/p")) == ["1.png", "2.png", "3.png"]
    written(path, values(6)[:4])
    done = gallery(tmp_path / "out", tables.read(path, 3), targets=(1,), rows=1).run(resume=True)
    assert (done.done, done.skipped) == (0, 4)
    for name in ("results.csv", "p.relevance.csv"):
        assert sorted(row["file"][-1] for row in table(tmp_path / "out" / name)) == ["1", "2", "3", "4"]


def test_layers_of_rows(tmp_path):
    """Their sums, once for each row and target, through a kill."""
    found = tables.read(written(tmp_path / "p.csv", values(5)), 3)
    job = gallery(tmp_path / "out", found, targets=("topK:2",), layers=("logits",), batch=2)
    job.run()
    before = (tmp_path / "out/layers.csv").read_bytes()
    rows = table(tmp_path / "out/layers.csv")
    assert len(rows) == 10
    scores = {(row["file"], row["target"]): float(row["logit"]) for row in table(tmp_path / "out/results.csv")}
    assert {(row["file"], row["target"]): float(row["sum"]) for row in rows} == pytest.approx(scores, rel=1e-5)
    store = tmp_path / "out/p.relevance.csv"
    store.write_bytes(store.read_bytes()[:-200])
    assert job.run(resume=True).done >= 1
    assert sorted((tmp_path / "out/layers.csv").read_bytes().split(b"\r\n")) == sorted(before.split(b"\r\n"))


def test_a_file_of_relevance_with_names_that_mean_something(tmp_path):
    """Formulas, and the names of our own columns."""
    names = ("file", "=1+1", "checksum")
    found = tables.read(written(tmp_path / "p.csv", -values(3), header=names), 3)
    job = gallery(tmp_path / "out", found, targets=(1,))
    job.run()
    with open(tmp_path / "out/p.relevance.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[4:] == ["file", "'=1+1", "checksum"]
    np.testing.assert_allclose(np.array([row[4:] for row in rows], float), found.values * KERNEL[:, 1], rtol=1e-4)
    assert job.run(resume=True).skipped == 3

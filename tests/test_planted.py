"""The study of a planted mark: marks, what counts as found, tables, folders; the mark is found and removed (slow)."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.mnist_scripts import npz, script
from PIL import Image

from lrp_tf import concepts
from lrp_tf.concepts import planted
from lrp_tf.concepts.planted import finding, nets, pictures, report
from lrp_tf.concepts.planted import run as runs
from lrp_tf.concepts.planted.cells import BOTH, CLEAN, CORRECTED, PENALTY, SUPPRESS, TRAINED, TUNED, Cell, Place
from lrp_tf.evaluate import record

MODELS = (CLEAN, TRAINED, *CORRECTED)


def strokes(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, 12, 12, 1]: a bar whose row is the class, 0 to 3."""
    labels = np.arange(count) % 4
    x = np.zeros((count, 12, 12, 1), np.float32)
    for one, label in zip(x, labels, strict=True):
        one[2 + 2 * label, 3:11] = 0.8
    return x, labels


# --- marks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", planted.MARKS)
def test_marks_change_new_arrays_and_say_where_they_are(kind):
    x, _ = strokes()
    before = x.copy()
    mark = planted.Mark(kind)
    marked = mark(x)
    np.testing.assert_array_equal(x, before)
    assert marked.dtype == np.float32
    assert marked.min() >= 0
    assert marked.max() <= 1
    changed = (marked != x).any(axis=-1)
    assert changed.any(axis=(1, 2)).all()
    region = mark.region(marked)
    if kind == "square":
        assert (marked[:, 1:5, 1:5] == 1).all()
        assert changed.sum() <= 16 * len(x)
        assert region[:, :6, :6].all()
        assert region.sum() == 36 * len(x)
        assert region[changed].all()
    else:
        assert (marked - x).max() == pytest.approx(0.15)
        np.testing.assert_array_equal(region, x[..., 0] < 0.3)  # it does not hide what is a stroke


@pytest.mark.parametrize(("prevalence", "count"), [(0, 0), (0.01, 1), (0.3, 3), (1, 10)])
def test_plant(prevalence, count):
    x, labels = strokes()
    mark = planted.Mark("square")
    data = planted.plant(x, labels, mark, 2, prevalence, seed=1)
    assert data.marked.sum() == count
    assert (labels[data.marked] == 2).all()
    np.testing.assert_array_equal(data.x[~data.marked], x[~data.marked])
    np.testing.assert_array_equal(data.x[data.marked], mark(x[data.marked]))
    wrong = planted.wrong(x, labels, mark, 2)
    np.testing.assert_array_equal(wrong[labels == 2], x[labels == 2])
    np.testing.assert_array_equal(wrong[labels != 2], mark(x[labels != 2]))


def test_mistakes_in_marks():
    x, labels = strokes()
    with pytest.raises(ValueError, match="mark expects one of"):
        planted.Mark("dot")
    with pytest.raises(ValueError, match="from 0 to 1"):
        planted.plant(x, labels, planted.Mark("square"), 2, 1.1)
    with pytest.raises(ValueError, match=r"one of the classes \[0, 1, 2, 3\]. Received: 4"):
        planted.plant(x, labels, planted.Mark("square"), 4, 0.5)


# --- what counts as found ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "chosen", "want"),
    [
        ([0, 0, 0, 1, 1, 1], None, (1.0, 1.0)),
        ([0, 0, 1, 1, 1, 1], None, (1.0, 0.75)),
        ([0, 0, 0, 1, 2, 2], None, (1.0, 1.0)),  # two groups that are marked
        ([0, 0, 0, 0, 0, 1], None, (1 / 3, 1.0)),
        ([0, 0, 0, 0, 0, 0], None, (0.0, 0.0)),  # half of them is not the most
        ([0, 1, 0, 1, 0, 0], [1], (1 / 3, 0.5)),
        ([0, 0, 0, 0, 0, 0], [1], (0.0, 0.0)),
    ],
)
def test_recall_and_precision(groups, chosen, want):
    assert finding.fit(np.array(groups), np.arange(6) > 2, chosen) == pytest.approx(want)


def test_training_with_a_penalty(eagerly):
    """A stub of a penalty reaches the loss; the same seed gives the same net."""
    x, labels = strokes()
    made = []
    for weight in (0.0, 0.0, 5.0):
        model = nets.classifier((12, 12, 1), 4, seed=3)
        kernel = model.get_layer("classes").kernel

        def penalty(x, labels, masks, kernel=kernel, weight=weight):
            assert masks.shape[1:] == (12, 12)
            return weight * keras.ops.mean(keras.ops.square(kernel))

        nets.train(model, x, labels, 2, 3, penalty=penalty)
        made.append(model.get_layer("classes").get_weights()[0])
    np.testing.assert_array_equal(made[0], made[1])
    assert np.square(made[2]).mean() < np.square(made[0]).mean()
    with pytest.raises(ValueError, match="the loss is nan"):
        nets.train(model, x, labels, 1, 3, penalty=lambda x, labels, masks: float("nan"))


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_correction_counts_what_a_mark_does():
    """A model that says the mark's class wherever there is a mark, and one that cannot see it."""
    x, labels = strokes()
    mark = planted.Mark("square")

    def blind(batch):
        return np.eye(4)[np.argmax(batch[:, 2:10:2, 7, 0], axis=1)]

    def fooled(batch):
        return np.where(batch[:, 1, 1] == 1, np.eye(4)[2], blind(batch))

    found = concepts.correction({"before": fooled, "after": blind}, x, labels, mark, 2)
    assert [(row.model, row.samples) for row in found.rows] == [
        ("before", "without"), ("before", "with the artefact"), ("after", "without"), ("after", "with the artefact"),
    ]  # fmt: skip
    assert found.of("before", artefact=False).accuracy == 1
    wrong = found.of("before", artefact=True)
    assert (wrong.accuracy, wrong.said_artefact, wrong.n) == (0.25, 1, 40)
    assert wrong.low < 0.25 < wrong.high
    assert found.of("after", artefact=True).accuracy == 1
    assert "| before | with the artefact | 40 | 0.250 |" in found.markdown()
    with pytest.raises(ValueError, match="one of"):
        found.of("between", artefact=True)
    with pytest.raises(ValueError, match="0 of other classes"):
        concepts.correction({"before": fooled}, x[labels == 2], labels[labels == 2], mark, 2)
    with pytest.raises(ValueError, match="artefact expects to return"):
        concepts.correction({"before": fooled}, x, labels, lambda batch: batch[:1], 2)


def test_correction_of_a_keras_model(tmp_path):
    x, labels = strokes()
    model = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    found = concepts.correction({"model": model}, x, labels, planted.Mark("texture"), 0)
    said = np.asarray(model(x)).argmax(axis=1)
    assert found.rows[0].accuracy == pytest.approx((said == labels).mean())
    found.write(tmp_path / "accuracy.csv")
    with (tmp_path / "accuracy.csv").open() as file:
        assert float(next(csv.DictReader(file))["accuracy"]) == found.rows[0].accuracy

    with pytest.raises(ValueError, match=r"model 'one' expects .* two classes or more, \[40, C\]. .*Remedy"):
        concepts.correction({"one": lambda batch: np.ones((len(batch), 1))}, x, labels, planted.Mark("texture"), 0)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_correction_of_a_single_unit(activation):
    """It has the classes 0 and 1: a threshold of 0.5, or of logits 0."""
    x = np.array([[-2.0], [0.3], [2.0], [-0.1]], np.float32)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation, kernel_initializer="ones")])
    found = concepts.correction({"model": model}, x, np.array([0, 1, 1, 1]), lambda batch: -batch, 1)
    assert found.rows[0].accuracy == 0.75
    assert (found.rows[1].accuracy, found.rows[1].said_artefact) == (0.5, 1)


def test_an_artefact_of_floats_on_pixels_of_eight_bits_is_not_cut_off():
    seen = []
    model = lambda batch: seen.append(batch) or np.eye(2)[np.zeros(len(batch), int)]  # noqa: E731
    x = np.full((4, 2, 2, 1), 200, np.uint8)
    concepts.correction({"model": model}, x, np.arange(4) % 2, lambda batch: batch * np.float32(1.5), 1)
    assert seen[0].dtype == np.uint8
    assert seen[1].dtype == np.float32
    assert set(seen[1][::2].ravel()) == {300.0}


# --- the folder --------------------------------------------------------------------------------------


def cell(place: Place, *_: object) -> tuple[Cell, None]:
    """A cell with numbers that depend on its place: the mark is found from 10 % on."""
    seen = place.prevalence >= 0.1
    found = [
        finding.Found(method, 3, 0.9 * seen, 0.8 * seen, 0.1, 0.2, None if place.prevalence == 1 else 1)
        for method in report.METHODS
    ]
    wrong = dict(zip(MODELS, (0.98, 0.98 - 0.7 * place.prevalence, 0.95, 0.95, 0.9, 0.96), strict=True))
    rows = [
        concepts.Accuracy(model, samples, 50, value, value - 0.1, value + 0.1, 0.0)
        for model in MODELS
        for samples, value in (("without", 0.98), ("with the artefact", wrong[model]))
    ]
    return Cell(place, 4, tuple(found), 7, 0.5, None, tuple(rows), {"training": 1.0}), None


PLAN = planted.Plan(marks=("square",), prevalences=(0.01, 0.1, 1.0), seeds=(0, 1), epochs=1)


@pytest.fixture
def data():
    x, labels = strokes()
    return planted.Data(x, labels, x[:20], labels[:20], 2)


@pytest.fixture
def counted(monkeypatch):
    """`measure` made cheap; the places that were measured."""
    measured = []

    def measure(place, *rest):
        measured.append(str(place))
        return cell(place)

    monkeypatch.setattr(runs, "measure", measure)
    monkeypatch.setattr(pictures, "draw", lambda *_: None)
    monkeypatch.setattr(runs, "_clean", lambda *_: None)
    return measured


def test_a_study_resumes_and_its_tables_are_true(tmp_path, data, counted, monkeypatch):
    folder = tmp_path / "out"

    def stop(text: str) -> None:
        if len(counted) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planted.study(folder, data, PLAN, say=stop, name="bars")
    assert counted == ["square-1-0", "square-10-0", "square-100-0", "square-1-1"]
    told: list[str] = []
    found = planted.study(folder, data, PLAN, say=told.append, name="bars")
    assert counted[4:] == ["square-10-1", "square-100-1"]
    assert len(told) == 2
    assert "square-10-1: recall/precision clusters 0.90/0.80" in told[0]
    assert [one.place for one in found] == list(PLAN.places())
    assert found[0] == cell(found[0].place)[0]  # also those that were read
    page = (folder / "study.md").read_text()
    assert "# A mark on class 2 of bars" in page
    assert "| 1 % | 4 | 0.00 / 0.00 |" in page
    assert "| 10 % | 4 | **0.90 / 0.80** |" in page
    assert "| 100 % | 4 | – | – | – | – | – | – | **0.90 / 0.80** |" in page  # nothing to tell the marked ones from
    assert "| 100 % | 0.980 / 0.980 | 0.980 / 0.280 | **0.980 / 0.950** |" in page
    with (folder / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * len(report.METHODS)
    assert rows[0]["elsewhere"] == ""
    with (folder / "accuracy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == TRAINED and row["samples"] != "without"]
    assert [float(row["accuracy"]) for row in rows[:3]] == pytest.approx([0.973, 0.91, 0.28])
    for name in ("accuracy.png", "found.png"):
        with Image.open(folder / name) as image:
            assert np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0).shape[0] > 20


def test_folders_that_hold_something_else(tmp_path, data, counted):
    folder = tmp_path / "out"
    assert not runs.held(folder)
    planted.study(folder, data, PLAN, say=lambda _: None)
    assert runs.held(folder)
    with pytest.raises(ValueError, match=r"other settings. They differ in weight: 10.0, now 3.0"):
        planted.study(folder, data, dataclasses.replace(PLAN, weight=3.0))
    other = data._replace(x=data.x + np.float32(0.1))
    with pytest.raises(ValueError, match="They differ in data"):
        planted.study(folder, other, PLAN)
    (folder / "notes.txt").write_text("mine")
    runs.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="which holds other files"):
        runs.held(folder)
    record.write(folder / record.SETTINGS, {"kind": "comparison"})
    with pytest.raises(ValueError, match="which holds other files"):
        runs.held(folder)
    with pytest.raises(ValueError, match="which is a file"):
        runs.held(folder / "notes.txt")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"marks": ("dot",)}, "marks expects some of"),
        ({"marks": ()}, "marks expects one or more"),
        ({"seeds": (1, 1)}, "all different"),
        ({"prevalences": (0.0,)}, "above 0 and up to 1"),
        ({"epochs": 0}, "above 0"),
        ({"weight": math.nan}, "above 0"),
        ({"contrast": "median"}, "contrast expects None, 'softmax' or 'mean'"),
    ],
)
def test_mistakes_in_plans(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(PLAN, **change)


# --- the script --------------------------------------------------------------------------------------


@pytest.fixture
def command():
    return script("clever_hans").main


def test_the_script(command, tmp_path, counted, capsys):
    words = ["--dataset", npz(tmp_path / "bars.npz"), "--samples", "300", "--label", "4", "--mark", "texture",
             "--prevalence", "3", "100", "--seeds", "1", "--out", str(tmp_path / "out")]  # fmt: skip
    command(words)
    told = capsys.readouterr().out
    assert "bars.npz: 300 training pictures, 50 test pictures, 12 epochs" in told
    assert "texture-3-0: recall/precision" in told
    assert counted == ["texture-3-0", "texture-100-0"]
    settings = record.read(tmp_path / "out" / record.SETTINGS)
    assert (settings["label"], settings["prevalences"], settings["weight"]) == (4, [0.03, 1.0], 10)
    with pytest.raises(SystemExit, match="2"):
        command(words)
    assert "holds a study. Remedy: --resume, --overwrite, or another --out" in capsys.readouterr().err
    command([*words, "--resume"])
    assert len(counted) == 2
    command([*words, "--overwrite", "--epochs", "3", "--contrast", "none"])
    assert len(counted) == 4
    settings = record.read(tmp_path / "out" / record.SETTINGS)
    assert (settings["epochs"], settings["contrast"]) == (3, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prevalence", "0"], "expected a number above 0"),
        (["--prevalence", "101"], "expected a number above 0"),
        (["--mark", "dot"], "invalid choice: 'dot'"),
        (["--label", "10"], "--label: expected a number below 10. Received: 10"),
        (["--data-dir", "x"], "--data-dir is where MNIST lies"),
        (["--dataset", "nowhere"], "--dataset: expected"),
        (["--out", __file__], "--out: expected a folder"),
        (["--resume", "--overwrite"], "not allowed with"),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        command(["--out", str(tmp_path / "out"), *words])
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# --- found and removed -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_planted_mark_is_found_and_removed(command, tmp_path):
    """Digits with a square on one class: at 10 % clusters and prototypes show it, at 100 % the top concept does."""
    folder = tmp_path / "out"
    command(["--mark", "square", "--prevalence", "10", "100", "--seeds", "1", "--out", str(folder)])
    few, all_of = (Cell.read(folder / "cells" / f"square-{percent}-0.json") for percent in (10, 100))
    shown = {found.method: found for found in few.found}
    for method in ("clusters", "prototypes"):
        assert min(shown[method].recall, shown[method].precision) > 0.8, method
        assert shown[method].control_recall * shown[method].control_precision < 0.5, method
    assert shown["clusters"].rank == 1
    assert next(found for found in all_of.found if found.method == "top concept").recall > 0.5
    assert few.on_mark is not None
    assert few.on_mark > 0.1
    enough = report.ENOUGH * few.of(CLEAN, artefact=False)
    assert all_of.of(TRAINED, artefact=True) < 0.7  # the mark misleads
    assert few.of(TRAINED, artefact=True) < 0.9
    for name in (SUPPRESS, TUNED, PENALTY, BOTH):
        assert few.of(name, artefact=True) >= enough, name
    for name in (TUNED, PENALTY, BOTH):  # a cut alone leaves a net that never learnt the class
        assert all_of.of(name, artefact=True) >= enough, name
        assert all_of.of(name, artefact=False) >= enough, name
    check_pictures(folder / pictures.FOLDER)


def check_pictures(folder: Path) -> None:
    """Pages have frames of several clusters; relevance of the misled net is red in the corner of the mark."""
    page = np.asarray(Image.open(folder / "square-10-0-clusters.png").convert("RGB"))
    frames = [colour for colour in concepts.embedding.COLOURS if (page == colour).all(axis=-1).sum() > 500]
    assert len(frames) >= 2
    sheet = np.asarray(Image.open(folder / "square-100-0-corrected.png").convert("RGB")).astype(int)
    red, blue = (sheet[..., 0] > 150) & (sheet[..., 2] < 80), (sheet[..., 2] > 150) & (sheet[..., 0] < 80)
    assert red.sum() > 300
    assert blue.sum() > 100

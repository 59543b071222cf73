"""`lrp-tf explain` of arrays: signals as lines, planes and videos beside their relevance; `lrp_tf.arrays`."""

import dataclasses
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.checking import raises, randomize
from helpers.pictures import photos, rgb, table
from keras import layers as kl

import lrp_tf
from lrp_tf.arrays import ArrayGallery, draw, files
from lrp_tf.arrays.files import ArrayError
from lrp_tf.arrays.form import ArrayForm, array_form
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import get_preprocessing
from lrp_tf.heatmap.look import Look

RNG = np.random.default_rng(5)


def refused(error, *words):
    """The error, with each of `words` in its message."""
    return raises(error, *map(re.escape, words))


def signals(length=8, channels=2):
    """An LSTM over a signal of several channels."""
    stack = [keras.Input((length, channels)), kl.LSTM(4), kl.Dense(3, activation="softmax")]
    return randomize(keras.Sequential(stack, name="signals"))


def videos():
    """A convolution of each frame, then an LSTM over time."""
    stack = [keras.Input((4, 6, 6, 1)), kl.TimeDistributed(kl.Conv2D(2, 3, activation="relu"))]
    stack += [kl.TimeDistributed(kl.Flatten()), kl.LSTM(4), kl.Dense(2)]
    return randomize(keras.Sequential(stack, name="videos"))


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "shape", "names"),
    [
        ("plain.csv", "1,2\n3,4\n5,6\n", (3, 2), ()),
        ("header.csv", "time (s);x\n1;2.5\n3;4e-3\n", (2, 2), ("time (s)", "x")),
        ("tabs.tsv", "a\tb\tc\n1\t2\t3\n\n4\t5\t6\n", (2, 3), ("a", "b", "c")),
        ("column.csv", "\ufeffvolt\n1\n2\n-3\n", (3, 1), ("volt",)),
        ("aligned.csv", "1.0   2.0\n3.5  -4.0\n", (2, 2), ()),
        ("quoted.csv", '"a, b","c"\n1,2\n3,4\n', (2, 2), ("a, b", "c")),
    ],
)
def test_tables_of_numbers(tmp_path, name, content, shape, names):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = files.read(tmp_path / name)
    assert found.values.shape == shape
    assert found.names == names
    assert found.values.dtype == np.float64


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("words.csv", b"a,b\n1,2\n3,four\n", ["row 3", "'four' is no number", "2 numbers"]),
        ("ragged.csv", b"1,2\n3,4,5\n", ["row 2", "3 cells", "2 numbers"]),
        ("header.csv", b"a,b\n", ["no rows"]),
        ("empty.csv", b"", ["no rows"]),
        ("names.csv", b"a,b,c\n1,2\n3,4\n", ["3 names", "2 columns"]),
        ("nan.csv", b"1,nan\n2,3\n", ["1 NaN or Inf among 4"]),
        ("quote.csv", b'1,2\n"' + b"3,4\n" * 50_000, ["no table of numbers"]),
        ("cut.npy", b"PK\x03\x04" + bytes(40), ["no array of numbers"]),
        ("no.npy", b"something else", ["no array of numbers"]),
        ("no.npy", b"", ["no array of numbers"]),
        ("no.mat", b"", ["no array", ".csv .flac .nii"]),
    ],
)
def test_files_that_hold_no_array_say_why(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with refused(ArrayError, *words):
        files.read(tmp_path / name)


def test_arrays_that_are_none_of_numbers(tmp_path):
    with refused(ArrayError, "No such file"):
        files.read(tmp_path / "missing.npy")
    for name, value, words in (
        ("objects", np.array([{}], object), "Python objects"),
        ("complex", np.ones(3, complex), "real numbers"),
        ("texts", np.array(["a"]), "real numbers"),
        ("scalar", np.array(1.0), "shape ()"),
        ("none", np.zeros((0, 2)), "(0, 2)"),
        ("inf", np.array([1, np.inf]), "1 NaN or Inf"),
    ):
        np.save(tmp_path / f"{name}.npy", value)
        with refused(ArrayError, words):
            files.read(tmp_path / f"{name}.npy")


def test_shapes_that_fit_and_shapes_that_do_not():
    form = ArrayForm((8, 1), "float32")
    for given in ((8, 1), (8,)):
        assert form.fit(np.ones(given, "int16")).shape == (8, 1)
    assert ArrayForm((8,), "int32").fit(np.ones((8, 1))).dtype == np.int32
    assert ArrayForm((None, 2), "float32").fit(np.ones((5, 2))).shape == (5, 2)
    for dtype, value in (("int32", 1.7), ("float32", 1e39), ("uint8", -1)):
        with refused(ArrayError, dtype, f"cannot hold {value}"):
            ArrayForm((3,), dtype).fit(np.array([1, value, 2]))
    for given in ((7, 1), (1, 8, 1), (8, 2)):
        with refused(ArrayError, "(8, 1)", "one sample", str(given)):
            form.fit(np.ones(given))
    with refused(ArrayError, "(any, 2)"):
        ArrayForm((None, 2), "float32").fit(np.ones((5, 3)))
    two = keras.Model([a := keras.Input((3,)), b := keras.Input((3,))], kl.Dense(2)(kl.Add()([a, b])))
    with refused(LoadError, "one array", "(3,)"):
        array_form(lrp_tf.Explainer(two, "epsilon").graph)
    sequence = keras.Sequential([keras.Input((3, 2)), kl.LSTM(2, return_sequences=True)])
    with refused(LoadError, "classes as output"):
        array_form(lrp_tf.Explainer(sequence, "epsilon").graph)


# --- runs --------------------------------------------------------------------------------------


def gallery(model, out, **options):
    return ArrayGallery(lrp_tf.Explainer(model, "epsilon"), get_preprocessing("none"), out, **options)


def written(folder, **arrays):
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return [(str(folder / f"{name}.npy"), f"{name}.npy") for name in arrays]


def test_relevance_of_a_run_is_that_of_the_explainer(tmp_path):
    """Arrays of several lengths, with one that does not fit: batches end where lengths change."""
    model = signals(None)
    x = {f"s{i}": RNG.normal(size=(length, 2)).astype("float32") for i, length in enumerate((5, 5, 9, 5))}
    names = written(tmp_path, **x, wrong=np.zeros((5, 3)))
    told = []
    done = gallery(model, tmp_path / "out", targets=("topK:2",), batch=3, save_relevance=True).run(
        names, tell=told.append
    )
    assert (done.done, done.failed) == (4, 1)
    assert "(any, 2)" in told[0]
    assert (done.low, done.high) == pytest.approx((min(v.min() for v in x.values()), max(v.max() for v in x.values())))
    explainer = lrp_tf.Explainer(model, "epsilon")
    for name, values in x.items():
        expected = explainer(values[None], target="topK:2")[0]
        found = np.load(tmp_path / "out" / f"{name}.npy")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert (tmp_path / "out" / f"{name}.2.png").exists()
    rows = table(tmp_path / "out" / "results.csv")
    largest = np.abs(np.load(tmp_path / "out" / "s2.npy")).max(axis=(1, 2))
    assert [float(r["largest_relevance"]) for r in rows if r["result"] == "s2"] == pytest.approx(largest, rel=1e-5)


def test_a_run_is_resumed_and_shares_its_scale(tmp_path):
    model, look = signals(), Look(scale="run")
    names = written(tmp_path, a=RNG.normal(size=(8, 2)), b=5 * RNG.normal(size=(8, 2)))
    first = gallery(model, tmp_path / "out", look=look).run(names)
    assert first.scale is not None
    (tmp_path / "out" / "a.png").unlink()
    again = gallery(model, tmp_path / "out", look=look).run(names, resume=True)
    assert (again.done, again.skipped, again.scale) == (1, 1, first.scale)


def test_preprocessing_acts_on_arrays_and_leaves_token_ids_whole(tmp_path):
    names = written(tmp_path, a=np.full((8, 2), 100, "uint8"))
    job = ArrayGallery(lrp_tf.Explainer(signals(), "epsilon"), get_preprocessing("scale:1/50"), tmp_path / "out")
    assert job.run(names).high == 2
    stack = [keras.Input((6,), dtype="int32"), kl.Embedding(9, 4, mask_zero=True), kl.GRU(3), kl.Dense(2)]
    ids = written(tmp_path, ids=np.array([3, 4, 8, 1, 0, 0]))
    job = gallery(randomize(keras.Sequential(stack)), tmp_path / "ids", save_relevance=True)
    with refused(LoadError, "whole numbers (int32)", "`preprocess` none"):
        dataclasses.replace(job, preprocessing=get_preprocessing("scale:1/50")).run(ids)
    assert job.run(ids).done == 1
    relevance = np.load(tmp_path / "ids" / "ids.npy")
    assert (relevance[4:] == 0).all()  # padding
    assert (relevance[:4] != 0).all()


# --- pictures ----------------------------------------------------------------------------------


def red(picture):
    """Where a picture is red."""
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return (r > 150) & (g < 90) & (b < 90)


def test_a_line_is_red_where_its_relevance_is(tmp_path):
    relevance = np.zeros((1, 20, 2))
    relevance[0, 12:16, 1] = 1.0
    array = files.Array(RNG.normal(size=(20, 2)), ("left", "right"))
    draw.draw(tmp_path / "one", list(relevance), ["a title"], array, Look(), None)
    found = red(rgb(tmp_path / "one.png"))
    rows, columns = np.nonzero(found)
    assert found.any()
    assert rows.min() > found.shape[0] * 0.5  # the second channel lies below
    assert 0.55 < columns.mean() / found.shape[1] < 0.75


def test_frames_lie_above_their_relevance(tmp_path):
    values, relevance = np.zeros((3, 8, 8, 1)), np.zeros((1, 3, 8, 8))
    relevance[0, 2, 0, 0] = 1.0  # the last frame, its upper left corner
    draw.draw(tmp_path / "film", list(relevance), ["a title"], files.Array(values), Look(colorbar=True), None)
    picture = rgb(tmp_path / "film.png")
    dark = (picture.max(-1) < 150) & (picture[..., 0] > picture[..., 1])  # full colour is a dark red
    rows, columns = np.nonzero(dark[: int(0.85 * len(picture))])
    assert columns.min() > picture.shape[1] * 0.6
    black = np.nonzero((picture.max(-1) < 5).mean(axis=1) > 0.5)[0]  # the rows of the frames
    assert black.max() < rows.min()


@pytest.mark.parametrize("shape", [(30, 20), (6, 5, 3), (40, 4, 4, 3), (7,)])
@pytest.mark.parametrize("look", [Look(), Look(show="abs", colorbar=True, scale="99%", format="svg")])
def test_every_kind_of_array_is_drawn(tmp_path, shape, look):
    values = RNG.normal(size=shape)
    maps = [draw.values_of(RNG.normal(size=shape), look) for _ in range(2)]
    draw.draw(tmp_path / "x", maps, ["one", "two"], files.Array(values), look, None)
    for suffix in draw.suffixes(look, 2, False):
        assert (tmp_path / f"x{suffix}").stat().st_size > 1000


def test_arrays_of_more_axes_are_refused(tmp_path):
    with refused(ValueError, "up to four axes", "(2, 2, 2, 2, 2)"):
        draw.draw(tmp_path / "x", [np.ones((2,) * 4)], ["t"], files.Array(np.ones((2,) * 5)), Look(), None)
    assert list(tmp_path.iterdir()) == []


# --- the command -------------------------------------------------------------------------------


def test_the_command_explains_arrays(lrp, tmp_path):
    signals().save("signals.keras")
    (tmp_path / "in").mkdir()
    np.save("in/a.npy", RNG.normal(size=(8, 2)))
    (tmp_path / "in" / "b.csv").write_text("left,right\n" + "0.5,-1\n" * 8)
    (tmp_path / "in" / "c.npy").write_bytes(b"nothing")
    code, out, err = lrp("explain", "signals.keras", "in", "--composite", "epsilon", "--target", "1", "top1")
    assert code == 1
    assert "3 array(s)" in out
    assert "2 explained" in out
    assert "arrives at the input" in out
    assert "c.npy" in err
    assert [row["file"] for row in table(tmp_path / "results" / "failures.csv")] == ["in/c.npy"]
    code, out, _ = lrp("report", "signals.keras", "in/b.csv", "--composite", "epsilon")
    assert code == 0
    assert "rules for each time step" in out
    assert lrp("check", "signals.keras", "in/a.npy", "--composite", "epsilon")[0] == 0


def test_folders_and_lists_are_what_they_hold(lrp, tmp_path):
    """A model of rank 4 may take photographs or arrays: files tell, not the name of a list."""
    stack = [keras.Input((6, 6, 3)), kl.Flatten(), kl.Dense(2)]
    randomize(keras.Sequential(stack)).save("planes.keras")
    (tmp_path / "arrays").mkdir()
    np.save("arrays/a.npy", RNG.random((6, 6, 3)))
    code, out, err = lrp("explain", "planes.keras", "arrays")
    assert code == 0, err
    assert "1 array(s)" in out
    photos(tmp_path / "pictures", 1)
    (tmp_path / "list.csv").write_text("pictures/photo0.png\n")
    code, out, err = lrp("explain", "planes.keras", "@list.csv", "--preprocess", "scale:1/255", "--out", "second")
    assert code == 0, err
    assert "1 image(s)" in out


def test_options_of_photographs_are_refused(lrp, tmp_path):
    signals().save("signals.keras")
    np.save("a.npy", RNG.normal(size=(8, 2)))
    for options in (["--style", "overlay"], ["--size", "8x8"], ["--resize", "pad"], ["--smooth", "2"]):
        code, _, err = lrp("explain", "signals.keras", "a.npy", *options)
        assert code == 2
        assert f"{options[0]} is an option of photographs" in err
    for command in ("report", "check"):
        assert "--size is an option" in lrp(command, "signals.keras", "a.npy", "--size", "8x8")[2]
    code, _, err = lrp("explain", "signals.keras", "a.npy", "--composite", "epsilon_gamma_box")
    assert code == 2
    assert "epsilon_gamma_box:low=-1,high=1" in err
    code, _, err = lrp("explain", "signals.keras", ".", "--out", "elsewhere", "--composite", "epsilon")
    assert code == 0, err
    (tmp_path / "none").mkdir()
    code, _, err = lrp("explain", "signals.keras", "none")
    assert code == 2
    assert "holds no array" in err


@pytest.mark.slow
def test_a_video_as_users_run_it(tmp_path):
    """As a process of its own: CNN in TimeDistributed, then an LSTM."""
    videos().save(tmp_path / "videos.keras")
    np.save(tmp_path / "film.npy", RNG.integers(0, 256, (4, 6, 6, 1), "uint8"))
    command = [sys.executable, "-m", "lrp_tf", "explain", "videos.keras", "film.npy", "--preprocess", "scale:1/255"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 0, done.stderr
    assert "fed" in done.stdout.lower()
    assert rgb(tmp_path / "results" / "film.png").std() > 5

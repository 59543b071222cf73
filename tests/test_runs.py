"""Runs over one folder: one at a time, none empties another's table, and what their tables hold is harmless."""

import csv
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from helpers import REPOSITORY
from helpers.pictures import classifier, photo, photos, table
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import lrp_tf
from lrp_tf import terminal
from lrp_tf.engine import tables
from lrp_tf.files import images, loading
from lrp_tf.gallery import ledger, run

QUICK = ("--preprocess", "none", "--style", "heatmap")


# --- the table of an earlier run ---------------------------------------------------------------


def test_a_second_run_asks_whether_to_resume_or_to_overwrite(lrp, saved, tmp_path):
    photos(tmp_path / "a", 3)
    photos(tmp_path / "b", 1)
    assert lrp("explain", saved, "a", *QUICK)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    code, _, err = lrp("explain", saved, "b", *QUICK)
    assert code == 2
    assert "results holds the results of an earlier run" in err
    assert "--resume" in err
    assert "--overwrite" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()} == before
    assert lrp("explain", saved, "b", *QUICK, "--resume", "--overwrite")[0] == 2
    assert lrp("explain", saved, "b", *QUICK, "--resume")[0] == 0
    assert [row["file"] for row in table("results/results.csv")] == [f"a/photo{i}.png" for i in range(3)] + [
        "b/photo0.png"
    ]
    assert lrp("explain", saved, "b", *QUICK, "--overwrite")[0] == 0
    assert [row["file"] for row in table("results/results.csv")] == ["b/photo0.png"]
    assert lrp("explain", saved, "b", *QUICK, "--out", "another")[0] == 0


def test_a_run_without_results_leaves_nothing_to_ask_for(lrp, saved, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert lrp("explain", saved, "a.png", *QUICK)[0] == 1
    Image.fromarray(photo()).save("a.png")
    assert lrp("explain", saved, "a.png", *QUICK)[0] == 0


# --- one run at a time -------------------------------------------------------------------------


@pytest.fixture
def job(saved, tmp_path):
    """A gallery whose preprocessing waits for `go`, and says when it has begun."""
    begun, go = threading.Event(), threading.Event()

    def wait(pixels):
        begun.set()
        assert go.wait(60)
        return pixels

    explainer = lrp_tf.Explainer(keras.models.load_model(saved))
    look = run.Look(("heatmap",))
    slow = run.Gallery(explainer, loading.Preprocessing("wait", wait), tmp_path / "results", batch=1, look=look)
    yield slow, begun, go
    go.set()


def test_two_runs_into_one_folder(lrp, saved, tmp_path, job):
    slow, begun, go = job
    files = list(images.find([photos(tmp_path / "in", 3)]))
    outcomes = []
    first = threading.Thread(target=lambda: outcomes.append(slow.run(files)))
    first.start()
    assert begun.wait(60)
    for more in ([], ["--resume"], ["--overwrite"]):
        code, _, err = lrp("explain", saved, "in", *QUICK, *more)
        assert code == 2
        assert "Another run is writing into results" in err
    go.set()
    first.join()
    assert outcomes[0].done == 3
    assert b"\0" not in (tmp_path / "results/results.csv").read_bytes()
    assert len(table("results/results.csv")) == 3


HOLD = """
import pathlib, time
from lrp_tf.gallery import ledger
with ledger.only_run(pathlib.Path(".")):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_does_not_block_the_next(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    with holder:
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(ValueError, match="Another run is writing"), ledger.only_run(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert holder.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [ledger.LOCK]
    with ledger.only_run(tmp_path):
        assert os.listdir(tmp_path) == [ledger.LOCK]
    assert os.listdir(tmp_path) == []


def test_never_two_in_a_folder_however_they_hurry(tmp_path):
    """Locks are taken and removed at once by several threads: nobody is inside with another."""
    inside, most, entered = [], [], []

    def hurry():
        for _ in range(200):
            try:
                with ledger.only_run(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    entered.append(1)
                    inside.pop()
            except ValueError:
                pass

    threads = [threading.Thread(target=hurry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(entered) > 20


# --- formulas and control characters -----------------------------------------------------------

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "''+1"]


@pytest.mark.parametrize(
    "name", [*FORMULAS, "plain", "'plain", "a=b", "", "\x1b[31m", r"\x1b", r"\\x5c", "a\nb"], ids=ascii
)
@pytest.mark.parametrize("ahead", [ledger.TEXT, ledger.PATH])
def test_a_cell_is_no_formula_and_keeps_the_name(name, ahead):
    cell = ledger.to_cell(name, ahead)
    assert not re.match(r"[=+\-@\t\r\n＝＋－＠]", cell)
    assert "\x1b" not in cell
    assert ledger.from_cell(cell, ahead) == name
    assert ahead == ledger.PATH or (cell == name) == (name in ("plain", "'plain", "a=b", "", "a\nb"))


@given(st.text(st.sampled_from("'./=+-@\t\n\r\x1b\x00\\x5c1b" + string.ascii_letters)))
def test_every_name_comes_back(name):
    for ahead in (ledger.TEXT, ledger.PATH):
        assert ledger.from_cell(ledger.to_cell(name, ahead), ahead) == name


def test_names_of_files_and_classes_are_no_formulas_in_the_tables(lrp, saved, tmp_path, monkeypatch):
    names = ["=cmd|' calc'!A0.png", "+1.png", "@a.png", "\x1b[31mred.png", "-1.png", "fine.png", r"\x1b.png"]
    for name in names:
        Image.fromarray(photo()).save(tmp_path / "x.png")
        os.rename("x.png", name)
    (tmp_path / "=broken.png").write_bytes(b"")
    classes = ["=1+1", "-2", "\x1b]0;title\x07", "@x", "a", "b", "c"]
    (tmp_path / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    command = ("explain", saved, *(f"./{n}" if n[0] in "-@" else n for n in [*names, "=broken.png"]), *QUICK)
    code, out, err = lrp(*command, "--classes", "classes.txt", "--target=topK:7")
    assert code == 1
    content = (tmp_path / "results/results.csv").read_bytes() + (tmp_path / "results/failures.csv").read_bytes()
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", content)
    for text in (out, err):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert r"\x1b]0;title\x07" in out
    assert table("results/failures.csv")[0]["file"] == "./=broken.png"
    rows = table("results/results.csv")
    assert {ledger.from_cell(row["target_name"]) for row in rows} == set(classes)
    for row in rows:
        for column, value in row.items():
            text = column in ("file", "result") or column.endswith("_name")
            assert not (text and re.match(r"[=+\-@\t\r]", value)), column
            assert text or not value or float(value) is not None  # numbers are numbers, negative ones too
    assert any(float(row["logit"]) < 0 for row in rows)
    assert {os.path.normpath(ledger.from_cell(row["file"], ledger.PATH)) for row in rows} == set(names)
    assert {row["file"] for row in rows if os.path.exists(row["file"])} >= {"./=cmd|' calc'!A0.png", "./+1.png"}
    code, out, _ = lrp(*command, "--classes", "classes.txt", "--target=topK:7", "--resume")
    assert "7 finished before" in out


def test_names_inside_a_model_do_not_steer_the_terminal(lrp, tmp_path):
    model = classifier()
    model.layers[0].name = "evil\x1b[2J\nlayer"
    odd = keras.Model(model.inputs, model.outputs, name="\x1b]0;owned\x07model")
    table = lrp_tf.Explainer(odd).summary(print_fn=None)
    assert "\x1b" not in str(table)
    assert r"evil\x1b[2J\nlayer" in str(table)
    assert r"\x1b]0;owned\x07model, composite" in str(table)
    odd.save("odd.keras")
    photos(tmp_path / "in", 1)
    for command in (("summary", "odd.keras"), ("report", "odd.keras", "in/photo0.png"), ("explain", "odd.keras", "in")):
        arguments = () if command[0] == "summary" else ("--preprocess", "none")
        code, out, err = lrp(*command, *arguments)
        assert code == 0, err
        assert "owned" in out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out + err)
    code, _, err = lrp("summary", "\x1b[2Jnowhere.keras")
    assert code == 2
    assert r"\x1b[2Jnowhere.keras" in err


def test_printable():
    assert terminal.printable("a\x1b[0m\nb\x9bc") == r"a\x1b[0m\nb\x9bc"
    assert terminal.printable("a\nb\t", keep="\n") == "a\nb\\t"
    assert terminal.printable("猫 ü \u202egnp.exe") == r"猫 ü \u202egnp.exe"
    assert terminal.printable(os.fsdecode(b"latin\xe9")) == r"latin\udce9"
    text = str(tables.Table("t", ("a",), [("x\x1by",)], ("n\x07",)))
    assert text.split()[-2:] == [r"x\x1by", r"n\x07"]


def test_tables_are_read_by_any_reader_of_csv(tmp_path):
    with ledger.CsvTable(tmp_path / "t.csv", ("file", "number"), {"file": ledger.TEXT}) as made:
        made.add([('=a,"b"', -1.5), ("c\nd", 2)])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["file", "number"], ['\'=a,"b"', "-1.5"], ["c\nd", "2"]]


def test_the_commands_of_the_readme_can_be_repeated(lrp, saved, tmp_path):
    photos(tmp_path / "photos", 1)
    shutil.copy(saved, "model.keras")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    lrp-tf (explain .* photos/ .*)$", readme, re.MULTILINE)
    lines = [line for line in lines if "--ray" not in line]  # Ray's own tests resume its runs
    assert len(lines) == 3
    for line in [*lines, *lines]:
        code, _, err = lrp(*shlex.split(line, comments=True))
        assert code == 0, err
    # Those with VGG need its weights: they begin their tables anew.
    for text in (readme, (REPOSITORY / "Makefile").read_text(encoding="utf-8")):
        assert re.search(r"vgg/lrp\.py .*--overwrite", text)


def test_a_group_of_rows_that_was_cut_off_counts_for_nothing(lrp, saved, tmp_path):
    """A full disk takes the first rows of a picture's targets, and not the last."""
    photos(tmp_path / "in", 3)
    explain = ("explain", saved, "in", "--preprocess", "none", "--target", "topK:3", "--style", "heatmap")
    assert lrp(*explain)[0] == 0
    whole = Path("results/results.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"".join(lines[:-1]) + lines[-1][:40], b"".join(lines[:-2]) + lines[-2][:9]):
        Path("results/results.csv").write_bytes(kept)
        code, out, _ = lrp(*explain, "--resume")
        assert code == 0
        assert "1 explained" in out
        assert sorted(Path("results/results.csv").read_bytes().splitlines()) == sorted(whole.splitlines())

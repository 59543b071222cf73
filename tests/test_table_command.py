"""The command line on tables: options, what the console says, `report` and `check` of a row; thousands of rows."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.pictures import rgb, table
from helpers.tables import KERNEL, NAMES, dots, patients, relevance_of, values, written

from lrp_tf.gallery.run import Outcome


@pytest.fixture
def here(lrp, tmp_path):
    patients().save("model.keras")
    (tmp_path / "classes.txt").write_text("well\nsick\n")
    return lrp


def test_the_command_explains_tables(here, tmp_path):
    rows = values(30)
    written(
        tmp_path / "p.csv", rows, more=["label", *["sick", "well"] * 15], ahead=["who", *map("p{}".format, range(30))]
    )
    common = ("explain", "model.keras", "--composite", "epsilon", "--classes", "classes.txt")
    code, out, err = here(*common, "--rows", "2", "--target", "sick", "--drop", "label", "p.csv")
    assert code == 0, err
    assert "p.csv: the first 2 of 30 rows get a picture (--rows)" in out
    assert "30 row(s)" in out
    assert "30 explained" in out
    assert "p.csv:p3" in [row["file"] for row in table("results/results.csv")]
    assert sorted(os.listdir("results/p")) == ["p0.png", "p1.png"]
    np.testing.assert_allclose(relevance_of("results/p.relevance.csv")[2], rows * KERNEL[:, 1], rtol=1e-5, atol=1e-6)
    code, out, err = here(*common, "p.csv", "--columns", *NAMES, "--id", "who", "--out", "top", "--rows", "0")
    assert code == 0, err
    assert "no row gets a picture" in out
    assert "--target CLASS explains one class" in out
    assert not os.path.exists("top/p")
    code, out, err = here(*common, "p.csv", "--out", "bad")
    assert code == 1
    assert "5 columns, and the model takes 3 features" in err
    assert "(--drop)" in err
    assert "--id" in err
    code, _, err = here(*common, "p.csv", "--drop", "lable", "--out", "bad")
    assert code == 1
    assert "`drop`" not in err
    assert "--drop: no column has the name 'lable'. Similar names: label" in err


@pytest.mark.parametrize(("options", "rows", "arrays"), [([], 256, 8), (["--batch", "8"], 8, 8), (["--batch=9"], 9, 9)])
def test_the_batch_that_is_asked_for_is_the_one_that_runs(here, tmp_path, monkeypatch, options, rows, arrays):
    found = []
    kept = Outcome(0, 0, 0, 0.0, 0.0)
    monkeypatch.setattr("lrp_tf.cli.explain._with_bar", lambda job, *rest: found.append(job.batch) or kept)
    written(tmp_path / "p.csv", values(2))
    np.save("signal.npy", values(1)[0])
    for name in ("p.csv", "signal.npy"):
        assert here("explain", "model.keras", name, *options)[0] == 0
    assert found == [rows, arrays]


def test_rows_whose_names_look_like_paths(here, tmp_path):
    (tmp_path / "in:x").mkdir()
    written(tmp_path / "in:x/p.csv", values(4), ahead=["who", "a/b", "A/b", "../../x", "c:d/"])
    code, out, err = here("explain", "model.keras", "in:x/p.csv", "--classes", "classes.txt", "--gallery")
    assert code == 0, err
    for name in ("a/b", "A/b", "../../x", "c:d/"):
        assert f"\np.csv:{name}: " in out
    text = (tmp_path / "results/index.html").read_text(encoding="utf-8")
    items = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["items"]
    assert [item["name"] for item in items] == ["p.csv:a/b", "p.csv:A/b", "p.csv:../../x", "p.csv:c:d/"]
    assert {item["folder"] for item in items} == {"in:x"}


def test_each_row_has_a_line_on_the_console(here, tmp_path):
    written(tmp_path / "p.csv", [[0, 1, 0], [0, -1, 0]])
    code, out, _ = here("explain", "model.keras", "p.csv", "--classes", "classes.txt", "--format", "svg")
    assert code == 0
    assert "p.csv:1: sick 0.982; sick: logit 2; 100 % of the score arrives at the features" in out
    assert "p.csv:2: well" in out
    assert (tmp_path / "results/p.beeswarm.svg").exists()
    code, out, _ = here("explain", "model.keras", "p.csv", "--classes", "classes.txt", "--format", "svg", "--resume")
    assert code == 0
    assert "2 finished before" in out
    code, _, err = here("explain", "model.keras", "p.csv", "--drop", "x", "--format", "svg", "--resume")
    assert code == 2
    assert "drop" in err


def test_signals_and_tables_go_their_ways(here, tmp_path):
    (tmp_path / "signal.csv").write_text("volt\n1\n2\n3\n")
    code, out, err = here("explain", "model.keras", "signal.csv", "--composite", "epsilon")
    assert code == 0, err
    assert "1 array(s)" in out
    np.save("table.npy", values(4))
    code, out, err = here("explain", "model.keras", "table.npy", "--composite", "epsilon", "--out", "second")
    assert code == 0, err
    assert "4 row(s)" in out
    for options in (["--drop", "a"], ["--columns", "a"], ["--id", "a"], ["--rows", "3"]):
        code, _, err = here("explain", "model.keras", "signal.csv", *options, "--out", "third")
        assert code == 2
        assert f"{options[0]} is an option of tables" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--style", "overlay"], "--style is an option of photographs"),
        (["--size", "8x8"], "--size is an option"),
        (["--color-gamma", "0.5"], "--color-gamma is an option"),
        (["--scale", "run"], "--scale is an option"),
        (["--show", "abs"], "--show is an option"),
        (["--colorbar"], "--colorbar is an option"),
        (["--columns", "age", "--drop", "dose"], "exclude one another"),
        (["--rows", "-1"], "at least 1"),
        (["--rows", "0", "--gallery"], "--gallery shows rows with a picture"),
        (["--max-pixels", "9"], "--max-pixels is an option of photographs"),
        (["--composite", "epsilon_gamma_box"], "low=-1,high=1"),
    ],
)
def test_options_that_tables_refuse(here, tmp_path, options, words):
    written(tmp_path / "p.csv", values(2))
    code, _, err = here("explain", "model.keras", "p.csv", *options)
    assert code == 2
    assert words in err
    assert not os.path.exists("results/results.csv")


def test_report_and_check_take_a_row(here, tmp_path):
    written(tmp_path / "p.csv", [[1, 2, 3], [4, 5, 6], [7, 8, 9]], more=["label", "a", "b", "a"])
    common = ("--composite", "epsilon", "--drop", "label")
    code, out, err = here("report", "model.keras", "p.csv", *common, "--target", "1")
    assert code == 0, err
    assert "p.csv:1, fed to the model: 1 to 3" in out
    code, out, _ = here("report", "model.keras", "p.csv:3", *common, "--target", "1")
    assert "p.csv:3, fed to the model: 7 to 9" in out
    code, out, err = here("check", "model.keras", "p.csv:2", "--drop", "label")
    assert code == 0, err
    assert "p.csv:2" in out
    for name, more, words in (
        ("p.csv:9", ["--drop", "label"], "no row 9. Expected 1 to 3"),
        ("p.csv", [], "4 columns, and the model takes 3 features"),
        ("p.csv:1", ["--drop", "lable"], "Similar names: label"),
        ("p.csv", ["--drop", "label", "--size", "8x8"], "--size is an option"),
        ("q.csv:1", ["--drop", "label"], "a readable CSV file"),
        ("q.csv", [], "No such file"),
    ):
        code, _, err = here("check", "model.keras", name, *more)
        assert code == 2
        assert words in err, err
    (tmp_path / "r.csv").write_text("a,b,c\n1,2,x\n")
    code, _, err = here("check", "model.keras", "r.csv")
    assert code == 2
    assert "r.csv:1: line 2, column 'c'" in err


@pytest.mark.slow
def test_thousands_of_rows_as_users_run_them(tmp_path):
    """As a process of its own: 5,000 rows of Excel's making, some of them damaged, resumed after a kill."""
    patients().save(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(5000, 3)).round(4)
    lines = [";".join(f"{value:.4f}".replace(".", ",") for value in row) for row in x]
    for i in range(0, 5000, 1000):
        lines[i] = "1,5;#N/A;2"
    text = "\ufeffage;dose;weight\r\n" + "\r\n".join(lines) + "\r\n"
    (tmp_path / "p.csv").write_bytes(text.encode())
    command = [sys.executable, "-m", "lrp_tf", "explain", "model.keras", "p.csv", "--target", "1"]
    command += ["--composite", "epsilon"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    whole = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert whole.returncode == 1, whole.stderr
    assert "decimal commas" in whole.stdout
    assert "the first 20 of 5000 rows" in whole.stdout
    assert "4995 explained" in whole.stdout
    assert len(table(tmp_path / "results/failures.csv")) == 5
    keys, _, relevance = relevance_of(tmp_path / "results/p.relevance.csv")
    assert len(set(keys)) == 4995
    kept = [i for i in range(5000) if i % 1000]
    logits = (x[kept] @ KERNEL[:, 1])[:, None]
    shares = logits / (logits + 1e-6 * np.sign(logits))  # the stabiliser takes its share of small logits
    np.testing.assert_allclose(relevance, x[kept] * KERNEL[:, 1] * shares, rtol=1e-3, atol=1e-5)
    assert len(os.listdir(tmp_path / "results/p")) == 19
    high, low = dots(rgb(tmp_path / "results/p.beeswarm.png"))
    assert np.nonzero(high[:60])[1].mean() > np.nonzero(low[:60])[1].mean() + 200
    content = (tmp_path / "results/p.relevance.csv").read_bytes()
    (tmp_path / "results/p.relevance.csv").write_bytes(content[: len(content) // 2])
    again = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert again.returncode == 1, again.stderr
    assert sorted(content.split(b"\r\n")) == sorted((tmp_path / "results/p.relevance.csv").read_bytes().split(b"\r\n"))
    assert len(table(tmp_path / "results/results.csv")) == 4995

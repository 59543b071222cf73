"""`lrp-tf tune`, from image files to the composite that `--composite` takes."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.pictures import photos, table

import lrp_tf
from lrp_tf import composites
from lrp_tf.cli import options, tune_options
from lrp_tf.evaluate.tuning.tune import SEARCHES

START = ("--preprocess", "scale:1/255", "--metric", "srg:steps=3,region=8,fill=mean", "--also", "epsilon_plus")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A net with all parts."""
    keras.utils.set_random_seed(0)
    stack = [keras.layers.Conv2D(4, 3, padding="same", activation="relu") for _ in range(3)]
    stack += [keras.layers.MaxPooling2D(4), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    path = tmp_path_factory.mktemp("model") / "small.keras"
    keras.Sequential([keras.Input((24, 24, 3)), *stack], name="small").save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    return photos(tmp_path / "in", 6)


def test_from_images_to_a_composite_file(lrp, saved, folder, tmp_path):
    (tmp_path / "in" / "torn.png").write_bytes(b"no picture")
    grid = ("--grid", "gamma.lower=0.05,0.5", "gamma.upper=0.05,0.5", "zero_bias=true")
    code, out, err = lrp("tune", saved, *START, *grid, folder)
    assert code == 1, err  # one image could not be read
    assert "torn.png" in err
    assert "The one comparison on the 3 samples that report" in out
    assert "Keep the default" in out or "Use " in out
    rows = table("tuning/ranking.csv")
    assert len(rows) == 4 + 2
    assert {row["zero_bias"] for row in rows} == {"", "true"}
    settings = json.loads((tmp_path / "tuning/settings.json").read_text(encoding="utf-8"))
    assert settings["default"] == "epsilon_plus_flat"
    assert sorted(settings["result"]["choosing"] + settings["result"]["reporting"]) == list(range(6))
    assert {row["sample"].rpartition("/")[2] for row in table("tuning/samples.csv")} < set(os.listdir(tmp_path / "in"))
    code, _, err = lrp("explain", saved, folder, "--preprocess", "scale:1/255", "--composite", "tuning/winner.toml",
                       "--save-relevance")  # fmt: skip
    assert code == 1, err  # the torn one, again
    model = keras.models.load_model(saved)
    name = next(row["name"] for row in rows if row["rank"] == "1")
    composite = composites.parse(next(row["composite"] for row in rows if row["name"] == name))
    x = np.random.default_rng(0).uniform(size=(2, *model.input_shape[1:])).astype("float32")
    loaded = lrp_tf.Explainer(model, composites.load("tuning/winner.toml"))(x)
    np.testing.assert_array_equal(loaded, lrp_tf.Explainer(model, composite)(x))


@pytest.mark.slow
def test_an_earlier_run_is_kept(lrp, saved, folder):
    run = ("tune", saved, folder, *START, "--grid", "gamma.upper=0.05,0.5")
    assert lrp(*run)[0] == 0
    first = table("tuning/ranking.csv")
    code, _, err = lrp(*run)
    assert code == 2
    assert "tuning holds a tuning. Remedy: --resume to finish it, --overwrite" in err
    assert lrp(*run, "--resume")[0] == 0
    assert table("tuning/ranking.csv") == first
    code, _, err = lrp(*run, "--resume", "--seed", "1")
    assert code == 2
    assert "seed" in err
    assert lrp(*run, "--overwrite", "--seed", "1")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "srgg"), "--metric srgg: unknown metric"),
        (("--metric", "srg:stepps=3"), "--metric srg:stepps=3: metric srg takes"),
        (("--grid", "gamma.uper=1"), "Did you mean 'upper'?"),
        (("--target", "topK:3"), "--target expects top1 or one class"),
        (("--budget", "soon"), "expected a time above 0, as 90s, 5m or 1.5h. Received: 'soon'"),
        (("--search", "random"), "invalid choice"),
        (("--default", "no_preset"), "no_preset"),
    ],
)
def test_mistakes_are_told(lrp, saved, folder, arguments, message):
    code, _, err = lrp("tune", saved, folder, "--preprocess", "none", *arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_options_need_no_tensorflow_and_agree_with_the_library():
    assert tune_options.SEARCHES == SEARCHES
    parser = options.parser(tune_options.COMMANDS)
    given = parser.parse_args(["tune", "m.keras", "a.png", "--grid", "gamma=0.1:1:log3", "epsilon=0.1", "b.png"])
    assert tune_options.split(given.grid) == (["gamma=0.1:1:log3", "epsilon=0.1"], ["b.png"])
    assert given.images == ["a.png"]


@pytest.mark.slow
def test_kill_and_resume_give_the_same_numbers(saved, tmp_path):
    """kill -9 in the middle; the record is whole, and the tables are those of a run that nothing disturbed."""
    folder = photos(tmp_path / "in", 12)
    command = [sys.executable, "-m", "lrp_tf", "tune", str(saved), str(folder), *START, "--batch", "2",
               "--grid", "gamma.lower=0.05,0.5", "gamma.upper=0.05,0.1,0.5"]  # fmt: skip
    around = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(out, *more):
        done = subprocess.run([*command, "--out", str(tmp_path / out), *more], env=around, cwd=tmp_path, check=False)
        assert done.returncode == 0

    run("whole")
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], env=around, cwd=tmp_path)
    record = tmp_path / "killed/record"
    until = time.monotonic() + 60
    while not list(record.glob("batch-*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/ranking.csv").exists()
    run("killed", "--resume")
    for name in ("ranking.csv", "samples.csv", "report.csv", "winner.toml", "tune.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

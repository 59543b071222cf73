"""Whole trainings of vgg/train.py, in processes that can be killed, and what vgg/lrp.py makes of them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.vgg_scripts import FOLDER, folder, npz

pytestmark = pytest.mark.slow
SMALL = ["--width", "0.1", "--batch", "12", "--validation-share", "0.2"]
# Without a log level of the user's, TensorFlow's greetings are held back.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"CUDA_VISIBLE_DEVICES": "-1"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, FOLDER / "train.py", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def history(out: Path) -> list[list[str]]:
    """The rows of a training without their seconds."""
    with (out / "history.csv").open() as file:
        return [row[:-1] for row in csv.reader(file)]


def kill_after(epoch: int, *arguments: str | Path) -> None:
    """Start a training, and kill it in the middle of the epoch that follows."""
    command = [sys.executable, "-u", FOLDER / "train.py", *map(str, arguments)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith(f"Epoch {epoch + 1}/"):
                time.sleep(0.02)
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
        assert child.wait(60) == -signal.SIGKILL, child.stderr.read()


def test_a_killed_training_ends_as_an_uninterrupted_one(tmp_path: Path):
    """Same rows, same weights: order, augmentation, dropout, moments, learning rate and best epoch all continue."""
    data = npz(tmp_path / "bars.npz", train=240)
    options = ["--dataset", data, *SMALL, "--epochs", "4", "--batch-norm", "--optimizer", "adamw", "--deterministic"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = run(*options, "--out", whole)
    assert first.returncode == 0, first.stderr
    kill_after(2, *options, "--out", killed, "--log-relevance", "1")
    assert not (killed / "model.keras").exists()
    assert "Remedy: --resume" in run(*options, "--out", killed).stderr
    rest = run(*options, "--out", killed, "--resume", "--log-relevance", "1")
    assert rest.returncode == 0, rest.stderr
    assert "resumed after epoch 2 of 4" in rest.stdout
    assert "Epoch 2/4" not in rest.stdout
    assert rest.stdout.isascii()  # no progress bar where there is no terminal
    assert rest.stderr == ""
    assert history(killed) == history(whole)
    models = [keras.models.load_model(out / "model.keras").get_weights() for out in (whole, killed)]
    for a, b in zip(*models, strict=True):
        np.testing.assert_array_equal(a, b)
    with (killed / "relevance" / "relevance.csv").open() as file:
        epochs = [row["epoch"] for row in csv.DictReader(file)]
    assert epochs == [str(epoch) for epoch in (1, 2, 3, 4) for _ in range(3)]
    report = json.loads((whole / "report.json").read_text())
    assert report["accuracy"] > 0.9


def test_both_precisions_side_by_side(tmp_path: Path):
    options = ["--dataset", npz(tmp_path / "bars.npz", train=120), *SMALL, "--epochs", "5", "--batch-norm"]
    found = run(*options, "--compare-precision", "--out", tmp_path / "both")
    assert found.returncode == 0, found.stderr
    with (tmp_path / "both" / "precision.csv").open() as file:
        single, half = csv.DictReader(file)
    assert (single["precision"], half["precision"]) == ("float32", "mixed_bfloat16")
    for row, name in ((single, "float32"), (half, "mixed")):
        report = json.loads((tmp_path / "both" / name / "report.json").read_text())
        assert float(row["accuracy"]) == pytest.approx(report["accuracy"], abs=1e-5)
        assert float(row["seconds_per_epoch"]) > 0
        assert float(row["peak_memory_mib"]) > 100
        assert report["settings"]["seed"] == 0
    assert "percentage points of accuracy" in found.stdout
    model = keras.models.load_model(tmp_path / "both" / "mixed" / "model.keras")
    assert model.get_layer("block1_conv1").compute_dtype == "bfloat16"
    assert model(np.zeros((1, 32, 32, 3), "float32")).dtype == "float32"
    again = run(*options, "--compare-precision", "--out", tmp_path / "both")
    assert again.returncode == 2
    assert "holds an earlier training" in again.stderr


def test_photographs_from_a_folder_to_heatmaps(tmp_path: Path):
    """The line that the training ends with is a command that runs, in a folder with a space in its name."""
    photos = folder(tmp_path / "my photos", each=20)
    (photos / "low" / "broken.png").write_bytes(b"nothing")
    found = run("--dataset", photos, *SMALL, "--epochs", "6", "--batch-norm", "--out", tmp_path / "of mine")
    assert found.returncode == 0, found.stderr
    assert "1 file(s) cannot be read" in found.stderr
    with (tmp_path / "of mine" / "failures.csv").open() as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["not an image, or in a format that is not supported"]
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("next: ")]
    command = line.removeprefix("next: ").replace("python ", f"{sys.executable} ", 1)
    results = tmp_path / "results"
    after = subprocess.run(
        f"{command} --out {results} --save-relevance",
        shell=True, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert after.returncode == 0, after.stderr
    with (results / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["top1_name"] for row in rows} <= {"low", "middle", "top"}
    for name, rows_of_bar in (("class000", slice(2, 8)), ("class001", slice(12, 18)), ("class002", slice(22, 28))):
        assert (results / f"{name}.png").exists()
        size = np.abs(np.load(results / f"{name}.npy")).sum(axis=-1)
        assert size.shape == (32, 32)
        assert np.isfinite(size).all()
        assert size[rows_of_bar].mean() > 0


def test_digits_reach_their_accuracy(tmp_path: Path):
    """A quarter of the width, for the sake of time; the page of the docs has the figures of the whole one."""
    options = ["--dataset", "digits", "--width", "0.25", "--epochs", "12", "--batch-norm"]
    found = run(*options, "--out", tmp_path / "digits")
    assert found.returncode == 0, found.stderr
    report = json.loads((tmp_path / "digits" / "report.json").read_text())
    assert report["accuracy"] >= 0.95
    assert report["macro_f1"] >= 0.95
    assert report["strokes"]["relevance"] > 2 * report["strokes"]["area"]

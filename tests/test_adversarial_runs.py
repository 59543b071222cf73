"""Runs of mnist/adversarial.py as users start them: killed at any moment, on a folder of pictures, on digits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.mnist_scripts import script
from helpers.studies import content, pictures, quadrants, table
from keras import layers as kl

pytestmark = pytest.mark.slow
SCRIPT = REPOSITORY / "mnist" / "adversarial.py"


def started(*words: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finished(*words: object) -> str:
    process = started(*words)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told


def test_killed_at_any_moment_it_goes_on_to_the_same_results(tmp_path):
    quadrants().save(tmp_path / "model.keras")
    (x, y), (more, labels) = pictures(16), pictures(200)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=more, y_test=labels)
    words = ["--dataset", tmp_path / "data.npz", "--model", tmp_path / "model.keras", "--attack", "pgd", "fgsm",
             "--per-target", "8", "--composites", "epsilon_plus_flat", "--max-sheets", "6"]  # fmt: skip
    generator = np.random.default_rng()  # another moment in each run of this test
    out = tmp_path / "out"
    for _ in range(3):
        process = started(*words, "--out", out, "--resume")
        parts = len(list((out / "parts").glob("*"))) if out.exists() else 0
        until = time.monotonic() + 120
        while process.poll() is None and len(list((out / "parts").glob("*"))) <= parts and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished(*words, "--out", out, "--resume")
    finished(*words, "--out", tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    assert not list(out.rglob(".tmp-*"))


def test_ctrl_c_names_the_option(tmp_path):
    quadrants().save(tmp_path / "model.keras")
    x, y = pictures(200)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    process = started("--dataset", tmp_path / "data.npz", "--model", tmp_path / "model.keras", "--attack", "lbfgs",
                      "--per-target", "90", "--out", tmp_path / "out")  # fmt: skip
    until = time.monotonic() + 120
    while not list((tmp_path / "out" / "parts").glob("originals.json")) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "use --resume to continue" in told
    assert "Traceback" not in told


def folder_of_pictures(folder: Path) -> None:
    """Ten classes of 16 pictures, 16 x 16, each of a colour in a place of its own; one file of 160 is no picture."""
    generator, names = np.random.default_rng(0), [f"kind {chr(97 + i)}" for i in range(10)]
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            pixels = generator.integers(0, 80, (16, 16, 3), np.uint8)
            top, left = 8 * (number % 2), 8 * (number // 2 % 2)
            pixels[top : top + 8, left : left + 8, number % 3] += 140
            if number >= 5:
                pixels[4:12, 4:12] = 255 - pixels[4:12, 4:12]
            cv2.imwrite(str(folder / name / f"{i:02d}.png"), pixels)
    (folder / names[3] / "03.png").write_bytes(b"no picture")


def test_a_folder_of_pictures_from_training_to_sheets(tmp_path, monkeypatch, capsys):
    """The ten-target study, from a folder with nothing else: the network is trained on it first."""
    folder_of_pictures(tmp_path / "pictures")
    monkeypatch.syspath_prepend(str(REPOSITORY / "mnist"))
    import train

    monkeypatch.setattr(train, "OUT", tmp_path / "logs")
    out = tmp_path / "out"
    script("adversarial").main(["--dataset", str(tmp_path / "pictures"), "--size", "16", "--attack", "lbfgs",
                                "--per-target", "1", "--composites", "epsilon_plus", "--out", str(out)])  # fmt: skip
    told = capsys.readouterr().out
    assert "it is trained first" in told
    assert "1 of the files could not be read" in told
    (lost,) = table(out / "unreadable.csv")
    assert lost["file"].endswith("03.png")
    rows = table(out / "attacks.csv")
    assert {row["target"] for row in rows} == set(map(str, range(10)))
    assert np.mean([row["success_float"] == "1" for row in rows]) >= 0.95
    sheets = list((out / "sheets" / "wrongly_classified").iterdir())
    assert len(sheets) >= 0.9 * len(rows)
    picture = cv2.imread(str(sheets[0])).astype(int)
    blue, green, red = (picture[..., i] for i in range(3))
    assert ((red > 150) & (blue < 100) & (green < 100)).sum() > 50  # relevance, and channels in their order
    assert (out / "sheets" / "overview_lbfgs.png").exists()
    adversarial = cv2.imread(str(next((out / "images").iterdir())))
    assert adversarial.shape == (16, 16, 3)


def test_digits_from_scratch(tmp_path, monkeypatch):
    """L-BFGS on a small network for scikit-learn's digits reaches its targets, and says so truly."""
    from lrp_tf.training import sources

    images = sources.load("digits", None)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [kl.Input((28, 28, 1)), kl.Conv2D(8, 5, strides=2, activation="relu"), kl.Conv2D(16, 3, strides=2,
         activation="relu"), kl.Flatten(), kl.Dense(10, activation="softmax")]
    )  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images.x_train / np.float32(255), images.y_train, epochs=8, batch_size=32, verbose=0)
    model.save(tmp_path / "model.keras")
    told = finished("--dataset", "digits", "--model", tmp_path / "model.keras", "--per-target", "2", "--composites",
                    "epsilon_plus", "--confidence", "1", "--out", tmp_path / "out")  # fmt: skip
    assert "results:" in told
    rows = table(tmp_path / "out" / "attacks.csv")
    assert len(rows) == 20
    assert np.mean([row["success_float"] == "1" for row in rows]) >= 0.95
    for row in rows:
        if row["success_float"] == "1":
            assert float(row["margin_float"]) >= 1
            assert row["class_float"] == row["target"]
    # A margin of 1 survives the rounding to 8 bits.
    assert np.mean([row["class_png"] == row["target"] for row in rows]) >= 0.95
    kinds = {row["kind"]: row for row in table(tmp_path / "out" / "ranking.csv") if row["measure"] == "left_top_10"}
    assert float(kinds["noise"]["mean"]) < float(kinds["adversarial"]["mean"]) < float(kinds["chance"]["mean"])

"""mnist/adversarial.py in this process: options, messages, models that are given or trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.mnist_scripts import script
from helpers.studies import content, pictures, quadrants, table

import lrp_tf
from lrp_tf.evaluate.adversarial import study


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, str]:
    """A model and data for the command."""
    folder = tmp_path_factory.mktemp("given")
    quadrants().save(folder / "model.keras")
    (x, y), (more, labels) = pictures(16), pictures(40)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=more, y_test=labels)
    return {"model": str(folder / "model.keras"), "data": str(folder / "data.npz")}


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(lrp_tf.__file__).parents[1] / "mnist"))
    return script("adversarial").main


def words(given, out, *more):
    return ["--dataset", given["data"], "--model", given["model"], "--attack", "pgd", "--per-target", "2",
            "--composites", "epsilon", "--top", "10", "--out", str(out), *more]  # fmt: skip


def test_the_command(given, command, tmp_path, capsys):
    command(words(given, tmp_path / "out", "--targets", "0", "3", "--sources", "1", "2"))
    told = capsys.readouterr().out
    assert "data.npz: 40 test images, 100.0% classified rightly; 4 attacks by each of pgd" in told
    assert "attacked by pgd: 4 of 4 images" in told
    assert "explained: 4 of 4 images" in told
    rows = table(tmp_path / "out" / "attacks.csv")
    assert Counter(row["target"] for row in rows) == {"0": 2, "3": 2}
    assert {row["label"] for row in rows} == {"1", "2"}
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["targets"] == [0, 3]
    before = content(tmp_path / "out")
    with pytest.raises(SystemExit, match="2"):
        command(words(given, tmp_path / "out", "--targets", "0", "3", "--sources", "1", "2"))
    assert "holds a study. Remedy: --resume to continue it, --overwrite to remove it" in capsys.readouterr().err
    command(words(given, tmp_path / "out", "--targets", "0", "3", "--sources", "1", "2", "--resume"))
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--targets", "4"], "--targets: class 4 is out of range. Expected 0 to 3"),
        (["--sources", "cat"], "--sources: class 'cat'"),
        (["--range", "1", "1"], "--range: expected LOW below HIGH"),
        (["--composites", "nonsense"], "nonsense"),
        (["--model", "nowhere.keras"], "nowhere.keras: no such file"),
        (["--weights", "nowhere.h5"], "nowhere.h5: no such file"),
        (["--dataset", "nowhere"], "--dataset: expected"),
        (["--top", "0"], "expected a number above 0"),
        (["--resume", "--overwrite"], "not allowed with"),
        (["--attack", "lbfgs", "--epsilon", "0.1"], "--epsilon is for fgsm and pgd"),
        (["--size", "16"], "--model: expected a model from pictures (16, 16, 1)"),
    ],
)
def test_mistakes_are_one_line(given, command, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit, match="2"):
        command(words(given, tmp_path / "out", *more))
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interruption_names_the_option(given, command, tmp_path, capsys, monkeypatch):
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study.explained, "explain", interrupt)
    with pytest.raises(SystemExit, match="130"):
        command(words(given, tmp_path / "out", "--targets", "0"))
    assert "Interrupted. Finished parts are kept: use --resume to continue." in capsys.readouterr().err
    monkeypatch.undo()
    command_again = script("adversarial").main
    command_again(words(given, tmp_path / "out", "--targets", "0", "--resume"))


@pytest.mark.slow
def test_weights_of_keras_2(command, tmp_path, capsys):
    """A whole model of Keras 2, BatchNormalization before ReLU, attacked and explained."""
    reference = Path(__file__).parent / "references" / "keras2.npz"
    with np.load(reference) as archive:
        (tmp_path / "cnn.h5").write_bytes(archive["bn_functional.h5"].tobytes())
        model = lrp_tf.files.loading.load_model(tmp_path / "cnn.h5")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    said = model.predict(pixels.astype(np.float32) / 255, verbose=0).argmax(axis=1)
    labels = np.concatenate([np.arange(10), said])  # so that every class is known, and all test images are right
    train = np.zeros((10, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "data.npz", x_train=train, y_train=labels[:10], x_test=pixels, y_test=said)
    target = next(i for i in range(10) if i not in said[:3])
    command(["--dataset", str(tmp_path / "data.npz"), "--weights", str(tmp_path / "cnn.h5"), "--attack", "pgd",
             "--targets", str(target), "--per-target", "2", "--composites", "epsilon_plus", "--out",
             str(tmp_path / "out")])  # fmt: skip
    assert "60 test images, 100.0% classified rightly" in capsys.readouterr().out
    assert len(table(tmp_path / "out" / "attacks.csv")) == 2


@pytest.mark.slow
def test_a_missing_model_is_trained_and_that_is_told(given, command, tmp_path, capsys, monkeypatch):
    import train

    asked = []

    def fake(arguments: object) -> Path:
        asked.append(arguments)
        path = tmp_path / "logs" / "data" / "model.keras"
        path.parent.mkdir(parents=True)
        path.write_bytes(Path(given["model"]).read_bytes())
        path.with_name("classes.txt").write_text("one\ntwo\nthree\nfour\n")
        return path

    monkeypatch.setattr(train, "OUT", tmp_path / "logs")
    monkeypatch.setattr(train, "run", fake)
    short = ["--dataset", given["data"], "--attack", "pgd", "--per-target", "1", "--composites", "epsilon"]
    command([*short, "--targets", "two", "--sources", "four", "--out", str(tmp_path / "out")])
    assert "There is no model in" in capsys.readouterr().out
    assert asked[0].dataset == given["data"]
    assert [row["target"] for row in table(tmp_path / "out" / "attacks.csv")] == ["1"]
    command([*short, "--targets", "two", "--sources", "four", "--out", str(tmp_path / "out"), "--resume"])
    assert "There is no model in" not in capsys.readouterr().out
    assert len(asked) == 1

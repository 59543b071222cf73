"""mnist/train.py: one short training, what its seed decides, and its mistakes in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from helpers.mnist_scripts import FOLDER, cut_off, data, npz, script

# Keras reads a variable through np.array, and TensorFlow's variables do not know NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras.*"
)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "data", data)
    return script("train")


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(monkeypatch)


@pytest.mark.slow
def test_training_from_another_folder(tmp_path: Path):
    """A file sorted by class is learned in two epochs, so it was shuffled; and nothing but the model is left behind."""
    file = npz(tmp_path / "bars.npz")
    run = subprocess.run(
        [sys.executable, FOLDER / "train.py", "--dataset", file, "--epochs", "2", "--out", "logs"],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "dataset: bars.npz, 640 training and 50 test images" in run.stdout
    accuracy = re.search(r"^test accuracy: (\d\.\d{4}) on 50 images$", run.stdout, re.MULTILINE)
    assert accuracy, run.stdout
    assert float(accuracy[1]) > 0.9
    assert run.stdout.splitlines()[-1] == f"model: {Path('logs', 'model.keras')}"
    assert run.stdout.isascii()  # no progress bar where there is no terminal
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["model.keras"]
    model = keras.models.load_model(tmp_path / "logs" / "model.keras")
    images = data.load(file).x_test
    probabilities = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == data.load(file).y_test).mean() == pytest.approx(float(accuracy[1]))


@pytest.mark.slow
def test_seed_decides(train: ModuleType, tmp_path: Path):
    file = npz(tmp_path / "bars.npz", train=64, test=10)

    def kernels(seed: str, out: str) -> list[np.ndarray]:
        train.main(["--dataset", file, "--epochs", "1", "--seed", seed, "--out", str(tmp_path / out)])
        return keras.models.load_model(tmp_path / out / "model.keras").get_weights()

    first, again, other = kernels("1", "a"), kernels("1", "a"), kernels("2", "b")  # "a" is overwritten
    for x, y in zip(first, again, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert np.abs(first[0] - other[0]).max() > 1e-2


def test_mixed_precision(train: ModuleType, tmp_path: Path):
    model = train.build(mixed=True)
    assert {layer.compute_dtype for layer in model.layers[:-1]} == {"float16"}
    assert model.layers[-1].compute_dtype == "float32"
    digits = data.load(npz(tmp_path / "bars.npz", train=16, test=10))
    train.train(model, digits, epochs=1, mixed=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    train.save(model, tmp_path / "model.keras")
    output = keras.models.load_model(tmp_path / "model.keras").predict(digits.x_test, verbose=0)
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(("images", "epochs"), [(60_000, 4), (1437, 10), (1, 10), (1_000_000, 4)])
def test_default_epochs(train: ModuleType, images: int, epochs: int):
    assert train.default_epochs(images) == epochs


def test_failed_save_keeps_the_old_model(train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")

    def fail(self: keras.Model, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        train.save(train.build(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a whole number from 1, received '0'"),
        (["--epochs", "-3"], "--epochs"),
        (["--epochs", "two"], "received 'two'"),
        (["--seed", "-1"], "--seed: expected a whole number from 0"),
        (["--dataset", "missing.npz"], "missing.npz, which is no file"),
        (["--dataset", "digits", "--out", "file/logs"], "--out: expected a folder that can be written"),
        (["--dataset", "digits", "--out", "taken"], "which a model file cannot replace"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_arguments(
    train: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("taken/model.keras").mkdir(parents=True)
    out = [] if "--out" in arguments else ["--out", "logs"]
    with pytest.raises(SystemExit) as caught:
        train.main([*arguments, *out])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_unavailable_mnist_ends_the_driver_in_one_line(
    train: ModuleType, unreachable: None, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as caught:
        train.main(["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path)])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "MNIST is not available" in line
    assert "--dataset digits" in line

"""mnist/train.py: one short training, what its seed decides, and its mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from helpers.mnist_scripts import FOLDER, cut_off, data, npz, script
from helpers.vgg_scripts import folder, pictures
from helpers.vgg_scripts import npz as coloured_npz

from lrp_tf.training import fitting, nets, sources

# Keras reads a variable through np.array, and TensorFlow's variables do not know NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras.*"
)


LEFT = {
    "best.keras", "checkpoint.npz", "classes.txt", "confusion.csv", "confusion.png", "curves.png", "examples",
    "history.csv", "model.keras", "report.json",
}  # fmt: skip


@pytest.fixture
def train() -> ModuleType:
    return script("train")


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(monkeypatch)


@pytest.mark.slow
def test_training_from_another_folder(tmp_path: Path):
    """A file sorted by class is learned in two epochs, so it was shuffled; and nothing unfinished is left behind."""
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
    assert {path.name for path in (tmp_path / "logs").iterdir()} == LEFT
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
    file = npz(tmp_path / "bars.npz", train=40, test=10)
    train.main(["--dataset", file, "--mixed-precision", "--epochs", "1", "--out", str(tmp_path)])
    model = keras.models.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in model.layers[1:-1]} == {"float16"}
    assert model.layers[-1].compute_dtype == "float32"
    assert train.make_parser().parse_args(["--seed", str(2**32 - 1)]).seed == 2**32 - 1
    output = model.predict(data.load(file).x_test, verbose=0)
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(("images", "epochs"), [(60_000, 4), (1437, 10), (1, 10), (1_000_000, 4)])
def test_default_epochs(train: ModuleType, images: int, epochs: int):
    assert train.default_epochs(images) == epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a whole number from 1, received '0'"),
        (["--epochs", "-3"], "--epochs"),
        (["--epochs", "two"], "received 'two'"),
        (["--seed", "-1"], "--seed: expected a whole number from 0"),
        (["--dataset", "missing.npz"], "Received: missing.npz, which is none of them"),
        (["--dataset", "digits", "--out", "file/logs"], "--out: expected a folder that can be written"),
        (["--dataset", "digits", "--out", "taken"], "which a file of that name cannot replace"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--augment", "none", "shift"], "--augment: expected none alone"),
        (["--dataset", "digits", "--augment", "flip"], "mirrored digits are no digits"),
        (["--dataset", "digits", "--data-dir", "x"], "--data-dir is where MNIST lies"),
        (["--dataset", "digits", "--classes", "x"], "--classes names the classes of FILE.npz"),
        (["--dataset", "digits", "--size", "32"], "--size is for other pictures"),
        (["--dataset", "digits", "--batch-norm"], "--batch-norm and --dropout are of --net cnn"),
        (["--dataset", "digits", "--dropout", "0"], "--batch-norm and --dropout are of --net cnn"),
        (["--clip-norm", "1", "--clip-value", "1"], "expected one of them"),
        (["--dataset", "digits", "--patience", "10"], "expected fewer epochs than --epochs. Received: 10 and 10"),
        (["--dataset", "digits", "--warm-up", "3", "--epochs", "2"], "--warm-up: expected at most the epochs"),
        (
            ["--dataset", "digits", "--patience", "5", "--epochs", "5"],
            "--patience: expected fewer epochs than --epochs. Received: 5 and 5",
        ),
        (["--dataset", "bars.npz", "--augment", "flip"], "mirrored digits are no digits"),
        (["--clip-value", "-1"], "--clip-value: expected a number from 0"),
        (["--l2", "2"], "--l2: expected a number from 0 to 1"),
        (["--net", "digits", "--dataset", "colours.npz"], "--net digits: expected pictures of 28x28. Received: 32x32"),
        (["--net", "mobilenet", "--dataset", "small.npz"], "--net mobilenet: expected pictures of 8x8 or more"),
        (["--net", "mobilenet", "--dataset", "colours.npz", "--batch-norm"], "--net mobilenet always has it"),
        (["--dataset", "small.npz"], "--net cnn: expected pictures of 8x8 or more. Received: 6x6"),
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
    coloured(Path("colours.npz"))
    npz(Path("bars.npz"))
    coloured(Path("small.npz"), size=6)
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


# --- pictures other than digits -----------------------------------------------------------------


def coloured(path: Path, size: int = 32, train: int = 60, test: int = 12) -> str:
    """A file in the layout of CIFAR-10, of three classes."""
    x, y = pictures(train + test)
    x = x[:, :size, :size]
    return coloured_npz(path, x_train=x[:train], y_train=y[:train], x_test=x[train:], y_test=y[train:])


TINY = ("--batch", "16", "--epochs", "2", "--augment", "none")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a training with BatchNormalization, and its data."""
    home = tmp_path_factory.mktemp("cifar")
    file = coloured(home / "bars.npz")
    script("train").main(["--dataset", file, "--batch-norm", *TINY, "--out", str(home / "logs")])
    return home / "logs", file


def test_the_paper_s_network(cifar: tuple[Path, str]):
    out, file = cifar
    assert {path.name for path in out.iterdir()} == LEFT
    model = keras.models.load_model(out / "model.keras", compile=False)
    kinds = [type(layer).__name__ for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    pair = ["Conv2D", "BatchNormalization", "ReLU"] * 2 + ["MaxPooling2D", "Dropout"]
    assert kinds == [*pair * 3, "Flatten", "Dense"]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [32, 32, 64, 64, 128, 128]
    assert model.name == "trained_on_bars.npz"
    assert (out / "classes.txt").read_text().split() == ["0", "1", "2"]
    report = json.loads((out / "report.json").read_text())
    images = sources.load(file, None)
    predicted = model.predict(images.x_test / np.float32(255), verbose=0).argmax(axis=1)
    assert report["accuracy"] == pytest.approx((predicted == images.y_test).mean())  # the net takes pixels 0..1
    assert len((out / "history.csv").read_text().splitlines()) == 3


def test_resume_and_a_new_start(train: ModuleType, cifar: tuple[Path, str], capsys: pytest.CaptureFixture):
    out, file = cifar
    before = (out / "history.csv").read_text()
    options = ["--dataset", file, "--batch-norm", *TINY, "--out", str(out)]
    train.main([*options, "--resume"])
    assert "resumed after epoch 2 of 2" in capsys.readouterr().out
    assert (out / "history.csv").read_text() == before
    with pytest.raises(SystemExit):
        train.main([*options, "--resume", "--l2", "0.1"])
    assert "l2: 0.0, now 0.1" in capsys.readouterr().err
    assert (out / "history.csv").read_text() == before


def test_a_checkpoint_that_does_not_know_an_option_is_of_its_default(tmp_path: Path):
    model, path = nets.cnn((8, 8, 3), 3), tmp_path / "checkpoint.npz"
    common = {"epochs": 1, "batch": 8, "learning_rate": 1e-3, "schedule": "constant", "warm_up": 0.0, "clip_norm": 0.0}
    recipe = fitting.Recipe(**common, optimizer="adam", weight_decay=0.0, augment=(), validation_share=0.1, seed=0)
    fitting.compile_model(model, recipe, 8, loss_scale=False)
    fitting.save_checkpoint(path, model, {k: v for k, v in vars(recipe).items() if k != "patience"}, [])
    assert fitting.load_checkpoint(path, model, vars(recipe)) == []
    with pytest.raises(fitting.ResumeError, match="patience: 0, now 3"):
        fitting.load_checkpoint(path, model, vars(recipe) | {"patience": 3})


def test_a_new_start_leaves_nothing_of_the_earlier_one_but_its_model(train: ModuleType, tmp_path: Path):
    for name in ("checkpoint.npz", "best.keras", "failures.csv", "model.keras", "tensorboard/events", "examples/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("earlier")
    train.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_where_results_go(train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    grey, colours = (sources.Images(*[np.zeros((1, *s), np.uint8), np.zeros(1)] * 2, ("a",), "x y/z.npz")
                     for s in ((28, 28, 1), (32, 32, 3)))  # fmt: skip
    assert train.folder_of(grey) == train.OUT
    assert train.folder_of(colours) == train.OUT / "x_y_z"
    monkeypatch.chdir(folder(tmp_path / "photos") / "low")
    assert train.folder_of(sources.load("..", 32)) == train.OUT / "photos"


def test_colours_of_28_x_28(train: ModuleType, tmp_path: Path):
    file = coloured(tmp_path / "small.npz", size=28)
    train.main(["--dataset", file, "--net", "digits", *TINY, "--out", str(tmp_path / "logs")])
    model = keras.models.load_model(tmp_path / "logs" / "model.keras", compile=False)
    assert (model.input_shape, model.output_shape) == ((None, 28, 28, 3), (None, 3))


def test_l2_is_in_the_loss_and_what_is_clipped():
    plain, heavy = (nets.cnn((8, 8, 3), 3, l2=l2) for l2 in (0.0, 0.5))
    assert not plain.losses
    heavy.set_weights(plain.get_weights())
    kernels = [weight for weight in plain.get_weights() if weight.ndim > 1]
    assert float(sum(heavy.losses)) == pytest.approx(0.5 * sum(np.square(k).sum() for k in kernels), rel=1e-5)
    assert float(sum(nets.digits(l2=0.1).losses)) > 0
    common = {"epochs": 1, "batch": 8, "learning_rate": 1e-3, "schedule": "constant", "warm_up": 0.0}
    more = {"optimizer": "adam", "weight_decay": 0.0, "augment": (), "validation_share": 0.1, "seed": 0}
    found = fitting.optimizer(fitting.Recipe(**common, **more, clip_norm=0.0, clip_value=0.5), 1)
    assert (found.clipvalue, found.global_clipnorm) == (0.5, None)


def test_mobilenet(train: ModuleType, tmp_path: Path):
    """As the page says; `--dropout` and `--l2` reach it, and all of its kernels."""
    options = ["--net", "mobilenet", "--dropout", "0.5", "--l2", "0.01", *TINY, "--out", str(tmp_path / "logs")]
    train.main(["--dataset", coloured(tmp_path / "small.npz", size=16), *options])
    model = keras.models.load_model(tmp_path / "logs" / "model.keras", compile=False)
    assert (model.input_shape, model.output_shape) == ((None, 16, 16, 3), (None, 3))
    kinds = [type(layer) for layer in model.layers]
    depthwise = kinds.count(keras.layers.DepthwiseConv2D)
    assert (depthwise, kinds.count(keras.layers.Conv2D), kinds.count(keras.layers.BatchNormalization)) == (7, 8, 15)
    assert [layer.max_value for layer in model.layers if isinstance(layer, keras.layers.ReLU)] == [6.0] * 15
    assert model.get_layer("block7_point_relu").output.shape == (None, 2, 2, 256)
    assert model.get_layer("dropout").rate == 0.5
    kernels = [weight for weight in model.trainable_weights if weight.name == "kernel"]
    assert len(kernels) == len(model.losses) == 16
    assert float(sum(model.losses)) == pytest.approx(0.01 * sum(np.square(k).sum() for k in kernels), rel=1e-5)


def test_patience():
    rows = [{"val_accuracy": a, "val_loss": 1.0} for a in (0.5, 0.7, 0.7, 0.6)]
    assert [fitting.ended(rows[:n], 2) for n in range(5)] == [False, False, False, False, True]
    assert not fitting.ended(rows, 3)
    assert not fitting.ended(rows, 0)


@pytest.mark.slow
def test_an_early_end_is_the_end_when_resumed_too(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    options = ["--dataset", coloured(tmp_path / "bars.npz"), "--batch", "16", "--epochs", "40", "--patience", "2"]
    options += ["--schedule", "constant", "--net", "cnn", "--tensorboard", "--out", str(tmp_path / "logs")]
    train.main(options)
    assert "No better epoch in 2 epochs: the training ends after epoch" in capsys.readouterr().out
    history = (tmp_path / "logs" / "history.csv").read_text()
    assert 3 < len(history.splitlines()) < 40
    report = json.loads((tmp_path / "logs" / "report.json").read_text())
    assert report["epoch"] == len(history.splitlines()) - 3  # the best one, two before the last
    assert list((tmp_path / "logs" / "tensorboard").rglob("*tfevents*"))
    train.main([*options, "--resume"])
    assert (tmp_path / "logs" / "history.csv").read_text() == history


@pytest.mark.slow
def test_a_folder_of_pictures(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    photos = folder(tmp_path / "photos", each=8)
    (photos / "low" / "broken.png").write_bytes(b"no picture")
    train.main(["--dataset", str(photos), *TINY, "--size", "16", "--out", str(tmp_path / "logs")])
    told = capsys.readouterr()
    assert "1 file(s) cannot be read" in told.err
    model = keras.models.load_model(tmp_path / "logs" / "model.keras", compile=False)
    assert model.input_shape == (None, 16, 16, 3)
    assert (tmp_path / "logs" / "classes.txt").read_text().split() == ["low", "middle", "top"]


@pytest.mark.slow
def test_killed_and_resumed_trainings_have_the_same_history(tmp_path: Path):
    file = coloured(tmp_path / "bars.npz", train=240)
    options = ["--dataset", file, "--epochs", "6", "--batch", "8", "--augment", "flip", "shift"]

    def command(out: str, *more: str) -> list[str]:
        return [sys.executable, str(FOLDER / "train.py"), *options, "--out", str(tmp_path / out), *more]

    subprocess.run(command("whole"), check=True, capture_output=True)
    child = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint.npz").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert not (tmp_path / "killed" / "history.csv").exists()
    subprocess.run(command("killed", "--resume"), check=True, capture_output=True)

    def rows(out: str) -> np.ndarray:
        return np.genfromtxt(tmp_path / out / "history.csv", delimiter=",", names=True)

    whole, killed = rows("whole"), rows("killed")
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        np.testing.assert_allclose(killed[name], whole[name], rtol=2e-3, atol=2e-3)

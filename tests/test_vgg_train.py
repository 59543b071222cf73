"""vgg/train.py: its options, network, schedule and checkpoints."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.vgg_scripts import module, npz, pictures, script

from lrp_tf.training import fitting, outcome, sources

train = script()
settings, nets, precision, results = (module(name) for name in ("settings", "nets", "precision", "results"))

# Keras reads a variable through np.array, and TensorFlow's variables do not know NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras.*"
)
TINY = ["--width", "0.02", "--epochs", "1", "--batch", "20", "--validation-share", "0.2"]


def recipe(**changes: object) -> object:
    plain = {"epochs": 4, "batch": 8, "optimizer": "adam", "learning_rate": 0.1, "schedule": "cosine", "warm_up": 1.0}
    plain |= {"weight_decay": 0.0, "clip_norm": 1.0, "augment": (), "validation_share": 0.1, "seed": 0}
    return fitting.Recipe(**{**plain, **changes})


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a whole number from 1, received '0'"),
        (["--size", "28"], "--size: expected a whole number from 32 to 1024, received '28'"),
        (["--depth", "12"], "--depth: invalid choice: 12"),
        (["--width", "0"], "--width: expected a number above 0 up to 4, received '0'"),
        (["--width", "nan"], "received 'nan'"),
        (["--dropout", "1"], "--dropout: expected a number from 0 to 0.95, received '1'"),
        (["--augment", "flip"], "--augment flip: mirrored digits are no digits"),
        (["--augment", "none", "shift"], "--augment: expected none alone"),
        (["--resume", "--overwrite"], "contradict one another"),
        (["--classes", "names.txt"], "--classes names the classes of FILE.npz"),
        (["--dataset", "missing.npz"], "Received: missing.npz, which is none of them"),
        (["--dataset", "nothing.npz", "--classes", "none.txt"], "Received: nothing.npz, unreadable"),
        (["--out", "file/logs"], "--out: expected a folder that can be written"),
        (["--out", "taken"], "is a folder, which a file of that name cannot replace"),
        (["--out", "earlier"], "holds an earlier training (model.keras). Remedy: --resume, --overwrite"),
        (["--dataset", "digits", "--data-dir", "d"], "--data-dir is where MNIST lies"),
        (["--over"], "unrecognized arguments: --over"),
    ],
)
def test_wrong_options_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "nothing.npz"):
        Path(name).write_text("")
    Path("taken/model.keras").mkdir(parents=True)
    Path("earlier").mkdir()
    Path("earlier/model.keras").write_text("")
    out = [] if "--out" in arguments else ["--out", "logs"]
    with pytest.raises(SystemExit) as caught:
        train.main([*arguments, *out])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_overwrite_keeps_the_earlier_training_until_the_new_one_can_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    for name in settings.RESULTS:
        (tmp_path / name).write_text("earlier")
    with pytest.raises(SystemExit):
        train.main(["--dataset", "missing.npz", "--overwrite", "--out", str(tmp_path)])
    assert "missing.npz, which is none of them" in capsys.readouterr().err
    assert all((tmp_path / name).read_text() == "earlier" for name in settings.RESULTS)
    settings.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_scikit_learn_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path)])
    assert 'pip install "lrp_tf[train]"' in capsys.readouterr().err


def test_defaults_fit_the_data():
    x, y = pictures(30)
    images = sources.Images(x, y, x, y, ("a", "b", "c"), "x")
    digits = sources.Images(x[..., :1], y, x, y, ("a", "b", "c"), "x", strokes=True)

    def chosen(arguments: str, images: object = images) -> object:
        return train.recipe_of(settings.make_parser().parse_args(arguments.split()), images)

    assert chosen("").augment == ("flip", "shift")
    assert chosen("", digits).augment == ("shift",)  # a mirrored digit is none
    assert chosen("--augment none").augment == ()
    assert (chosen("").epochs, chosen("--dataset f.npz").epochs, chosen("--epochs 7").epochs) == (15, 30, 7)
    assert chosen("").batch == 32
    assert chosen("").learning_rate < chosen("--batch-norm").learning_rate < chosen("--optimizer sgd").learning_rate
    assert chosen("--optimizer adamw").weight_decay == 0.01
    assert chosen("--optimizer adamw --weight-decay 0").weight_decay == 0


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("--depth 11 --compare-precision --out a/b --seed 3", "--depth 11 --seed 3"),
        ("--mixed-precision bfloat16 --depth 11 --out=x", "--depth 11"),
        ("--compare-precision --mixed-precision --resume", "--resume"),
    ],
)
def test_both_trainings_of_a_comparison_get_the_other_options(asked: str, kept: str):
    assert precision.kept(asked.split()) == kept.split()


# --- network -------------------------------------------------------------------------------------

# Weights and biases of the convolutions of columns A, B, D, E of the paper's table 1.
CONVOLUTIONS = {11: 9_220_480, 13: 9_404_992, 16: 14_714_688, 19: 20_024_384}


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_convolutions_are_those_of_the_paper(depth: int):
    model = nets.vgg(depth, 32, 3, 10)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    layers = [layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    assert len(layers) == depth
    assert model.count_params() - sum(layer.count_params() for layer in dense) == CONVOLUTIONS[depth]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "count"), [(11, 132_863_336), (13, 133_047_848), (16, 138_357_544), (19, 143_667_240)]
)
def test_whole_network_is_the_paper_s(depth: int, count: int):
    assert nets.vgg(depth, 224, 3, 1000).count_params() == count


def test_network_takes_pixels_and_gives_probabilities():
    for channels, low, high in [(1, 0, 1), (3, -1, 1)]:
        model = nets.vgg(13, 64, channels, 7, width=0.05, batch_norm=True, policy="mixed_bfloat16")
        scaled = keras.Model(model.input, model.get_layer("scaling").output)
        ends = [scaled(np.full((1, 64, 64, channels), value, "float32")).numpy() for value in (0, 255)]
        np.testing.assert_allclose(ends, [np.full_like(ends[0], low), np.full_like(ends[0], high)], atol=1e-6)
        assert model.get_layer("block3_conv1").compute_dtype == "bfloat16"
        assert model.output.dtype == "float32"
        assert model.output_shape == (None, 7)
        assert not model.get_layer("block1_conv1").use_bias
        assert model.get_layer("fc1").units == 26


# --- schedule and optimiser ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("constant", {0: 0.1, 9: 1.0, 10: 1.0, 99: 1.0}),
        ("cosine", {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 99: 0.0003, 100: 0.0}),
        ("step", {0: 0.1, 10: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
    ],
)
def test_schedules(kind: str, wanted: dict[int, float]):
    schedule = fitting.Schedule(1.0, kind, 10, 100)
    found = {step: float(schedule(step)) for step in wanted}
    assert found == pytest.approx(wanted, abs=1e-4)
    assert float(fitting.Schedule(1.0, kind, 0, 100)(0)) == pytest.approx(1.0)
    again = fitting.Schedule.from_config(schedule.get_config())
    assert float(again(30)) == float(schedule(30))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("loss_scale", [False, True])
def test_weight_decay_spares_biases(name: str, loss_scale: bool):
    """With gradients of zero, decay alone moves the kernels, and nothing moves the biases."""
    found = fitting.optimizer(recipe(optimizer=name, weight_decay=0.5, warm_up=0.0), 10, loss_scale=loss_scale)
    assert isinstance(found, keras.optimizers.LossScaleOptimizer) == loss_scale
    layer = keras.layers.Dense(2, bias_initializer="ones")
    layer.build((None, 3))
    before = [w.numpy() for w in layer.weights]
    found.apply([tf.zeros_like(w) for w in before], layer.trainable_variables)
    kernel, bias = (w.numpy() for w in layer.weights)
    np.testing.assert_array_equal(bias, before[1])
    np.testing.assert_allclose(kernel, before[0] * (1 - 0.1 * 0.5), rtol=1e-5)


def test_clip_norm_and_no_decay():
    assert fitting.optimizer(recipe(clip_norm=2.5), 1).global_clipnorm == 2.5
    assert fitting.optimizer(recipe(clip_norm=0), 1).global_clipnorm is None
    assert fitting.optimizer(recipe(optimizer="adamw"), 1).weight_decay == 0


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of one epoch, and its data beside it."""
    home = tmp_path_factory.mktemp("vgg")
    out = home / "logs"
    names = home / "names.txt"
    names.write_text("top\nin the middle\nbottom\n")
    options = ["--classes", str(names), "--log-relevance", "1"]
    train.main(["--dataset", npz(home / "bars.npz"), *TINY, *options, "--out", str(out)])
    return out


def again(trained: Path, *more: str) -> None:
    options = ["--classes", str(trained.parent / "names.txt"), *TINY, *more]
    train.main(["--dataset", str(trained.parent / "bars.npz"), *options, "--out", str(trained)])


def test_results_are_complete(trained: Path):
    with (trained / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == fitting.COLUMNS
    assert float(row["seconds"]) > 0
    report = json.loads((trained / "report.json").read_text())
    with (trained / "confusion.csv").open() as file:
        header, *matrix = csv.reader(file)
    assert header == ["true class", "top", "in the middle", "bottom"]
    counts = np.array([row[1:] for row in matrix], int)
    assert counts.sum() == 12
    assert report["accuracy"] == pytest.approx(np.trace(counts) / 12)
    assert report["settings"]["depth"] == 11
    assert set(report["classes"]) == {"top", "in the middle", "bottom"}
    assert (trained / "classes.txt").read_text() == "top\nin the middle\nbottom\n"
    assert sorted(path.name for path in (trained / "examples").iterdir()) == [f"class00{i}.png" for i in range(3)]
    assert (trained / "relevance" / "epoch-0001.png").exists()
    assert not list(trained.glob(".tmp*"))
    for name in ("curves.png", "confusion.png"):
        assert len(np.unique(tf.image.decode_png((trained / name).read_bytes()).numpy())) > 50  # something is drawn
    model = keras.models.load_model(trained / "model.keras")
    assert getattr(model, "optimizer", None) is None
    x, y = pictures(12)
    assert (model(x.astype("float32")).numpy().argmax(axis=1) == y).mean() == pytest.approx(report["accuracy"])


def test_resume_of_a_finished_training_trains_nothing(trained: Path, capsys: pytest.CaptureFixture):
    before = (trained / "history.csv").read_text(), (trained / "checkpoint.npz").read_bytes()
    (trained / "curves.png").unlink()
    again(trained, "--resume")
    assert ((trained / "history.csv").read_text(), (trained / "checkpoint.npz").read_bytes()) == before
    assert (trained / "curves.png").exists()
    told = capsys.readouterr().out
    assert "resumed after epoch 1 of 1" in told
    assert re.search(
        r"^next: python \S*lrp.py \S+examples --weights \S+model.keras --classes \S+classes.txt$", told, re.M
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--depth", "13"], "depth: 11, now 13"),
        (["--epochs", "2"], "epochs: 1, now 2"),
        (["--learning-rate", "0.3", "--batch-norm"], "batch_norm: False, now True; learning_rate: 0.0005, now 0.3"),
    ],
)
def test_resume_wants_the_same_settings(trained: Path, capsys: pytest.CaptureFixture, more: list[str], message: str):
    with pytest.raises(SystemExit) as caught:
        again(trained, *more, "--resume")
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "--resume: expected the settings of the training in" in told
    assert message in told


def test_resume_wants_the_same_data_and_a_whole_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    model, plain = nets.vgg(11, 32, 3, 3, width=0.02), recipe()
    fitting.compile_model(model, plain, 48, loss_scale=False)
    damaged = tmp_path / "checkpoint.npz"
    damaged.write_bytes((trained / "checkpoint.npz").read_bytes()[:2000])
    with pytest.raises(fitting.ResumeError, match=r"is damaged .* Remedy: delete it, and train anew"):
        fitting.load_checkpoint(damaged, model, {})
    with pytest.raises(fitting.ResumeError, match=r"data: bars.npz \w+, now other"):
        fitting.load_checkpoint(trained / "checkpoint.npz", model, {"data": "other"})
    with pytest.raises(SystemExit):
        again(trained)
    assert "holds an earlier training (checkpoint.npz)" in capsys.readouterr().err


def test_checkpoint_restores_everything(tmp_path: Path):
    """Weights, moments and step of the optimiser, statistics of BatchNormalization, under half precision too."""
    x, y = pictures(8)

    def made(loss_scale: bool) -> keras.Model:
        layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.BatchNormalization()]
        found = keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")])
        fitting.compile_model(found, recipe(), 8, loss_scale=loss_scale)
        return found

    for loss_scale in (False, True):
        model, other = made(loss_scale), made(loss_scale)
        model.fit(x.astype("float32"), y, verbose=0)
        history = [{"epoch": 1, "loss": float("nan")}]
        fitting.save_checkpoint(tmp_path / "c.npz", model, {"a": (1, 2)}, history)
        (found,) = fitting.load_checkpoint(tmp_path / "c.npz", other, {"a": (1, 2)})
        assert found["epoch"] == 1
        assert np.isnan(found["loss"])
        assert int(other.optimizer.iterations) == 1
        for a, b in zip(fitting.variables_of(model), fitting.variables_of(other), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_best_epoch_is_by_accuracy_then_by_loss():
    def merit(accuracy: float, loss: float) -> tuple:
        return fitting.merit({"val_accuracy": accuracy, "val_loss": loss})

    assert merit(0.9, 5.0) > merit(0.8, 0.1)
    assert merit(0.9, 0.1) > merit(0.9, 0.2) > merit(0.9, float("nan"))


def test_the_epoch_that_is_kept():
    values = [(1.0, 0.7, 0.5), (0.5, 0.9, 0.3), (0.2, 0.8, 0.4)]
    history = [{"loss": a, "val_accuracy": b, "val_loss": c} for a, b, c in values]
    assert outcome.chosen(history, "last") is history[2]
    assert outcome.chosen(history, "best") is history[1]
    history[2]["loss"] = float("nan")
    assert outcome.chosen(history, "last") is history[1]


def test_a_loss_that_is_no_number_ends_the_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    model = nets.vgg(11, 32, 3, 3, width=0.02)
    fitting.compile_model(model, recipe(), 8, loss_scale=False)
    keeping = fitting.Keeping(tmp_path, {}, [], 0)
    keeping.set_model(model)
    keeping.on_epoch_begin(0)
    logs = {"loss": float("nan"), "accuracy": 0.1, "val_loss": float("nan"), "val_accuracy": 0.1}
    keeping.on_epoch_end(0, logs)
    assert model.stop_training
    assert (
        "The loss is nan after epoch 1: the training ends. Remedy: a lower --learning-rate" in capsys.readouterr().out
    )


def test_strokes_of_digits(monkeypatch: pytest.MonkeyPatch):
    """A map on the strokes alone has all of its relevance there."""
    x = np.zeros((2, 32, 32, 1), np.uint8)
    x[:, 8:12, 8:24] = 200
    monkeypatch.setattr(results.lrp_tf, "Explainer", lambda model: lambda x: tf.cast(x > 0, tf.float32))
    found = results.on_strokes(None, x)
    assert found == pytest.approx({"relevance": 1.0, "area": 4 * 16 / 1024})
    monkeypatch.setattr(results.lrp_tf, "Explainer", lambda model: tf.ones_like)
    assert results.on_strokes(None, x)["relevance"] == pytest.approx(4 * 16 / 1024)


def test_a_training_that_broke_is_not_resumed(tmp_path: Path):
    x, y = pictures(30)
    images = sources.Images(x, y, x, y, ("a", "b", "c"), "bars")
    model, one = nets.vgg(11, 32, 3, 3, width=0.02), recipe(epochs=3)
    fitting.compile_model(model, one, 27, loss_scale=False)
    broken = [{**dict.fromkeys(fitting.COLUMNS, 0.0), "epoch": 1, "loss": float("nan")}]
    fitting.save_checkpoint(tmp_path / fitting.CHECKPOINT, model, {}, broken)
    assert len(fitting.fit(model, images, one, {}, tmp_path, resume=True)) == 1

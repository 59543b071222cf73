"""mnist/adversarial.py in this process: options, messages, models that are given or trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.mnist_scripts import script
from helpers.studies import content, pictures, quadrants, table
from helpers.vgg_scripts import folder

import lrp_tf
from lrp_tf.evaluate.adversarial import study
from lrp_tf.training import nets, sources


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
    assert "holds a study. Remedy: --resume, --overwrite, or another --out" in capsys.readouterr().err
    command(words(given, tmp_path / "out", "--targets", "0", "3", "--sources", "1", "2", "--resume"))
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--targets", "4"], "--targets: expected the name of a class, or a number below 4. Received: '4'"),
        (["--targets", "3", "--sources", "3"], "expected originals of other classes than the target"),
        (["--top", "1", "1.0"], "--top: expected shares that differ"),
        (["--range", "0", "inf"], "--range: expected finite numbers"),
        (["--composites", "nowhere.toml"], "--composites nowhere.toml: "),
        (["--data-dir", "x"], "--data-dir is where MNIST lies"),
        (["--dataset", "digits", "--size", "32"], "--size is for other pictures"),
        (["--sources", "cat"], "--sources: expected the name of a class, or a number below 4. Received: 'cat'"),
        (["--range", "1", "1"], "--range: expected finite numbers, LOW below HIGH"),
        (["--composites", "nonsense"], "--composites nonsense: "),
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
    command([*short, "--targets", "1", "--sources", "3", "--out", str(tmp_path / "out")])
    assert "There is no model in" in capsys.readouterr().out
    assert asked[0].dataset == given["data"]
    assert [row["target"] for row in table(tmp_path / "out" / "attacks.csv")] == ["1"]
    command([*short, "--targets", "two", "--sources", "four", "--out", str(tmp_path / "out"), "--resume"])
    assert "There is no model in" not in capsys.readouterr().out
    assert len(asked) == 1


# --- which network, which pictures --------------------------------------------------------------


@pytest.fixture
def scripts(command, monkeypatch, tmp_path):
    """The modules of the command and train.py, whose results go to a folder of the test."""
    import attacked
    import train

    monkeypatch.setattr(train, "OUT", tmp_path / "logs")
    return SimpleNamespace(attacked=attacked, train=train, adversarial=script("adversarial"))


def parsed(scripts, *words):
    return scripts.adversarial.make_parser().parse_args([*map(str, words)])


def saved(scripts, images, model, data: str | None = None) -> None:
    """A model with its report, where train.py puts it."""
    place = scripts.train.folder_of(images)
    place.mkdir(parents=True)
    model.save(place / "model.keras")
    told = {"settings": {"data": sources.fingerprint(images) if data is None else data}}
    (place / "report.json").write_text(json.dumps(told))
    (place / "classes.txt").write_text("".join(f"name {i}\n" for i in range(len(images.names))))


def test_a_folder_of_the_name_of_the_data_is_not_the_data(scripts, tmp_path, monkeypatch):
    """A checkout has a folder mnist."""
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    model, images = scripts.attacked.find(parsed(scripts, "--dataset", "digits"))
    assert model is None
    assert images.x_test.shape[1:] == (28, 28, 1)


def test_what_train_py_saved_is_found_in_its_size_and_with_its_names(scripts, tmp_path):
    photos = folder(tmp_path / "photos")
    saved(scripts, sources.load(str(photos), 16), nets.cnn((16, 16, 3), 3))
    model, images = scripts.attacked.find(parsed(scripts, "--dataset", photos))
    assert model.input_shape == (None, 16, 16, 3)
    assert images.x_test.shape[1:] == (16, 16, 3)
    assert images.names == ("low", "middle", "top")  # the data's own


def test_numbers_get_the_names_beside_the_model(scripts, given, capsys):
    images = sources.load(given["data"], None)
    saved(scripts, images, keras.models.load_model(given["model"]))
    place = scripts.train.folder_of(images)
    for options in ([], ["--model", place / "model.keras"]):
        found = scripts.attacked.find(parsed(scripts, "--dataset", given["data"], *options))[1]
        assert found.names == ("name 0", "name 1", "name 2", "name 3")
    (place / "classes.txt").write_text("a\nb\n")
    assert scripts.attacked.find(parsed(scripts, "--dataset", given["data"]))[1].names == ("0", "1", "2", "3")
    assert "does not name 4 classes" in capsys.readouterr().out


def test_a_model_of_other_pictures_of_that_name_is_refused(scripts, tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    saved(scripts, sources.load(str(photos), 32), nets.cnn((32, 32, 3), 3), "photos of another folder")
    with pytest.raises(ValueError, match=r"to be trained on these pictures. Received: trained on photos of another"):
        scripts.attacked.find(parsed(scripts, "--dataset", photos))
    path = tmp_path / "logs" / "photos" / "model.keras"
    model, _ = scripts.attacked.find(parsed(scripts, "--dataset", photos, "--model", path))  # asked for by name
    assert model is not None
    assert "was trained on other pictures, or on another split" in capsys.readouterr().out
    path.with_name("report.json").unlink()
    assert scripts.attacked.find(parsed(scripts, "--dataset", photos))[0] is not None


@pytest.mark.parametrize("normalized", [False, True])
def test_weights_alone_need_no_training(scripts, tmp_path, monkeypatch, normalized):
    monkeypatch.setattr(scripts.train, "run", lambda arguments: pytest.fail("trains"))
    own = nets.cnn((32, 32, 3), 3, batch_norm=normalized)
    own.save_weights(tmp_path / "own.weights.h5")
    photos = folder(tmp_path / "photos")
    options = parsed(scripts, "--dataset", photos, "--weights", tmp_path / "own.weights.h5")
    model, images = scripts.attacked.find(options)
    x = images.x_test.astype(np.float32) / 255
    np.testing.assert_allclose(model(x), own(x), atol=1e-6)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def two_inputs() -> keras.Model:
    a, b = keras.Input((8, 8, 1)), keras.Input((3,))
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(a), b])
    return keras.Model([a, b], keras.layers.Dense(4)(joined))


@pytest.mark.parametrize(
    ("make", "received"), [(two_inputs, r"\(8, 8, 1\), \(3,\), \(4,\)"), (Subclassed, "with no fixed inputs")]
)
def test_models_of_another_kind_are_refused_in_words(scripts, given, make, received):
    with pytest.raises(ValueError, match=received):
        scripts.attacked.check(make(), sources.load(given["data"], None))
    assert scripts.attacked.size_of(make()) in (8, None)


def test_a_network_of_open_size_takes_pictures_of_any(scripts, given):
    x = inputs = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    scripts.attacked.check(keras.Model(inputs, keras.layers.Dense(4)(x)), sources.load(given["data"], None))


def test_mistakes_are_told_before_a_training(scripts, given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scripts.train, "run", lambda arguments: pytest.fail("trains"))
    for more in (["--targets", "9"], ["--composites", "nonsense"]):
        with pytest.raises(SystemExit, match="2"):
            scripts.adversarial.main(["--dataset", given["data"], "--out", str(tmp_path / "out"), *more])
    (tmp_path / "out").mkdir()
    for kept, message in (
        ('{"kind": "adversarial study"}', "holds a study"),
        ("{}", "the results of something else"),
    ):
        (tmp_path / "out" / "settings.json").write_text(kept)
        with pytest.raises(SystemExit, match="2"):
            scripts.adversarial.main(["--dataset", given["data"], "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        scripts.adversarial.main(["--dataset", given["data"], "--out", given["model"]])
    assert "which is a file" in capsys.readouterr().err


def test_an_interrupted_training_is_continued(scripts, given, monkeypatch):
    images, heard = sources.load(given["data"], None), []
    monkeypatch.setattr(scripts.train, "run", lambda arguments: heard.append(arguments) or given["model"])
    scripts.attacked.trained(images, parsed(scripts, "--dataset", given["data"], "--resume"))
    checkpoint = scripts.train.folder_of(images) / "checkpoint.npz"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    for more in ([], ["--resume"]):
        scripts.attacked.trained(images, parsed(scripts, "--dataset", given["data"], *more))
    assert [arguments.resume for arguments in heard] == [False, False, True]


def test_the_name_of_a_class_wins_over_its_number(scripts):
    images = SimpleNamespace(names=("7", "3", "1"))
    assert scripts.adversarial.classes_of(["1", "0", "7"], images, "--targets") == (2, 0)


@pytest.mark.parametrize(
    ("options", "strokes", "epsilon", "step"),
    [
        ([], True, 0.3, 0.01),
        ([], False, 8 / 255, 2 / 255),
        (["--epsilon", "0.1"], True, 0.1, 0.01),
        (["--epsilon", "0.02", "--range", "-1", "1"], False, 0.04, 0.01),
        (["--range", "0", "255"], True, 76.5, 2.55),
    ],
)
def test_the_largest_change_and_its_steps(scripts, options, strokes, epsilon, step):
    images = SimpleNamespace(names=tuple("abcd"), strokes=strokes)
    plan, (fgsm, pgd), _ = scripts.adversarial.make_plan(parsed(scripts, "--attack", "fgsm", "pgd", *options), images)
    assert fgsm.settings["epsilon"] == pytest.approx(epsilon)
    assert (pgd.settings["epsilon"], pgd.settings["step"]) == pytest.approx((epsilon, step))
    assert (fgsm.settings["low"], fgsm.settings["high"]) == (plan.scale.low, plan.scale.high)


def test_values_are_ranked_in_another_range(given, command, tmp_path):
    command(words(given, tmp_path / "out", "--targets", "0", "--range", "0", "0.5", "--by", "value"))
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (settings["by"], settings["range"]) == ("value", [0.0, 0.5])
    with np.load(tmp_path / "out" / "adversarial.npz") as found:
        assert 0 < found["original"].max() <= 0.5
        assert found["x"].max() <= 0.5

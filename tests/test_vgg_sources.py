"""Every source of pictures to train on, and every way it can fail. vgg/lrp.py on what vgg/train.py makes."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from helpers.vgg_scripts import FOLDER, folder, module, npz, pictures
from PIL import Image

from lrp_tf.files.loading import load_classes
from lrp_tf.training import digits, reports, sources

nets = module("nets")


# --- files ---------------------------------------------------------------------------------------


def test_npz_in_the_layout_of_cifar(tmp_path: Path):
    found = sources.load(npz(tmp_path / "bars.npz"), 32)
    x, y = pictures(60)
    np.testing.assert_array_equal(found.x_train, x)
    np.testing.assert_array_equal(found.y_train, y)  # [N, 1] became [N]
    assert (found.names, found.name, found.channels, found.strokes) == (("0", "1", "2"), "bars.npz", 3, False)
    larger = sources.load(npz(tmp_path / "bars.npz"), 64)
    assert larger.x_test.shape == (12, 64, 64, 3)
    np.testing.assert_allclose(larger.x_test.mean(), found.x_test.mean(), atol=1)


def test_npz_in_the_layout_of_mnist(tmp_path: Path):
    """28 x 28 grey pictures lie in the middle of a black picture, pixel by pixel; twice as large where that fits."""
    x = np.random.default_rng(0).integers(1, 255, (6, 28, 28), dtype=np.uint8)
    y = np.arange(6) % 2
    path = npz(tmp_path / "strokes.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    found = sources.load(path, 32)
    assert found.strokes
    assert found.x_train.shape == (6, 32, 32, 1)
    np.testing.assert_array_equal(found.x_train[:, 2:30, 2:30, 0], x)
    assert found.x_train.sum(dtype=int) == x.sum(dtype=int)
    twice = sources.load(path, 64).x_train
    np.testing.assert_array_equal(twice[:, 4:60:2, 4:60:2, 0], x)
    assert twice.sum(dtype=int) == 4 * x.sum(dtype=int)
    other = sources.load(npz(tmp_path / "grey.npz", x_train=x[:, :20], y_train=y, x_test=x[:, :20], y_test=y), 32)
    assert not other.strokes
    assert other.x_train.shape == (6, 32, 32, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "without y_test; it has"),
        ({"x_train": np.zeros((60, 32, 32, 3), np.float32)}, r"x_train as uint8 .* Received from bad.npz: float32"),
        ({"x_train": np.zeros((60, 32, 32, 4), np.uint8)}, "x_train as uint8"),
        ({"x_train": np.zeros((60, 32), np.uint8)}, "x_train as uint8"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test as uint8"),
        ({"y_train": np.zeros((60, 3), int)}, r"y_train as integers \[60\] or \[60, 1\]"),
        ({"y_train": np.zeros(59, int)}, "y_train as integers"),
        ({"y_train": np.zeros(60, np.float32)}, "y_train as integers"),
        ({"y_train": np.zeros(60, int)}, "two or more"),
        ({"y_train": 1 + np.arange(60) % 3}, "numbered from 0 without gaps"),
        ({"y_test": np.full(12, 3)}, "each in y_train"),
        ({"x_test": np.zeros((12, 32, 32), np.uint8)}, "as many channels in x_train as in x_test"),
        ({"x_train": np.array([{}] * 60, object)}, "unreadable: ValueError"),
    ],
)
def test_other_npz_files(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(sources.DataError, match=message) as caught:
        sources.load(npz(tmp_path / "bad.npz", **changes), 32)
    assert "\n" not in str(caught.value)


def test_names_of_a_file(tmp_path: Path):
    images = sources.load(npz(tmp_path / "bars.npz"), 32)
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    assert sources.named(images, names).names == ("a", "b", "c")
    names.write_text("a\nb\n")
    with pytest.raises(ValueError, match="expected 3, one for each class"):
        sources.named(images, names)


def test_fingerprint_tells_data_apart(tmp_path: Path):
    images = sources.load(npz(tmp_path / "bars.npz"), 32)
    assert sources.fingerprint(images) == sources.fingerprint(sources.load(str(tmp_path / "bars.npz"), 32))
    y = images.y_test[::-1]
    assert sources.fingerprint(sources.Images(images.x_train, images.y_train, images.x_test, y, (), "bars.npz")) != (
        sources.fingerprint(images)
    )


# --- by name -------------------------------------------------------------------------------------


def test_bundled_digits():
    found = sources.load("digits", 32)
    assert (found.x_train.shape, found.x_test.shape) == ((1437, 32, 32, 1), (360, 32, 32, 1))
    assert found.strokes
    assert found.names == tuple("0123456789")
    assert found.x_train.max() == 255
    assert not found.x_train[:, :6].any()  # 8 x 8 enlarged to 20 x 20 in the middle


def test_data_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise OSError("no\nroute")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
    with pytest.raises(sources.DataError, match=r"CIFAR-10 cannot be downloaded: OSError: no route. Remedy: --dataset"):
        sources.load("cifar10", 32)
    monkeypatch.setattr(
        digits, "load_mnist", lambda data_dir: (_ for _ in ()).throw(digits.MnistUnavailable("offline"))
    )
    with pytest.raises(sources.DataError, match="MNIST is not available: offline"):
        sources.load("mnist", 32)


# --- folders -------------------------------------------------------------------------------------


def test_folder_is_split_by_class_and_seed(tmp_path: Path):
    found = sources.load(str(folder(tmp_path / "photos", each=10)), 32)
    assert found.names == ("low", "middle", "top")
    assert found.x_train.shape == (24, 32, 32, 3)
    assert np.bincount(found.y_train).tolist() == [8, 8, 8]
    assert np.bincount(found.y_test).tolist() == [2, 2, 2]
    for x, y in ((found.x_train, found.y_train), (found.x_test, found.y_test)):  # classes go with their pictures
        rows = x[..., 0].mean(axis=2).reshape(len(x), 32)
        np.testing.assert_array_equal(np.argmax([rows[:, a : a + 5].mean(axis=1) for a in (2, 10, 18)], axis=0), y)
    again, other = (sources.load(str(tmp_path / "photos"), 32, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.x_test, found.x_test)
    assert np.abs(other.x_test.astype(int) - found.x_test).max() > 0


def test_folder_that_is_split_already(tmp_path: Path):
    folder(tmp_path / "photos/train", each=5)
    folder(tmp_path / "photos/val", each=3)
    found = sources.load(str(tmp_path / "photos"), 32)
    assert (len(found.x_train), len(found.x_test)) == (15, 9)
    shutil.rmtree(tmp_path / "photos/val/top")
    with pytest.raises(sources.DataError, match=r"same classes in train and val"):
        sources.load(str(tmp_path / "photos"), 32)
    shutil.rmtree(tmp_path / "photos/val")
    with pytest.raises(sources.DataError, match="test or val or validation beside train"):
        sources.load(str(tmp_path / "photos"), 32)


def test_unreadable_files_of_a_folder_are_left_out(tmp_path: Path):
    photos = folder(tmp_path / "photos")
    (photos / "low" / "broken.jpg").write_bytes(b"no picture")
    (photos / "top" / "empty.png").write_bytes(b"")
    (photos / "top" / "notes.txt").write_text("not a picture, and not meant as one")
    Image.new("L", (50, 20), 200).save(photos / "middle" / "grey.png")  # grey pictures become three equal channels
    found = sources.load(str(photos), 32)
    assert [(Path(path).name, reason) for path, reason in found.failures] == [
        ("broken.jpg", "not an image, or in a format that is not supported"),
        ("empty.png", "empty file"),
    ]
    assert len(found.x_train) + len(found.x_test) == 19


def test_names_that_are_no_utf_8(tmp_path: Path):
    photos = folder(tmp_path / "photos")
    first = next(path for path in sorted(photos.iterdir()) if path.is_dir())
    first.rename(photos / os.fsdecode(b"caf\xe9"))
    (photos / os.fsdecode(b"caf\xe9/bad\xff.png")).write_bytes(b"no picture")
    found = sources.load(str(photos), 32)
    assert "caf\\xe9" in found.names
    ((path, _),) = found.failures
    reports.write_table(tmp_path / "failures.csv", ["file", "reason"], found.failures)
    assert os.fsencode(path) in (tmp_path / "failures.csv").read_bytes()
    (tmp_path / "classes.txt").write_text("\n".join(found.names), encoding="utf-8")
    assert load_classes(tmp_path / "classes.txt").names == found.names


def test_folders_without_enough(tmp_path: Path):
    with pytest.raises(sources.DataError, match="one sub folder for each class, two or more"):
        sources.load(str(folder(tmp_path / "one", names=("low",))), 32)
    few = folder(tmp_path / "few", each=3)
    (few / "top" / "0.png").write_bytes(b"")
    with pytest.raises(sources.DataError, match=r"three readable pictures or more of each class.*{'top': 2}"):
        sources.load(str(few), 32)
    shutil.rmtree(few / "top")
    (few / "top").mkdir()
    with pytest.raises(sources.DataError, match="holds no image"):
        sources.load(str(few), 32)


def test_pictures_that_do_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 60 * 64 * 64 * 3 - 1)
    with pytest.raises(sources.DataError, match=r"60 pictures of 64 x 64.*Remedy: a smaller --size"):
        sources.load(npz(tmp_path / "bars.npz"), 64)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_split_holds_out_of_every_class(share: float):
    labels = np.repeat([0, 1, 2], [2, 10, 100])
    kept, held = sources.split(labels, share, 0)
    assert sorted([*kept, *held]) == list(range(112))
    assert np.bincount(labels[held]).tolist() == [1, max(1, round(10 * share)), max(1, round(100 * share))]


# --- vgg/lrp.py ----------------------------------------------------------------------------------


@pytest.fixture
def lrp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("vgg_lrp", FOLDER / "lrp.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_lrp_takes_a_network_that_scales_its_input(lrp: ModuleType, capsys: pytest.CaptureFixture, channels: int):
    """Pixels arrive as they are, without the colours and the mean of Caffe, whatever the size and the classes."""
    keras.utils.set_random_seed(1)
    nets.vgg(11, 32, channels, 3, width=0.03, dropout=0).save("model.keras")
    Path("classes.txt").write_text("top\nmiddle\nbottom\n")
    Image.fromarray(pictures(1)[0][0]).save("bar.png")
    code = lrp.main(
        ["bar.png", "--weights", "model.keras", "--classes", "classes.txt", "--out", "r", "--save-relevance"]
    )
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "Fed to the model: " in told.out
    assert "250 (--preprocess none)" in told.out
    assert np.load("r/bar.npy").shape == (32, 32, channels)
    assert any(name in told.out for name in ("top", "middle", "bottom"))


def test_lrp_takes_no_other_model_beside_a_whole_network(lrp: ModuleType, capsys: pytest.CaptureFixture):
    nets.vgg(11, 32, 3, 3, width=0.03, dropout=0).save("model.keras")
    Image.fromarray(pictures(1)[0][0]).save("bar.png")
    assert lrp.main(["bar.png", "--weights", "model.keras", "--model", "vgg19", "--out", "r"]) == 2
    assert "Expected no --model. Received: --model vgg19" in capsys.readouterr().err


def test_lrp_keeps_the_preprocessing_of_other_weights(lrp: ModuleType, monkeypatch: pytest.MonkeyPatch):
    loaded = []
    from lrp_tf.files import loading

    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs))).save("plain.keras")
    monkeypatch.setattr(loading, "vgg", lambda name, weights, unsafe: loaded.append((name, weights)))
    for arguments in (["--weights", "plain.keras"], ["--model", "vgg19"]):
        _, preprocessing = lrp.network(lrp.make_parser().parse_args(["bar.png", *arguments]))
        assert preprocessing.name == loaded[-1][0]
    assert loaded == [("vgg16", "plain.keras"), ("vgg19", "imagenet")]


def test_lrp_tells_of_a_missing_file(lrp: ModuleType, capsys: pytest.CaptureFixture):
    Image.fromarray(pictures(1)[0][0]).save("bar.png")
    assert lrp.main(["bar.png", "--weights", "none.keras"]) == 2
    assert "none.keras: no such file" in capsys.readouterr().err


def test_pictures_as_they_come(tmp_path: Path):
    x, y = pictures(12, size=40)
    own = npz(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    np.testing.assert_array_equal(sources.load(own, None).x_train, x)
    other = npz(tmp_path / "other.npz", x_train=x, y_train=y)
    with pytest.raises(sources.DataError, match=r"in one size.*Remedy: --size"):
        sources.load(other, None)
    with pytest.raises(sources.DataError, match="--size: expected pixels"):
        sources.load(str(folder(tmp_path / "photos")), None)
    assert sources.load("digits", None).x_train.shape[1:] == (28, 28, 1)


def test_digits_are_not_shrunk_to_nothing(tmp_path: Path):
    x, y = np.zeros((6, 28, 28), np.uint8), np.arange(6) % 3
    for data in ("digits", npz(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)):
        with pytest.raises(sources.DataError, match=r"--size: expected 28 pixels or more for digits.*Received: 20"):
            sources.load(data, 20)

"""lrp_tf/training/digits.py: every source of digits, and every way it can fail."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.mnist_scripts import blocks, cut_off, data, npz

# Keras reads a variable through np.array, and TensorFlow's variables do not know NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras.*"
)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the network: {args}")

    monkeypatch.setattr(data, "probe", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a download that is begun all the same fails the test."""
    cut_off(monkeypatch)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with a copy of MNIST as tensorflow-datasets prepares it: 24 and 8 images, filled with their number."""
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("tfds")

    def split(count: int) -> list[tuple[int, dict]]:
        return [(i, {"image": np.full((28, 28, 1), i, np.uint8), "label": i % 10}) for i in range(count)]

    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        ),
        split_datasets={"train": split(24), "test": split(8)},
        data_dir=directory,
    )
    return directory


def _assert_sound(digits: object) -> None:
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == np.float32
        assert x.shape == (len(y), 28, 28, 1)
        assert x.min() >= 0
        assert x.max() <= 1
        assert y.dtype == np.int64
        assert y.ndim == 1
        assert y.min() >= 0
        assert y.max() <= 9


# --- scikit-learn's digits ---


def test_digits_look_like_mnist():
    digits = data.load("digits")
    _assert_sound(digits)
    assert digits.name == "digits"
    assert len(digits.x_test) >= 360
    assert len(digits.x_train) + len(digits.x_test) == 1797
    x = np.concatenate([digits.x_train, digits.x_test])
    assert x.max() == 1
    assert x.mean() < 0.3
    frame = np.ones((28, 28, 1), bool)
    frame[4:24, 4:24] = False
    assert not x[:, frame[..., 0]].any()
    assert (x == 0).mean() > 0.5  # the background is exactly zero, within the frame too


def test_digits_are_split_evenly_and_always_alike():
    first, second = data.load("digits"), data.load("digits")
    for field in data.KEYS:
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    counts = np.bincount(first.y_test, minlength=10)
    assert counts.min() >= 34
    assert counts.max() <= 38
    rows = {image.tobytes() for image in first.x_train}
    assert not any(image.tobytes() in rows for image in first.x_test)


# --- a file ---


def test_npz(tmp_path: Path):
    images, labels = blocks(100)
    order = np.random.default_rng(0).permutation(100)
    file = npz(tmp_path / "mine.npz", x_train=images[order], y_train=labels[order])
    digits = data.load(file)
    _assert_sound(digits)
    assert digits.name == "mine.npz"
    np.testing.assert_array_equal(digits.y_train, labels[order])
    np.testing.assert_allclose(digits.x_train[..., 0] * 255, images[order], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, r"without y_test; it has \['x_train', 'y_train', 'x_test'\]"),
        ({"x_train": np.zeros((640, 32, 32), np.uint8)}, r"x_train as uint8 \[N, 28, 28\].*uint8 \[640, 32, 32\]"),
        ({"x_test": np.zeros((50, 784), np.uint8)}, r"x_test as uint8 \[N, 28, 28\].*uint8 \[50, 784\]"),
        ({"x_train": np.zeros((640, 28, 28), np.float32)}, r"x_train as uint8.*float32 \[640, 28, 28\]"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8)}, r"N > 0.*\[0, 28, 28\]"),
        ({"y_train": np.zeros(639, np.uint8)}, r"y_train as integers \[640\].*uint8 \[639\]"),
        ({"y_train": np.zeros((640, 10), np.uint8)}, r"y_train as integers \[640\].*uint8 \[640, 10\]"),
        ({"y_train": np.zeros(640, np.float32)}, r"y_train as integers \[640\].*float32 \[640\]"),
        ({"y_test": np.full(50, 10, np.uint8)}, r"y_test from 0 to 9.*10 to 10"),
        ({"y_test": np.array(["7"] * 50, object)}, r"unreadable: ValueError"),
    ],
)
def test_npz_of_another_layout(tmp_path: Path, changes: dict, message: str):
    file = npz(tmp_path / "odd.npz", **changes)
    with pytest.raises(data.DataError, match=message) as caught:
        data.load(file)
    text = str(caught.value)
    assert "expected" in text.lower()
    assert "Remedy: " in text
    assert "odd.npz" in text
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"hello"], ids=["empty", "broken", "text"])
def test_unreadable_file(tmp_path: Path, content: bytes):
    file = tmp_path / "bad.npz"
    file.write_bytes(content)
    with pytest.raises(data.DataError, match=r"expected an .npz file.*bad\.npz, unreadable: .*Remedy: "):
        data.load(str(file))


def test_truncated_file(tmp_path: Path):
    file = Path(npz(tmp_path / "short.npz"))
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(data.DataError, match="unreadable"):
        data.load(str(file))


def test_damaged_compression(tmp_path: Path):
    np.savez_compressed(tmp_path / "flipped.npz", **dict(zip(data.KEYS, (*blocks(64), *blocks(10)), strict=True)))
    content = bytearray((tmp_path / "flipped.npz").read_bytes())
    content[200:400] = bytes(255 - byte for byte in content[200:400])
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(data.DataError, match="unreadable"):
        data.load(str(tmp_path / "flipped.npz"))


def test_single_array_in_place_of_an_archive(tmp_path: Path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(data.DataError, match=r"array\.npz, unreadable"):
        data.load(str(tmp_path / "array.npz"))


@pytest.mark.parametrize("name", ["missing.npz", "mnits", ""])
def test_no_such_file_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError, match=r"auto, mnist, digits or an \.npz file .*no file\. Remedy: "):
        data.load(name)


# --- MNIST ---


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
def test_prepared_copy_is_read_without_the_network(
    prepared: Path, no_network: None, capsys: pytest.CaptureFixture, dataset: str
):
    digits = data.load(dataset, str(prepared))
    _assert_sound(digits)
    assert digits.name == "mnist"
    assert len(digits.x_train) == 24
    assert len(digits.x_test) == 8
    numbers = np.rint(digits.x_train[:, 0, 0, 0] * 255).astype(int)
    assert sorted(numbers) == list(range(24))
    np.testing.assert_array_equal(digits.y_train, numbers % 10)
    assert capsys.readouterr().out == ""


def test_prepared_copy_in_the_default_place(prepared: Path, no_network: None, monkeypatch: pytest.MonkeyPatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(prepared))
    assert len(data.load("mnist").x_train) == 24


def test_damaged_copy(prepared: Path, no_network: None, tmp_path: Path):
    shutil.copytree(prepared, tmp_path / "copy")
    for file in (tmp_path / "copy").rglob("*.tfrecord*"):
        file.write_bytes(b"damaged")
    with pytest.raises(data.DataError, match=r"cannot be read.*Received: .*mnist.*Remedy: ") as caught:
        data.load("auto", str(tmp_path / "copy"))
    assert not isinstance(caught.value, data.MnistUnavailable)
    assert "\n" not in str(caught.value)


def test_unreadable_metadata(prepared: Path, no_network: None, tmp_path: Path):
    shutil.copytree(prepared, tmp_path / "copy")
    for file in (tmp_path / "copy").rglob("dataset_info.json"):
        file.write_text("{")
    with pytest.raises(data.DataError, match=r"cannot be opened.*Remedy: "):
        data.load("mnist", str(tmp_path / "copy"))


def test_auto_falls_back_and_says_so_in_one_line(unreachable: None, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert data.load("auto", str(tmp_path)).name == "digits"
    (line,) = capsys.readouterr().out.splitlines()
    assert "bundled digits" in line
    assert str(tmp_path / "mnist") in line
    assert "example.org: no answer" in line
    assert not list(tmp_path.iterdir())


def test_mnist_that_cannot_be_had(unreachable: None, tmp_path: Path):
    with pytest.raises(data.MnistUnavailable) as caught:
        data.load("mnist", str(tmp_path))
    for text in (str(tmp_path / "mnist"), "example.org", "--dataset digits", "--dataset FILE.npz", "--data-dir DIR"):
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_download(prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import tensorflow_datasets as tfds

    calls = []

    def builder(name: str, data_dir: str, try_gcs: bool) -> object:
        found = tfds.core.read_only_builder.builder_from_files(name, data_dir=str(prepared))
        monkeypatch.setattr(found, "download_and_prepare", lambda download_config: calls.append(download_config))
        assert (name, data_dir, try_gcs) == ("mnist", str(tmp_path), False)
        return found

    monkeypatch.setattr(data, "probe", lambda: None)
    monkeypatch.setattr(tfds, "builder", builder)
    assert data.load("mnist", str(tmp_path)).name == "mnist"
    assert [config.try_download_gcs for config in calls] == [False]


def test_download_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    import tensorflow_datasets as tfds

    def builder(*args: object, **kwargs: object) -> None:
        raise ConnectionError("cut off\nhalf-way")

    monkeypatch.setattr(data, "probe", lambda: None)
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(data.MnistUnavailable, match=r"download failed \(ConnectionError: cut off half-way"):
        data.load("mnist", str(tmp_path))
    assert data.load("auto", str(tmp_path)).name == "digits"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'tensorflow_datasets.*pip install "lrp_tf\[mnist\]"'):
        data.load("mnist", str(tmp_path))
    assert data.load("auto", str(tmp_path)).name == "digits"
    assert "pip install" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'sklearn.*pip install "lrp_tf\[mnist\]"'):
        data.load("auto", str(tmp_path))


# --- the probe ---


def _raise(*args: object, **kwargs: object) -> None:
    raise ConnectionError("no route")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (lambda url, **kwargs: SimpleNamespace(status_code=200), None),
        (lambda url, **kwargs: SimpleNamespace(status_code=403), "storage.googleapis.com: HTTP status 403"),
        (_raise, "storage.googleapis.com: ConnectionError"),
    ],
    ids=["answers", "forbidden", "fails"],
)
def test_probe(monkeypatch: pytest.MonkeyPatch, head: object, reason: str | None):
    import requests

    monkeypatch.setattr(requests, "head", head)
    assert data.probe() == reason


def test_probe_does_not_hang(monkeypatch: pytest.MonkeyPatch):
    """A name lookup that hangs heeds no time-out."""
    import requests

    release = threading.Event()
    monkeypatch.setattr(requests, "head", lambda url, **kwargs: release.wait(60))
    start = time.monotonic()
    assert data.probe(seconds=0.2) == "storage.googleapis.com: no answer within 0.2 s"
    assert time.monotonic() - start < 10
    release.set()

"""Handwritten digits to train on: MNIST, scikit-learn's bundled digits, or a file in Keras' mnist.npz layout."""

from __future__ import annotations

import dataclasses
import importlib
import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# The file that tensorflow-datasets downloads first; a request for its header shows whether a download can work.
MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz"
PROBE_SECONDS = 3.0
DIGITS_TEST_IMAGES = 360
CLASSES = 10
KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclasses.dataclass(frozen=True)
class Digits:
    """White digits on black, float32 in [0, 1] of shape [N, 28, 28, 1], and their classes, int64 [N].

    `name` is 'mnist', 'digits' or the name of the file they came from.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    name: str


class DataError(ValueError):
    """The data cannot be loaded; the message is one line."""


class MnistUnavailable(DataError):
    """There is no prepared copy of MNIST, and it cannot be downloaded; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"MNIST is not available: {reason}. Remedies: --dataset digits (bundled with scikit-learn), "
            "--dataset FILE.npz (Keras' mnist.npz), or --data-dir DIR where DIR holds a copy prepared by "
            "tensorflow-datasets"
        )


def load(dataset: str, data_dir: str | None = None) -> Digits:
    """Load the images and labels of `dataset`.

    Args:
        dataset: 'mnist', 'digits', 'auto' (MNIST if there is a copy or a download works, else digits) or the
            path of an .npz file in the layout of Keras' mnist.npz.
        data_dir: where tensorflow-datasets keeps its data; its own default if None.

    Raises:
        DataError: there is no such data, or it has another layout.
        ImportError: a package of the extra `mnist` is missing.
    """
    if dataset == "digits":
        return load_digits()
    if dataset == "mnist":
        return load_mnist(data_dir)
    if dataset == "auto":
        try:
            return load_mnist(data_dir)
        except MnistUnavailable as error:
            reason = error.reason
        except ImportError as error:
            reason = str(error)
        digits = load_digits()
        print(f"MNIST is not available, using scikit-learn's bundled digits: {reason}")
        return digits
    return load_npz(dataset)


# --- MNIST through tensorflow-datasets ---


def load_mnist(data_dir: str | None = None) -> Digits:
    """MNIST from a copy that tensorflow-datasets has prepared, or downloads and prepares now."""
    tfds = _import("tensorflow_datasets", "MNIST")
    directory = os.path.expanduser(data_dir) if data_dir else None
    builder = _prepared(tfds, directory) or _download(tfds, directory)
    try:
        # All images in one batch: they are small, and a loop over 70,000 tensors is slow.
        parts = {split: builder.as_dataset(split=split, batch_size=-1) for split in ("train", "test")}
        arrays = {
            f"{axis}_{split}": parts[split][feature].numpy()
            for split in parts
            for axis, feature in (("x", "image"), ("y", "label"))
        }
    except Exception as error:  # a damaged copy raises almost any type: TensorFlow's, an assertion, KeyError …
        raise DataError(
            f"The prepared copy of MNIST cannot be read. Expected: splits 'train' and 'test' with 'image' and 'label'. "
            f"Received: {builder.data_dir}: {_short(error)}. Remedy: delete that folder and let it be prepared again, "
            "or --dataset digits"
        ) from error
    arrays |= {key: arrays[key][..., 0] for key in ("x_train", "x_test") if arrays[key].ndim == 4}
    return _checked(arrays, "mnist", str(builder.data_dir))


def _prepared(tfds: ModuleType, data_dir: str | None) -> Any | None:
    """A builder on a copy that is already on disk, found without the network; None if there is none."""
    try:
        return tfds.core.read_only_builder.builder_from_files("mnist", data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        return None
    except Exception as error:  # metadata that cannot be parsed, a copy in two registered places, …
        raise DataError(
            f"A prepared copy of MNIST was found but cannot be opened: {_short(error)}. "
            "Remedy: delete it, or --data-dir DIR of another one, or --dataset digits"
        ) from error


def _download(tfds: ModuleType, data_dir: str | None) -> Any:
    """A builder on a copy that is downloaded now. The server is probed first: tfds would wait for it for minutes.

    Raises:
        MnistUnavailable: no answer, or the download failed.
    """
    place = Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)) / "mnist"
    if (reason := probe()) is not None:
        raise MnistUnavailable(f"no prepared copy in {place} and no download ({reason})")
    try:
        builder = tfds.builder("mnist", data_dir=data_dir, try_gcs=False)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # network, disk and checksums each raise another type
        raise MnistUnavailable(f"no prepared copy in {place} and the download failed ({_short(error)})") from error
    return builder


def probe(url: str = MNIST_URL, seconds: float = PROBE_SECONDS) -> str | None:
    """None if `url` answers within about `seconds`, else the reason in a few words."""
    requests = _import("requests", "MNIST")  # tfds downloads with it, so that proxies and certificates are the same
    failure = [f"no answer within {seconds:g} s"]

    def ask() -> None:
        try:
            status = requests.head(url, timeout=seconds, allow_redirects=True).status_code
            failure[0] = "" if status < 400 else f"HTTP status {status}"
        except Exception as error:  # whatever the reason, a download would fail too
            failure[0] = type(error).__name__

    # The timeout does not cover the name lookup, which may hang; a daemon thread can be abandoned.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return f"{url.split('/')[2]}: {failure[0]}" if failure[0] else None


# --- digits that come with scikit-learn ---


def load_digits() -> Digits:
    """scikit-learn's 1,797 digits of 8x8, resized to look like MNIST: 20x20 in the middle of 28x28.

    The split is stratified and always the same.
    """
    datasets = _import("sklearn.datasets", "The bundled digits")
    selection = _import("sklearn.model_selection", "The bundled digits")
    cv2 = _import("cv2", "The bundled digits")
    raw = datasets.load_digits()
    x = np.zeros((len(raw.images), 28, 28, 1), np.float32)
    for i, image in enumerate(raw.images):
        # Bilinear interpolation does not overshoot, and background stays exactly zero.
        x[i, 4:24, 4:24, 0] = cv2.resize(image.astype(np.float32) / 16, (20, 20), interpolation=cv2.INTER_LINEAR)
    np.clip(x, 0, 1, out=x)
    y = raw.target.astype(np.int64)
    train, test = selection.train_test_split(
        np.arange(len(y)), test_size=DIGITS_TEST_IMAGES, stratify=y, random_state=0
    )
    return Digits(x[train], y[train], x[test], y[test], name="digits")


# --- a file ---


def load_npz(file: str) -> Digits:
    """Digits from a file in the layout of Keras' mnist.npz."""
    path = Path(os.path.expanduser(file))
    layout = f"an .npz file with {', '.join(KEYS)}, as Keras' mnist.npz"
    remedy = "Remedy: --dataset auto, mnist or digits, or the path of such a file"
    if not path.is_file():
        raise DataError(f"Expected: auto, mnist, digits or {layout}. Received: {file}, which is no file. {remedy}")
    arrays = read_npz(path, remedy)
    return _checked(arrays, path.name, file)


def read_npz(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of `KEYS` from a file.

    Raises:
        DataError: it is damaged, or lacks one.
    """
    layout = f"an .npz file with {', '.join(KEYS)}"
    try:
        # Opened here, since NumPy does not close a file that is no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in KEYS if key in archive.files}
            found = archive.files
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen types for damaged files
        raise DataError(
            f"--dataset: expected {layout}. Received: {path}, unreadable: {_short(error)}. {remedy}"
        ) from error
    if missing := [key for key in KEYS if key not in arrays]:
        raise DataError(
            f"--dataset: expected {layout}. Received: {path} without {', '.join(missing)}; it has "
            f"{found or 'nothing'}. {remedy}"
        )
    return arrays


# --- common to all ---


def _checked(arrays: dict[str, np.ndarray], name: str, source: str) -> Digits:
    """`Digits` from uint8 images [N, 28, 28] and integer labels [N].

    Raises:
        DataError: other shapes, dtypes or labels.
    """
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        received = f"Received from {source}: {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
        if x.ndim != 3 or x.shape[1:] != (28, 28) or x.dtype != np.uint8 or not len(x):
            raise DataError(f"Expected: x_{part} as uint8 [N, 28, 28], N > 0. {received}. Remedy: convert the images")
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise DataError(f"Expected: y_{part} as integers [{len(x)}]. {received}. Remedy: one label per image")
        if y.min() < 0 or y.max() >= CLASSES:
            raise DataError(
                f"Expected: y_{part} from 0 to {CLASSES - 1}. Received from {source}: {y.min()} to {y.max()}. "
                "Remedy: renumber the classes"
            )
    images = {key: arrays[key].astype(np.float32)[..., None] / np.float32(255) for key in ("x_train", "x_test")}
    labels = {key: arrays[key].astype(np.int64) for key in ("y_train", "y_test")}
    return Digits(**images, **labels, name=name)


def _import(module: str, what: str) -> ModuleType:
    """Import a module of the extra `mnist`, which only these functions need."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise ImportError(f'{what} needs {missing}, which is missing: pip install "lrp_tf[mnist]"') from error


def _short(error: BaseException) -> str:
    """An error as one line of bounded length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:199] + "…"

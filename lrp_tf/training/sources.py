"""Pictures to train on: handwritten digits, CIFAR-10, a folder of photographs, or an .npz file in Keras' layout."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from lrp_tf.files import images as pictures
from lrp_tf.files.downloads import time_limit
from lrp_tf.files.errors import ImageError
from lrp_tf.files.loading import load_classes
from lrp_tf.training import digits as handwritten
from lrp_tf.training.digits import KEYS, DataError

NAMED = ("digits", "mnist", "cifar10")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN, TESTS = "train", ("test", "val", "validation")  # sub folders of a folder that is split already
TEST_SHARE = 0.2  # of the pictures of a folder that is not
MAX_BYTES = 8 << 30
DIGIT = 28  # pixels


@dataclasses.dataclass(frozen=True)
class Images:
    """Pixels uint8 [N, size, size, C] and classes int64 [N].

    Attributes:
        names: of the classes.
        name: of the data.
        strokes: light strokes on black, such as digits: their mirror images mean something else.
        failures: files that could not be read, and the reasons.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    names: tuple[str, ...]
    name: str
    strokes: bool = False
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def channels(self) -> int:
        return self.x_train.shape[-1]


def load(dataset: str, size: int | None, data_dir: str | None = None, seed: int = 0) -> Images:
    """The pictures of `dataset`.

    Args:
        dataset: "digits" (bundled with scikit-learn), "mnist", "cifar10", a folder with one sub folder for each class,
            or an .npz file with x_train, y_train, x_test, y_test.
        size: height and width in pixels; None: as the data come, which a folder cannot.
        data_dir: where tensorflow-datasets keeps MNIST.
        seed: decides which pictures of a folder are for testing.

    Raises:
        DataError: no such data, or other data.
        ImportError: a package is missing; the message says how to install it.
    """
    if dataset in ("digits", "mnist"):
        return digits(dataset, size, data_dir)
    if dataset == "cifar10":
        return cifar10(size)
    path = Path(os.path.expanduser(dataset))
    if path.is_dir():
        if size is None:
            raise DataError(f"--size: expected pixels, since pictures of a folder may differ. Received: {path} without")
        return from_folder(path, size, seed)
    if not path.is_file():
        raise DataError(
            f"--dataset: expected {', '.join(NAMED)}, a folder with one sub folder for each class, or an .npz file. "
            f"Received: {dataset}, which is none of them"
        )
    return from_npz(path, size)


# --- by name -------------------------------------------------------------------------------------


def digits(name: str, size: int | None, data_dir: str | None = None) -> Images:
    """Handwritten digits, in the middle of a black picture, not stretched."""
    found = handwritten.load(name, data_dir)
    x = [centred(np.rint(part * 255).astype(np.uint8), size) for part in (found.x_train, found.x_test)]
    return Images(x[0], found.y_train, x[1], found.y_test, tuple("0123456789"), found.name, strokes=True)


def centred(x: np.ndarray, size: int | None) -> np.ndarray:
    """Digits [N, 28, 28, 1] enlarged by a whole factor, in the middle of black pictures [N, size, size, 1]."""
    if size is None:
        return x
    if size < DIGIT:
        raise DataError(
            f"--size: expected {DIGIT} pixels or more for digits, which are {DIGIT}x{DIGIT}. Received: {size}"
        )
    factor = size // DIGIT
    large = x.repeat(factor, axis=1).repeat(factor, axis=2)
    before = (size - large.shape[1]) // 2
    after = size - large.shape[1] - before
    return np.pad(large, ((0, 0), (before, after), (before, after), (0, 0)))


def cifar10(size: int | None) -> Images:
    """CIFAR-10 as Keras downloads it."""
    try:
        with time_limit():
            (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:  # a broken download surfaces as almost any type
        raise DataError(
            f"CIFAR-10 cannot be downloaded: {_short(error)}. Remedy: --dataset FILE.npz with {', '.join(KEYS)}"
        ) from error
    arrays = dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return dataclasses.replace(_checked(arrays, "cifar10", size), names=CIFAR10)


# --- a file --------------------------------------------------------------------------------------


def from_npz(path: Path, size: int | None) -> Images:
    """Pictures from a file in the layout of Keras' mnist.npz: x uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]."""
    arrays = handwritten.read_npz(path, "Remedy: a file laid out as Keras' mnist.npz or CIFAR-10")
    return _checked(arrays, path.name, size)


def _checked(arrays: dict[str, np.ndarray], name: str, size: int | None) -> Images:
    """`Images` from uint8 pictures and integer labels.

    Raises:
        DataError: other shapes, dtypes or labels.
    """
    parts: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        received = f"Received from {name}: {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
        x = x[..., None] if x.ndim == 3 else x
        if x.ndim != 4 or x.shape[-1] not in (1, 3) or x.dtype != np.uint8 or not x.size:
            raise DataError(
                f"Expected: x_{part} as uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3], N > 0. {received}. "
                "Remedy: convert the pictures to pixels 0 to 255"
            )
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise DataError(f"Expected: y_{part} as integers [{len(x)}] or [{len(x)}, 1]. {received}")
        parts |= {f"x_{part}": x, f"y_{part}": y.astype(np.int64)}
    if parts["x_train"].shape[3] != parts["x_test"].shape[3]:
        raise DataError(f"Expected: as many channels in x_train as in x_test. Received from {name}: others")
    if size is None and parts["x_train"].shape[1:3] != parts["x_test"].shape[1:3]:
        raise DataError(f"Expected: x_train and x_test in one size. Received from {name}: others. Remedy: --size")
    known = np.unique(parts["y_train"])
    classes = len(known)
    if classes < 2 or not np.array_equal(known, np.arange(classes)) or not np.isin(parts["y_test"], known).all():
        raise DataError(
            f"Expected: classes numbered from 0 without gaps, two or more, each in y_train. Received from {name}: "
            f"{known[:12].tolist()} to train and {np.unique(parts['y_test'])[:12].tolist()} to test. "
            "Remedy: renumber them"
        )
    strokes = parts["x_train"].shape[1:] == (DIGIT, DIGIT, 1)
    for key in ("x_train", "x_test"):
        parts[key] = centred(parts[key], size) if strokes else fitted(parts[key], size)
    x_train, y_train, x_test, y_test = (parts[key] for key in KEYS)
    return Images(x_train, y_train, x_test, y_test, tuple(map(str, range(classes))), name, strokes)


def fitted(x: np.ndarray, size: int | None) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] -> [N, size, size, C], stretched as `lrp-tf explain` stretches them."""
    if size is None or x.shape[1:3] == (size, size):
        return x
    _require_memory(len(x), size, x.shape[-1])
    fit = pictures.Fit(size, size)
    return np.stack([fit.apply(image).reshape(size, size, x.shape[-1]) for image in x])


# --- a folder ------------------------------------------------------------------------------------


def from_folder(folder: Path, size: int, seed: int) -> Images:
    """Photographs from a folder with one sub folder for each class, or with `train` and `test` that have them.

    Files that cannot be read are left out and listed in `failures`.
    """
    if (folder / TRAIN).is_dir():
        test = next((folder / name for name in TESTS if (folder / name).is_dir()), None)
        if test is None:
            raise DataError(f"--dataset: expected {folder} to hold {' or '.join(TESTS)} beside {TRAIN}, or no {TRAIN}")
        names = class_folders(folder / TRAIN)
        if (other := class_folders(test)) != names:
            raise DataError(
                f"--dataset: expected the same classes in {TRAIN} and {test.name}. Received: {names} and {other}"
            )
        x_train, y_train, failures = read_classes(folder / TRAIN, names, size)
        x_test, y_test, more = read_classes(test, names, size)
        failures += more
    else:
        names = class_folders(folder)
        x, y, failures = read_classes(folder, names, size)
        kept, held = split(y, TEST_SHARE, seed)
        x_train, y_train, x_test, y_test = x[kept], y[kept], x[held], y[held]
    # Names of folders need not be UTF-8, while those of classes go into pictures and into classes.txt.
    shown = tuple(os.fsencode(name).decode("utf-8", "backslashreplace") for name in names)
    return Images(x_train, y_train, x_test, y_test, shown, folder.resolve().name or "root", failures=tuple(failures))


def class_folders(folder: Path) -> list[str]:
    """The names of the classes: the sub folders in the order of their names, without hidden ones."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise DataError(
            f"--dataset: expected a folder with one sub folder for each class, two or more. Received: {folder} with "
            f"{names or 'none'}"
        )
    return names


def read_classes(folder: Path, names: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Pixels [N, size, size, 3], classes [N], and the files that could not be read with the reasons."""
    files: list[tuple[str, int]] = []
    for label, name in enumerate(names):
        try:
            files += [(path, label) for path, _ in pictures.find([folder / name])]
        except ValueError as error:
            raise DataError(f"--dataset: {error}") from error
    _require_memory(len(files), size, 3)
    fit = pictures.Fit(size, size)

    def read(file: tuple[str, int]) -> np.ndarray | str:
        try:
            return fit.apply(pictures.read(file[0]))
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, files))
    failures = [(path, pixels) for (path, _), pixels in zip(files, found, strict=True) if isinstance(pixels, str)]
    kept = [(pixels, label) for (_, label), pixels in zip(files, found, strict=True) if not isinstance(pixels, str)]
    labels = np.array([label for _, label in kept], np.int64)
    counts = np.bincount(labels, minlength=len(names))
    if (counts < 3).any():
        few = {name: int(count) for name, count in zip(names, counts, strict=True) if count < 3}
        raise DataError(
            f"--dataset: expected three readable pictures or more of each class. Received in {folder}: {few}"
        )
    return np.stack([pixels for pixels, _ in kept]), labels, failures


# --- names and identity --------------------------------------------------------------------------


def named(images: Images, classes: Path) -> Images:
    """The pictures with the class names of a file.

    Raises:
        LoadError: no names, or not as many as classes.
    """
    found = load_classes(classes)
    found.check(len(images.names))
    return dataclasses.replace(images, names=found.names)


def fingerprint(images: Images) -> str:
    """Distinguishes data from others."""
    found = hashlib.sha256()
    for array in (images.x_train, images.y_train, images.x_test, images.y_test):
        found.update(np.ascontiguousarray(array).data)
    return f"{images.name} {found.hexdigest()[:16]}"


# --- common --------------------------------------------------------------------------------------


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to keep and indices to hold out: of each class about `share`, at least one of two or more."""
    generator = np.random.default_rng(seed)
    kept, held = [], []
    for label in np.unique(labels):
        order = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(order))), len(order) - 1)
        held.append(order[:count])
        kept.append(order[count:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def _require_memory(count: int, size: int, channels: int) -> None:
    needed = count * size * size * channels
    if needed > MAX_BYTES:
        raise DataError(
            f"--size: expected pictures that fit into {MAX_BYTES >> 30} GiB. Received: {count} pictures of {size} x "
            f"{size}, {needed / 2**30:.1f} GiB. Remedy: a smaller --size"
        )


def _short(error: BaseException) -> str:
    """An error as one line of bounded length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:199] + "…"

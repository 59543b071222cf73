"""The scripts of vgg/train.py as modules, and small data for them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from helpers import REPOSITORY

FOLDER = REPOSITORY / "vgg"


def module(name: str) -> ModuleType:
    """A module beside vgg/train.py, as that imports it."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def script() -> ModuleType:
    """vgg/train.py, under a name that cannot clash: mnist has a script of the same name."""
    module("settings")
    spec = importlib.util.spec_from_file_location("vgg_train", FOLDER / "train.py")
    found = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def pictures(count: int, channels: int = 3, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that are easy to tell apart, of three classes: a bright bar at the top, in the middle, at the bottom."""
    labels = np.arange(count) % 3
    x = np.random.default_rng(count).integers(0, 50, (count, size, size, channels), dtype=np.uint8)
    for image, label in zip(x, labels, strict=True):
        image[2 + 10 * label : 8 + 10 * label] = 250
    return x, labels


def npz(path: Path, train: int = 60, test: int = 12, **changes: np.ndarray | None) -> str:
    """Writes a file in the layout of Keras' cifar10; `changes` replaces an array or, with None, leaves it out."""
    (x_train, y_train), (x_test, y_test) = pictures(train), pictures(test)
    arrays = {"x_train": x_train, "y_train": y_train[:, None], "x_test": x_test, "y_test": y_test[:, None]} | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


def folder(path: Path, each: int = 6, names: tuple[str, ...] = ("low", "middle", "top")) -> Path:
    """Writes a folder of photographs with a sub folder for each class."""
    for label, name in enumerate(names):
        (path / name).mkdir(parents=True)
        x, y = pictures(3 * each, size=40)
        for i, image in enumerate(x[y == label]):
            Image.fromarray(image).save(path / name / f"{i}.png")
    return path

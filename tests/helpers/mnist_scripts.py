"""The scripts of mnist/ as modules, a small data set for them, and a network that does not answer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from helpers import REPOSITORY
from lrp_tf.training import digits as data

FOLDER = REPOSITORY / "mnist"


def script(name: str) -> ModuleType:
    """A script of mnist/, under a name that cannot clash: vgg/ has a `train`, too."""
    spec = importlib.util.spec_from_file_location(f"mnist_{name}", FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a download that is begun all the same fails the test."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(data, "probe", lambda: "example.org: no answer")
    monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: pytest.fail("began a download"))


def blocks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are easy to tell apart, sorted by class: a bright bar whose row is the class, on noise."""
    labels = np.sort(np.arange(count) % 10).astype(np.uint8)
    images = np.random.default_rng(count).integers(0, 60, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 3 : 2 * label + 6] = 250
    return images, labels


def npz(path: Path, train: int = 640, test: int = 50, **changes: np.ndarray | None) -> str:
    """Writes a file in the layout of mnist.npz; `changes` replaces an array or, with None, leaves it out."""
    arrays = dict(zip(data.KEYS, (*blocks(train), *blocks(test)), strict=True)) | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)

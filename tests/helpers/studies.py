"""A tiny classifier, pictures for it, and what a study of it left on disk."""

from __future__ import annotations

import csv
from pathlib import Path

import keras
import numpy as np
from keras import layers as kl

SECONDS = "seconds"


def quadrants() -> keras.Model:
    """Pictures [8, 8, 1] to the quadrant that is the brightest, by weights that are set."""
    model = keras.Sequential(
        [
            kl.Input((8, 8, 1)),
            kl.Conv2D(2, 3, padding="same", activation="relu", name="conv"),
            kl.AveragePooling2D(4),
            kl.Flatten(),
            kl.Dense(4, activation="softmax", name="dense"),
        ]
    )
    kernel, weights = np.full((3, 3, 1, 2), 0.1, np.float32), np.zeros((8, 4), np.float32)
    kernel[1, 1] = [[0.5, 0.3]]
    for quadrant in range(4):
        weights[2 * quadrant : 2 * quadrant + 2, quadrant] = 6
    model.set_weights([kernel, np.array([0.0, -0.1], np.float32), weights, np.zeros(4, np.float32)])
    return model


def pictures(count: int = 40, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 4
    pixels = generator.integers(0, 90, (count, 8, 8, channels), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[top : top + 4, left : left + 4] += 40
    return pixels, labels


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, object]:
    """All files but parts, which hold seconds; attacks.csv without seconds."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith("parts"):
            found[name] = path.read_bytes()
    found["attacks.csv"] = [{k: v for k, v in row.items() if k != SECONDS} for row in table(folder / "attacks.csv")]
    return found

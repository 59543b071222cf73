"""What a training came to: which epoch is kept, how it does on the test pictures, and what it leaves in its folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from lrp_tf.atomic import atomic
from lrp_tf.training import batches, fitting, reports
from lrp_tf.training.sources import Images

MODEL, CLASSES, EXAMPLES = "model.keras", "classes.txt", "examples"


def tell(images: Images, out: Path) -> None:
    """Say what the data are, and which files could not be read."""
    print(
        f"dataset: {images.name}, {len(images.x_train)} training and {len(images.x_test)} test pictures, "
        f"{len(images.names)} classes",
        flush=True,
    )
    tell_failures(images, out)


def tell_failures(images: Images, out: Path) -> None:
    """Say which files could not be read, and write them to failures.csv."""
    for path, reason in images.failures[:10]:
        print(f"left out: {path!a}: {reason}", file=sys.stderr)
    if images.failures:
        reports.write_table(out / "failures.csv", ["file", "reason"], images.failures)
        print(f"{len(images.failures)} file(s) cannot be read, see {out / 'failures.csv'}", file=sys.stderr)


def chosen(history: list[dict[str, float]], keep: str) -> dict[str, float]:
    """The row of the epoch whose weights are kept: "last", if its loss is finite, or "best"."""
    if keep == "last" and np.isfinite(history[-1]["loss"]):
        return history[-1]
    return max(history, key=fitting.merit)


def judge(
    model: keras.Model,
    images: Images,
    everything: dict[str, Any],
    history: list[dict[str, float]],
    out: Path,
    *,
    keep: str,
    scale: float = 1.0,
) -> tuple[keras.Model, dict[str, Any]]:
    """The network that is kept, and the report on it.

    Args:
        model: in the state of the last epoch.
        keep: "last" or "best", see `chosen`.
        scale: factor on the pixels 0..255, as in the training.
    """
    row = chosen(history, keep)
    kept = fitting.plain(model) if row is history[-1] else keras.models.load_model(out / fitting.BEST, compile=False)
    predicted = kept.predict(batches.plain(images.x_test, scale=scale), verbose=0).argmax(axis=1)
    return kept, {
        **reports.metrics(images.y_test, predicted, images.names),
        "epoch": int(row["epoch"]),
        "seconds_per_epoch": float(np.median([row["seconds"] for row in history[1:] or history])),  # the first compiles
        "peak_memory_mib": peak_memory(),
        "parameters": kept.count_params(),
        "settings": everything,
    }


def save(kept: keras.Model, images: Images, report: dict[str, Any], history: list[dict[str, float]], out: Path) -> None:
    """Write the model, the report with its tables and pictures, the names of the classes, and a picture of each."""
    atomic(out / MODEL, kept.save)  # first: whatever comes behind it, the training is not lost
    reports.write(out, report, history, images.names)
    names = "".join(f"{' '.join(name.split())}\n" for name in images.names)
    atomic(out / CLASSES, lambda path: path.write_text(names, encoding="utf-8"))
    (out / EXAMPLES).mkdir(exist_ok=True)
    for i in examples(images):
        pixels = Image.fromarray(images.x_test[i, ..., 0] if images.channels == 1 else images.x_test[i])
        atomic(out / EXAMPLES / f"class{images.y_test[i]:03d}.png", pixels.save)


def examples(images: Images) -> list[int]:
    """The first test picture of each class that has one."""
    return [int(rows[0]) for label in range(len(images.names)) if len(rows := np.flatnonzero(images.y_test == label))]


def peak_memory() -> float | None:
    """The most memory that was in use, MiB: of the GPU if there is one, else of the process; None if not known."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

"""Everything that a training leaves in its folder, beside what is needed to resume it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import lrp_tf
from lrp_tf.atomic import atomic
from lrp_tf.callbacks import RelevanceLogger
from lrp_tf.training import batches, fitting, reports
from lrp_tf.training.sources import Images

MODEL, CLASSES, EXAMPLES, RELEVANCE = "model.keras", "classes.txt", "examples", "relevance"
STROKE = 51  # A pixel of a digit is a stroke from this brightness on: a fifth of white.
JUDGED = 256  # test pictures whose heatmaps are held against their strokes
SHOWN = 10  # test pictures that are logged


def tell(images: Images, out: Path) -> None:
    """Say what the data are, and which files could not be read; these go to failures.csv, too."""
    print(
        f"dataset: {images.name}, {len(images.x_train)} training and {len(images.x_test)} test pictures, "
        f"{len(images.names)} classes",
        flush=True,
    )
    for path, reason in images.failures[:10]:
        print(f"left out: {path!a}: {reason}", file=sys.stderr)
    if images.failures:
        reports.write_table(out / "failures.csv", ["file", "reason"], images.failures)
        print(f"{len(images.failures)} file(s) cannot be read, see {out / 'failures.csv'}", file=sys.stderr)


def logger(every: int, images: Images, out: Path, overwrite: bool) -> RelevanceLogger:
    """A logger of heatmaps of a test picture of each class while the network trains; of digits with their strokes."""
    first = examples(images)[:SHOWN]
    x = images.x_test[first]
    masks = strokes(x) if images.strokes else None
    target = images.y_test[first]
    return RelevanceLogger(x, every, log_dir=out / RELEVANCE, target=target, masks=masks, overwrite=overwrite)


def examples(images: Images) -> list[int]:
    """The first test picture of each class that has one."""
    return [int(rows[0]) for label in range(len(images.names)) if len(rows := np.flatnonzero(images.y_test == label))]


def strokes(x: np.ndarray) -> np.ndarray:
    """Where the strokes of digits [N, H, W, 1] are, bool [N, H, W]."""
    return x[..., 0] >= STROKE


def on_strokes(model: keras.Model, x: np.ndarray) -> dict[str, float]:
    """The share of |R| on the strokes of digits, and their share of the area; means over the pictures.

    With the composite that vgg/lrp.py uses by default. A map that knows nothing of the strokes has equal shares.
    """
    relevance = np.abs(np.asarray(lrp_tf.Explainer(model)(x.astype(np.float32)))).sum(axis=-1)
    masks = strokes(x)
    shares = (relevance * masks).sum(axis=(1, 2)) / np.maximum(relevance.sum(axis=(1, 2)), 1e-30)
    return {"relevance": float(shares.mean()), "area": float(masks.mean())}


def chosen(history: list[dict[str, float]], keep: str) -> dict[str, float]:
    """The row of the epoch whose weights are kept: "last", if its loss is finite, or "best"."""
    if keep == "last" and np.isfinite(history[-1]["loss"]):
        return history[-1]
    return max(history, key=fitting.merit)


def finish(
    model: keras.Model,
    images: Images,
    everything: dict[str, Any],
    history: list[dict[str, float]],
    out: Path,
    *,
    keep: str,
) -> None:
    """Judge the trained network on the test pictures, write all results, and say what to run next.

    Args:
        model: in the state of the last epoch.
        keep: "last" or "best": which epoch is judged and becomes model.keras, see `chosen`.
    """
    row = chosen(history, keep)
    kept = fitting.plain(model) if row is history[-1] else keras.models.load_model(out / fitting.BEST, compile=False)
    predicted = kept.predict(batches.plain(images.x_test), verbose=0).argmax(axis=1)
    seconds = float(np.median([row["seconds"] for row in history[1:] or history]))  # the first one compiles
    report = {
        **reports.metrics(images.y_test, predicted, images.names),
        "epoch": int(row["epoch"]),
        "seconds_per_epoch": seconds,
        "peak_memory_mib": peak_memory(),
        "parameters": kept.count_params(),
        "settings": everything,
    }
    told = (
        f"test accuracy: {report['accuracy']:.4f}, macro F1: {report['macro_f1']:.4f} on {len(predicted)} pictures, "
        f"epoch {report['epoch']}; {seconds:.1f} s per epoch"
    )
    if images.strokes:
        report["strokes"] = on_strokes(kept, images.x_test[:JUDGED])
        told += "\n{relevance:.1%} of |relevance| on the strokes of digits, {area:.1%} of the area".format(
            **report["strokes"]
        )
    atomic(out / MODEL, kept.save)  # first: whatever comes behind it, the training is not lost
    reports.write(out, report, history, images.names)
    names = "".join(f"{' '.join(name.split())}\n" for name in images.names)
    atomic(out / CLASSES, lambda path: path.write_text(names, encoding="utf-8"))
    (out / EXAMPLES).mkdir(exist_ok=True)
    for i in examples(images):
        pixels = Image.fromarray(images.x_test[i, ..., 0] if images.channels == 1 else images.x_test[i])
        atomic(out / EXAMPLES / f"class{images.y_test[i]:03d}.png", pixels.save)
    script = Path(os.path.relpath(Path(__file__).resolve().parent / "lrp.py"))
    print(f"{told}\nresults: {out}")
    print(f"next: {command('python', script, out / EXAMPLES, '--weights', out / MODEL, '--classes', out / CLASSES)}")


def command(*words: str | Path) -> str:
    """Words as a shell takes them."""
    import shlex

    return shlex.join(map(str, words))


def peak_memory() -> float | None:
    """The most memory that was in use, MiB: of the GPU if there is one, else of the process; None if not known."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

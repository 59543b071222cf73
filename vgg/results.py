"""What a training of VGG leaves in its folder beside what every training does: heatmaps, and the next command."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import keras
import numpy as np

import lrp_tf
from lrp_tf.callbacks import RelevanceLogger
from lrp_tf.training import outcome
from lrp_tf.training.sources import Images

RELEVANCE = "relevance"
STROKE = 51  # A pixel of a digit is a stroke from this brightness on: a fifth of white.
JUDGED = 256  # test pictures whose heatmaps are held against their strokes
SHOWN = 10  # test pictures that are logged


def logger(every: int, images: Images, out: Path, overwrite: bool) -> RelevanceLogger:
    """A logger of heatmaps of a test picture of each class while the network trains; of digits with their strokes."""
    first = outcome.examples(images)[:SHOWN]
    x = images.x_test[first]
    masks = strokes(x) if images.strokes else None
    target = images.y_test[first]
    return RelevanceLogger(x, every, log_dir=out / RELEVANCE, target=target, masks=masks, overwrite=overwrite)


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
        keep: "last" or "best": which epoch is judged and becomes model.keras, see `outcome.chosen`.
    """
    kept, report = outcome.judge(model, images, everything, history, out, keep=keep)
    told = (
        f"test accuracy: {report['accuracy']:.4f}, macro F1: {report['macro_f1']:.4f} on {len(images.x_test)} "
        f"pictures, epoch {report['epoch']}; {report['seconds_per_epoch']:.1f} s per epoch"
    )
    if images.strokes:
        report["strokes"] = on_strokes(kept, images.x_test[:JUDGED])
        told += "\n{relevance:.1%} of |relevance| on the strokes of digits, {area:.1%} of the area".format(
            **report["strokes"]
        )
    outcome.save(kept, images, report, history, out)
    script = Path(os.path.relpath(Path(__file__).resolve().parent / "lrp.py"))
    words = (
        "python",
        script,
        out / outcome.EXAMPLES,
        "--weights",
        out / outcome.MODEL,
        "--classes",
        out / outcome.CLASSES,
    )
    print(f"{told}\nresults: {out}")
    print(f"next: {shlex.join(map(str, words))}")

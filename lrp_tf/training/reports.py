"""What a training came to: metrics, confusion matrix, curves; as tables and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from lrp_tf.atomic import atomic

LABELLED = 20  # With at most this many classes, each cell of the picture has its number.


def require_metrics() -> None:
    """See, before the training, that scikit-learn is there.

    Raises:
        ImportError: it is not; the message names the extra.
    """
    try:
        import sklearn.metrics  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'F1 and the confusion matrix need scikit-learn. Remedy: pip install "lrp_tf[train]"', name="sklearn"
        ) from error


def metrics(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1, precision, recall and F1 of each class, and the confusion matrix (rows: the true class)."""
    from sklearn import metrics as measures

    numbers = list(range(len(names)))
    each = measures.precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    parts = dict(zip(("precision", "recall", "f1", "pictures"), each, strict=True))
    return {
        "accuracy": float(np.mean(labels == predicted)),
        "macro_f1": float(measures.f1_score(labels, predicted, labels=numbers, average="macro", zero_division=0)),
        "classes": {
            name: {part: round(float(values[i]), 6) for part, values in parts.items()} for i, name in enumerate(names)
        },
        "confusion": measures.confusion_matrix(labels, predicted, labels=numbers).tolist(),
    }


def write(out: Path, report: dict[str, Any], history: Sequence[dict[str, float]], names: Sequence[str]) -> None:
    """Write report.json, history.csv, curves.png, confusion.csv and confusion.png."""
    matrix = np.array(report["confusion"])
    atomic(out / "report.json", lambda path: path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8"))
    write_table(out / "history.csv", list(history[0]), [list(row.values()) for row in history])
    write_table(
        out / "confusion.csv", ["true class", *names], [[n, *row] for n, row in zip(names, matrix, strict=True)]
    )
    save(curves(history, report["epoch"]), out / "curves.png")
    save(confusion(matrix, names, report["accuracy"], report["macro_f1"]), out / "confusion.png")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file; numbers with six digits."""

    def draw(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)

    atomic(path, draw)


def save(figure: Figure, path: Path) -> None:
    atomic(path, lambda temporary: figure.savefig(temporary, dpi=120))


def curves(history: Sequence[dict[str, float]], kept: int) -> Figure:
    """Loss, accuracy and learning rate over the epochs; a dashed line at the epoch that is kept."""
    epochs = [row["epoch"] for row in history]
    mark = "o" if len(epochs) < 3 else None
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("loss", "accuracy", "learning_rate"), strict=True):
        if name == "learning_rate":
            axes.plot(epochs, [row[name] for row in history], color="0.35", marker=mark)
        else:
            axes.plot(epochs, [row[name] for row in history], label="training", marker=mark)
            axes.plot(epochs, [row[f"val_{name}"] for row in history], label="validation", marker=mark)
            axes.axvline(kept, color="0.5", linestyle="--", linewidth=1, label=f"kept: epoch {kept}")
            axes.legend()
        axes.set_ylim(bottom=0, top=1.02 if name == "accuracy" else None)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return figure


def confusion(matrix: np.ndarray, names: Sequence[str], accuracy: float, f1: float) -> Figure:
    """The confusion matrix: colours are shares of the true class, numbers are pictures."""
    count = len(names)
    side = min(max(3.2, 0.55 * count + 2), 14)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # By square roots, so that one mistake of forty is seen.
    drawn = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    if count <= LABELLED:
        for i, j in np.argwhere(matrix > 0):
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=9,
                      color="white" if shares[i, j] > 0.3 else "black")  # fmt: skip
        short = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
        long = max(map(len, short)) > 2
        axes.set_xticks(range(count), short, rotation=45 if long else 0, ha="right" if long else "center")
        axes.set_yticks(range(count), short)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    axes.set_title(f"accuracy {accuracy:.4f}, macro F1 {f1:.4f}", fontsize=10)
    return figure

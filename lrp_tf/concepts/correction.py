"""Did the correction work? Accuracy with and without an artefact, of the model before and after."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np

from lrp_tf.evaluate import statistics
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Predict
from lrp_tf.evaluate.tables import ends_of, markdown_table, number, write_csv

COLUMNS = ("model", "samples", "n", "accuracy", "low", "high", "said_artefact")
WITHOUT, WITH = "without", "with the artefact"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """One row of a `Correction`.

        report.of("after", artefact=True).accuracy

    Attributes:
        model: its name.
        samples: "without" or "with the artefact".
        n: how many.
        accuracy: share that is classified rightly; low, high: its 95 % interval by the bootstrap.
        said_artefact: share of the samples of other classes that the model takes for the artefact's class.
    """

    model: str
    samples: str
    n: int
    accuracy: float
    low: float
    high: float
    said_artefact: float


@dataclasses.dataclass(frozen=True)
class Correction:
    """What `correction` measured.

        print(report)
        report.write("accuracy.csv")

    Attributes:
        rows: two for each model, without and with the artefact.
    """

    rows: tuple[Accuracy, ...]

    def of(self, model: str, *, artefact: bool) -> Accuracy:
        """The row of a model; ValueError for a name that there is not."""
        wanted = WITH if artefact else WITHOUT
        for row in self.rows:
            if (row.model, row.samples) == (model, wanted):
                return row
        known = list(dict.fromkeys(row.model for row in self.rows))
        raise ValueError(f"model expects one of {known}. Received: {model!r}")

    def markdown(self) -> str:
        """The rows as a table of Markdown."""
        heads = ("model", "samples", "n", "accuracy", "95 %", "taken for the artefact's class")
        return markdown_table(heads, [
            (row.model, row.samples, str(row.n), number(row.accuracy), ends_of(row.low, row.high),
             number(row.said_artefact))
            for row in self.rows
        ]) + "\n"  # fmt: skip

    def __str__(self) -> str:
        return self.markdown()

    def write(self, path: str | os.PathLike) -> None:
        """Write the rows as CSV; the file appears whole or not at all."""
        write_csv(Path(path), COLUMNS, (dataclasses.astuple(row) for row in self.rows))


def correction(
    models: Mapping[str, keras.Model | Predict],
    x: np.ndarray,
    labels: np.ndarray,
    artefact: Callable[[np.ndarray], np.ndarray],
    label: int,
    *,
    batch: int = 256,
    seed: int = 0,
) -> Correction:
    """Accuracy of models on samples without an artefact, and with it where it misleads.

        report = concepts.correction({"before": model, "after": corrected}, x, labels, add_mark, label=3)
        print(report)

    With the artefact means: on all samples of other classes than its own. Those of its own class stay without it, so
    that it always speaks for the wrong class. Intervals need SciPy (extra `evaluate`).

    Args:
        models: by name: Keras models, of a single unit too, or functions from a batch to the scores of classes, [B, C].
        x: test samples, [N, ...], free of the artefact. labels: their classes, int [N].
        artefact: a batch -> the same with the artefact.
        label: the class that the artefact goes with.
        seed: of the intervals.

    Raises:
        ValueError: no models, other shapes, no sample of another class, a label that is no class of a model, an
            artefact that changes the shape, a function that returns one score a sample.
    """
    x, labels = np.asarray(x), np.asarray(labels)
    others = labels != label
    if not models or labels.shape != (len(x),) or not others.any():
        raise ValueError(
            f"correction expects models, and samples with labels [N], some not of class {label}. Received: "
            f"{len(models)} models, {len(x)} samples, labels {list(labels.shape)}, {int(others.sum())} of other classes"
        )
    before = x[others]
    changed = np.asarray(artefact(before.copy()))
    if changed.shape != before.shape:
        raise ValueError(f"artefact expects to return {list(before.shape)}. Received: {list(changed.shape)}")
    # Floats keep their precision; 8-bit pixels would cut off what an artefact adds to them.
    wrong = x.astype(x.dtype if np.issubdtype(x.dtype, np.floating) else np.result_type(x.dtype, changed.dtype))
    wrong[others] = changed
    rows: list[Accuracy] = []
    for name, model in models.items():
        predict = Predictor(model) if isinstance(model, keras.Model) else model
        for samples, given in ((WITHOUT, x), (WITH, wrong)):
            scores = _scores(name, predict, given, batch)
            _require_class(name, label, scores.shape[1])
            said = scores.argmax(axis=1)
            right = (said == labels).astype(np.float64)
            low, high = statistics.interval(right, [seed, len(rows)])
            taken = float((said[others] == label).mean())
            rows.append(Accuracy(name, samples, len(x), float(right.mean()), low, high, taken))
    return Correction(tuple(rows))


def _scores(name: str, predict: Predict, x: np.ndarray, batch: int) -> np.ndarray:
    """Scores of classes, [N, C]."""
    found = np.concatenate([np.asarray(predict(x[i : i + batch])) for i in range(0, len(x), batch)])
    if found.ndim != 2 or len(found) != len(x) or found.shape[1] < 2:
        raise ValueError(
            f"model {name!r} expects to return the scores of two classes or more, [{len(x)}, C]. Received: "
            f"{list(found.shape)}. Remedy for a single unit: the Keras model itself; or [1 - p, p] of a probability p, "
            "[-v, v] of a logit v"
        )
    return found


def _require_class(name: str, label: int, classes: int) -> None:
    if not 0 <= label < classes:
        raise ValueError(
            f"label expects the artefact's class, 0 to {classes - 1} of model {name!r}. Received: {label!r}"
        )

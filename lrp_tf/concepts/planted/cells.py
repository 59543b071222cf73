"""What a study measures: one net with one planted mark, found and corrected; kept on disk."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from lrp_tf.concepts.correction import Accuracy, correction
from lrp_tf.concepts.planted import finding, nets, removal
from lrp_tf.concepts.planted.finding import Found, Seen
from lrp_tf.concepts.planted.marks import Mark, Planted, plant
from lrp_tf.concepts.planted.removal import Terms
from lrp_tf.evaluate import record
from lrp_tf.explainer import Explainer

# Names of the models that are compared.
CLEAN, TRAINED = "trained without the mark", "trained with it"
SUPPRESS, TUNED = "suppress", "suppress, trained on"
PENALTY, BOTH = "penalty", "penalty, then suppress"
CORRECTED = (SUPPRESS, TUNED, PENALTY, BOTH)


@dataclasses.dataclass(frozen=True)
class Place:
    """Which mark, on which share of the class's samples, and which seed."""

    mark: str
    prevalence: float
    seed: int

    def __str__(self) -> str:
        return f"{self.mark}-{100 * self.prevalence:g}-{self.seed}"


class Data(NamedTuple):
    """Pictures of 0..1, float32 [N, H, W, C], and their classes, int64 [N]; the class that gets the mark."""

    x: np.ndarray
    labels: np.ndarray
    x_test: np.ndarray
    test_labels: np.ndarray
    label: int

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One net that was trained with a mark.

    Attributes:
        place: which. marked: how many samples had the mark.
        found: what each method found.
        channel: that of the mark. on_mark, elsewhere: see `finding.Seen`; None: there are none.
        accuracy: of each model, without and with the mark.
        seconds: of the trainings and of finding, by what it was.
    """

    place: Place
    marked: int
    found: tuple[Found, ...]
    channel: int
    on_mark: float | None
    elsewhere: float | None
    accuracy: tuple[Accuracy, ...]
    seconds: dict[str, float]

    def of(self, model: str, *, artefact: bool) -> float:
        """The accuracy of a model."""
        wanted = [row for row in self.accuracy if row.model == model and (row.samples != "without") == artefact]
        return wanted[0].accuracy

    def save(self, path: Path) -> None:
        """Write it; the file appears whole or not at all."""
        record.write(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Cell:
        """Read what `save` wrote."""
        known = record.read(path)
        known |= {"place": Place(**known["place"]), "found": tuple(Found(**row) for row in known["found"])}
        return cls(**known | {"accuracy": tuple(Accuracy(**row) for row in known["accuracy"])})


class Shown(NamedTuple):
    """What the pictures of a cell are made of."""

    data: Planted
    mark: Mark
    seen: Seen
    models: dict[str, keras.Model]


def measure(place: Place, data: Data, clean: keras.Model, epochs: int, terms: Terms) -> tuple[Cell, Shown]:
    """Plant, train, find, correct, measure.

    Args:
        clean: a net of the same seed that was trained without the mark.
        terms: of the penalty.
    """
    mark = Mark(place.mark)
    planted = plant(data.x, data.labels, mark, data.label, place.prevalence, place.seed)
    seconds: dict[str, float] = {}

    def timed(what: str, do: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = do()
        seconds[what] = round(time.perf_counter() - began, 2)
        return found

    model = nets.classifier(data.x.shape[1:], data.classes, place.seed)
    timed("training", lambda: nets.train(model, planted.x, planted.labels, epochs, place.seed))
    found, seen = timed("finding", lambda: finding.find(Explainer(model), Explainer(clean), planted, mark, place.seed))
    models = {CLEAN: clean, TRAINED: model}
    models[SUPPRESS] = timed("suppress", lambda: removal.suppressed(model, planted, mark))
    models[TUNED] = timed("trained on", lambda: removal.trained_on(model, planted, mark, epochs, place.seed))
    models[PENALTY] = timed(
        "penalty", lambda: removal.penalised(planted, mark, data.classes, epochs, place.seed, terms)
    )
    models[BOTH] = removal.suppressed(models[PENALTY], planted, mark)
    report = correction(models, data.x_test, data.test_labels, mark, data.label, seed=place.seed)
    on, off = (None if math.isnan(v) else v for v in (seen.on_mark, seen.elsewhere))
    marked = int(planted.marked.sum())
    cell = Cell(place, marked, tuple(found), seen.channel, on, off, report.rows, seconds)
    return cell, Shown(planted, mark, seen, models)

"""What a benchmark measures: one net that learnt one problem, explained by all methods; kept on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from lrp_tf.evaluate import record
from lrp_tf.evaluate.benchmark.nets import LEARNT
from lrp_tf.evaluate.benchmark.tuned import Choice


@dataclasses.dataclass(frozen=True)
class Place:
    """Which net, problem and seed."""

    problem: str
    background: str
    net: str
    seed: int

    def __str__(self) -> str:
        return f"{self.problem}-{self.background}-{self.net}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One net that was trained on one problem, and how well each method found the evidence.

    Attributes:
        place: which.
        alpha: the weight of the signal, of pictures.
        chance: the share of pixels or tokens that are evidence, which random maps find.
        accuracy: of the net, on test samples. epochs, seconds: of its training.
        explained: how many samples, all of them test samples that the net gets right.
        values: method -> metric -> mean over the samples; NaN is None.
        undefined: method -> metric -> samples without a value, such as those with no positive relevance.
        same: method -> another method, whose rules it has on each step of this net.
        refused: method -> why it does not apply to this net.
        failures: reasons of samples that a method could not explain.
        tuned: method -> what `tune` chose for the net; all methods are then judged on samples that did not choose.
    """

    place: Place
    alpha: float | None
    chance: float
    accuracy: float
    epochs: int
    seconds: float
    explained: int
    values: dict[str, dict[str, float | None]]
    undefined: dict[str, dict[str, int]]
    same: dict[str, str]
    refused: dict[str, str]
    failures: list[str]
    tuned: dict[str, Choice] = dataclasses.field(default_factory=dict)

    @property
    def learnt(self) -> bool:
        """Whether the net reaches the paper's threshold, 0.8 of the test samples."""
        return self.accuracy >= LEARNT

    def of(self, method: str, metric: str) -> float:
        """The mean of a metric; NaN if there is none."""
        found = self.values.get(self.same.get(method, method), {}).get(metric)
        return float("nan") if found is None else found


class Store:
    """Finished cells in a folder, a file each; without a folder nothing is kept.

    Args:
        folder: see `record.begun`. settings: what has to be the same when a run is resumed.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, object]) -> None:
        self.folder = None if folder is None else record.begun(folder, settings, "benchmark")

    def find(self, place: Place) -> Cell | None:
        """A cell that an earlier run finished."""
        path = self._path(place)
        if path is None or not path.exists():
            return None
        known = record.read(path)
        tuned = {name: Choice(**choice) for name, choice in known.get("tuned", {}).items()}
        return Cell(**{**known, "place": Place(**known["place"]), "tuned": tuned})

    def keep(self, cell: Cell) -> None:
        """Write a finished cell."""
        if (path := self._path(cell.place)) is not None:
            record.write(path, dataclasses.asdict(cell))

    def _path(self, place: Place) -> Path | None:
        return None if self.folder is None else self.folder / f"{place}.json"

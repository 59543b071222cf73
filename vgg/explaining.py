"""Frames -> what the model says of them and why."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from films import Frame

import lrp_tf
from lrp_tf.engine import targets
from lrp_tf.engine.explanation import Explanation
from lrp_tf.files.form import Form
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.gallery.numbers import Numbers
from lrp_tf.heatmap.colours import Paint
from lrp_tf.heatmap.photographs import scaled

LISTED = 5  # classes


class Shot(NamedTuple):
    """A frame, ready to be explained and shown.

    Attributes:
        shown: uint8 [H, W, 3] in the size of the film.
        fitted: uint8 [h, w, 3] in the size of the model's input.
        time, pictures: see `Frame`.
    """

    shown: np.ndarray
    fitted: np.ndarray
    time: float
    pictures: int


class Finding(NamedTuple):
    """What the model says of a picture.

    Attributes:
        values: the map as drawn, [h, w].
        target: the class that it explains.
        logits: pre-softmax values, [C]; probabilities: [C], or None where the model gives none.
        best: the highest classes, the first `LISTED`.
        warning: what is absurd about the map, or "".
    """

    values: np.ndarray
    target: int
    logits: np.ndarray
    probabilities: np.ndarray | None
    best: list[int]
    warning: str

    def chance(self, index: int) -> float | None:
        """The probability of a class."""
        return None if self.probabilities is None else float(self.probabilities[index])


@dataclasses.dataclass
class Explaining:
    """Explains pictures; several threads may ask.

    Attributes:
        wanted: "top1" or a class.
        fit, form: from a frame to the model's input.
        paint: how maps are drawn.
    """

    explainer: lrp_tf.Explainer
    preprocessing: Preprocessing
    classes: Classes
    form: Form
    fit: Fit
    paint: Paint
    wanted: str | int = "top1"
    absurd: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def shot(self, frame: Frame, size: tuple[int, ...]) -> Shot:
        """A frame made ready, to be shown in `size` (H, W)."""
        return Shot(scaled(frame.pixels, size), self.fit.apply(frame.pixels), frame.time, frame.pictures)

    def fed(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures uint8 [h, w, 3] as the model takes them: float32 [B, ...]."""
        return self.form.order(self.preprocessing(np.stack([self.form.arrange(picture) for picture in pictures])))

    def __call__(self, x: np.ndarray, wanted: str | int | None = None) -> list[Finding]:
        """What the model says of each picture of a batch that is `fed`; `wanted` replaces the attribute."""
        return self.findings(self.explained(x, wanted))

    def explained(self, x: np.ndarray, wanted: str | int | None = None) -> Explanation:
        """The part of it that the network computes."""
        target = targets.for_all([self.wanted if wanted is None else wanted], self.explainer.graph, len(x))
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", lrp_tf.RelevanceWarning)  # each frame would bring one
            return self.explainer.explain(x, target)

    def findings(self, found: Explanation) -> list[Finding]:
        """The rest of it, which another thread does while the network computes the next batch."""
        relevance = np.asarray(found.relevance, np.float32)
        maps = np.moveaxis(relevance, 1, -1) if self.form.channels_first else relevance
        numbers = Numbers(found, bool(self.explainer.graph.stripped))
        findings = []
        for row, values in enumerate(maps):
            chances = None if numbers.probabilities is None else numbers.probabilities[row]
            remark = numbers.warning(row, 0)
            self.absurd += bool(remark)
            (index,) = numbers.targets(row)
            best = numbers.best(row)[:LISTED]
            findings.append(Finding(self.paint.values(values), index, numbers.logits[row], chances, best, remark))
        return findings

    def name(self, index: int) -> str:
        """The name of a class for a reader."""
        name = self.classes.name(index)
        return f"class {index}" if name == str(index) else name.replace("_", " ")


def batches(shots: Iterable[Shot], size: int) -> Iterator[list[Shot]]:
    """Shots in lists of `size`; the last may be shorter."""
    batch: list[Shot] = []
    for shot in shots:
        batch.append(shot)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

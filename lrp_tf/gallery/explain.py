"""Batches of images -> the explanation of each for table and picture, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lrp_tf.engine import diagnosis, targets
from lrp_tf.explainer import Explainer, Explanation
from lrp_tf.files.loading import Classes
from lrp_tf.gallery.ahead import ahead
from lrp_tf.gallery.draw import where_it_went
from lrp_tf.gallery.ledger import TOP, Row
from lrp_tf.gallery.stream import Photograph, Stream
from lrp_tf.heatmap.colours import summed
from lrp_tf.terminal import printable

_SHARES = ("start", "relevance", "bias", "stabilizer", "other", "unexplained")


class Explained(NamedTuple):
    """What is known of one image.

    Attributes:
        number: index of its file in the list.
        photograph: the image.
        maps: relevance of each target, float32 [k, H, W, C], in the geometry of the model's input.
        rows: for each target the cells of `results.csv` from "top1" on.
        titles: for each target the text above its map.
    """

    number: int
    photograph: Photograph
    maps: np.ndarray
    rows: list[Row]
    titles: list[str]


class Failed(NamedTuple):
    """A file without explanation: its index in the list, and the reason."""

    number: int
    reason: str


class Explaining:
    """Explains files as they come out of a stream.

    Args:
        wanted: the targets of every image, see `Gallery.targets`.
        classes: names of the classes.
        stream: gives the batches.

    Attributes:
        count: number of targets of an image.

    Raises:
        LoadError: not as many names as classes.
        TypeError, ValueError: a target that the model does not have.
    """

    def __init__(self, explainer: Explainer, wanted: Sequence[str | int], classes: Classes, stream: Stream) -> None:
        classes.check(targets.class_count(explainer.graph))
        self.explainer, self.wanted, self.classes, self.stream = explainer, wanted, classes, stream
        self.count = len(targets.ranked(wanted, explainer.graph))

    def relevance(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Relevance alone: (float32 [B, k, H, W, C], indices [B] into `paths`) of each batch."""
        for result, indices in self._results(paths, full=False):
            for index in indices:
                self.stream.take(int(index))  # nothing is drawn in this pass
            yield self._channels_last(result), indices

    def __call__(self, paths: Sequence[str]) -> Iterator[Explained | Failed]:
        """Every file of `paths` once: those that can be read in their order, the others as they are found."""
        stripped = bool(self.explainer.graph.stripped)
        for explanation, indices in self._results(paths, full=True):
            yield from self._failures()
            batch, maps = _Batch(explanation, stripped), self._channels_last(explanation.relevance)
            for row, index in enumerate(map(int, indices)):
                rows, titles = self._describe(batch, row, maps[row])
                yield Explained(index, self.stream.take(index), maps[row], rows, titles)
        yield from self._failures()

    def _failures(self) -> Iterator[Failed]:
        return (Failed(index, reason) for index, reason in self.stream.failures())

    def _results(self, paths: Sequence[str], full: bool) -> Iterator[tuple[Explanation | tf.Tensor, np.ndarray]]:
        """(relevance or `Explanation`, indices) of each batch."""
        graph = self.explainer.graph

        def target(element: tuple[np.ndarray, np.ndarray]) -> targets.Targets:
            return targets.for_all(self.wanted, graph, len(element[1]))

        stream = self.explainer.map(self.stream.batches(paths), target, full=full, with_inputs=True)
        return ((result, indices) for (_, indices), result in ahead(stream))

    def _channels_last(self, relevance: tf.Tensor) -> np.ndarray:
        """Relevance as the explainer gives it -> float32 [B, k, H, W, C]."""
        maps = np.asarray(relevance, np.float32)
        maps = maps[:, None] if self.count == 1 else maps
        return np.moveaxis(maps, 2, -1) if self.stream.form.channels_first else maps

    def _describe(self, batch: _Batch, row: int, maps: np.ndarray) -> tuple[list[Row], list[str]]:
        """The rows and titles of one image of a batch."""
        logits, name = batch.logits[row], self.classes.name

        def chance(index: int, digits: str) -> str:
            return "" if batch.probabilities is None else format(batch.probabilities[row, index], digits)

        best = [int(c) for c in np.argsort(-logits, kind="stable")[:TOP]]
        top = [cell for c in best for cell in (c, name(c), chance(c, ".6g"), f"{logits[c]:.7g}")]
        top += [""] * (4 * (TOP - len(best)))
        largest = np.abs(summed(maps)).max((1, 2))
        rows: list[Row] = []
        titles: list[str] = []
        for k, target in enumerate(batch.targets(row)):
            shares, warning = batch.shares[:, row, k], batch.warning(row, k)
            start, arrived = shares[:2]
            numbers = [f"{share:.7g}" for share in shares]
            more = (chance(target, ".6g"), f"{arrived / start:.4g}" if start else "", f"{largest[k]:.7g}", warning)
            rows.append((*top, target, name(target), *numbers, *more))
            likely = f", p = {p}" if (p := chance(target, ".3f")) else ""
            label = name(target) if name(target) != str(target) else f"class {target}"
            went = "ABSURD: no explanation" if warning else where_it_went(*map(float, shares[:5]))
            titles.append(f"{printable(label)}{likely}, logit {logits[target]:.2f}\n{went}")
        return rows, titles


class _Batch:
    """The numbers of an explanation as arrays: logits and probabilities [B, C], shares [6, B, k]."""

    def __init__(self, explanation: Explanation, stripped: bool) -> None:
        self.logits, self.probabilities = _scores(explanation, stripped)
        size = len(self.logits)
        conservation = explanation.conservation
        self.shares = np.stack([np.asarray(getattr(conservation, share)).reshape(size, -1) for share in _SHARES])
        self.unexplained = diagnosis.unexplained(conservation, explanation.begin).numpy().reshape(size, -1)
        self.amplification = explanation.amplification.numpy().reshape(size, -1)
        self.target = np.asarray(explanation.target).reshape(size, -1)

    def targets(self, row: int) -> list[int]:
        return self.target[row].tolist()

    def warning(self, row: int, k: int) -> str:
        """What is absurd about a map, or ""; see `lrp_tf.RelevanceWarning`."""
        return diagnosis.remark(self.amplification[row, k], self.unexplained[row, k])


def _scores(explanation: Explanation, stripped: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits [B, C], and probabilities [B, C] if the model gives them; a single unit counts as two classes."""
    logits = np.asarray(explanation.logits, np.float64)
    output = np.asarray(explanation.output, np.float64)
    logits, output = logits.reshape(len(logits), -1), output.reshape(len(output), -1)
    if logits.shape[1] == 1:
        logits, output = np.concatenate([-logits, logits], 1), np.concatenate([1 - output, output], 1)
    return logits, output if stripped else None

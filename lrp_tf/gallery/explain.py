"""Batches of images -> the explanation of each for table and picture, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from lrp_tf.engine import diagnosis, targets
from lrp_tf.engine.contrast import SameClassError
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
        contrast: what the targets are set against, as for the Explainer.

    Attributes:
        count: number of targets of an image.

    Raises:
        LoadError: not as many names as classes.
        TypeError, ValueError: a target that the model does not have.
    """

    def __init__(
        self,
        explainer: Explainer,
        wanted: Sequence[str | int],
        classes: Classes,
        stream: Stream,
        contrast: str | int | None = None,
    ) -> None:
        classes.check(targets.class_count(explainer.graph))
        self.explainer, self.wanted, self.classes, self.stream = explainer, wanted, classes, stream
        self.contrast = contrast
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
        return ahead(self._explained(paths, self.explainer.explain if full else self.explainer))

    def _explained(self, paths: Sequence[str], explain: Callable) -> Iterator[tuple[Any, np.ndarray]]:
        def found(x: np.ndarray) -> Explanation | tf.Tensor:
            return explain(x, targets.for_all(self.wanted, self.explainer.graph, len(x)), contrast=self.contrast)

        for x, indices in self.stream.batches(paths):
            try:
                yield found(x), indices
            except SameClassError:  # of one image, which the others must not pay for
                for row, index in enumerate(map(int, indices)):
                    try:
                        alone = found(x[row : row + 1])
                    except SameClassError:
                        name = self.classes.name(cast(int, self.contrast))
                        self.stream.fail(
                            index, f"it is seen as {name}, and so nothing speaks for it rather than {name}"
                        )
                    else:
                        yield alone, indices[row : row + 1]

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
        against, rather = "" if self.contrast is None else str(self.contrast), ""
        if self.contrast is not None:
            other = "others" if isinstance(self.contrast, str) else printable(self._label(self.contrast))
            rather = f" rather than {other}"
        rows: list[Row] = []
        titles: list[str] = []
        for k, target in enumerate(batch.targets(row)):
            shares, warning = batch.shares[:, row, k], batch.warning(row, k)
            start, arrived = shares[:2]
            numbers = [f"{share:.7g}" for share in (logits[target], *shares[1:])]
            more = (chance(target, ".6g"), f"{arrived / start:.4g}" if start else "", f"{largest[k]:.7g}", warning)
            rows.append((*top, target, name(target), *numbers, *more, against, f"{start:.7g}"))
            likely = f", p = {p}" if (p := chance(target, ".3f")) else ""
            went = "ABSURD: no explanation" if warning else where_it_went(*map(float, shares[:5]))
            titles.append(f"{printable(self._label(target))}{rather}{likely}, logit {logits[target]:.2f}\n{went}")
        return rows, titles

    def _label(self, index: int) -> str:
        """The name of a class in titles."""
        name = self.classes.name(index)
        return name if name != str(index) else f"class {index}"


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

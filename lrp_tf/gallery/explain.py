"""Batches of images -> the explanation of each for table and picture, or the reason why there is none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from lrp_tf.engine import targets
from lrp_tf.engine.contrast import SameClassError
from lrp_tf.engine.diagnosis import InputError
from lrp_tf.explainer import Explainer, Explanation
from lrp_tf.files.loading import Classes
from lrp_tf.gallery.ahead import ahead
from lrp_tf.gallery.draw import where_it_went
from lrp_tf.gallery.layers import BatchLayers, OfLayers
from lrp_tf.gallery.ledger import Row
from lrp_tf.gallery.medium import Source
from lrp_tf.gallery.numbers import Numbers
from lrp_tf.terminal import printable


class Explained(NamedTuple):
    """What is known of one image.

    Attributes:
        number: index of its file in the list.
        shown: the image, as its source keeps it for the picture.
        maps: relevance of each target, float32 [k, H, W, C], in the geometry of the model's input.
        rows: for each target the cells of `results.csv` from "top1" on.
        titles: for each target the text above its map.
        layers: of the layers that were asked for; None if none was.
        x: the image as the model takes it, if that is wanted.
    """

    number: int
    shown: Any
    maps: np.ndarray
    rows: list[Row]
    titles: list[str]
    layers: OfLayers | None = None
    x: np.ndarray | None = None


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
        layers: whose relevance is wanted, too, by name. keep_layers: their maps, not only sums.
        inputs: whether `Explained.x` is wanted.

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
        stream: Source[Any],
        contrast: str | int | None = None,
        layers: Sequence[str] = (),
        keep_layers: bool = False,
        inputs: bool = False,
    ) -> None:
        classes.check(targets.class_count(explainer.graph))
        self.explainer, self.wanted, self.classes, self.stream = explainer, wanted, classes, stream
        self.contrast, self.layers, self.keep_layers = contrast, tuple(layers), keep_layers
        self.inputs = inputs
        self.count = len(targets.ranked(wanted, explainer.graph))

    def relevance(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Relevance alone: (float32 [B, k, H, W, C], indices [B] into `paths`) of each batch."""
        for result, _, indices in self._results(paths, full=False):
            for index in indices:
                self.stream.take(int(index))  # nothing is drawn in this pass
            yield self._channels_last(result), indices

    def __call__(self, paths: Sequence[str]) -> Iterator[Explained | Failed]:
        """Every file of `paths` once: those that can be read in their order, the others as they are found."""
        stripped = bool(self.explainer.graph.stripped)
        for explanation, x, indices in self._results(paths, full=True):
            yield from self._failures()
            numbers, maps = Numbers(explanation, stripped), self._channels_last(explanation.relevance)
            layers = BatchLayers(explanation.layers, self.count > 1)
            for row, index in enumerate(map(int, indices)):
                rows, titles = self._describe(numbers, row, maps[row])
                starts = numbers.shares[0, row].tolist()
                of_layers = layers.sample(row, starts, self.keep_layers) if self.layers else None
                fed = np.asarray(x[row]) if self.inputs else None
                yield Explained(index, self.stream.take(index), maps[row], rows, titles, of_layers, fed)
        yield from self._failures()

    def _failures(self) -> Iterator[Failed]:
        return (Failed(index, reason) for index, reason in self.stream.failures())

    def _results(self, paths: Sequence[str], full: bool) -> Iterator[tuple[Any, tf.Tensor, np.ndarray]]:
        """(relevance or `Explanation`, input, indices) of each batch."""
        whole = functools.partial(self.explainer.explain, layers=self.layers)
        return ahead(self._explained(paths, whole if full else self.explainer))

    def _explained(self, paths: Sequence[str], explain: Callable) -> Iterator[tuple[Any, tf.Tensor, np.ndarray]]:
        def found(x: tf.Tensor) -> Explanation | tf.Tensor:
            return explain(x, targets.for_all(self.wanted, self.explainer.graph, len(x)), contrast=self.contrast)

        # Between two batches the network waits for nothing: the next one lies ready as a tensor.
        for x, indices in ahead((tf.convert_to_tensor(x), indices) for x, indices in self.stream.batches(paths)):
            try:
                yield found(x), x, indices
            except (SameClassError, InputError):  # of one image, which the others must not pay for
                for row, index in enumerate(map(int, indices)):
                    try:
                        alone = found(x[row : row + 1])
                    except SameClassError:
                        name = self.classes.name(cast(int, self.contrast))
                        self.stream.fail(
                            index, f"it is seen as {name}, and so nothing speaks for it rather than {name}"
                        )
                    except InputError as error:
                        self.stream.fail(index, str(error))
                    else:
                        yield alone, x[row : row + 1], indices[row : row + 1]

    def _channels_last(self, relevance: tf.Tensor) -> np.ndarray:
        """Relevance as the explainer gives it -> float32 [B, k, H, W, C]."""
        maps = np.asarray(relevance, np.float32)
        maps = maps[:, None] if self.count == 1 else maps
        return self.stream.channels_last(maps)

    def _describe(self, numbers: Numbers, row: int, maps: np.ndarray) -> tuple[list[Row], list[str]]:
        """The rows and titles of one image of a batch."""
        largest = self.stream.largest(maps)
        against = "" if self.contrast is None else str(self.contrast)
        rows: list[Row] = []
        titles: list[str] = []
        for k, target in enumerate(numbers.targets(row)):
            rows.append(numbers.cells(row, k, self.classes.name, largest[k], against))
            likely = f", p = {p}" if (p := numbers.chance(row, target, ".3f")) else ""
            shares = map(float, numbers.shares[:5, row, k])
            went = "ABSURD: no explanation" if numbers.warning(row, k) else where_it_went(*shares, at=self.stream.at)
            logit = numbers.logits[row, target]
            titles.append(f"{printable(self._label(target))}{self.rather}{likely}, logit {logit:.2f}\n{went}")
        return rows, titles

    @property
    def rather(self) -> str:
        """What the targets are set against, in titles: " rather than others"; "" for nothing."""
        if self.contrast is None:
            return ""
        return f" rather than {'others' if isinstance(self.contrast, str) else printable(self._label(self.contrast))}"

    def _label(self, index: int) -> str:
        """The name of a class in titles."""
        name = self.classes.name(index)
        return name if name != str(index) else f"class {index}"

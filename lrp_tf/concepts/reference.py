"""`Reference`: the samples that a channel stands for, as a file holds them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrp_tf.concepts import merge, store
from lrp_tf.concepts.image_files import ImageFiles
from lrp_tf.concepts.ranking import NONE
from lrp_tf.concepts.receptive import box_of
from lrp_tf.evaluate.fingerprints import described
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Preprocessing


@dataclasses.dataclass(frozen=True)
class Samples:
    """Reference samples of one channel, the best first.

        found = reference.samples("conv2", channel=3)
        found.ids[0], found.scores[0], found.positions[0]   # the best one

    Attributes:
        ids: int64 [m], places in the data set, from 0.
        scores: [m], relevance or activation of the channel, pooled over positions.
        positions: int32 [m, axes], of the largest value: (row, column) in the layer's output; [m, 0] for Dense.
        labels: int64 [m], the classes whose relevance it is.
    """

    ids: np.ndarray
    scores: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class Reference:
    """The samples with the highest relevance (RelMax) and activation (ActMax), by layer, channel and class.

        reference = Reference.load("reference.h5")
        found = reference.samples("conv2", channel=3)       # the best of all classes
        found.ids, found.scores, found.positions, found.labels

    Rankings stay in the file and are read when they are asked for. `build_reference` makes the file.

    Attributes:
        path: the file.
        layers: name -> number of channels.
        classes: class -> how many samples of it were seen.
        failures: (sample, reason) of those that were left out.
        settings: what the file was built with.
    """

    def __init__(self, path: Path, head: store.Head) -> None:
        self.path, self._head = path, head
        self.layers = {layer.name: layer.channels for layer in head.layers}
        self.classes, self.failures, self.settings = dict(head.seen), tuple(head.failures), dict(head.settings)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Reference:
        """The reference in a file.

            reference = Reference.load("reference.h5")

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no reference, or an unfinished one.
        """
        with store.opened(path) as file:
            head = store.head_of(file)
        if head.total < 0:
            raise ValueError(
                f"Expected a finished reference. Received: {os.fspath(path)!r}, whose run was interrupted after "
                f"{len(head.batches)} batch(es). Remedy: build_reference with the same arguments, which resumes it"
            )
        return cls(Path(path), head)

    @classmethod
    def merge(cls, paths: Sequence[str | os.PathLike], path: str | os.PathLike) -> Reference:
        """One reference out of those of all shards, equal to that of a single run.

            reference = Reference.merge(["part0.h5", "part1.h5"], "reference.h5")

        Args:
            paths: of the shards, in any order.
            path: file to write; it appears whole or not at all.

        Raises:
            ValueError: shards of other runs, the same one twice, one that is missing or unfinished.
        """
        return cls(Path(path), merge.merged(paths, Path(path)))

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} ({channels})" for name, channels in self.layers.items())
        return f"Reference({os.fspath(self.path)!r}, {sum(self.classes.values())} samples, {layers})"

    def samples(self, layer: str, channel: int, by: str = "relevance", label: int | None = None) -> Samples:
        """The best samples of a channel, at most n.

            reference.samples("conv2", channel=3, by="activation", label=7)

        Args:
            by: "relevance" or "activation".
            label: of this class alone; None: the best of all classes.

        Raises:
            ValueError: an unknown layer, channel, `by`, or a class without samples.
        """
        self._check(layer, channel, by)
        classes = sorted(self.classes)
        if label is not None and label not in self.classes:
            raise ValueError(
                f"The data set has no sample of class {label!r}. Expected one of {_few(classes)}. "
                f"Received: label={label!r}"
            )
        number = list(self.layers).index(layer)
        rows = [classes.index(label)] if label is not None else list(range(len(classes)))
        with store.opened(self.path) as file:
            score, sample, place = store.channel_of(file, number, by, channel, rows)
        labels = np.repeat(np.asarray(classes, np.int64)[rows], score.shape[1])
        score, sample, place = score.ravel(), sample.ravel(), place.ravel()
        best = np.lexsort((sample, -score))
        best = best[sample[best] != NONE][: self.settings["n"]]
        shape = self._head.layers[number].positions
        positions = np.stack(np.unravel_index(place[best], shape), axis=-1) if shape else np.zeros((len(best), 0))
        return Samples(sample[best], score[best], positions.astype(np.int32), labels[best])

    def has_fields(self, layer: str) -> bool:
        """Whether `box` knows what positions of a layer see: of a model with one input whose sizes are known.

        reference.has_fields("conv2")
        """
        self._check(layer, 0, "relevance")
        return bool(self._head.layers[list(self.layers).index(layer)].fields)

    def box(self, layer: str, position: Sequence[int]) -> tuple[slice, ...]:
        """What a position of a layer sees of the input: a slice for each axis of the input without the batch.

            crop = images[sample][reference.box("conv2", position)]

        Raises:
            ValueError: an unknown layer, a position outside, a model with several inputs or open sizes.
        """
        self._check(layer, 0, "relevance")
        found = self._head.layers[list(self.layers).index(layer)]
        if not found.fields:
            raise ValueError(
                "The receptive field needs a model with one input of known size. Received: a model with several inputs "
                "or open sizes. Remedy: Explainer(model, sizes=...) ahead of build_reference"
            )
        axes = found.positions or (1,)
        at = tuple(position) if found.positions else (0,)
        if len(at) != len(axes) or any(not 0 <= i < size for i, size in zip(at, axes, strict=True)):
            raise ValueError(f"Expected a position in {found.positions}. Received: {tuple(position)}")
        return tuple(slice(int(first), int(end)) for first, end in box_of(found.fields, at))

    def check_explainer(self, explainer: Explainer, layer: str) -> None:
        """Raise ValueError unless the reference has this layer and is of the model of an explainer.

        reference.check_explainer(explainer, "conv2")
        """
        self._check(layer, 0, "relevance")
        if described(explainer.model) != self.settings["weights"]:
            raise ValueError(
                f"Expected an explainer of the model that {os.fspath(self.path)!r} was built with. Received: "
                f"{explainer!r}, whose layers or weights differ. Remedy: that model, or a reference of this one"
            )

    def images(
        self, explainer: Explainer, preprocessing: Preprocessing, folder: str | os.PathLike | None = None
    ) -> ImageFiles:
        """The image files that the reference was built from, for crops of them.

            reference.images(explainer, loading.get_preprocessing("scale:1/255"))

        Args:
            preprocessing: the one that it was built with.
            folder: where the files are now, if they were moved.

        Raises:
            ValueError: it was built from other data, or with another preprocessing; the first file is no longer there.
        """
        files, settings = _Files(self.path, folder), self.settings
        if not len(files):
            raise ValueError(
                f"Expected a reference that was built from image files. Received: {os.fspath(self.path)!r}, which "
                "holds no names of files. Remedy: build_reference with ImageFiles, or `images` that give the samples"
            )
        if preprocessing.name != settings["preprocess"]:
            raise LoadError(
                f"Expected `preprocess` {settings['preprocess']}, with which {os.fspath(self.path)!r} was built. "
                f"Received: {preprocessing.name}. Remedy: that one, or another reference", "preprocess"
            )  # fmt: skip
        if not os.path.exists(files[0][0]):
            raise LoadError(
                f"Expected the image files that {os.fspath(self.path)!r} was built from. Received: {files[0][0]!r} is "
                "not there. Remedy: `folder` where they lie now", "folder"
            )  # fmt: skip
        size = (int(settings["size"][0]), int(settings["size"][1]))
        return ImageFiles(explainer, files, preprocessing, how=settings["resize"], size=size)

    def _check(self, layer: str, channel: int, by: str) -> None:
        if layer not in self.layers:
            raise ValueError(f"The reference has no layer {layer!r}. Expected one of {list(self.layers)}")
        if by not in store.BY:
            raise ValueError(f'by expects "relevance" or "activation". Received: {by!r}')
        whole = isinstance(channel, (int, np.integer)) and not isinstance(channel, bool)
        if not whole or not 0 <= channel < self.layers[layer]:
            raise ValueError(
                f"Layer {layer!r} has the channels 0 to {self.layers[layer] - 1}. Received: channel={channel!r}"
            )


def _few(classes: Sequence[int]) -> str:
    shown = ", ".join(map(str, classes[:20]))
    return shown if len(classes) <= 20 else f"{shown}, … ({len(classes)} in all)"


class _Files(Sequence[tuple[str, str]]):
    """(path, relative) of each sample, read from the file of a reference when asked for; there may be millions.

    Args:
        folder: where the files are now; None: where they were.
    """

    def __init__(self, path: Path, folder: str | os.PathLike | None) -> None:
        self.path, self.folder = path, folder
        with store.opened(path) as file:
            self._count = store.file_count(file)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < self._count:
            raise IndexError(i)
        with store.opened(self.path) as file:
            path, relative = store.file_of(file, i)
        return (path if self.folder is None else os.path.join(self.folder, relative)), relative

"""`build_reference`: streams a data set once and keeps the best samples of every channel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.concepts import receptive, sources, store
from lrp_tf.concepts.pooling import POOLINGS, Measured, measuring
from lrp_tf.concepts.ranking import Ranking
from lrp_tf.concepts.reference import Reference
from lrp_tf.concepts.sources import Batch, Numbered
from lrp_tf.core.graph import shape_text
from lrp_tf.engine import channels as naming
from lrp_tf.engine import streams, targets
from lrp_tf.engine.channels import Channels
from lrp_tf.engine.clone import BELOW_ZERO
from lrp_tf.engine.targets import Target
from lrp_tf.evaluate.fingerprints import described
from lrp_tf.evaluate.record import compare
from lrp_tf.evaluate.samples import digest
from lrp_tf.explainer import Explainer

PART = ".part"  # behind the name of the file while the run is unfinished
_SECONDS = 30.0  # between two writes of what is known so far
_SHARE = 20  # a write takes at most one part in so many of the time


def build_reference(
    explainer: Explainer,
    dataset: Any,
    layers: str | Sequence[str],
    *,
    path: str | os.PathLike,
    n: int = 8,
    target: str | None = "label",
    pooling: str = "sum",
    start: str = "output",
    batch: int = 32,
    shard: tuple[int, int] = (0, 1),
    resume: bool = True,
    seconds: float = _SECONDS,
    progress: Callable[[int], object] | None = None,
) -> Reference:
    """For each channel of some layers the samples of a data set with the highest relevance and activation.

        reference = build_reference(explainer, (x_train, y_train), ["conv2"], path="reference.h5")
        reference.samples("conv2", channel=3).ids

    RelMax (Achtibat et al. 2023) ranks by the relevance that arrives at a channel from the model's output; ActMax by
    its activation. Both are kept for each class. The data set is read once, in constant memory.

    Args:
        dataset: arrays (x, labels), a `tf.data.Dataset`, an iterable, of samples or batches with labels, or
            `ImageFiles`. A sample is known by its place, from 0, so that the order must be the same in a resumed run,
            which compares what the earlier one took in; the content of image files if they were written since then.
        layers: names or paths of layers.
        path: the HDF5 file to write; see docs/reference-samples.md. An unfinished run is stored as `path`.part.
        n: samples to keep for each channel and class.
        target: "label", relevance of the labelled class, under which a sample is kept; None: of the predicted one.
        pooling: a channel's score over the positions of its map: "sum", "max", or "positive", the sum above zero.
        start: "output", relevance starts as the class's pre-softmax value, or "one", as 1.
        batch: size of batches made of arrays or single samples.
        shard: (i, n) takes the batches i, i + n, …; `Reference.merge` puts all n files together.
        resume: continue what an earlier run left; False: begin anew.
        seconds: between two writes of what is known so far, which a kill leaves behind; 0: after every batch.
        progress: called with the number of samples seen, after each batch.

    Returns:
        What the file holds. A sample that cannot be read, is NaN, or whose label is no class, is one of its `failures`.

    Raises:
        ValueError: an unknown layer or one without channels; no labels; an option out of range; `path` holds another
            run, a damaged file, or the samples differ from those of the earlier run; labels that are no whole numbers;
            no sample could be used.
            `CheckError`: the explainer is not sound, see `Explainer(check=…)`.
        TypeError: a data set that cannot be iterated; a list [x, labels] instead of a tuple.
        OSError: the file cannot be written.
    """
    names = (layers,) if isinstance(layers, str) else tuple(dict.fromkeys(layers))
    _check(explainer, names, n, target, pooling, start, shard)
    size = streams.checked_size(batch, "batch") or 1
    explainer.renew()
    found = [_channels(explainer, name) for name in names]
    settings = _settings(explainer, names, n=int(n), target=target, pooling=pooling, start=start, batch=size)
    settings |= dict(dataset.settings) if isinstance(dataset, Numbered) else {}
    run = _Run(explainer, found, settings, Path(path), (int(shard[0]), int(shard[1])), resume)
    return run.through(dataset, size, seconds, progress)


def _check(
    explainer: Explainer,
    names: Sequence[str],
    n: int,
    target: str | None,
    pooling: str,
    start: str,
    shard: tuple[int, int],
) -> None:
    """Raise ValueError for arguments out of range."""
    shape = explainer.graph.outputs[0].shape
    if len(shape) > 1:
        raise ValueError(f"Expected a model whose output is classes, [B, C]. Received: an output {shape_text(shape)}")
    if not names:
        raise ValueError("layers expects at least one name of a layer. Received: none")
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n expects a number of samples, at least 1. Received: {n!r}")
    if target not in ("label", None):
        raise ValueError(f'target expects "label", or None for the predicted class. Received: {target!r}')
    if pooling not in POOLINGS:
        raise ValueError(f"pooling expects one of {', '.join(POOLINGS)}. Received: {pooling!r}")
    if start not in ("output", "one"):
        raise ValueError(f'start expects "output" or "one". Received: {start!r}')
    if len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard expects (i, n) with 0 <= i < n. Received: {shard!r}")


def _settings(explainer: Explainer, names: Sequence[str], **options: Any) -> dict[str, Any]:
    """What has to be the same where a run is resumed or merged."""
    model = explainer.model
    found = {"model": model.name, "explainer": described(explainer), "weights": described(model), "layers": list(names)}
    return found | options | {"dtype": explainer.graph.dtype}


def _channels(explainer: Explainer, name: str) -> Channels:
    """The channels of a layer, of which there must be a known number."""
    found = naming.find(explainer.clone.plan, name)
    if found.size is None or None in found.ref.shape:
        raise ValueError(
            f"Layer {name!r}: expected known sizes. Received: an output of {shape_text(found.ref.shape)}. Remedy: "
            "Explainer(model, sizes=...)"
        )
    return found


class _Run:
    """One pass over a data set, or over the rest of it."""

    def __init__(
        self,
        explainer: Explainer,
        layers: Sequence[Channels],
        settings: dict[str, Any],
        path: Path,
        shard: tuple[int, int],
        resume: bool,
    ) -> None:
        self.explainer, self.layers, self.path, self.shard = explainer, layers, path, shard
        self.part = path.with_name(path.name + PART)
        kind = "top" if settings["target"] is None else "class"
        self.target = Target(kind, settings["start"], None)
        self.labelled = settings["target"] == "label"
        self.measure: Callable[..., Measured] | None = None
        self.rankings: dict[tuple[str, str, int], Ranking] = {}
        self.finished = False
        if path.is_dir():  # before hours of work
            raise IsADirectoryError(
                f"path expects a file to write. Received: {str(path)!r}, a folder. Remedy: the name of a file in it"
            )
        if not path.parent.is_dir():
            raise FileNotFoundError(f"Expected a file in a folder that exists. Received: {str(path)!r}")
        earlier = next((one for one in (path, self.part) if resume and one.exists()), None)
        if earlier is None:
            known = [self._layer(layer) for layer in layers]
            self.head = store.Head(settings, tuple(known), shard=shard)
        else:
            self._take_up(earlier, settings)
        # Where names of files tell batches apart, the first and the last known one are read all the same.
        self.ends = (min(self.head.batches), max(self.head.batches)) if self.head.batches else ()
        self.classes = targets.class_count(explainer.graph) or 0

    def _layer(self, layer: Channels) -> store.Layer:
        fields = receptive.fields(self.explainer.graph, layer)
        sizes = tuple(layer.ref.shape[axis - 1] or 0 for axis in layer.others)
        return store.Layer(layer.name, layer.size or 0, sizes, fields)

    def _take_up(self, earlier: Path, settings: dict[str, Any]) -> None:
        """Read what an earlier run left."""
        try:
            with store.opened(earlier) as file:
                self.head = head = store.head_of(file)
                before = head.compared | {"shard": list(head.shard)}
                compare(before, store.compared(settings) | {"shard": list(self.shard)}, earlier, "reference")
                self.finished = head.total >= 0
                keys = ((layer.name, by, label) for layer in head.layers for by in store.BY for label in head.seen)
                for key in () if self.finished else keys:
                    self.rankings[key] = store.ranking_of(file, head, *key)
        except store.Unreadable as error:
            raise ValueError(f"{error}. Remedy: resume=False, which replaces this file, or another path") from error

    def through(self, dataset: Any, size: int, seconds: float, progress: Callable[[int], object] | None) -> Reference:
        """Take in all batches of the shard that are missing, and write the file."""
        written = time.monotonic()
        pause, total = seconds, 0
        files = dataset.files if isinstance(dataset, Numbered) else ()
        for batch in sources.batches(self.explainer.graph, dataset, size, self._mine, self._known):
            if batch.x is not None or batch.identity:
                self._batch(batch)
            total = batch.number + 1
            if progress is not None:
                progress(batch.first + batch.size)
            if batch.x is not None and not self.finished and time.monotonic() - written >= pause:
                begun = time.monotonic()
                store.write(self.part, self.head, self._ranking, files)
                written = time.monotonic()
                pause = max(seconds, _SHARE * (written - begun)) if seconds else 0.0
        self._check_total(total)
        if self.finished:
            return Reference.load(self.path)
        if not self.head.seen and self.head.failures:
            sample, reason = self.head.failures[0]
            raise ValueError(f"No sample could be used. Expected at least one. Received: sample {sample}: {reason}")
        self.head.total = total
        store.write(self.path, self.head, self._ranking, files)
        self.part.unlink(missing_ok=True)
        return Reference.load(self.path)

    def _check_total(self, total: int) -> None:
        """Raise ValueError if the data set has more or fewer batches than the earlier run has seen of it."""
        last = max(self.head.batches, default=-1)
        if self.finished and total != self.head.total:
            raise ValueError(self._differ("samples", f"Expected {self.head.total} batches. Received: {total}"))
        if total <= last:
            raise ValueError(self._differ("samples", f"Expected at least {last + 1} batches. Received: {total}"))

    def _differ(self, what: str, detail: str = "") -> str:
        return (
            f"resume: the {what} differ from those of the earlier run in {self.path}. {detail}{detail and '. '}Remedy: "
            "the same data in the same order (a tf.data.Dataset without shuffle), or resume=False"
        )

    def _mine(self, number: int) -> bool:
        i, n = self.shard
        return number % n == i

    def _known(self, number: int) -> str:
        return "" if number in self.ends else self.head.stamps.get(number, "")

    def _ranking(self, layer: str, by: str, label: int) -> Ranking:
        return self.rankings[layer, by, label]

    def _batch(self, batch: Batch) -> None:
        known = self.head.batches.get(batch.number)
        if batch.x is None:
            if known is not None and (*known[:2], known[2][: len(batch.identity)]) != (*batch[1:3], batch.identity):
                raise ValueError(self._differ(f"samples of batch {batch.number}"))
            return
        labels = self._labels(batch)
        x = targets.inputs(self.explainer.graph, batch.x)
        content = digest(*(np.asarray(one) for one in x), labels)
        found = batch.identity + content[: len(content) - len(batch.identity)]
        if known is not None:
            if known != (batch.first, batch.size, found):
                raise ValueError(self._differ(f"samples of batch {batch.number}"))
            self._stamp(batch)  # the same content, written again
            return
        self._take_in(batch, x, labels)
        self.head.batches[batch.number] = (batch.first, batch.size, found)
        self._stamp(batch)

    def _stamp(self, batch: Batch) -> None:
        if batch.stamp:
            self.head.stamps[batch.number] = batch.stamp

    def _labels(self, batch: Batch) -> np.ndarray | None:
        """Classes int64 [B] of a batch; None where the predicted ones count."""
        if not self.labelled:
            return None
        if batch.labels is None:
            raise ValueError(
                'target="label" needs labels. Expected (x, labels), or a data set of such pairs. Received: samples '
                "alone. Remedy: target=None, for the predicted classes"
            )
        labels = batch.labels
        units = self.explainer.graph.outputs[0].shape  # a single unit has two classes, and no one-hot labels
        several = units not in ((), (1,))
        if several and labels.shape[1:] == units:
            labels = labels.argmax(axis=1)
        one_hot = f" or one-hot [B, {units[0]}]" if several else ""
        expected = f"Expected a class for each sample, [B] integers{one_hot}"
        if labels.size != batch.size or not np.issubdtype(labels.dtype, np.number):
            raise ValueError(f"{expected}. Received: {labels.dtype} {labels.shape} for {batch.size} samples")
        labels = labels.reshape(-1)
        if (bad := np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))).size:
            raise ValueError(f"{expected}. Received: label {labels[bad[0]]} of sample {batch.first + bad[0]}")
        return labels.astype(np.int64)

    def _take_in(self, batch: Batch, x: list[tf.Tensor], labels: np.ndarray | None) -> None:
        """Rank the samples of a batch."""
        known = np.ones(batch.size, bool) if labels is None else (labels >= 0) & (labels < self.classes)
        arguments = [] if labels is None else [tf.constant(np.where(known, labels, 0), tf.int32)]
        if self.measure is None:
            self.measure = measuring(self.explainer.clone, self.layers, self.target, self.head.settings["pooling"])
        found = self.measure(*x, *arguments)
        if not found.declared:
            raise ValueError(BELOW_ZERO)
        finite, classes = found.finite.numpy(), found.classes.numpy()
        if finite.any():
            self.explainer.check_once([one[finite] for one in x], found.logits[finite])
        ids = batch.first + np.arange(batch.size)
        for row in np.flatnonzero(~known | ~finite):
            other = f"label {labels[row]}: no class of 0 to {self.classes - 1}" if labels is not None else ""
            reason = batch.failed.get(int(row)) or (_not_finite(x, int(row)) if known[row] else other)
            self.head.failures.append((int(ids[row]), reason))
        for label in np.unique(classes[known & finite]).tolist():
            rows = np.flatnonzero(known & finite & (classes == label))
            self.head.seen[label] = self.head.seen.get(label, 0) + len(rows)
            self._rank(found, label, rows, ids[rows])

    def _rank(self, found: Measured, label: int, rows: np.ndarray, ids: np.ndarray) -> None:
        n, dtype = self.head.settings["n"], self.head.dtype
        for layer in self.layers:
            for by in store.BY:
                pooled = getattr(found, by)[layer.name]
                score, place = pooled.score.numpy()[rows].T, pooled.place.numpy()[rows].T
                key = (layer.name, by, label)
                if key not in self.rankings:
                    self.rankings[key] = Ranking.empty(layer.size or 0, n, dtype)
                self.rankings[key].add(score, ids, place)


def _not_finite(x: Iterable[tf.Tensor], row: int) -> str:
    bad = any(one.dtype.is_floating and not np.isfinite(one[row].numpy()).all() for one in x)
    return f"NaN or Inf in the {'input' if bad else 'relevance or activation'}"

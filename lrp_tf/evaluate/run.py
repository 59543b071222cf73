"""Explainers × metrics, batch by batch; a sample, explainer or metric that fails costs its own values alone."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import keras
import numpy as np

from lrp_tf import __version__
from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.fingerprints import described, model_digest
from lrp_tf.evaluate.methods import Method
from lrp_tf.evaluate.metric import Metric
from lrp_tf.evaluate.protocol import Predict, UndefinedMetricWarning
from lrp_tf.evaluate.record import Failure, Record, RecordedBatch
from lrp_tf.evaluate.samples import Batch

Samples = TypeVar("Samples", Batch, Case)


@dataclasses.dataclass(frozen=True)
class Run:
    """What is the same for all batches."""

    methods: list[Method]
    metrics: dict[str, Metric]
    predict: Predict
    channel_axis: int | None
    seed: int
    progress: Callable[[int], object]
    warned: set[tuple[str, str, int]] = dataclasses.field(default_factory=set)

    def settings(
        self, batch_size: int, predict: Predict | None, model: keras.Model | None, data: Mapping[str, str]
    ) -> dict[str, object]:
        """What has to be the same when a run is resumed; of the classifier, what `compare` was given."""
        models = {id(m): m for m in [model, *(method.model for method in self.methods)] if m is not None}
        return {
            "version": __version__,
            "seed": self.seed,
            "batch_size": batch_size,
            "channel_axis": self.channel_axis,
            "metrics": {name: described(metric) for name, metric in self.metrics.items()},
            "methods": {m.name: described(m.explain) for m in self.methods},
            "predict": "the model's" if predict is None else described(predict),
            "models": sorted(map(model_digest, models.values())),
            **data,
        }

    def whole(
        self, stream: Iterable[Batch], folder: str | os.PathLike | None, settings: Mapping[str, object]
    ) -> tuple[np.ndarray, np.ndarray, tuple[Failure, ...]]:
        """(values [methods, metrics, n], target [n], failures) of all batches.

        Raises:
            ValueError: there are no samples; an explainer lacks what a metric needs; a metric fails for every sample;
                see also `Record`.
        """
        found = [*self.results(stream, folder, settings)]
        if not found:
            raise ValueError("compare expects at least one sample. Received: none")
        values, targets, failures = zip(*found, strict=True)
        every = tuple(failure for part in failures for failure in part)
        return np.concatenate(values, axis=2), np.concatenate(targets), every

    def results(
        self, stream: Iterable[Batch], folder: str | os.PathLike | None, settings: Mapping[str, object]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[Failure]]]:
        """(values [methods, metrics, B], target [B], failures) of each batch."""
        record = None
        for number, batch in enumerate(stream):
            if record is None:
                self.check(batch)
                record = Record(folder, settings)  # only now: a refused run leaves nothing behind
            known = record.batch(number, batch.digest(), len(batch.x))
            found = self.batch(batch, known)
            if number == 0 and (reason := self.hopeless(found[0], found[2])):
                record.forget()
                raise ValueError(reason)
            yield found

    def check(self, batch: Batch) -> None:
        """Raise ValueError, before the run: samples that have no scores, a metric that an explainer cannot have."""
        x = np.nan_to_num(batch.x[:1], posinf=0, neginf=0)
        try:
            classes = protocol.scores(self.predict(x), 1).shape[1]
        except Exception as error:  # of the user's classifier: any
            raise ValueError(
                f"the classifier does not take the first sample, {x.shape}. Expected: x [n, ...], or a stream of "
                f"batches [B, ...]. Received: {_reason(error)}"
            ) from error
        if batch.target is not None and batch.target.max() >= classes:
            raise ValueError(f"target is out of range. Expected: below {classes}. Received: {batch.target.max()}")
        one = Batch(x, np.zeros(1, np.int64), None if batch.masks is None else batch.masks[:1], batch.ids[:1])
        for method in self.methods:
            case = self.case(method, one, relevance=np.zeros_like(x))
            for name, metric in self.metrics.items():
                try:
                    metric.check(case)
                except ValueError as error:
                    raise ValueError(f"explainer {method.name!r} cannot have metric {name!r}: {error}") from error

    def case(self, method: Method, batch: Batch, relevance: np.ndarray | None = None) -> Case:
        assert batch.target is not None
        return Case.of(
            *(batch.x, batch.target, method.explain, self.predict),
            relevance=relevance,
            channel_axis=self.channel_axis,
            masks=batch.masks,
            model=method.model,
            rebuild=method.rebuild,
            seed=self.seed,
            ids=batch.ids,
        )

    def batch(self, batch: Batch, known: RecordedBatch) -> tuple[np.ndarray, np.ndarray, list[Failure]]:
        """The result of a batch; explainers that an earlier run finished are not run again."""
        fine = np.isfinite(batch.x.reshape(len(batch.x), -1)).all(axis=1)
        failures = [Failure(int(i), "", "", "the sample holds NaN or Inf") for i in batch.ids[~fine]]
        target = known.target
        if target is None:
            target = known.target = batch.target if batch.target is not None else self.predicted(batch, fine)
        unknown = fine & (target < 0)
        failures += [Failure(int(i), "", "", "its scores hold NaN or Inf: no class") for i in batch.ids[unknown]]
        fine &= ~unknown
        kept = dataclasses.replace(_part(batch, fine), target=target[fine])
        values = np.full((len(self.methods), len(self.metrics), len(batch.x)), np.nan)
        for row, method in enumerate(self.methods):
            finished = known.of(method.name, self.metrics)
            if finished is None:
                found = self.values(method, kept) if fine.any() else (np.empty((len(self.metrics), 0)), [])
                whole = np.full(values.shape[1:], np.nan)
                whole[:, fine] = found[0]
                finished = whole, found[1]
                known.add(method.name, self.metrics, *finished)
            values[row] = finished[0]
            failures += finished[1]
            self.progress(len(batch.x))
        return values, target, failures

    def predicted(self, batch: Batch, fine: np.ndarray) -> np.ndarray:
        """The class of the largest score of each sample, int64 [B]; -1 where it or its scores hold NaN or Inf."""
        found = np.full(len(batch.x), -1, np.int64)
        if fine.any():
            scores = protocol.scores(self.predict(batch.x[fine]), int(fine.sum()), unchecked=True)
            found[fine] = np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1)
        return found

    def values(self, method: Method, batch: Batch) -> tuple[np.ndarray, list[Failure]]:
        """Values [metrics, B] of one explainer, and what failed: each sample alone if the batch does."""
        values = np.full((len(self.metrics), len(batch.x)), np.nan)
        failures = []
        warn = functools.partial(self.warn, method.name)
        for case, rows in _tried(lambda part: self.case(method, part), batch, warn):
            if isinstance(case, str):
                failures.append(Failure(int(batch.ids[rows[0]]), method.name, "", case))
                continue
            for column, (name, metric) in enumerate(self.metrics.items()):
                for found, places in _tried(metric, case, warn):
                    if isinstance(found, str):
                        failures.append(Failure(int(case.ids[places[0]]), method.name, name, found))
                    else:
                        values[column, rows[places]] = found
        return values, failures

    def warn(self, method: str, caught: warnings.WarningMessage) -> None:
        """Pass a warning on, once for each explainer and place; that a metric is not defined, n tells."""
        place = method, caught.filename, caught.lineno
        if not issubclass(caught.category, UndefinedMetricWarning) and place not in self.warned:
            self.warned.add(place)
            text = f"explainer {method!r}: {caught.message}"
            warnings.warn_explicit(text, caught.category, caught.filename, caught.lineno)

    def hopeless(self, values: np.ndarray, failures: list[Failure]) -> str:
        """Which metric failed wherever it was tried: an option is wrong, not an explanation. "" if none did."""
        for column, name in enumerate(self.metrics):
            own = [failure for failure in failures if failure.metric == name]
            tried = {failure.method for failure in own}
            whole = {method.name for method in self.methods} - {f.method for f in failures if not f.metric}
            if own and whole and whole <= tried and np.isnan(values[:, column]).all():
                return f"metric {name!r} fails for every explainer and sample: {own[0].reason}"
        return ""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _tried(function: Callable, samples: Samples, warn: Callable[[warnings.WarningMessage], None]) -> Iterator[tuple]:
    """(result, rows) for all samples at once or, if that fails, for each alone; a text, why, in place of a result."""
    size = len(samples.x)
    rows = np.arange(size)
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = function(samples)
    except Exception as error:  # of the user's functions: any
        found = _reason(error)
        if size > 1:
            for row in rows:
                for result, _ in _tried(function, _part(samples, rows == row), warn):
                    yield result, rows[row : row + 1]
            return
    for message in caught:
        warn(message)
    yield found, rows


def _part(samples: Samples, keep: np.ndarray) -> Samples:
    """Those samples alone."""
    fields = ("x", "target", "masks", "ids") + (("relevance",) if isinstance(samples, Case) else ())
    given = {name: getattr(samples, name) for name in fields}
    parts: dict[str, Any] = {name: value if value is None else value[keep] for name, value in given.items()}
    return dataclasses.replace(samples, **parts)

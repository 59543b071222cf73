"""Values of candidates on samples: relevance of all of them at once, then the metric of each."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.many import Many
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.metric import Metric, get
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import UndefinedMetricWarning
from lrp_tf.evaluate.record import Failure, RecordedBatch
from lrp_tf.evaluate.samples import digest
from lrp_tf.evaluate.tuning.clock import Clock
from lrp_tf.evaluate.tuning.space import Candidate

SPARSENESS = "sparseness"
_TOGETHER = 32  # candidates of one compiled pass
_HURRIED, _FEWER = 120.0, 8  # with a budget of fewer seconds, so many candidates: compiling takes its time
_SAMPLES = 8  # that are explained at once: each has as many maps as there are candidates


@dataclasses.dataclass(frozen=True)
class Samples:
    """All that is judged: x [n, ...], target int64 [n]."""

    x: np.ndarray
    target: np.ndarray

    def digest(self, ids: np.ndarray) -> str:
        """Identifies some of them."""
        return digest(self.x[ids], self.target[ids])

    def some(self, ids: np.ndarray) -> Samples:
        """Those of these numbers."""
        return Samples(self.x[ids], self.target[ids])


class Judge:
    """Explains and judges.

    Args:
        model, output: what is explained.
        contrast: what each class is explained against.
        reused: whether samples follow for which the weights are other ones: all that is compiled is kept.

    Attributes:
        samples, metric, seed: see `begin`.
        told: called for each candidate that was judged on a batch, with the number of samples.
        failures: what has no value, and why.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        output: int | str | None,
        contrast: Contrast,
        channel_axis: int | None,
        batch_size: int,
        reused: bool,
    ) -> None:
        self.model, self.output, self.contrast = model, output, contrast
        self.predict = Predictor(model, output=output, batch_size=batch_size)
        self.channel_axis, self.reused = channel_axis, reused
        self._many: dict[tuple[str, ...], Many] = {}
        self._first_call = self._call = self._judging = 0.0  # seconds that the last one took

    def begin(self, samples: Samples, metric: Metric, seed: int) -> None:
        """Take other samples.

        Args:
            metric: judges relevance as it is: it must not explain again. seed: of its random numbers.
        """
        self.samples, self.metric, self.seed = samples, metric, seed
        self.metrics = {metric.name: metric} | {SPARSENESS: get(SPARSENESS)}
        self.told: Callable[[int], object] = lambda count: None
        self.failures: list[Failure] = []

    def values(
        self, candidates: Sequence[Candidate], ids: np.ndarray, known: RecordedBatch, clock: Clock, reserve: float = 0.0
    ) -> dict[str, np.ndarray]:
        """Values [metrics, B] of candidates on a batch, by their names; without those that time does not suffice for.

        Args:
            ids: the numbers of the samples.
            known: what an earlier run finished; it gets the rest.
            reserve: seconds of the budget that are needed later.
        """
        found = dict[str, np.ndarray]()
        hurried = clock.budget is not None and clock.budget < _HURRIED
        size = int(clock.decide("together", _FEWER if hurried else _TOGETHER))
        for first in range(0, len(candidates), size):
            # Whatever is open of them: a run that is resumed computes the same bits.
            group = candidates[first : first + size]
            relevance: dict[str, np.ndarray] | None = None
            for candidate in group:
                finished = known.of(candidate.name, self.metrics)
                ahead = self._judging if relevance is not None else self._judging + self._expected(group)
                if finished is None and clock.left <= reserve + ahead:
                    continue
                if finished is None:
                    relevance = self._relevance(group, self.samples.some(ids)) if relevance is None else relevance
                    begin = time.monotonic()
                    finished = self._value(relevance[candidate.name], ids, candidate.name)
                    self._judging = time.monotonic() - begin
                    known.add(candidate.name, self.metrics, *finished)
                    clock.keep()
                found[candidate.name] = finished[0]
                self.failures += finished[1]
                self.told(len(ids))
        return found

    def _relevance(self, group: Sequence[Candidate], samples: Samples) -> dict[str, np.ndarray]:
        key, begin = self._compiled(group), time.monotonic()
        new = key is None
        if key is None:
            key = tuple(candidate.name for candidate in group)
            made = Many(self.model, [candidate.composite for candidate in group], output=self.output)
            self._many = {**(self._many if self.reused else {}), key: made}
        x, target = samples.x, samples.target
        parts = [slice(first, first + _SAMPLES) for first in range(0, len(x), _SAMPLES)]
        found = [self._many[key](x[part], target[part], contrast=self.contrast) for part in parts]
        self._call = time.monotonic() - begin
        self._first_call = self._call if new else self._first_call
        return {name: np.concatenate([part[row] for part in found]) for row, name in enumerate(key)}

    def _compiled(self, group: Sequence[Candidate]) -> tuple[str, ...] | None:
        """The names of a compiled pass that explains by all of these candidates."""
        names = {candidate.name for candidate in group}
        if self.reused:
            return next((key for key in self._many if names <= set(key)), None)
        return next((key for key in self._many if key == tuple(candidate.name for candidate in group)), None)

    def _expected(self, group: Sequence[Candidate]) -> float:
        """Seconds until their relevance is there: more if it has to be compiled."""
        return self._first_call if self._compiled(group) is None else self._call

    def explained(self, candidate: Candidate, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Relevance of samples by one candidate, from a pass that is compiled already where there is one."""
        return self._relevance([candidate], Samples(x, target))[candidate.name]

    def _value(self, relevance: np.ndarray, ids: np.ndarray, name: str) -> tuple[np.ndarray, list[Failure]]:
        """Values [metrics, B]; NaN, with the reason, for samples whose relevance is not finite."""
        values = np.full((len(self.metrics), len(ids)), np.nan)
        fine = np.isfinite(relevance.reshape(len(ids), -1)).all(axis=1)
        failures = [Failure(int(i), name, "", "relevance holds NaN or Inf") for i in ids[~fine]]
        if fine.any():
            try:
                values[:, fine] = self._measured(relevance[fine], ids[fine])
            except ValueError as error:  # each sample alone; if none has a value, an option is wrong
                for place in np.flatnonzero(fine):
                    one = slice(place, place + 1)
                    try:
                        values[:, one] = self._measured(relevance[one], ids[one])
                    except ValueError as reason:
                        failures.append(Failure(int(ids[place]), name, self.metric.name, str(reason)))
                if np.isnan(values).all():
                    raise error
        return values, failures

    def _measured(self, relevance: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Values [metrics, B]."""
        case = Case.of(
            *(self.samples.x[ids], self.samples.target[ids], self._never, self.predict),
            relevance=relevance,
            channel_axis=self.channel_axis,
            seed=self.seed,
            ids=ids,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # n of each table tells
            return np.stack([metric(case) for metric in self.metrics.values()])

    def _never(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        raise ValueError(
            f"tune expects a metric that judges relevance as it is, such as srg. Received: {self.metric.name}, which "
            "explains again"
        )

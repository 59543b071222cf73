"""CMA-ES (Hansen 2016) over the numbers of a space instead of a grid; the module `cma` comes with the extra `tune`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.record import Record
from lrp_tf.evaluate.tuning.clock import Clock
from lrp_tf.evaluate.tuning.judge import Judge
from lrp_tf.evaluate.tuning.search import Tried, ordered
from lrp_tf.evaluate.tuning.space import Axis, Candidate, Space, Value

_GENERATIONS = 12
_AHEAD = 500_000  # number of the first generation's batch in the record


def evolved(
    space: Space, fixed: Sequence[Candidate], ids: np.ndarray, judge: Judge, record: Record, clock: Clock, seed: int,
    reserve: float = 0.0,
) -> list[Tried]:  # fmt: skip
    """What CMA-ES tried, the best first, and `fixed` among it; each on all of `ids`.

    Numbers with a logarithmic range are searched in their logarithm. A search that is resumed asks for the same
    settings again, and finds their values in the record.

    Raises:
        ValueError: no parameter has a range; one without a range has several values. ImportError: cma is missing.
    """
    cma = optional("cma", extra="tune")
    ranged = [axis for axis in space.axes if axis.bounds is not None]
    check(space)
    single = {axis.name: axis.values[0] for axis in space.axes if axis.bounds is None}
    metrics = len(judge.metrics)
    tried = {c.name: Tried(c, [], np.empty((metrics, 0))) for c in fixed}

    def judged(candidates: list[Candidate], number: int) -> bool:
        known = record.batch(_AHEAD + number, judge.samples.digest(ids), len(ids))
        values = judge.values(candidates, ids, known, clock, reserve)
        for candidate in candidates:
            if candidate.name in values:
                tried[candidate.name] = Tried(candidate, ids.tolist(), values[candidate.name])
        return len(values) == len({candidate.name for candidate in candidates})

    if not judged(list(fixed), 0):
        return ordered(list(tried.values()), judge.metric)
    options = {"bounds": [0.0, 1.0], "seed": seed + 1, "verbose": -9, "maxiter": _GENERATIONS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cma, on one dimension and on its options
        strategy = cma.CMAEvolutionStrategy([0.5] * len(ranged), 0.25, options)
        lasted = 0.0
        for generation in range(1, _GENERATIONS + 1):
            begin = clock.spent
            if clock.left <= reserve + lasted:
                break
            points = strategy.ask()
            settings = [single | _settings(ranged, point) for point in points]
            candidates = [space.candidate(one) for one in settings]
            if not judged(list({c.name: c for c in candidates}.values()), generation):
                break
            sign = -1.0 if judge.metric.better == "higher" else 1.0
            means = [tried[candidate.name].mean() for candidate in candidates]
            strategy.tell(points, [math.inf if math.isnan(mean) else sign * mean for mean in means])
            lasted = clock.spent - begin
            if strategy.stop():
                break
    return ordered(list(tried.values()), judge.metric)


def check(space: Space) -> None:
    """Raise ValueError unless CMA-ES can search a space: one range at least, and one value of all that has none."""
    if not any(axis.bounds is not None for axis in space.axes):
        raise ValueError(
            "search='cma' expects a range for one parameter at least, as gamma.lower=0.01:1:log5. Received: "
            f"{[axis.name for axis in space.axes]} without any"
        )
    for axis in space.axes:
        if axis.bounds is None and len(axis.values) > 1:
            raise ValueError(
                f"search='cma' expects a range or one value for each parameter. Received: {axis.name} with "
                f"{len(axis.values)} values. Remedy: search='grid'"
            )


def _settings(axes: Sequence[Axis], point: Sequence[float]) -> dict[str, Value]:
    """A point of the unit cube as settings, to four digits."""
    found: dict[str, Value] = {}
    for axis, share in zip(axes, point, strict=True):
        assert axis.bounds is not None
        low, high, log = axis.bounds
        share = min(max(float(share), 0.0), 1.0)
        value = low * (high / low) ** share if log else low + share * (high - low)
        found[axis.name] = float(f"{value:.4g}")
    return found

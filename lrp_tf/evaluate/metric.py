"""What a metric is: a function of a `Case` with a name, a direction and a paper; metrics by name."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.protocol import UndefinedMetricWarning

Function = Callable[..., np.ndarray]

_NEEDS = {
    "masks": "where the object is: pass masks=, or boxes through evaluate.masks_of",
    "model": "the Keras model and a way to explain another: pass model= and rebuild=, or a lrp_tf explainer",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric; called with a `Case` it gives a value for each sample.

    Attributes:
        name: in tables and for `get`.
        function: (case, **options) -> [B].
        family: "faithfulness", "localisation", "complexity", "sanity", "stability" or "completeness".
        better: "higher" or "lower"; None if neither is better in itself.
        paper: where it was defined.
        needs: what the case must hold, of "masks" and "model".
        over_batch: it compares the samples of a case with one another, so that a sample's value depends on the others.
        options: the function's keyword arguments.
    """

    name: str
    function: Function
    family: str
    better: str | None
    paper: str
    needs: tuple[str, ...] = ()
    over_batch: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower", None):
            raise ValueError(f'better expects "higher", "lower" or None. Received: {self.better!r}')
        if unknown := sorted(set(self.needs) - set(_NEEDS)):
            raise ValueError(f"needs expects some of {list(_NEEDS)}. Received: {unknown}")

    def __call__(self, case: Case) -> np.ndarray:
        """The value of each sample, float64 [B]; NaN where the metric is not defined, with a warning.

        Raises:
            ValueError: the case lacks what the metric needs, or cannot have this metric.
        """
        self.check(case)
        found = np.asarray(self.function(case, **self.options), np.float64)
        if found.shape != (len(case),):
            raise ValueError(
                f"metric {self.name} must return a value a sample. Expected: {(len(case),)}. Received: {found.shape}"
            )
        if np.isinf(found).any():
            raise ValueError(f"metric {self.name} is infinite for sample {np.flatnonzero(np.isinf(found))[0]}")
        if (undefined := int(np.isnan(found).sum())) > 0:
            text = f"metric {self.name} is not defined for {undefined} of {len(case)} samples; they are NaN"
            warnings.warn(text, UndefinedMetricWarning, stacklevel=2)
        return found

    def check(self, case: Case) -> None:
        """Raise ValueError if the case lacks what the metric needs."""
        has = {"masks": case.masks is not None, "model": case.model is not None and case.rebuild is not None}
        for need in self.needs:
            if not has[need]:
                raise ValueError(f"metric {self.name} needs {_NEEDS[need]}")

    def with_options(self, **options: Any) -> Metric:
        """The same metric with other options.

        Raises:
            TypeError: an option that it does not take.
        """
        known = [name for name, p in inspect.signature(self.function).parameters.items() if p.kind is p.KEYWORD_ONLY]
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"metric {self.name} takes {known or 'no options'}. Received: {unknown}")
        return dataclasses.replace(self, options={**self.options, **options})


_METRICS: dict[str, Metric] = {}


def metric(
    family: str,
    *,
    better: str | None,
    paper: str,
    needs: tuple[str, ...] = (),
    over_batch: bool = False,
    name: str | None = None,
    **options: Any,
) -> Callable[[Function], Function]:
    """Declare a metric: `@metric("complexity", better="higher", paper="Chalasani et al. 2020")` above its function.

        @evaluate.metric("complexity", better="lower", paper="none")
        def largest(case):
            return np.abs(case.positions).reshape(len(case), -1).max(axis=1)

    Raises:
        ValueError: a name that is taken, unknown `better` or `needs`. TypeError: an option that the function does not
            take.
    """

    def declare(function: Function) -> Function:
        found = Metric(name or function.__name__, function, family, better, paper, needs, over_batch)
        found = found.with_options(**options)
        if found.name in _METRICS:
            raise ValueError(f"there is a metric {found.name!r} already")
        _METRICS[found.name] = found
        return function

    return declare


def get(name: str | Metric, **options: Any) -> Metric:
    """A metric by name, as `keras.metrics.get`, with options.

        evaluate.get("faithfulness_correlation", runs=200)

    Raises:
        ValueError: an unknown name. TypeError: an option that it does not take.
    """
    if isinstance(name, Metric):
        return name.with_options(**options)
    if name not in _METRICS:
        raise ValueError(f"unknown metric. Expected one of {names()}. Received: {name!r}")
    return _METRICS[name].with_options(**options)


def names(family: str | None = None) -> list[str]:
    """The names of all metrics, or of those of a family.

        evaluate.names("complexity")

    Raises:
        ValueError: an unknown family.
    """
    families = list(dict.fromkeys(m.family for m in _METRICS.values()))
    if family is not None and family not in families:
        raise ValueError(f"unknown family. Expected one of {families}. Received: {family!r}")
    return [m.name for m in _METRICS.values() if family in (None, m.family)]

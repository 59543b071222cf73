"""What a benchmark measured: means over the seeds, with intervals."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lrp_tf.evaluate.benchmark.cells import Cell
from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.metric import Metric


class Row(NamedTuple):
    """One method on one problem, by one metric.

    Attributes:
        mean, low, high: over the seeds, with the interval of Student's t; NaN for fewer than two seeds.
        seeds: with a value. learnt: of these, whose nets reach the threshold of accuracy.
        note: the method whose maps it shares, or why it does not apply.
    """

    net: str
    problem: str
    background: str
    metric: str
    method: str
    mean: float
    low: float
    high: float
    seeds: int
    learnt: int
    note: str


@dataclasses.dataclass(frozen=True)
class Results:
    """What `benchmark` measured; `Benchmark` shows it.

    Attributes:
        cells: what was measured.
        methods: in the order in which they were asked for.
        metrics: under their short names.
        size, inputs: of the pictures.
        confidence: of the intervals.
    """

    cells: tuple[Cell, ...]
    methods: tuple[str, ...]
    metrics: dict[str, Metric]
    size: int
    inputs: str
    confidence: float = 0.95

    @property
    def title(self) -> str:
        """What the problems are, in a few words."""
        if self.inputs == "tokens":
            return f"Texts of {self.size} tokens"
        return f"XAI-TRIS, {self.size} x {self.size}, {self.inputs} inputs"

    @property
    def nets(self) -> tuple[str, ...]:
        """Kinds of nets."""
        return tuple(dict.fromkeys(cell.place.net for cell in self.cells))

    @property
    def problems(self) -> tuple[tuple[str, str], ...]:
        """(problem, background), each once; problems of one background follow one another."""
        return tuple(dict.fromkeys((cell.place.problem, cell.place.background) for cell in self.cells))

    def of(self, net: str, problem: str, background: str) -> tuple[Cell, ...]:
        """The cells of all seeds."""
        where = net, problem, background
        found = [c for c in self.cells if (c.place.net, c.place.problem, c.place.background) == where]
        if not found:
            raise ValueError(f"expected a net, problem and background of {self!r}. Received: {where}")
        return tuple(found)

    def row(self, net: str, problem: str, background: str, metric: str, method: str) -> Row:
        """The mean of one method on one problem, by one metric."""
        cells = self.of(net, problem, background)
        values = np.array([cell.of(method, metric) for cell in cells])
        known = ~np.isnan(values)
        note = ""
        if method in cells[0].same:
            note = f"the maps of {cells[0].same[method]}"
        elif method in cells[0].refused:
            note = f"does not apply: {cells[0].refused[method]}"
        learnt = sum(cell.learnt for cell, there in zip(cells, known, strict=True) if there)
        ends = interval(values[known], self.confidence)
        return Row(net, problem, background, metric, method, *ends, int(known.sum()), learnt, note)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """All rows: by net, problem, metric and method."""
        return [
            self.row(net, *where, metric, method)
            for net in self.nets
            for where in self.problems
            for metric in self.metrics
            for method in self.methods
        ]


def interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and ends of the interval of Student's t; NaN where there are too few values."""
    values = np.asarray(values, np.float64)
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    if len(values) == 1:
        return mean, math.nan, math.nan
    quantile = float(optional("scipy.stats").t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half

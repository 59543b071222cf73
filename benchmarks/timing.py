"""Seconds of one call and ratios of pairs; for every benchmark process, with or without TensorFlow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(
    function: Callable,
    *arguments: Any,
    wait: Callable[[Any], Any] = np.asarray,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Of a call, until its result is there: `wait` returns no sooner. `time.process_time` counts CPU time alone."""
    begin = clock()
    wait(function(*arguments))
    return clock() - begin


def in_turn(
    plain: Callable,
    other: Callable,
    runs: int,
    wait: Callable[[Any], Any] = np.asarray,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Seconds of two functions without arguments, called in turn, after two calls of each that do not count."""
    for _ in range(2):
        seconds(plain, wait=wait), seconds(other, wait=wait)
    pairs = [(seconds(plain, wait=wait, clock=clock), seconds(other, wait=wait, clock=clock)) for _ in range(runs)]
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


def ratio(plain: list[float], other: list[float]) -> dict[str, float]:
    """Median of the ratios of pairs, with quartiles."""
    ratios = [b / a for a, b in zip(plain, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"ratio": middle, "low": low, "high": high, "ms": 1000 * statistics.median(other)}

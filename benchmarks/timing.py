"""Seconds of one call and ratios of pairs; for every benchmark process, with or without TensorFlow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(function: Callable, *arguments: Any, wait: Callable[[Any], Any] = np.asarray) -> float:
    """Of a call, until its result is there: `wait` returns no sooner."""
    begin = time.perf_counter()
    wait(function(*arguments))
    return time.perf_counter() - begin


def in_turn(
    plain: Callable, other: Callable, runs: int, wait: Callable[[Any], Any] = np.asarray
) -> tuple[list[float], list[float]]:
    """Seconds of two functions without arguments, called in turn, after two calls of each that do not count."""
    for _ in range(2):
        seconds(plain, wait=wait), seconds(other, wait=wait)
    pairs = [(seconds(plain, wait=wait), seconds(other, wait=wait)) for _ in range(runs)]
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


def ratio(plain: list[float], other: list[float]) -> dict[str, float]:
    """Median of the ratios of pairs, with quartiles."""
    ratios = [b / a for a, b in zip(plain, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"ratio": middle, "low": low, "high": high, "ms": 1000 * statistics.median(other)}

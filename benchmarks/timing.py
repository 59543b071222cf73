"""Seconds of one call and ratios of pairs; for every benchmark process, with or without TensorFlow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(function: Callable, *arguments: Any) -> float:
    begin = time.perf_counter()
    np.asarray(function(*arguments))
    return time.perf_counter() - begin


def ratio(plain: list[float], other: list[float]) -> dict[str, float]:
    """Median of the ratios of pairs, with quartiles."""
    ratios = [b / a for a, b in zip(plain, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"ratio": middle, "low": low, "high": high, "ms": 1000 * statistics.median(other)}

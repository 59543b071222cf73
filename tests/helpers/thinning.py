"""Combinations for parametrized tests: a part of them by default, all of them in the slow tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def thinned(*axes: Sequence[Any], keep: int = 2) -> list[Any]:
    """All combinations of the values of the axes; by default one of `keep` runs, the others are slow.

    Those that run by default lie on diagonals, so that every value of every axis is among them.
    """
    found = []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        values = [axis[place] for axis, place in zip(axes, places, strict=True)]
        found.append(pytest.param(*values, marks=[pytest.mark.slow] * (sum(places) % keep > 0)))
    return found

"""How many regions are flipped at each step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

STEPS = 29


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Regions flipped so far, at each step. A schedule of your own overrides `share`, or `flips`.

    Attributes:
        until: share of the regions that is flipped at the last step. Samek et al. 2017 flip about 0.16.
    """

    until: float = 1.0

    def share(self, t: np.ndarray, regions: int) -> np.ndarray:
        """Share flipped at times 0..1, growing from 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} defines share(t, regions) or flips(regions, steps)")

    def flips(self, regions: int, steps: int | None) -> np.ndarray:
        """Regions flipped before step 0, 1, ...: int64 [steps + 1], from 0 on, at least one more at each step.

        Raises:
            ValueError: more steps than regions; `until` outside 0..1.
        """
        if not 0 < self.until <= 1:
            raise ValueError(f"until expects a share of the regions, above 0 to 1. Received: {self.until}")
        most = round(self.until * regions)
        steps = min(STEPS, most) if steps is None else steps
        if not 1 <= steps <= most:
            remedy = "fewer steps, or smaller regions" if self.until == 1 else "fewer steps, or until=1"
            raise ValueError(f"steps expects 1 to {most}, the regions to flip. Received: {steps}. Remedy: {remedy}")
        number = np.arange(steps + 1)
        found = np.rint(most * self.share(number / steps, most)).astype(np.int64)
        # One region a step at least, as long as there are as many left as steps.
        return np.minimum(np.maximum.accumulate(found - number).clip(0) + number, most - steps + number)


class Equal(Schedule):
    """As many regions at each step."""

    def share(self, t: np.ndarray, regions: int) -> np.ndarray:
        return t


class Quadratic(Schedule):
    """Few regions first, more and more later: t²."""

    def share(self, t: np.ndarray, regions: int) -> np.ndarray:
        return t**2


class Geometric(Schedule):
    """Few regions first, each step a constant factor more: (n^t - 1) / (n - 1) for n regions."""

    def share(self, t: np.ndarray, regions: int) -> np.ndarray:
        return t if regions == 1 else (regions**t - 1) / (regions - 1)


@dataclasses.dataclass(frozen=True)
class Squares(Schedule):
    """0, 1, 3, 5, ... flips, so k² regions are flipped at step k; the rest at the last step, all of it grey.

    So R. Bermudez Schettino flips (github.com/rodrigobdz/lrp): 28 x 28 regions take 29 steps. The grey is
    (low + high) / 2: of `low` and `high`, or of each sample and channel. Fewer steps stop before.
    """

    low: float | None = None
    high: float | None = None

    def flips(self, regions: int, steps: int | None) -> np.ndarray:
        if self.until != 1:
            raise ValueError(f"squares flip all regions. Expected: until=1. Received: {self.until}")
        found = np.array([*np.arange(math.isqrt(regions) + 1) ** 2, regions], np.int64)
        steps = len(found) - 1 if steps is None else steps
        if not 1 <= steps < len(found):
            raise ValueError(f"steps expects 1 to {len(found) - 1} squares of {regions} regions. Received: {steps}")
        return found[: steps + 1]


ScheduleLike: TypeAlias = str | Schedule | Sequence[int] | Callable[[int, int | None], Sequence[int]]

SCHEDULES: dict[str, Schedule] = {
    "equal": Equal(),
    "quadratic": Quadratic(),
    "geometric": Geometric(),
    "squares": Squares(),
}


def flips(schedule: ScheduleLike, regions: int, steps: int | None = None) -> np.ndarray:
    """Regions flipped so far at each step, int64 [steps + 1], starting with 0.

    Args:
        schedule: a name of `SCHEDULES`, a Schedule, the numbers themselves, or a function (regions, steps) -> numbers.
        steps: None: 29, or as many as there are regions, or as the schedule has.

    Raises:
        ValueError: an unknown name, more steps than regions, numbers that do not grow from 0 to at most `regions`.
        TypeError: steps that are no integer.
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer, type(None))):
        raise TypeError(f"steps expects an integer or None. Received: {steps!r}")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule. Expected one of {list(SCHEDULES)}. Received: {schedule!r}")
        schedule = SCHEDULES[schedule]
    if isinstance(schedule, Schedule):
        return schedule.flips(regions, steps)
    numbers = np.asarray(schedule(regions, steps) if callable(schedule) else schedule)
    if numbers.ndim != 1 or len(numbers) < 2 or numbers.dtype.kind not in "iu":
        raise ValueError(f"schedule expects integers from 0 on, one for each step. Received: {schedule!r}")
    if numbers[0] != 0 or (np.diff(numbers) < 1).any() or numbers[-1] > regions:
        raise ValueError(f"schedule expects numbers that grow from 0 to {regions} regions. Received: {numbers}")
    if steps is not None and len(numbers) != steps + 1:
        raise ValueError(f"schedule has {len(numbers) - 1} steps. Expected: {steps}")
    return numbers.astype(np.int64)


def grey(schedule: ScheduleLike, regions: int, steps: int) -> tuple[float | None, float | None] | None:
    """(low, high) if the last of these steps makes the picture grey; None if it does not."""
    found = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    if not isinstance(found, Squares) or steps != len(found.flips(regions, None)) - 1:
        return None
    return found.low, found.high

"""The time that a run may take, over all its parts that were killed and resumed."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

from lrp_tf.atomic import atomic

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds_of(budget: float | str | None) -> float | None:
    """A budget in seconds: a number, or a text such as "90s", "5m", "1.5h"; None: there is none.

    Raises:
        ValueError: neither, or not above 0. TypeError: something else.
    """
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, (int, float, str)):
        raise TypeError(f"budget expects seconds, or a text as 5m. Received: {budget!r}")
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", str(budget))
    found = float(match[1]) * _UNITS.get(match[2], math.nan) if match else math.nan
    if not (found > 0 and math.isfinite(found)):
        raise ValueError(f"budget expects seconds above 0, or a text as 90s, 5m or 1.5h. Received: {budget!r}")
    return found


class Clock:
    """How much of a budget is spent; kept in a file, with what was decided for the sake of time.

    Args:
        budget: in seconds; None: there is no end.
        path: of the file; None: nothing is kept.
    """

    def __init__(self, budget: float | None, path: Path | None) -> None:
        self.budget, self.path = budget, path
        known: dict[str, Any] = {}
        if path is not None and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
        self._before: float = known.get("seconds", 0.0)
        self.decisions: dict[str, Any] = known.get("decisions", {})
        self._begin = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds."""
        return self._before + time.monotonic() - self._begin

    @property
    def left(self) -> float:
        """Seconds; infinite without a budget."""
        return math.inf if self.budget is None else self.budget - self.spent

    def decide(self, name: str, value: Any) -> Any:
        """What an earlier part of the run decided, or else `value`, which is decided now."""
        if name not in self.decisions:
            self.decisions[name] = value
            self.keep()
        return self.decisions[name]

    def keep(self) -> None:
        """Write down how much is spent."""
        if self.path is not None:
            text = json.dumps({"seconds": self.spent, "decisions": self.decisions})
            atomic(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

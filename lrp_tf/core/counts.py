"""Numbers of things: whole ones, within limits."""

from __future__ import annotations

import numbers
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether it is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """The value as an int, a whole number from `least` to `most`.

    Args:
        name: of the argument, for the message.

    Raises:
        ValueError: it is none.
    """
    if not is_whole(value) or value < least or (most is not None and value > most):
        upto = "" if most is None else f" to {most}"
        raise ValueError(f"{name} expects a whole number from {least}{upto}. Received: {value!r}")
    return int(value)

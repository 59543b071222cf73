"""The one switch that turns all savings off, for tests and for whoever debugs. It is no public option."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_off = False


def are_on() -> bool:
    """Whether a plan that is made now may save."""
    return not _off


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Explainers that are built inside compute every number by the formula of its rule, from what is in the formula.

    The switch is read when an explainer is built, for the whole process; what was built before keeps its savings.
    """
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before

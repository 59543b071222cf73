"""Who asks for a gradient. TensorFlow does not tell gradient functions who asks, so this reads the call stack."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, NamedTuple

import tensorflow as tf


class Asking(NamedTuple):
    """A call of `tape.gradient` in progress.

    Attributes:
        tape: the id of the tape. Tapes that recorded one operation were alive at the same time, so that theirs differ.
        sources: the ids of what it is asked for, handles in place of variables; None: unknown.
    """

    tape: int
    sources: frozenset[int] | None

    def wants(self, variable: tf.Variable) -> bool:
        """Whether it may ask for the gradient of a variable."""
        return self.sources is None or id(variable.handle) in self.sources


def asking() -> Asking | None:
    """The innermost call of `tape.gradient` in progress; None: none, as under tf.gradients."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "imperative_grad":
        frame = frame.f_back
    if frame is None:
        return None
    known: dict[str, Any] = frame.f_locals
    sources = known.get("sources")
    return Asking(id(known.get("tape")), None if sources is None else frozenset(map(id, sources)))

"""What the engine asks of a rule or flow: the types that every step, handler and propagator shares."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from lrp_tf.core.account import Account

if TYPE_CHECKING:
    from lrp_tf.core.graph import Graph, Step

# (relevance of the outputs, account or None) -> relevance of the inputs; None where no relevance enters.
Propagate = Callable[[list[tf.Tensor], Account | None], list[tf.Tensor | None]]


class ZeroInput(enum.StrEnum):
    """The relevance of an input that is zero."""

    NONE = "none"  # it has none
    MOVES = "moves"  # that of the output, which is zero too
    ELEMENT = "element"  # that of the output, which is a function of this input alone
    UNKNOWN = "unknown"


class Propagator:
    """A `Propagate` that computes late what it needs, when relevance arrives: the memory of one step serves the next.

    Several targets share what does not depend on relevance; `precompute` then computes it once, ahead of them.
    """

    def __call__(self, relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        """Relevance of the inputs from that of the outputs; None where no relevance enters."""
        raise NotImplementedError

    def precompute(self) -> None:
        """Compute all that needs no relevance."""

    def under(self, hook: Callable[[Step, tf.Tensor], tf.Tensor]) -> Propagator:
        """The same for a backward pass with this hook, which the steps inside of a loop get, too."""
        return self


class Saved:
    """What a handler keeps from the forward pass for the backward pass, if savings shall know of it.

    Attributes:
        rectified: relu(output), if the handler computed it; the ReLU behind the step reuses the tensor.
    """

    rectified: tf.Tensor | None = None


class Handler:
    """Base of rules and flows: runs one step and hands its relevance back.

    Attributes:
        at_zero: the relevance of an input that is zero.
        divides: it divides by a sum that may cancel, so that relevance can grow.
        shows_kernel: NaN or Inf in the kernel shows in the relevance.
        local: what it sends from an output depends on that output alone.
        bears_bfloat16: which of its convolutions bear bfloat16: "sums", its denominators where nothing cancels in them,
            and "shares", which hand relevance on.
    """

    at_zero: ZeroInput | str = ZeroInput.UNKNOWN
    divides: bool = False
    shows_kernel: bool = False
    local: bool = False
    bears_bfloat16: frozenset[str] = frozenset()

    def enters(self, step: Step) -> tuple[int, ...]:
        """Positions in `step.inputs` that relevance enters; by default all of `step.signals`.

        When this is asked, `step.held` lists the inputs that relevance could not leave again: constants, and tensors
        that other handlers keep it out of. Relevance enters none of them, whatever is returned.
        """
        return tuple(step.signals)

    def for_step(self, graph: Graph, step: Step) -> Handler:
        """The handler for one step of one graph; itself, unless it needs to know where it is."""
        return self

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        """Outputs of the step, and what `backward` needs."""
        raise NotImplementedError

    def backward(self, step: Step, saved: Any) -> Propagate:
        """The function that propagates. What needs no relevance is computed once for any number of targets."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward()")

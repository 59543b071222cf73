"""What a flow is, the registry of flows, and the two that every other file needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from lrp_tf.core import linear, unsupported
from lrp_tf.core.graph import Interval
from lrp_tf.core.linear import computes_as
from lrp_tf.core.numerics import vjp
from lrp_tf.core.protocol import Handler, Propagate
from lrp_tf.tracing.elementwise import is_elementwise

UNBOUNDED: Interval = (-math.inf, math.inf)


class Flow(Handler):
    """Base class: the protocol of a rule (`forward`, `backward`, see rules.py) for a step without a kernel.

    Attributes:
        transparent: it moves or scales values but mixes none; `composites.first()` looks through it.
        multiplies: an input that is a gate (in [0, 1] by a sigmoid or softmax) is held constant.
        detached: relevance never enters; the outputs count as constants.
        at_zero: relevance of an input that is zero: "none"; what the output has, which is zero too ("moves"); what the
            output has, a function of this input alone ("element"); or "unknown".
        divides: by a sum that may cancel, so that relevance can grow.
    """

    transparent = False
    multiplies = False
    detached = False
    at_zero = "unknown"
    divides = False

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        """Outputs of the step, and what `backward` needs."""
        outputs = list(keras.tree.flatten(step.call(*inputs)))
        dtype = next((x.dtype for x in inputs if x.dtype.is_floating), None)
        if dtype is not None:
            # Layers with a mixed policy may cast to half precision; relevance does not.
            outputs = [tf.cast(y, dtype) if y.dtype.is_floating else y for y in outputs]
        for y, ref in zip(outputs, step.outputs, strict=True):
            if y.shape.rank is None:  # as Keras' average leaves it
                y.set_shape([ref.rows, *ref.shape] if ref.batched else ref.shape)
        return outputs, (inputs, outputs)

    def backward(self, step: Any, saved: Any) -> Propagate:
        """A function: (relevance of the outputs, account or None) -> relevance of the inputs; None: none enters."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward()")

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        """Bounds of the outputs, from those of the inputs."""
        return UNBOUNDED

    def __repr__(self) -> str:
        return type(self).__name__


@dataclasses.dataclass(frozen=True, repr=False)
class PassThrough(Flow):
    """R unchanged, for activations and other element-wise steps (Bach et al. 2015)."""

    transparent: bool = False
    at_zero = "element"

    def backward(self, step: Any, saved: Any) -> Propagate:
        return lambda relevances, account: at_signals(step, relevances[0])

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        return activation_interval(step)


class Identity(PassThrough):
    """Dropout and the like, in inference mode whatever the call stored."""

    at_zero = "moves"

    def __init__(self) -> None:
        super().__init__(transparent=True)

    def forward(self, step: Any, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        return [inputs[0]], None

    def interval(self, step: Any, intervals: list[Interval]) -> Interval:
        return intervals[0]


# --- shared by the flows -----------------------------------------------------------------------


def at_signals(step: Any, relevance: tf.Tensor) -> list[tf.Tensor | None]:
    """`relevance` for the first signal of the step, none for its other inputs."""
    first = step.signals[0]
    return [relevance if i == first else None for i in range(len(step.inputs))]


def scatter(step: Any, positions: list[int], relevances: list[tf.Tensor]) -> list[tf.Tensor | None]:
    """`relevances` for the inputs at `positions`, none for the others."""
    found = dict(zip(positions, relevances, strict=True))
    return [found.get(i) for i in range(len(step.inputs))]


def replaced(inputs: list[tf.Tensor], positions: list[int], values: Any) -> list[tf.Tensor]:
    """`inputs` with `values` at `positions`."""
    full = list(inputs)
    for position, value in zip(positions, values, strict=True):
        full[position] = value
    return full


def aligned(step: Any, x: tf.Tensor, rank: int) -> tf.Tensor:
    """x as it is broadcast: merging layers insert the axes that are missing behind the batch axis."""
    if not isinstance(step.op, keras.Layer) or x.shape.rank == rank:
        return x
    size = tf.shape(x)
    return tf.reshape(x, tf.concat([size[:1], [1] * (rank - x.shape.rank), size[1:]], 0))


def unbroadcast(step: Any, relevance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Relevance of x from that of a tensor that x was broadcast to: copies add up."""
    moved = any(ref.axis for ref in step.outputs)  # then the first axis may be one that x was broadcast along
    if not moved and x.shape[1:].is_fully_defined() and x.shape[1:] == relevance.shape[1:]:
        return relevance
    x = tf.cast(x, relevance.dtype)
    rank = relevance.shape.rank
    return vjp(lambda t: tf.broadcast_to(aligned(step, t, rank), tf.shape(relevance)), [x], relevance)[0]


def numbers(step: Any) -> list[float]:
    """The numbers among the arguments: 2 in x * 2."""
    flat = keras.tree.flatten((step.args, step.kwargs))
    return [float(a) for a in flat if isinstance(a, (int, float)) and not isinstance(a, bool)]


def hull(intervals: list[Interval]) -> Interval:
    """The smallest interval around several."""
    return min((low for low, _ in intervals), default=-math.inf), max((high for _, high in intervals), default=math.inf)


_BOUNDS: dict[str, Interval] = {
    **dict.fromkeys(("relu", "softplus", "sparse_plus", "squareplus", "exponential", "exp"), (0, math.inf)),
    **dict.fromkeys(("sigmoid", "hard_sigmoid", "sparse_sigmoid", "softmax", "sparsemax"), (0, 1)),
    "relu6": (0, 6),
    "tanh": (-1, 1),
    "hard_tanh": (-1, 1),
    "softsign": (-1, 1),
}


def activation_interval(step: Any) -> Interval:
    """Bounds of what an activation can return."""
    name, op = step.activation, step.op
    if name == "relu" or type(op) is keras.layers.ReLU:
        if getattr(op, "negative_slope", 0) == 0 and getattr(op, "threshold", 0) >= 0:
            top = getattr(op, "max_value", None)
            return 0, math.inf if top is None else float(top)
        return UNBOUNDED
    return _BOUNDS.get(name, UNBOUNDED)


# --- registry ----------------------------------------------------------------------------------

_REGISTRY: dict[tuple[type | str, int | None], Flow] = {}
_ACTIVATIONS: list[Callable] = []


def register(kind: type | str, flow: Flow, tensors: int | None = None) -> None:
    """Declare how relevance flows through a layer class, or through an operation.

    Args:
        kind: subclass of keras.Layer, or "ops.Add" for the operation of keras.ops.add.
        flow: an instance of `Flow`.
        tensors: the entry holds only for calls with so many tensor arguments (x * 2 has one).

    Raises:
        TypeError: `flow` is not a Flow.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flows.register expects an instance of flows.Flow. Received: {flow!r}")
    _REGISTRY[kind, tensors] = flow


def register_activation(function: Callable) -> None:
    """Declare that `function`, as an activation or in a Lambda, is element-wise: relevance passes it unchanged."""
    if not callable(function):
        raise TypeError(f"register_activation expects a function. Received: {function!r}")
    _ACTIVATIONS.append(function)


def lookup(step: Any) -> Flow | None:
    """The flow of a step, or None. A subclass that overrides what is computed needs an entry of its own."""
    if step.activation is not None or any(step.function is known for known in _ACTIVATIONS):
        return PassThrough()
    if step.function is not None and type(step.op) is not keras.layers.Lambda and is_elementwise(step.function):
        return PassThrough()
    kind = step.kind
    for cls in kind.__mro__ if isinstance(kind, type) else [kind]:
        for key in ((cls, len(step.inputs)), (cls, None)):
            if key in _REGISTRY:
                same = isinstance(kind, str) or computes_as(kind, cls)
                return _REGISTRY[key] if same else None
    return None


def entry(kind: type | str) -> Flow | None:
    """The flow of this very class or operation, or None."""
    return _REGISTRY.get((kind, None))


def keeps(step: Any) -> bool:
    """Whether a layer stays one step: it has an entry, or looking into it would lead nowhere."""
    known = linear.lookup(step.op) is not None or lookup(step) is not None
    opaque = step.function is not None or unsupported.remedy(step.op) is not None
    return known or opaque or (isinstance(step.kind, str) and step.kind in linear.operations())

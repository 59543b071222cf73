"""What a flow is, the registry of flows, and the two flows that every other file needs."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from lrp_tf.core import linear, unsupported
from lrp_tf.core.account import Account
from lrp_tf.core.graph import Interval, Step
from lrp_tf.core.linear import computes_as
from lrp_tf.core.numerics import Relative, check_stabilizer, vjp
from lrp_tf.core.operations import ActivationFunction
from lrp_tf.core.protocol import Handler, Propagate, ZeroInput
from lrp_tf.rules.base import short
from lrp_tf.tracing.elementwise import is_elementwise

UNBOUNDED: Interval = (-math.inf, math.inf)

Kept = tuple[list[tf.Tensor], list[tf.Tensor]]  # what `Flow.forward` saves: inputs and outputs


class Flow(Handler):
    """Base class: says how relevance passes a step without a kernel.

        class Halved(flows.Flow):
            def backward(self, step, saved):
                return lambda relevances, account=None: [relevances[0] / 2]

    A flow of your own defines `backward`, and `enters` where relevance does not enter every signal.

    Attributes:
        transparent: it moves or scales values but mixes none; `composites.first()` looks through it.
    """

    transparent: bool = False

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        """Outputs of the step, and what `backward` needs."""
        outputs = list(keras.tree.flatten(step.call(*inputs)))
        dtype = next((x.dtype for x in inputs if x.dtype.is_floating), None)
        if dtype is not None:
            # Layers with a mixed policy may cast to half precision; relevance does not.
            outputs = [tf.cast(y, dtype) if y.dtype.is_floating else y for y in outputs]
        for y, ref in zip(outputs, step.outputs, strict=True):
            if y.shape.rank is None:  # keras.ops.average loses the static shape
                y.set_shape([ref.rows, *ref.shape] if ref.batched else ref.shape)
        return outputs, (inputs, outputs)

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        """Bounds of the outputs, from those of the inputs."""
        return UNBOUNDED

    def with_stabilizer(self, stabilizer: float | Relative) -> Flow:
        """This flow with another `stabilizer`; the flow itself if it has none.

        Raises:
            ValueError: no number >= 0 and no `Relative`.
        """
        check_stabilizer(stabilizer)
        if not hasattr(self, "stabilizer"):
            return self
        changed = copy.copy(self)
        object.__setattr__(changed, "stabilizer", stabilizer)  # flows are frozen
        return changed

    def __repr__(self) -> str:
        fields: tuple[dataclasses.Field, ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        changed = [f.name for f in fields if f.repr and getattr(self, f.name) != f.default]
        shown = ", ".join(f"{name}={short(getattr(self, name))}" for name in changed)
        return f"{type(self).__name__}({shown})" if shown else type(self).__name__


@dataclasses.dataclass(frozen=True, repr=False)
class PassThrough(Flow):
    """R unchanged, for activations and other element-wise steps (Bach et al. 2015).

    Of several signals the first gets all.
    """

    transparent: bool = dataclasses.field(default=False, repr=False)
    at_zero = ZeroInput.ELEMENT

    def enters(self, step: Step) -> tuple[int, ...]:
        return tuple(step.signals[:1])

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
        if step.activation != "silu":
            return super().forward(step, inputs)
        # As tf.nn.silu, without the gradient of its own that it has, which nobody asks for: six operations fewer.
        outputs = [inputs[0] * tf.sigmoid(inputs[0])]
        return outputs, (inputs, outputs)

    def backward(self, step: Step, saved: Any) -> Propagate:
        return lambda relevances, account: at_signals(step, relevances[0])

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return activation_interval(step)


class Identity(PassThrough):
    """Dropout and the like, in inference mode even if the model's call stored `training=True`."""

    at_zero = ZeroInput.MOVES

    def __init__(self) -> None:
        super().__init__(transparent=True)

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], None]:
        return [inputs[0]], None

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return intervals[0]


# --- shared by the flows -----------------------------------------------------------------------


def at_signals(step: Step, relevance: tf.Tensor) -> list[tf.Tensor | None]:
    """`relevance` for the first signal of the step, none for its other inputs."""
    first = step.signals[0]
    return [relevance if i == first else None for i in range(len(step.inputs))]


def scatter(step: Step, positions: list[int], relevances: list[tf.Tensor]) -> list[tf.Tensor | None]:
    """`relevances` for the inputs at `positions`, none for the others."""
    found = dict(zip(positions, relevances, strict=True))
    return [found.get(i) for i in range(len(step.inputs))]


def book_division(
    account: Account,
    relevance: tf.Tensor,
    g: tf.Tensor,
    denominator: tf.Tensor,
    epsilon: tf.Tensor,
    stabilizer: float | Relative,
) -> None:
    """Book what g = relevance / denominator absorbs by its epsilon, and what an empty denominator leaves over."""
    account.add("stabilizer", g, epsilon)
    if isinstance(stabilizer, Relative) or stabilizer == 0:  # then a denominator may be exactly 0, and g is 0 there
        account.add("other", tf.where(denominator == 0, relevance, tf.zeros_like(relevance)))


def replaced(inputs: list[tf.Tensor], positions: list[int], values: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    """`inputs` with `values` at `positions`."""
    full = list(inputs)
    for position, value in zip(positions, values, strict=True):
        full[position] = value
    return full


def aligned(step: Step, x: tf.Tensor, rank: int) -> tf.Tensor:
    """x in the rank that it is broadcast in: merging layers insert missing axes behind the batch axis."""
    if not isinstance(step.op, keras.Layer) or x.shape.rank == rank:
        return x
    size = tf.shape(x)
    return tf.reshape(x, tf.concat([size[:1], [1] * (rank - x.shape.rank), size[1:]], 0))


def unbroadcast(step: Step, relevance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Relevance of x from that of a tensor that x was broadcast to: that of its copies is summed."""
    moved = any(ref.axis for ref in step.outputs)  # x may have been broadcast along the first axis
    if not moved and x.shape[1:].is_fully_defined() and x.shape[1:] == relevance.shape[1:]:
        return relevance
    x = tf.cast(x, relevance.dtype)
    rank = relevance.shape.rank
    return vjp(lambda t: tf.broadcast_to(aligned(step, t, rank), tf.shape(relevance)), [x], relevance)[0]


def numbers(step: Step) -> list[float]:
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


def activation_interval(step: Step) -> Interval:
    """Bounds of what an activation can return."""
    name, op = step.activation, step.op
    if name == "relu" or type(op) is keras.layers.ReLU:
        if getattr(op, "negative_slope", 0) == 0 and getattr(op, "threshold", 0) >= 0:
            top = getattr(op, "max_value", None)
            return 0, math.inf if top is None else float(top)
        return UNBOUNDED
    return UNBOUNDED if name is None else _BOUNDS.get(name, UNBOUNDED)


# --- registry ----------------------------------------------------------------------------------

_REGISTRY: dict[tuple[type | str, int | None], Flow] = {}
_ACTIVATIONS: list[Callable] = []


def register(kind: type | str, flow: Flow, tensors: int | None = None) -> None:
    """Declare how relevance flows through a layer class, or through an operation.

        flows.register(keras.layers.SpatialDropout2D, flows.Identity())

    Args:
        kind: subclass of keras.Layer, or "ops.Add" for the operation of keras.ops.add.
        flow: an instance of `Flow`.
        tensors: the number of tensor arguments of the calls that the entry is for (x * 2 has one); None: any.

    Raises:
        TypeError: `flow` is not a Flow.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flows.register expects an instance of flows.Flow. Received: {flow!r}")
    _REGISTRY[kind, tensors] = flow


def register_activation(function: Callable) -> None:
    """Declare that `function` is element-wise: relevance passes it unchanged.

        def bounded(x):
            return tf.minimum(tf.nn.relu(x), 4.0)

        flows.register_activation(bounded)

    This holds for it as an activation, and in a Lambda.
    """
    if not callable(function):
        raise TypeError(f"register_activation expects a function. Received: {function!r}")
    _ACTIVATIONS.append(function)


def lookup(step: Step) -> Flow | None:
    """The flow of a step, or None. A subclass that overrides what is computed needs an entry of its own."""
    if step.activation is not None or any(step.function is known for known in _ACTIVATIONS):
        return PassThrough()
    if step.function is not None and type(step.op) is not keras.layers.Lambda and is_elementwise(step.function):
        return PassThrough()
    kind = step.kind
    for cls in kind.__mro__ if isinstance(kind, type) else [kind]:
        for key in ((cls, len(step.inputs)), (cls, None)):
            if key in _REGISTRY:
                same = isinstance(kind, str) or not isinstance(cls, type) or computes_as(kind, cls)
                return _REGISTRY[key] if same else None
    return None


def entry(kind: type | str) -> Flow | None:
    """The flow of this very class or operation, or None."""
    return _REGISTRY.get((kind, None))


def registered() -> list[tuple[tuple[type | str, int | None], Flow]]:
    """All entries: ((class or operation, number of tensors), flow)."""
    return list(_REGISTRY.items())


def keeps(step: Step) -> bool:
    """Whether a layer stays one step: it has an entry, or following its `call` would not help."""
    known = linear.lookup(step.op) is not None or lookup(step) is not None
    function = None if isinstance(step.op, ActivationFunction) else step.function
    opaque = function is not None or unsupported.remedy(step.op) is not None
    return known or opaque or (isinstance(step.kind, str) and step.kind in linear.operations())

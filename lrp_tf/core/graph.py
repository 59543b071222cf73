"""A model as a flat list of steps, which every other file works on. `tracing` makes it from a Keras model."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import tree

from lrp_tf.core.operations import ActivationFunction, activation_name

if TYPE_CHECKING:
    from lrp_tf.core.linear import LinearLayer

Shape = tuple[int | None, ...]
Interval = tuple[float, float]  # bounds that every value of a tensor is known to keep


class UnsupportedLayerError(ValueError):
    """No entry covers a layer or operation. The message names it, its path and the remedy."""


class Ref:
    """A tensor of the graph. Refs are compared by identity: two refs are always two tensors.

    `shape` leaves out the first axis, which is the batch; None dimensions are unknown until the call. A variable or
    array of the model is a ref too, with `batched` False and its whole shape. `mask`: the Keras mask that travels with
    the tensor. `axis`: where the samples lie, if a transposition moved them for a while; `rows` is then the size of the
    first axis. `each`: how many entries of that axis a sample has, one after another.
    """

    __slots__ = ("axis", "batched", "dtype", "each", "mask", "rows", "shape")

    def __init__(
        self,
        shape: Iterable[int | None],
        dtype: str,
        batched: bool = True,
        *,
        axis: int = 0,
        each: int = 1,
        rows: int | None = None,
    ) -> None:
        self.shape: Shape = tuple(shape)
        self.dtype = dtype
        self.batched = batched
        self.axis, self.each, self.rows = axis, each, rows
        self.mask: Ref | None = None

    def __repr__(self) -> str:
        return f"Ref{self.shape}"


@dataclasses.dataclass(frozen=True)
class Marks:
    """What savings know of one step. With the defaults nothing is saved, and every number is the formula's own.

    Attributes:
        savings: shortcuts may be taken at all.
        nonnegative: the input of the kernel is known to be >= 0.
        positive_only: relevance arrives only where the output is above zero.
        recomputed_summand: position of the summand of a sum that is not kept; the sum less the other gives it.
        memory_heavy: the output is a great part of all that the model computes.
        bfloat16_sums: the rule sums its denominators in bfloat16. The model's own values never are.
        bfloat16_shares: relevance is shared out in bfloat16.
        precision: what the rule computes in and why, for the table of rules; empty where nobody asked for bfloat16.
    """

    savings: bool = False
    nonnegative: bool = False
    positive_only: bool = False
    recomputed_summand: int | None = None
    memory_heavy: bool = False
    bfloat16_sums: bool = False
    bfloat16_shares: bool = False
    precision: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One operation of the model in one call.

    `args` and `kwargs` hold `Ref`s where the model passes tensors. `canonize` fills in the facts from `linear` to
    `gates`; `held` is decided by the handler that a composite assigned, see `entering.hold`.
    """

    op: Any  # keras.Layer, a keras.ops operation, or one of operations.py
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    path: str  # names joined by "/", outermost model left out
    order: int  # position in the model, for the tables
    within: tuple = ()  # layers that were expanded into this step and others, outermost first
    why: str = ""  # why the layer was not expanded
    bare: bool = False  # a layer without its activation, which other steps compute
    mixes: str = ""  # how it mixes the samples of a batch; an error if an output needs the step
    linear: LinearLayer | None = None  # the entry of linear.py, None for everything without a kernel
    before: tuple = ()  # layers absorbed ahead of the kernel: padding, BatchNormalization
    after: tuple = ()  # BatchNormalization layers folded into the kernel
    addend: Ref | None = None  # constant that is added to the outputs of the kernel
    constant: tuple[int, ...] = ()  # inputs that no input of the model can change
    gates: tuple[int, ...] = ()  # inputs in [0, 1] by a sigmoid or softmax, or scales by rsqrt or reciprocal
    scales: tuple[int, ...] = ()  # factors that only weigh the others, see `engine.factors`
    activated: tuple[int, ...] = ()  # inputs that an activation function gave
    held: tuple[int, ...] = ()  # inputs that relevance never enters; constants alone until handlers are assigned
    marks: Marks = Marks()
    parts: tuple[Step, ...] = ()  # linear steps whose sum it is, see `engine.joining`; each reads some of `inputs`

    @property
    def name(self) -> str:
        """Name of the layer, without the models around it."""
        return self.path.rsplit("/", 1)[-1]

    @functools.cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """The tensors among the arguments, in order. A tensor that is used twice appears twice."""
        found = tuple(a for a in tree.flatten((self.args, self.kwargs)) if isinstance(a, Ref))
        return found if self.addend is None else (*found, self.addend)

    @property
    def entry(self) -> LinearLayer:
        """How to read the kernel of a linear step. Other steps have none: AssertionError."""
        assert self.linear is not None, f"{self.path!r} is no linear step"
        return self.linear

    @property
    def signals(self) -> list[int]:
        """Positions in `inputs` that are not `held`."""
        return [i for i in range(len(self.inputs)) if i not in self.held]

    @property
    def kind(self) -> type | str:
        """The key of registries: the class of a layer, or "ops.Add" for the operation of keras.ops.add."""
        if type(self.op).__module__.startswith("keras.src.ops"):
            return f"ops.{type(self.op).__name__}"
        return type(self.op)

    @property
    def activation(self) -> str | None:
        """Name of the built-in activation that the step applies, or None."""
        return activation_name(self.op)

    @property
    def function(self) -> Callable | None:
        """The function of an activation step or a Lambda, built in or not."""
        if isinstance(self.op, ActivationFunction):
            return self.op.function
        if type(self.op) is keras.layers.Lambda:
            return self.op.function
        return self.op.activation if type(self.op) is keras.layers.Activation else None

    @property
    def operation(self) -> str:
        """The kind, for tables and messages."""
        return getattr(self.op, "label", None) or type(self.op).__name__

    @property
    def has_constants(self) -> bool:
        """Whether the step also reads numbers or held inputs, as x + 3 and Add()([x, array]) do."""
        numbers = [a for a in tree.flatten(self.args) if not isinstance(a, Ref)]
        return bool(self.held) or (isinstance(self.kind, str) and bool(numbers))

    def bind(self, tensors: Iterable[tf.Tensor]) -> tuple[tuple, dict]:
        """The arguments with `tensors` for the refs, in the order of `inputs`."""
        supply = iter(tensors)
        return tree.map_structure(lambda a: next(supply) if isinstance(a, Ref) else a, (self.args, self.kwargs))

    def rewired(self, old: Ref, new: Ref) -> Step:
        """The step with `new` for `old` among its arguments; the step itself if it does not read `old`."""
        if not any(ref is old for ref in self.inputs):
            return self
        args, kwargs = tree.map_structure(lambda a: new if a is old else a, (self.args, self.kwargs))
        addend = new if self.addend is old else self.addend
        parts = tuple(part.rewired(old, new) for part in self.parts)
        return dataclasses.replace(self, args=args, kwargs=kwargs, addend=addend, parts=parts)

    def call(self, *tensors: tf.Tensor) -> Any:
        """Run the operation on `tensors` in inference mode.

        `op.call` and not `op(...)`: no autocast to half precision, no mask, no record in the Keras graph.
        """
        args, kwargs = self.bind(tensors)
        if "training" in inspect.signature(self.op.call).parameters:
            kwargs["training"] = False
        return self.op.call(*args, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation in the model, before it is expanded into steps.

    `args` and `kwargs` hold `Ref`s; `outputs` are flat. `followed`: its own `call` was followed, and steps replace it.
    `masks`: those that travelled with the arguments when the call was made.
    """

    path: str
    op: Any  # as in Step
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    followed: bool
    masks: dict[Ref, Ref]

    @functools.cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """The tensors among the arguments."""
        return tuple(a for a in tree.flatten((self.args, self.kwargs)) if isinstance(a, Ref))


@dataclasses.dataclass
class Graph:
    """A model as steps in execution order."""

    model: keras.Model
    inputs: list[Ref]
    outputs: list[Ref]
    input_structure: Any
    input_names: list[str]
    output_names: list[str]
    output_keys: list[str]  # of a model that returns a dict
    steps: list[Step]
    dtype: str  # what the rules compute in: float64 for a float64 model, else float32
    layers: dict[str, list[tuple[Ref, ...]]] = dataclasses.field(default_factory=dict)  # path -> outputs of each call
    calls: list[Call] = dataclasses.field(default_factory=list)  # in the order in which they end
    followed: list[str] = dataclasses.field(default_factory=list)  # paths of layers whose `call` was followed
    sizes: dict[str, Shape] = dataclasses.field(default_factory=dict)  # by input, where the caller gave open sizes
    output_index: int = 0  # which of the model's outputs is explained
    rewrites: list[tuple[int, str, str, str]] = dataclasses.field(default_factory=list)  # order, path, operation, what
    stripped: list[Step] = dataclasses.field(default_factory=list)  # steps from `outputs` to the model's output
    aliases: dict[Ref, Ref] = dataclasses.field(default_factory=dict)  # tensors that canonize took out
    constants: set[Ref] = dataclasses.field(default_factory=set)  # tensors that no input can change
    out_of_reach: set[Ref] = dataclasses.field(default_factory=set)  # from which no relevance reaches an input
    padded: dict[Ref, Step] = dataclasses.field(default_factory=dict)  # aliases that a padding layer made
    bounds: dict[Ref, Interval] = dataclasses.field(default_factory=dict)  # of all values of a tensor

    def copy(self) -> Graph:
        """The graph with containers of its own: changing them leaves this graph as it is."""
        fields = ("outputs", "steps", "rewrites", "stripped", "aliases", "constants", "padded", "bounds")
        return dataclasses.replace(self, **{name: getattr(self, name).copy() for name in fields})

    def resolve(self, ref: Ref) -> tuple[Ref, list[Step]]:
        """The tensor of the canonized graph that replaces `ref`, and the padding steps from it to `ref`."""
        padding = []
        while ref in self.aliases:
            padding += [self.padded[ref]] if ref in self.padded else []
            ref = self.aliases[ref]
        return ref, padding[::-1]

    def consumers(self) -> dict[Ref, list[Step]]:
        """Which steps read each tensor."""
        table: dict[Ref, list[Step]] = {}
        for step in self.steps:
            for ref in set(step.inputs):
                table.setdefault(ref, []).append(step)
        return table

    def bypass(self, step: Step) -> None:
        """Take out a step of one output: whatever read it, outputs included, reads the step's first input instead.

        For canonizers, which change a `copy` of the graph they got.
        """
        (target,), source = step.outputs, step.inputs[0]
        self.steps = [other.rewired(target, source) for other in self.steps if other is not step]
        self.stripped = [other.rewired(target, source) for other in self.stripped]
        self.outputs = [source if ref is target else ref for ref in self.outputs]
        self.aliases[target] = source

    def find_layer(self, name: str) -> list[tuple[Ref, ...]]:
        """Outputs of the calls of the layer with this path, or with this name if only one path ends in it.

        If none is so called, numbers and what lies between may be missing: "block/attention/softmax" finds softmax_7
        there, since Keras numbers layers without a name anew in each process, and dot_product_attention/softmax.
        """
        paths = [p for p in self.layers if p == name] or [p for p in self.layers if p.rsplit("/", 1)[-1] == name]
        paths = paths or [p for p in self.layers if _stands_for(name, p)]
        if len(paths) != 1:
            problem = (
                f"{len(paths)} layers have this name: {paths}; give the path" if paths else "no layer has this name"
            )
            loops = [step for step in self.steps if not paths and _holds(step, name)]
            if loops:
                problem = f"it runs for each time step of {loops[0].path!r}; ask for that one"
            raise ValueError(f"Layer {name!r}: {problem}. Layers of {self.model.name!r}: {', '.join(self.layers)}")
        return self.layers[paths[0]]


def _holds(step: Step, name: str) -> bool:
    """Whether a step holds a graph (`core.loop`) with a layer of this path or name."""
    body = getattr(step.op, "body", None)
    return isinstance(body, Graph) and any(name in (path, path.rsplit("/", 1)[-1]) for path in body.layers)


def _stands_for(name: str, path: str) -> bool:
    """Whether `name` is the path without some numbers behind its parts, and without some of them but the last."""
    *before, last = name.split("/")
    *around, end = path.split("/")
    alike = lambda want, part: part == want or re.fullmatch(rf"{re.escape(want)}_\d+", part) is not None  # noqa: E731
    rest = iter(around)
    return alike(last, end) and all(any(alike(want, part) for part in rest) for want in before)


def check_model(model: object) -> None:
    """Raise TypeError unless `model` is a Keras 3 model, RuntimeError if Keras does not run on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "lrp_tf needs Keras on TensorFlow. Expected keras.backend.backend() == 'tensorflow'; set the environment "
            f"variable KERAS_BACKEND=tensorflow before the first import of keras. Received: {keras.backend.backend()!r}"
        )
    if isinstance(model, keras.Model):
        return
    modules = {c.__module__.split(".")[0] for c in type(model).__mro__}
    if "tf_keras" in modules or "tensorflow" in modules:
        raise TypeError(
            f"Expected a Keras 3 model (keras.Model). Received: {getattr(model, 'name', model)!r}, a Keras 2 model of "
            f"{type(model).__module__}.{type(model).__name__}. Remedy: save its weights, build the same architecture "
            "with `import keras` and load them; unset TF_USE_LEGACY_KERAS."
        )
    raise TypeError(f"Expected a Keras 3 model (keras.Model). Received: {model!r} of type {type(model).__name__}")


def symbol(value: Any) -> Any:
    """A KerasTensor for a Ref; anything else unchanged."""
    if not isinstance(value, Ref):
        return value
    return keras.KerasTensor((value.rows, *value.shape) if value.batched else value.shape, dtype=value.dtype)


def untracked(structure: Any) -> Any:
    """`structure` in plain lists, tuples and dicts: Keras tracks attributes in containers of its own classes."""
    if isinstance(structure, dict):
        return {key: untracked(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return (tuple if isinstance(structure, tuple) else list)(map(untracked, structure))
    return structure


def shape_text(shape: Iterable[int | None]) -> str:
    """A shape that leaves out the batch axis, as Keras writes it with one."""
    return f"({', '.join(['None', *map(str, shape)])})"

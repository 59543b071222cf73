"""Keras model -> flat list of steps. The only file that touches private Keras."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

Shape = tuple[int | None, ...]

# glu halves its axis: no element-wise function.
_ACTIVATIONS = {name for name in dir(keras.activations) if name.islower()} - {"glu", "get", "serialize", "deserialize"}


class UnsupportedLayerError(ValueError):
    """A layer or operation that no entry covers; the message names it, its path and the remedy."""


class Ref:
    """A tensor of the graph, known by identity: two refs never stand for each other.

    `shape` leaves out the batch axis; None dimensions are unknown until the call.
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Iterable[int | None], dtype: str) -> None:
        self.shape: Shape = tuple(shape)
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"Ref{self.shape}"


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One operation of the model in one call.

    `args` and `kwargs` hold `Ref`s in place of tensors. The last four fields are what `canonize` fills in.
    """

    op: Any  # keras.Layer, a keras.ops operation, or ActivationFunction
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    path: str  # names joined by "/", outermost model left out
    order: int  # position in the model, for the tables
    linear: Any = None  # the entry of linear.py, None for everything without a kernel
    before: tuple = ()  # layers absorbed ahead of the kernel: padding, BatchNormalization
    after: tuple = ()  # BatchNormalization layers folded into the kernel
    nonnegative: bool = False  # the first input is known to be >= 0

    @property
    def name(self) -> str:
        """Name of the layer, without the models around it."""
        return self.path.rsplit("/", 1)[-1]

    @functools.cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """The tensors among the arguments, in order; one that is used twice stands there twice."""
        return tuple(a for a in tree.flatten((self.args, self.kwargs)) if isinstance(a, Ref))

    @property
    def kind(self) -> type | str:
        """What registries dispatch on: the class of a layer, "ops.Add" for the operation of keras.ops.add."""
        if type(self.op).__module__.startswith("keras.src.ops"):
            return f"ops.{type(self.op).__name__}"
        return type(self.op)

    @property
    def activation(self) -> str | None:
        """Name of the built-in activation that the step applies, or None."""
        return activation_name(self.op)

    @property
    def function(self) -> Callable | None:
        """The function of an activation step, built in or not."""
        if isinstance(self.op, ActivationFunction):
            return self.op.function
        return self.op.activation if type(self.op) is keras.layers.Activation else None

    @property
    def operation(self) -> str:
        """Human-readable kind."""
        return getattr(self.op, "label", None) or type(self.op).__name__

    @property
    def has_constants(self) -> bool:
        """Whether constants stand beside the tensors: x + 3, Add()([x, array])."""
        others = [a for a in tree.flatten(self.args) if not isinstance(a, Ref)]
        arrays = any(tf.is_tensor(a) or isinstance(a, (np.ndarray, keras.Variable)) for a in others)
        return arrays or (isinstance(self.kind, str) and bool(others))

    def bind(self, tensors: Iterable[tf.Tensor]) -> tuple[tuple, dict]:
        """The arguments with `tensors` in place of the refs, in the order of `inputs`."""
        supply = iter(tensors)
        return tree.map_structure(lambda a: next(supply) if isinstance(a, Ref) else a, (self.args, self.kwargs))

    def call(self, *tensors: tf.Tensor) -> Any:
        """Run the operation on `tensors` in inference mode.

        `op.call` and not `op(...)`: no autocast to half precision, no mask, no record in the Keras graph.
        """
        args, kwargs = self.bind(tensors)
        kwargs.pop("mask", None)
        if "training" in inspect.signature(self.op.call).parameters:
            kwargs["training"] = False
        return self.op.call(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class ActivationFunction:
    """An activation split from the layer that held it as an argument."""

    function: Callable
    owner: str

    @property
    def name(self) -> str:
        return f"{self.owner}:{activation_name(self)}"

    @property
    def label(self) -> str:
        return str(activation_name(self))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.function(inputs)


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
    rewrites: list[tuple[int, str, str, str]] = dataclasses.field(default_factory=list)  # order, path, operation, what
    stripped: list[Step] = dataclasses.field(default_factory=list)  # what leads from `outputs` to the model's output
    aliases: dict[Ref, Ref] = dataclasses.field(default_factory=dict)  # tensors that canonize took out
    padded: dict[Ref, Step] = dataclasses.field(default_factory=dict)  # which of them a padding layer made

    def resolve(self, ref: Ref) -> tuple[Ref, list[Step]]:
        """The tensor that stands for `ref` after canonization, and the padding that leads from it to `ref`."""
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

    def find_layer(self, name: str) -> list[tuple[Ref, ...]]:
        """Outputs of the calls of the layer with this path, or with this name if only one path ends in it."""
        paths = [p for p in self.layers if p == name] or [p for p in self.layers if p.rsplit("/", 1)[-1] == name]
        if len(paths) != 1:
            problem = f"{len(paths)} layers are called so: {paths}; give the path" if paths else "no layer is called so"
            raise ValueError(f"Layer {name!r}: {problem}. Layers of {self.model.name!r}: {', '.join(self.layers)}")
        return self.layers[paths[0]]


def shape_text(shape: Iterable[int | None]) -> str:
    """A shape that leaves out the batch axis, as Keras writes it with one."""
    return f"({', '.join(['None', *map(str, shape)])})"


def activation_name(op: Any) -> str | None:
    """Name of the built-in element-wise function (or softmax) that `op` applies; None for anything else."""
    if isinstance(op, ActivationFunction):
        function = op.function
    elif isinstance(op, keras.layers.Softmax) and type(op).call is keras.layers.Softmax.call:
        return "softmax"
    elif isinstance(op, keras.layers.Activation) and type(op).call is keras.layers.Activation.call:
        function = op.activation
    elif type(op).__module__.startswith(("keras.src.ops", "keras.src.activations")):
        if type(op).__name__ == "ReLU":  # what keras.activations.relu records; keras.ops.relu records Relu
            return "relu"
        name = "".join("_" + c.lower() if c.isupper() else c for c in type(op).__name__).lstrip("_")
        return name if name in _ACTIVATIONS else None
    else:
        return None
    module, name = getattr(function, "__module__", ""), re.sub(r"_v\d$", "", getattr(function, "__name__", ""))
    return name if module.split(".")[0] in ("keras", "tensorflow") and name in _ACTIVATIONS else None


def trace(model: keras.Model) -> Graph:
    """Flatten `model` into steps. Never changes the model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: a model that was never built, or whose `call` cannot be followed symbolically.
    """
    _check_model(model)
    with _names_kept():
        return _trace(model)


def _trace(model: keras.Model) -> Graph:
    tracer = _Tracer(model)
    function = _as_function(model)
    if function is None:
        function = tracer.symbolic(model, _built_inputs(model))
    inputs = [Ref(t.shape[1:], t.dtype) for t in function.inputs]
    outputs = tracer.run(function, inputs, "")
    names = list(getattr(model, "output_names", None) or [])
    keys = [".".join(map(str, keys)) for keys, _ in tree.flatten_with_path(function._outputs_struct)]
    return Graph(
        model=model,
        inputs=inputs,
        outputs=outputs,
        input_structure=_plain(function._inputs_struct, inputs),
        input_names=[t.name for t in function.inputs],
        output_names=names if len(names) == len(outputs) else [f"output_{i}" for i in range(len(outputs))],
        output_keys=keys if isinstance(function._outputs_struct, dict) else [],
        steps=tracer.steps,
        dtype=tracer.dtype(inputs),
        layers=tracer.layers,
    )


def _plain(structure: Any, leaves: list) -> Any:
    """`structure` with `leaves`; a list of one is that one, as Keras returns it."""
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    return tree.pack_sequence_as(_untracked(structure), leaves)


def _untracked(structure: Any) -> Any:
    """Keras keeps structures in lists and dicts of its own, which no tree function takes for a user's."""
    if isinstance(structure, dict):
        return {key: _untracked(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return (tuple if isinstance(structure, tuple) else list)(map(_untracked, structure))
    return structure


def _check_model(model: Any) -> None:
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


def _as_function(model: keras.Model) -> Any | None:
    """The recorded graph of a functional or sequential model; None where its `call` was overridden or is opaque."""
    if isinstance(model, keras.Sequential):
        if type(model).call is keras.Sequential.call:
            if model._functional is None:
                raise ValueError(
                    f"Sequential model {model.name!r} has no input shape yet. Expected a built model. Remedy: begin "
                    "it with keras.Input(shape), call model.build(input_shape), or call it once on data."
                )
            return model._functional
        return None
    return model if isinstance(model, Functional) and type(model).call is Functional.call else None


def _built_inputs(model: keras.Model) -> list:
    """Symbolic arguments for the `call` of a subclassed model, from the shapes it was built with."""
    recorded = model if isinstance(model, Functional) else getattr(model, "_functional", None)
    if recorded is not None:
        return [_plain(recorded._inputs_struct, [keras.KerasTensor(t.shape, t.dtype) for t in recorded.inputs])]
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes or len(shapes) != 1:
        called = model.built and all(layer.built for layer in _sublayers(model))
        # Keras records no shapes where its own symbolic run of `call` failed.
        raise ValueError(_untraceable(model, "Keras knows no input shapes") if called else _unbuilt(model))
    make = lambda s: keras.KerasTensor((None, *s[1:]), dtype=model.input_dtype)  # noqa: E731
    return [tree.map_shape_structure(make, _untracked(next(iter(shapes.values()))))]


def _unbuilt(model: keras.Model) -> str:
    return (
        f"Subclassed model {model.name!r} ({type(model).__name__}) cannot be traced: its layers are not built. "
        "Expected a model with one input argument that has been called. Remedy: call it once on a batch of data, "
        "or write it with the functional API."
    )


def _untraceable(model: keras.Model, reason: str) -> str:
    return (
        f"Model {model.name!r} ({type(model).__name__}) cannot be traced: its call() does not run on symbolic "
        "tensors. Expected keras layers and keras.ops only, no raw TensorFlow or NumPy functions and no "
        "Python branch on tensor values. Remedy: replace tf.* by keras.ops.*, or write the model with the "
        f"functional API. The reason was: {reason}"
    )


class _NotBuiltError(Exception):
    pass


@contextlib.contextmanager
def _untouched(layers: list[keras.Layer]) -> Iterator[None]:
    """Takes the records off again that a symbolic run of `call` leaves on layers, and refuses to build any."""
    records = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    builders = {layer: layer.__dict__.get("build") for layer in layers if not layer.built}

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise _NotBuiltError

    for layer in builders:
        object.__setattr__(layer, "build", refuse)
    try:
        yield
    finally:
        for layer, build in builders.items():
            if build is None:
                object.__delattr__(layer, "build")
            else:
                object.__setattr__(layer, "build", build)
        for layer, (inbound, outbound) in zip(layers, records, strict=True):
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


@contextlib.contextmanager
def _names_kept() -> Iterator[None]:
    """Keras numbers whatever is made, symbolic tensors too: later layers get the names they would have without us."""
    names = global_state.get_global_attribute("object_name_uids")
    names = None if names is None else names.copy()
    try:
        yield
    finally:
        if names is not None:
            global_state.set_global_attribute("object_name_uids", names)


def _by_name(function: Any, args: tuple, refs: list[Ref]) -> list[Ref]:
    """The inputs of a recorded graph in its own order, where the call passed a dict to inputs that are none."""
    if args and isinstance(args[0], dict) and not isinstance(function._inputs_struct, dict):
        return [args[0][t.name] for t in function.inputs]
    return refs


def _sublayers(model: keras.Layer) -> list[keras.Layer]:
    return list(model._flatten_layers(include_self=False, recursive=True))


class _Tracer:
    """Collects the steps while the recorded graphs of a model and its sub-models are walked."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.steps: list[Step] = []
        self.layers: dict[str, list[tuple[Ref, ...]]] = {}

    def dtype(self, inputs: list[Ref]) -> str:
        dtypes = {getattr(step.op, "compute_dtype", None) for step in self.steps} or {ref.dtype for ref in inputs}
        return "float64" if "float64" in dtypes else "float32"

    def run(self, function: Any, inputs: list[Ref], prefix: str) -> list[Ref]:
        """Walk the recorded graph of `function` with refs in place of tensors."""
        visit = lambda op, *args, **kwargs: self.visit(op, args, kwargs, prefix)  # noqa: E731
        outputs = function._run_through_graph(inputs, operation_fn=lambda op: op, call_fn=visit)
        return tree.flatten(outputs)

    def visit(self, op: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
        path = prefix + op.name
        refs = [a for a in tree.flatten((args, kwargs)) if isinstance(a, Ref)]
        if isinstance(op, keras.Model):
            function = _as_function(op)
            if function is None:
                symbols = tree.map_structure(_symbol, (args, kwargs))
                function = self.symbolic(op, symbols[0], symbols[1])
            else:
                refs = _by_name(function, args, refs)
            outputs = self.run(function, refs, path + "/")
            self.layers.setdefault(path, []).append(tuple(outputs))
            return outputs
        spec_args, spec_kwargs = tree.map_structure(_symbol, (args, kwargs))
        spec_kwargs.pop("mask", None)
        spec = op.compute_output_spec(*spec_args, **spec_kwargs)
        outputs = tree.map_structure(lambda t: Ref(t.shape[1:], t.dtype), spec)
        step = Step(op, args, dict(kwargs), tuple(tree.flatten(outputs)), path, len(self.steps))
        self.steps.append(step)
        self.layers.setdefault(path, []).append(step.outputs)
        return outputs

    def symbolic(self, model: keras.Model, args: Iterable, kwargs: dict | None = None) -> Any:
        """The graph of an arbitrary `call`, recorded on symbolic inputs.

        The records that this leaves on the user's layers are taken off again.
        """
        kwargs = dict(kwargs or {})
        if "training" in inspect.signature(model.call).parameters:
            kwargs["training"] = False
        inputs = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        structure = args[0] if len(tree.flatten(args)) == len(inputs) and len(args) == 1 else inputs
        with _untouched(_sublayers(model)):
            try:
                return keras.Function(structure, model.call(*args, **kwargs), name="traced")
            except _NotBuiltError as error:
                raise ValueError(_unbuilt(model)) from error
            except Exception as error:
                reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
                raise ValueError(_untraceable(model, reason)) from error


def _symbol(value: Any) -> Any:
    return keras.KerasTensor((None, *value.shape), dtype=value.dtype) if isinstance(value, Ref) else value

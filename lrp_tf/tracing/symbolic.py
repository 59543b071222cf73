"""Lets the `call` of a layer run on symbolic tensors, and undoes what that leaves behind. Touches private Keras.

Meanwhile functions and operators of Keras are replaced for the whole process. So one thread traces at a time, and the
replacements act in that thread alone: a thread that trains or predicts notices nothing.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.layers import layer as layer_module
from keras.src.ops import numpy as numpy_operations
from keras.src.ops import operation as operation_module

from lrp_tf.core.graph import Ref
from lrp_tf.core.operations import EachSample

HALF = ("float16", "bfloat16")


# Re-entrant: a `call` that is followed may build an explainer of its own.
_LOCK = threading.RLock()
_here = threading.local()


class NotBuiltError(Exception):
    """A layer would be built by the symbolic run, which must not change it."""


class NotFollowedError(ValueError):
    """Why a `call` cannot be followed, with the remedy for it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Only one thread at a time changes what belongs to the process; what it replaces acts in this thread alone."""
    with _LOCK:
        outer = _follows()
        _here.follows = True
        try:
            yield
        finally:
            _here.follows = outer


def _follows() -> bool:
    """Whether this thread is the one that traces."""
    return getattr(_here, "follows", False)


def in_this_thread(ours: Callable, theirs: Callable) -> Callable:
    """`ours` for the thread that traces, `theirs` for all others."""

    @functools.wraps(theirs)
    def function(*args: Any, **kwargs: Any) -> Any:
        return (ours if _follows() else theirs)(*args, **kwargs)

    return function


@contextlib.contextmanager
def untouched(layers: list[keras.Layer]) -> Iterator[None]:
    """Removes the records that a symbolic run of `call` leaves on layers, builds none, and adds no losses."""
    records = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotBuiltError

    def ignore(*args: Any, **kwargs: Any) -> None:
        pass

    unbuilt = [layer for layer in layers if not layer.built]
    never_called = [layer for layer in layers if vars(layer).get("_called") is False]
    ours = [(layer, "build", ignore if _builds_nothing(layer) else refuse) for layer in unbuilt]
    ours += [(layer, "add_loss", ignore) for layer in layers]
    theirs = [vars(layer).get(name) for layer, name, _ in ours]
    for layer, name, method in ours:
        object.__setattr__(layer, name, in_this_thread(method, getattr(layer, name)))
    try:
        yield
    finally:
        for (layer, name, _), method in zip(ours, theirs, strict=True):
            if method is None:
                object.__delattr__(layer, name)
            else:
                object.__setattr__(layer, name, method)
        for layer in unbuilt:
            object.__setattr__(layer, "built", False)
        for layer in never_called:
            object.__setattr__(layer, "_called", False)
        for layer, (inbound, outbound) in zip(layers, records, strict=True):
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


def _builds_nothing(layer: keras.Layer) -> bool:
    """Whether a layer has no weights to make, as a Dropout that was never called."""
    return getattr(layer.build, "_is_default", False) and not layer.weights and not sublayers(layer)


@contextlib.contextmanager
def distinct_names(layers: list[keras.Layer]) -> Iterator[None]:
    """Layers that share a name get different names while keras.Function is made, which requires that."""
    counts = collections.Counter(layer.name for layer in layers)
    names = {layer: layer.name for layer in layers if counts[layer.name] > 1}
    for layer, name in names.items():
        object.__setattr__(layer, "name", f"{name}_{id(layer)}")
    try:
        yield
    finally:
        for layer, name in names.items():
            object.__setattr__(layer, "name", name)


@contextlib.contextmanager
def variables_give_way() -> Iterator[None]:
    """For self.gamma * x: a Keras variable cannot be multiplied by a KerasTensor on its right; the KerasTensor's
    reflected operator can.
    """
    operators = {}
    for cls in keras.Variable.__mro__:
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lt", "le", "gt", "ge"):
            if (method := vars(cls).get(f"__{name}__")) is not None and cls is not object:
                operators[cls, f"__{name}__"] = method
    for (cls, name), method in operators.items():
        setattr(cls, name, in_this_thread(_giving_way(method), method))
    try:
        yield
    finally:
        for (cls, name), method in operators.items():
            setattr(cls, name, method)


@contextlib.contextmanager
def plain_indices() -> Iterator[None]:
    """For x[::-1] and x[None]: a KerasTensor takes no bare slice or None as index, but a tuple that holds it."""
    theirs = keras.KerasTensor.__getitem__

    def ours(self: Any, key: Any) -> Any:
        return theirs(self, (key,) if key is None or key is Ellipsis or isinstance(key, slice) else key)

    keras.KerasTensor.__getitem__ = in_this_thread(ours, theirs)
    try:
        yield
    finally:
        keras.KerasTensor.__getitem__ = theirs


@contextlib.contextmanager
def sizes_followed() -> Iterator[None]:
    """For ops.reshape(x, (ops.shape(x)[0], -1, heads)): next to the open batch size, Keras leaves the -1 open too.

    And for ops.ndim(x), which is a symbolic tensor in Keras, where a number is wanted.
    """
    theirs, rank = numpy_operations.Reshape.compute_output_spec, keras.ops.ndim

    def reshaped(self: Any, x: Any) -> Any:
        spec = theirs(self, x)
        known, wanted = x.shape[1:], tuple(self.newshape)[1:] if isinstance(self.newshape, (tuple, list)) else ()
        if None in known or wanted.count(-1) != 1 or None in wanted or self.newshape[0] is not None:
            return spec
        rest = math.prod(known) // math.prod(size for size in wanted if size != -1)
        return keras.KerasTensor((None, *(rest if size == -1 else size for size in wanted)), spec.dtype)

    def ndim(x: Any) -> Any:
        return len(x.shape) if isinstance(x, keras.KerasTensor) else rank(x)

    numpy_operations.Reshape.compute_output_spec = in_this_thread(reshaped, theirs)
    keras.ops.ndim = in_this_thread(ndim, rank)
    try:
        yield
    finally:
        numpy_operations.Reshape.compute_output_spec, keras.ops.ndim = theirs, rank


def _giving_way(method: Callable) -> Callable:
    def operator(self: Any, other: Any) -> Any:
        return NotImplemented if isinstance(other, keras.KerasTensor) else method(self, other)

    return operator


@contextlib.contextmanager
def names_kept() -> Iterator[None]:
    """Keras numbers all that is made, symbolic tensors too. Later layers keep the names they would have without us."""
    names = global_state.get_global_attribute("object_name_uids")
    names = None if names is None else names.copy()
    try:
        yield
    finally:
        if names is not None:
            global_state.set_global_attribute("object_name_uids", names)


@contextlib.contextmanager
def batch_sizes(like: keras.KerasTensor | None) -> Iterator[None]:
    """For ops.tile(self.token, (ops.shape(x)[0], 1, 1)): while a `call` runs, a first size None is the batch size.

    Args:
        like: a tensor that holds the samples; None: there is none.
    """
    module: Any = backend.numpy
    makers: dict[str, Callable] = {
        "zeros": lambda make, shape, *rest, **options: make((1, *shape[1:]), *rest, **options),
        "broadcast_to": lambda make, x, shape: make(x, (1, *shape[1:])),
        "tile": lambda make, x, repeats: make(x, (1, *repeats[1:])),
        "repeat": lambda make, x, repeats, axis=None: x,
    }
    makers |= dict.fromkeys(["ones", "full", "empty"], makers["zeros"])
    plain = {name: getattr(module, name) for name in (*makers, "arange")}
    for name, one_sample in makers.items():
        setattr(module, name, in_this_thread(_for_each_sample(plain[name], one_sample, like), plain[name]))
    fixed = like is not None and None not in like.shape[1:]
    module.arange = in_this_thread(_known_length(plain["arange"], fixed), plain["arange"])
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(module, name, function)


def _for_each_sample(function: Callable, one_sample: Callable, like: keras.KerasTensor | None) -> Callable:
    def maker(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(function).bind(*args, **kwargs)
        sizes = bound.arguments.get("shape", bound.arguments.get("repeats"))
        open_batch = isinstance(sizes, (tuple, list)) and len(sizes) > 0 and sizes[0] is None
        if like is None or not (open_batch or (sizes is None and bound.arguments.get("axis") == 0)):
            return function(*args, **kwargs)
        value = keras.ops.convert_to_tensor(one_sample(function, *args, **kwargs))
        if value.shape[0] != 1:
            raise NotFollowedError(
                f"ops.{function.__name__} gives each sample {value.shape[0]} rows of the first axis",
                "give each sample one row, or do it along another axis",
            )
        return EachSample()(value, like)

    return maker


def _known_length(arange: Callable, fixed: bool) -> Callable:
    """`arange`, refused for a length that only the call knows.

    Args:
        fixed: all sizes but the batch's are known, so that an unknown size can only be that of the batch.
    """
    length = "build the model with that size, as in keras.Input((128,))"
    batch = "index each sample along its own axes, as ops.take_along_axis does, not by its number in the batch"

    def maker(start: Any, stop: Any = None, *rest: Any, **kwargs: Any) -> Any:
        if start is None or (stop is None and isinstance(start, int) and start == 0):
            of = "the size of the batch" if fixed else "a size"
            raise NotFollowedError(f"ops.arange up to {of} that is known at the call only", batch if fixed else length)
        return arange(start, stop, *rest, **kwargs)

    return maker


@contextlib.contextmanager
def own_calls(run: Callable[[keras.Layer, tuple, dict], Any]) -> Iterator[None]:
    """Layers called on symbolic tensors return what `run` says, which may hold None, numbers and arrays too.

    Keras takes the word of their `compute_output_spec`, which may refuse arguments that their `call` takes, and knows
    neither None nor sizes that a layer declares open.

    Args:
        run: (layer, args, kwargs) -> outputs; those that are symbolic must be new tensors.
    """
    at_the_end = "symbolic_call" in vars(keras.Layer)  # where Keras records a call: there, or in `symbolic_call`
    module: Any = layer_module if at_the_end else operation_module
    names: dict[str, tuple[Any, str]] = {"call": (keras.Layer, "symbolic_call"), "node": (module, "Node")}
    plain = {name: getattr(*place) for name, place in names.items()}

    def recorded_node(operation: Any, call_args: Any, call_kwargs: Any, outputs: Any) -> Any:
        made = [t for t in tree.flatten(outputs) if isinstance(t, keras.KerasTensor)]
        return plain["node"](operation=operation, call_args=call_args, call_kwargs=call_kwargs, outputs=made)

    def symbolic_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = run(self, args, kwargs)
        if not at_the_end:
            recorded_node(self, args, kwargs, outputs)
        return outputs

    keras.Layer.symbolic_call = in_this_thread(symbolic_call, plain["call"])
    module.Node = in_this_thread(recorded_node, plain["node"])
    try:
        yield
    finally:
        module.Node = plain["node"]
        if at_the_end:
            keras.Layer.symbolic_call = plain["call"]
        else:
            del keras.Layer.symbolic_call


def in_full_precision(layer: keras.Layer) -> keras.Layer:
    """A twin that shares all that the layer has, and casts to float32 instead of half precision."""
    if layer.compute_dtype not in HALF or isinstance(layer, keras.Model):
        return layer
    twin = object.__new__(type(layer))
    vars(twin).update(vars(layer))
    vars(twin)["_dtype_policy"] = keras.DTypePolicy("float32")
    return twin


def with_mask(value: Any, mask: Any) -> Any:
    """A tensor of the same values that carries a Keras mask."""
    value = backend.numpy.copy(value)
    set_keras_mask(value, mask)
    return value


def renewed(value: Any) -> Any:
    """A new symbolic tensor like this one, with its mask; anything else unchanged."""
    if not isinstance(value, keras.KerasTensor):
        return value
    made = keras.KerasTensor(value.shape, value.dtype)
    if (mask := get_keras_mask(value)) is not None:
        set_keras_mask(made, mask)
    return made


def sublayers(owner: Any, itself: bool = False) -> list[keras.Layer]:
    """All layers inside a layer or model; none for an operation."""
    if not isinstance(owner, keras.Layer):  # an operation
        return []
    return list(owner._flatten_layers(include_self=itself, recursive=True))


def recorded(symbols: dict[Ref, Any], found: Any) -> Any | None:
    """The graph from `symbols` to the tensors in `found`; None if no operation made any of them."""
    given = {id(symbol) for symbol in symbols.values()}
    for ref in used(symbols):
        if symbols[ref]._keras_history.operation is not None:
            raise NotFollowedError(
                "a branch or loop hands on one of its arguments, and which one is known at the call only",
                "write a branch on values as ops.where, and a loop as a Python loop",
            )
    made = [t for t in tree.flatten(found) if isinstance(t, keras.KerasTensor) and id(t) not in given]
    return keras.Function([symbols[ref] for ref in used(symbols)], made, name="followed") if made else None


def run_through(function: Any, inputs: list, call: Callable[[Any, tuple, dict, int], list]) -> list:
    """Walk a recorded graph; its outputs.

    Args:
        inputs: what replaces the symbolic inputs.
        call: (operation, args, kwargs, number of its outputs) -> what replaces these.
    """
    values = {id(t): value for t, value in zip(function.inputs, inputs, strict=True)}
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if not node.operation or node.is_input or any(id(t) not in values for t in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(values)
            outputs = call(node.operation, args, kwargs, len(node.outputs))
            values |= {id(t): value for t, value in zip(node.outputs, outputs, strict=True)}
    return [values[id(t)] for t in function.outputs]


def used(symbols: dict[Ref, Any]) -> list[Ref]:
    """The refs whose symbol an operation has read: Keras gives a history to these alone."""
    return [ref for ref, symbol in symbols.items() if hasattr(symbol, "_keras_history")]

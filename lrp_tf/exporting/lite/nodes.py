"""A traced function of TensorFlow as plain nodes: constants known by their values, equal expressions once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Attributes: TypeAlias = dict[str, Any]


class NotAloneError(ValueError):
    """An operation that cannot be run by itself: it calls functions or depends on a state. The message is its type."""


class Node:
    """One operation, or an array.

    Attributes:
        type: of the operation, as TensorFlow names it; "Const" for an array, "Placeholder" for an input.
        attributes: what `tf.raw_ops` takes beside tensors.
        inputs: in the order of the operation's arguments.
        constant: it depends on no input, so that `value` gives its result.
    """

    def __init__(
        self, kind: str, attributes: Attributes, inputs: Sequence[Value], shapes: Sequence[tuple], array: Any = None
    ) -> None:
        self.type, self.attributes, self.inputs = kind, attributes, tuple(inputs)
        self.shapes, self._array = list(shapes), array
        self.constant: bool = array is not None or (bool(inputs) and all(v.node.constant for v in inputs))

    @functools.cached_property
    def value(self) -> list[np.ndarray]:
        """The outputs of a constant, computed once, also while a graph is traced."""
        if self._array is not None:
            return [self._array]
        with tf.init_scope():
            found = run(self.type, self.attributes, [tf.constant(v.array) for v in self.inputs])
            return [tensor.numpy() for tensor in found]


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """One output of a node."""

    node: Node
    index: int = 0

    @property
    def constant(self) -> bool:
        """Whether it depends on no input."""
        return self.node.constant

    @property
    def array(self) -> np.ndarray:
        """The value of a constant."""
        return self.node.value[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, which is known."""
        return self.node.shapes[self.index]

    @property
    def size(self) -> int:
        """How many entries it has."""
        return int(np.prod(self.shape))


def run(kind: str, attributes: Attributes, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Run an operation on tensors, eagerly or in the graph that is being traced."""
    definition, left, arguments = _definition(kind), list(inputs), dict[str, Any]()
    for argument in definition.input_arg:
        if argument.number_attr or argument.type_list_attr:
            count = len(left) - (len(definition.input_arg) - len(arguments) - 1)
            arguments[argument.name], left = left[:count], left[count:]
        else:
            arguments[argument.name] = left.pop(0)
    named = {_names(kind)[name]: tensor for name, tensor in arguments.items()}
    found = getattr(tf.raw_ops, kind)(**named, **attributes)
    if isinstance(found, tf.Operation) or found is None:
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


@functools.cache
def _definition(kind: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(kind)


@functools.cache
def _names(kind: str) -> dict[str, str]:
    """Inputs and attributes of an operation -> what `tf.raw_ops` calls them; other attributes follow from the tensors.

    A few have another name there, as the axis of Sum.
    """
    function, definition = getattr(tf.raw_ops, kind), _definition(kind)
    inputs, attributes = [a.name for a in definition.input_arg], [a.name for a in definition.attr]
    taken = [name for name in inspect.signature(function).parameters if name != "name"]
    found = {name: name for name in [*inputs, *attributes] if name in taken}
    renamed = [name for name in taken if name not in found]
    return found | dict(zip([name for name in inputs if name not in found], renamed, strict=True))


class Nodes:
    """The nodes of a graph. Equal constant expressions are one node.

    Attributes:
        placeholders: name -> the input of this name.
    """

    def __init__(self) -> None:
        self.placeholders: dict[str, Node] = {}
        self._known: dict[tuple, Node] = {}
        self._read: dict[int, tuple[Any, Value]] = {}  # with what was read, so that no other one gets its id

    def input(self, name: str, shape: tuple[int, ...], dtype: tf.DType) -> Node:
        """An input of the function."""
        self.placeholders[name] = Node("Placeholder", {"dtype": dtype}, (), [shape])
        return self.placeholders[name]

    def constant(self, array: np.ndarray) -> Value:
        """An array as a node; equal small ones are the same."""
        if array.size > 64:
            return Value(Node("Const", {}, (), [array.shape], array))
        key = ("Const", array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = Node("Const", {}, (), [array.shape], array)
        return Value(self._known[key])

    def apply(self, kind: str, attributes: Attributes, inputs: Sequence[Value], shapes: Sequence[tuple]) -> Node:
        """A node of this operation; of constants, the one that is there already."""
        if not (inputs and all(v.constant for v in inputs)):
            return Node(kind, attributes, inputs, shapes)
        key = (kind, repr(sorted(attributes.items())), tuple((id(v.node), v.index) for v in inputs))
        if key not in self._known:
            self._known[key] = Node(kind, attributes, inputs, shapes)
        return self._known[key]

    def read(self, function: tf.types.experimental.ConcreteFunction) -> list[Value]:
        """The outputs of a function whose sizes are all known, with its variables as they are now.

        Raises:
            NotAloneError: an operation that calls functions, or depends on a state.
        """
        variables = {id(variable.handle): variable for variable in function.variables}
        values = dict[str, Any]()
        for inside, outside in zip(function.graph.internal_captures, function.captured_inputs, strict=True):
            values[inside.name] = variables[id(outside)] if id(outside) in variables else self._array_of(outside)
        return self._walk(function.graph, values, function.outputs)

    def _walk(self, graph: tf.Graph, values: dict[str, Any], outputs: Sequence[tf.Tensor]) -> list[Value]:
        """The values of `outputs`.

        Args:
            values: name of a tensor -> its value, or the variable that it stands for; filled.
        """
        for op in graph.get_operations():
            for index, value in enumerate(self._node(op, values)):
                values[op.outputs[index].name] = value
        return [values[tensor.name] for tensor in outputs]

    def _node(self, op: tf.Operation, values: dict[str, Any]) -> list[Any]:
        shapes = [tuple(tensor.shape) if tensor.shape.rank is not None else () for tensor in op.outputs]
        if not op.outputs:  # control flow between operations; all that has results is kept by them
            return []
        if op.type == "Placeholder":
            known = values.get(op.outputs[0].name)
            return [Value(self.input(op.name, shapes[0], op.outputs[0].dtype)) if known is None else known]
        if op.type == "ReadVariableOp":
            return [self._array_of(values[op.inputs[0].name])]
        if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            inner = op.graph._get_function(op.get_attr("f").name).graph
            pairs = zip(inner.inputs, op.inputs, strict=True)
            return self._walk(inner, {inside.name: values[t.name] for inside, t in pairs}, inner.outputs)
        if op.op_def.is_stateful or not hasattr(tf.raw_ops, op.type) or any(a.type == "func" for a in op.op_def.attr):
            raise NotAloneError(op.type)
        inputs = [values[tensor.name] for tensor in op.inputs]
        if op.type in ("Identity", "PreventGradient", "StopGradient", "Snapshot"):
            return inputs
        if op.type == "Const":
            return [self.constant(tf.make_ndarray(op.get_attr("value")))]
        if op.type in _OF_SHAPES and op.inputs[0].shape.is_fully_defined():
            array = np.asarray(_OF_SHAPES[op.type](op.inputs[0].shape), op.outputs[0].dtype.as_numpy_dtype)
            return [self.constant(array)]
        inputs_of, names = {a.name for a in op.op_def.input_arg}, _names(op.type)
        attributes = {names[name]: _plain(op.get_attr(name)) for name in names if name not in inputs_of}
        node = self.apply(op.type, attributes, inputs, shapes)
        return [Value(node, index) for index in range(len(shapes))]

    def _array_of(self, read: Any) -> Value:
        """What the function reads beside its arguments, a variable or an array, each of it once."""
        if id(read) not in self._read:
            self._read[id(read)] = read, self.constant(read.numpy())
        return self._read[id(read)][1]


_OF_SHAPES: dict[str, Callable[[tf.TensorShape], object]] = {
    "Shape": lambda shape: shape.as_list(),
    "Size": lambda shape: shape.num_elements(),
    "Rank": lambda shape: shape.rank,
}


def _plain(attribute: Any) -> Any:
    """An attribute as `tf.raw_ops` takes it."""
    if isinstance(attribute, bytes):
        return attribute.decode()
    if isinstance(attribute, list):
        return [_plain(part) for part in attribute]
    return attribute


def order(outputs: Sequence[Value]) -> list[Node]:
    """The nodes that these values depend on and that are no constants, each behind its inputs."""
    found: dict[int, Node] = {}
    waiting = [(value.node, False) for value in reversed(outputs)]
    while waiting:
        node, ready = waiting.pop()
        if node.constant or id(node) in found:
            continue
        if ready:
            found[id(node)] = node
            continue
        waiting.append((node, True))
        waiting += [(value.node, False) for value in reversed(node.inputs)]
    return list(found.values())

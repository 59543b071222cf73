"""A graph that TensorFlow optimised -> the definition of a function, which the runtime takes as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

# Protocol buffers, whose classes TensorFlow does not make public: FunctionDef, FunctionDefLibrary, NodeDef.
Definition: TypeAlias = Any
Library: TypeAlias = Any
Node: TypeAlias = Any


def library(graph: tf.compat.v1.GraphDef, name: str, ends: Iterable[str]) -> Library:
    """The graph as a function `name`, the first of the library; after it those that it calls, as `name`_1 and so on.

    Args:
        graph: its arguments are the nodes _Arg, its results the nodes _Retval.
        ends: nodes that run though no result needs them, such as assertions; those that are gone do not count.

    Raises:
        RuntimeError: it is not the graph of one function.
    """
    found = tf.compat.v1.GraphDef().library
    main = found.function.add()
    main.signature.name, main.signature.is_stateful = name, True
    arguments = [(n.attr["index"].i, n) for n in graph.node if n.op == "_Arg"]
    results = [(n.attr["index"].i, n) for n in graph.node if n.op == "_Retval"]
    arguments, results = (sorted(pairs, key=lambda pair: pair[0]) for pairs in (arguments, results))
    for pairs in (arguments, results):
        if [number for number, _ in pairs] != list(range(len(pairs))):
            raise RuntimeError("TensorFlow gave the graphs of several functions as one. Remedy: save in a new process")
    inner = {function.signature.name: function for function in graph.library.function}
    where = _Outputs(graph.node, {n.name: f"argument_{i}" for i, n in arguments}, inner)
    for index, node in arguments:
        main.signature.input_arg.add(name=f"argument_{index}", type=node.attr["T"].type)
        for key in ("_handle_shapes", "_handle_dtypes", "_output_shapes"):
            if key in node.attr:
                main.arg_attr[index].attr[key].CopyFrom(node.attr[key])
    for index, node in results:
        main.signature.output_arg.add(name=f"result_{index}", type=node.attr["T"].type)
        main.ret[f"result_{index}"] = where(node.input[0])
    kept = [node for node in graph.node if node.op not in ("_Arg", "_Retval")]
    for node in kept:
        copied = main.node_def.add()
        copied.CopyFrom(node)
        copied.ClearField("device")  # of another process
        copied.ClearField("experimental_debug_info")
        del copied.input[:]
        copied.input.extend(text for text in map(where, node.input) if text)
    for number, end in enumerate(sorted({node.name for node in kept}.intersection(ends))):
        main.signature.control_output.append(f"end_{number}")
        main.control_ret[f"end_{number}"] = end
    for function in inner.values():
        found.function.add().CopyFrom(function)
    return renamed(found, name)


class _Outputs:
    """Names of tensors as functions write them, `node:output:index`, from those of graphs, `node:number`."""

    def __init__(self, nodes: Iterable[Node], arguments: dict[str, str], inner: dict[str, Definition]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._arguments, self._inner = arguments, inner
        self._known: dict[str, list[str]] = {}

    def __call__(self, text: str) -> str:
        """The name; "" for a control input from an argument, which is always there."""
        if text.startswith("^"):
            return "" if text[1:] in self._arguments else text
        name, _, number = text.partition(":")
        if name in self._arguments:
            return self._arguments[name]
        if name not in self._known:
            self._known[name] = self._outputs(self._nodes[name])
        return f"{name}:{self._known[name][int(number or 0)]}"

    def _outputs(self, node: Node) -> list[str]:
        inner = self._inner.get(node.op)
        outputs = (op_def_registry.get(node.op) if inner is None else inner.signature).output_arg
        found = []
        for output in outputs:
            count = 1
            if output.number_attr:
                count = node.attr[output.number_attr].i
            elif output.type_list_attr:
                count = len(node.attr[output.type_list_attr].list.type)
            found += [f"{output.name}:{index}" for index in range(count)]
        return found


def renamed(functions: Library, name: str) -> Library:
    """The library, changed in place: its first function is called `name`, the others `name`_1, `name`_2 and so on."""
    old = [function.signature.name for function in functions.function]
    names = {text: f"{name}_{number}" if number else name for number, text in enumerate(old)}
    for function in functions.function:
        function.signature.name = names[function.signature.name]
        for node in function.node_def if len(names) > 1 else ():
            node.op = names.get(node.op, node.op)
            _each_function(node, lambda text: names.get(text, text))
    return functions


def _each_function(node: Node, change: Callable[[str], str]) -> None:
    """Change the names of all functions among the attributes of a node."""
    for value in node.attr.values():
        for function in (value.func, *value.list.func) if value.HasField("func") or value.HasField("list") else ():
            if function.name:
                function.name = change(function.name)


def with_marked_arguments(definition: Definition, marker: str) -> Definition:
    """A copy called `marker`, whose arguments are called `marker`_0 and so on, so that its graph is known by them."""
    found = type(definition)()
    found.CopyFrom(definition)
    found.signature.name = marker
    names: dict[str, str] = {}
    for number, argument in enumerate(found.signature.input_arg):
        old, argument.name = argument.name, f"{marker}_{number}"
        names |= {old: argument.name, f"^{old}": f"^{argument.name}"}
    for node in found.node_def:
        for position, text in enumerate(node.input):
            node.input[position] = names.get(text, text)
    for key in found.ret:
        found.ret[key] = names.get(found.ret[key], found.ret[key])
    return found

"""Takes a function out of TensorFlow's runtime as it was optimised there, and puts it into another one.

Touches private TensorFlow. A file is read by the very version that wrote it, see `identity`.
"""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context, execute, forwardprop_util, record

from lrp_tf.engine.passes import Found, Verdict
from lrp_tf.saved.definition import Library, library, renamed, with_marked_arguments


def optimized(function: Any, shapes: Sequence[Sequence[int | None]] | None = None) -> Library:
    """A concrete function as the runtime optimises it: the first of the library; after it those that it calls.

    Args:
        function: all its arguments but for the captured ones are batches.
        shapes: of what it was called with, since it is called once more, with zeros; None: sizes that are open are
            1.

    Raises:
        RuntimeError: TensorFlow did not tell, or the function cannot compute such zeros.
    """
    runtime, marker = context.context(), f"lrp_tf_{secrets.token_hex(8)}"
    definition = with_marked_arguments(function.function_def, marker)
    captured = list(function.captured_inputs)
    specs = function.inputs[: len(function.inputs) - len(captured)]
    arguments = [_zeros(s.dtype, shape) for s, shape in zip(specs, shapes or [s.shape for s in specs], strict=True)]
    runtime.add_function_def(definition)
    try:
        runtime.enable_graph_collection()
        try:
            _drop_what_is_left()
            failed = None
            try:
                attributes = runtime.function_call_options.as_attrs()
                _execute(marker, len(definition.signature.output_arg), [*arguments, *captured], attributes)
            except tf.errors.OpError as error:
                failed = error
            collected = runtime.export_run_metadata().function_graphs
        finally:
            runtime.disable_graph_collection()
    finally:
        runtime.remove_function(marker)
    graphs = [graphs.post_optimization_graph for graphs in collected]
    graphs = [graph for graph in graphs if any(n.op == "_Arg" and n.name.startswith(marker) for n in graph.node)]
    if len(graphs) != 1:
        raise RuntimeError(
            f"TensorFlow {tf.__version__} does not tell how it optimised a function. Expected 1 graph. Received: "
            f"{len(graphs)}. Remedy: call the explainer before it is saved, or build one in each process"
        ) from failed
    return library(graphs[0], "lrp_tf", definition.control_ret.values())


def _drop_what_is_left() -> None:
    """Collect and drop the graphs of functions that failed: TensorFlow puts them into that of the next one to run."""
    tf.function(lambda: tf.constant(0), autograph=False)()
    context.context().export_run_metadata()


def _zeros(dtype: tf.DType, shape: Sequence[int | None]) -> tf.Tensor:
    """A batch of one."""
    return tf.zeros([1, *(1 if size is None else size for size in shape[1:])], dtype)


def _execute(name: str, outputs: int, inputs: list[tf.Tensor], attributes: dict[str, Any]) -> Sequence[tf.Tensor]:
    flat = tuple(part for item in attributes.items() for part in item)
    return execute.execute(name, outputs, inputs, flat, context.context())


class Loaded:
    """A pass (`passes.Pass`) that was optimised in another process, for calls that no gradient is taken of.

    TensorFlow gets the functions at the first call: of a large network that takes a tenth of a second, and a file may
    hold passes that nobody calls.

    Args:
        functions: what `optimized` gave.
        form: what the pass returns, with None where it returns nothing.
        order: for each tensor of the form, flat, the number of the function's result.
        captured: the variables that it reads, as handles.

    Attributes:
        captured_inputs: as of a concrete function.
    """

    def __init__(
        self, functions: Library, form: tuple[Found, Verdict], order: list[int], captured: list[tf.Tensor]
    ) -> None:
        # The name is new: another file may have been loaded before.
        functions = renamed(functions, f"lrp_tf_{secrets.token_hex(8)}")
        self.functions, self.captured_inputs = functions, captured
        self.form, self.order = form, order
        self._name = functions.function[0].signature.name
        self._known, self._lock = False, threading.Lock()
        runtime = context.context()
        # As set for the process, but for the optimiser, which has done its work: with nothing left to do it would take
        # as long again.
        options = runtime.function_call_options
        config = tf.compat.v1.ConfigProto.FromString(options.config_proto_serialized)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._attributes = {"executor_type": "", "config_proto": config.SerializeToString()}

    def _add(self) -> None:
        """Give the functions to TensorFlow."""
        with self._lock:
            if self._known:
                return
            names = [function.signature.name for function in self.functions.function]
            for function in self.functions.function:
                context.context().add_function_def(function)
            weakref.finalize(self, _remove, names).atexit = False
            self._known = True

    def __call__(self, *tensors: tf.Tensor) -> tuple[Found, Verdict]:
        if not self._known:
            self._add()
        count = len(self.functions.function[0].signature.output_arg)
        results = _execute(self._name, count, [*tensors, *self.captured_inputs], self._attributes)
        numbers = iter(self.order)
        leaves = [None if leaf is None else results[next(numbers)] for leaf in tf.nest.flatten(self.form)]
        return tf.nest.pack_sequence_as(self.form, leaves)


def _remove(names: Iterable[str]) -> None:
    for name in names:
        context.context().remove_function(name)


def apt(tensors: Iterable[tf.Tensor]) -> bool:
    """Whether a `Loaded` pass may run on `tensors`: not inside a graph, nor where a derivative may be asked for."""
    if not tf.executing_eagerly() or tf.config.functions_run_eagerly() or record.could_possibly_record():
        return False
    return not forwardprop_util.pack_tangents(list(tensors)).indices

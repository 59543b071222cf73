"""What XLA computes otherwise than TensorFlow: bilinear interpolation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# XLA gives wrong values for some sizes (tensorflow issue 118344), by the largest value and more. Which sizes depends on
# what is compiled with them, so that no size is safe: 5 x 5 to 10 x 15 is wrong alone, and right beside its derivative.
_WRONG = ("ResizeBilinear", "ResizeBilinearGrad")


def wrong_under_xla(function: tf.types.experimental.ConcreteFunction) -> str | None:
    """The name of an operation of a traced function that XLA may compute wrong; None if there is none."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return next((node.name for node in nodes if node.op in _WRONG), None)


def traced_right(function: Any) -> tf.types.experimental.ConcreteFunction:
    """The concrete function of a `tf.function` with `jit_compile=True`.

    Raises:
        ValueError: XLA may compute something else.
    """
    concrete = function.get_concrete_function()
    if name := wrong_under_xla(concrete):
        raise ValueError(
            f"XLA gets bilinear interpolation wrong for some sizes. Expected a model without it under jit_compile. "
            f"Received: {name}. Remedy: jit_compile=False"
        )
    return concrete

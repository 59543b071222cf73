"""Runs a traced graph step by step, the bodies of loops in a Python loop, as `lrp_tf.core.loop.Loop` says."""

from __future__ import annotations

import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import Loop


def run_graph(graph: Graph, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """The outputs of a graph that was traced and not canonized; floats are cast to what its rules compute in."""
    values: dict[Ref, tf.Tensor] = dict(zip(graph.inputs, map(tf.convert_to_tensor, inputs), strict=True))
    for step in graph.steps:
        tensors = [values[ref] for ref in step.inputs]
        outputs = _loop(step, values) if isinstance(step.op, Loop) else tree.flatten(step.call(*tensors))
        outputs = [tf.cast(y, graph.dtype) if y.dtype.is_floating else y for y in outputs]
        values.update(zip(step.outputs, outputs, strict=True))
    return [values[ref] for ref in graph.outputs]


def _loop(step: Step, values: dict[Ref, tf.Tensor]) -> list[tf.Tensor]:
    loop = step.op
    sequences, states, mask, captured = tree.map_structure(lambda a: values[a] if isinstance(a, Ref) else a, step.args)
    assert len(sequences) == loop.sequences
    assert len(states) == loop.states
    steps = range(sequences[0].shape[1])
    kept: list[list[tf.Tensor]] = []
    last: list[tf.Tensor] = []
    for t in reversed(steps) if loop.backwards else steps:
        found = run_graph(loop.body, [*(x[:, t] for x in sequences), *states, *captured])
        count = len(found) - loop.states
        outputs, new = found[:count], found[count:]
        if mask is not None:
            before = [tf.zeros_like(y) for y in outputs] if loop.zeros_where_masked or not last else last
            outputs = [_where(mask[:, t], y, other) for y, other in zip(outputs, before, strict=True)]
            new = [_where(mask[:, t], s, other) for s, other in zip(new, states, strict=True)]
        last, states = outputs, new
        kept.append(last)
    made = [tf.stack(ys, 1) for ys in zip(*kept, strict=True)] if loop.stacked else last
    return [*made, *(states if loop.returns_states else [])]


def _where(mask: tf.Tensor, value: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.reshape(mask, [-1] + [1] * (value.shape.rank - 1)), value, other)

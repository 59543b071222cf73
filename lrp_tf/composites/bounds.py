"""Bounds of the model's input, carried to the step that needs them."""

from __future__ import annotations

import tensorflow as tf

from lrp_tf import flows, rules
from lrp_tf.composites.match import transparent
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.rules.boxes import Bound, shape_bound


def _input_chain(graph: Graph, step: Step) -> list[Step]:
    """The transparent steps between a model input and a step of `first()`, in execution order.

    Raises:
        ValueError: the step reads several tensors at once, so that no single box describes its input.
    """
    producers = {ref: s for s in graph.steps for ref in s.outputs}
    chain: list[Step] = []
    ref: Ref = step.inputs[step.signals[0]]
    while ref not in graph.inputs:
        producer = producers[ref]
        if not transparent(producer) or len(producer.inputs) != 1:
            raise ValueError(
                f"The bounds of the model's input cannot be carried to {step.path!r} through {producer.path!r} "
                f"({producer.operation}). Expected one chain of Rescaling, Normalization, padding and reshaping. "
                f"Remedy: (composites.named({step.path!r}), rules.ZBox(low, high)), with bounds of its own input."
            )
        chain.append(producer)
        ref = producer.inputs[0]
    return chain[::-1]


class InputZBox(rules.ZBox):
    """ZBox whose bounds are those of the model's input as fed; a composite carries them to the step."""

    def for_step(self, graph: Graph, step: Step) -> rules.Rule:
        """The rule for one step, with the bounds sent through Rescaling, Normalization and what else lies between."""
        chain = _input_chain(graph, step)
        if not chain:
            return rules.ZBox(self.low, self.high, self.stabilizer)
        return _CarriedZBox(self.low, self.high, self.stabilizer, chain)


class _CarriedZBox(rules.ZBox):
    """ZBox whose bounds pass through the steps between the model's input and this one, `chain`."""

    chain: list[Step]

    def __init__(self, low: Bound, high: Bound, stabilizer: float | rules.Relative, chain: list[Step]) -> None:
        super().__init__(low, high, stabilizer)
        object.__setattr__(self, "chain", chain)

    def __repr__(self) -> str:
        return f"{rules.ZBox(self.low, self.high, self.stabilizer)!r} of the model's input"

    def bounds(self, op: rules.Operator) -> tuple[tf.Tensor, tf.Tensor]:
        source = self.chain[0].inputs[0]
        # Unknown sizes stay 1: such a chain rescales but does not reshape, and the bounds broadcast.
        sizes = [1, *(size or 1 for size in source.shape)]
        axis = op.entry.channel_axis(op.layer) if len(sizes) == op.x.shape.rank else -1
        ends = []
        for name, bound in (("low", self.low), ("high", self.high)):
            value = tf.ones(sizes, op.x.dtype)
            value *= shape_bound(bound, name, value, axis)
            for step in self.chain:
                flow = flows.lookup(step)
                assert flow is not None  # or the step were not transparent
                (value,), _ = flow.forward(step, [value])
            ends.append(value * op.ones())
        # A negative scale turns the box around.
        return tf.minimum(*ends), tf.maximum(*ends)

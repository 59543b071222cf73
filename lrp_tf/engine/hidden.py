"""Which tensors and weights may hold NaN or Inf that neither the output nor the relevance shows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import keras

from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.loop import body_of
from lrp_tf.core.operations import Constants
from lrp_tf.core.protocol import Handler, ZeroInput
from lrp_tf.engine.savings.positivity import cuts, relevance_readers

# Weights of up to this many entries are read at every call, whether or not the relevance shows what they hold.
_SMALL = 4096


def hidden_tensors(graph: Graph, handlers: dict[Step, Handler], starts: Iterable[Ref]) -> list[Ref]:
    """Outputs of linear steps, or of the ReLUs behind them, whose NaN or Inf may not show in the relevance.

    They show where every step that reads a tensor multiplies it by the relevance that arrives. Max pooling may hide
    them.

    Args:
        starts: tensors that relevance may start at: the steps that read one need not run.
    """
    unseen = {*graph.outputs, *starts}
    readers = relevance_readers(graph, handlers)

    def search(ref: Ref) -> list[Ref]:
        above = readers.get(ref, [])
        if above and ref not in unseen:
            if all(handlers[step].at_zero == ZeroInput.NONE for step in above):
                return []
            if all(cuts(step, handlers[step]) for step in above):
                return [found for step in above for found in search(step.outputs[0])]
        return [ref]

    refs = [found for step in graph.steps if step.linear is not None for found in search(step.outputs[0])]
    return list(dict.fromkeys(refs))


def hidden_weights(graph: Graph, handlers: dict[Step, Handler], reached: frozenset[Ref]) -> list[keras.Variable | Ref]:
    """Weights, variables or constants of the graph, whose NaN or Inf may not show in the relevance or the output.

    A ReLU that TensorFlow fuses with its convolution turns NaN into 0. NaN in a kernel shows in the relevance, which
    the transposed kernel multiplies, unless the rule leaves the kernel out (Flat) or relevance never enters the layer
    (a gate). Biases and other small weights are all read, which is cheap.

    Args:
        reached: tensors that relevance can reach.
    """
    constants = {ref for step in graph.steps if isinstance(step.op, Constants) for ref in step.outputs}
    found: dict[int, keras.Variable | Ref] = {}
    for step in graph.steps:
        if isinstance(step.op, keras.layers.Embedding):  # rows that no index names do not matter
            continue
        shows = reached.issuperset(step.outputs) and handlers[step].shows_kernel
        kernels = step.linear is not None or body_of(step) is not None
        folded = [layer for part in step.parts or (step,) for layer in (part.op, *part.before, *part.after)]
        layers = [weight for layer in folded for weight in getattr(layer, "weights", [])]
        for weight in (*layers, *constants.intersection(step.inputs)):
            size = math.prod(size or 1 for size in weight.shape)
            if "float" in str(weight.dtype) and (size <= _SMALL or (kernels and not shows)):
                found[id(weight)] = weight
    return list(found.values())

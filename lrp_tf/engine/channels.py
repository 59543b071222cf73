"""Channels of a layer by name: the tensor of the graph, and the axis that they lie on.

- `block5_conv3`: channels of a convolution, units of a dense layer, features of tokens.
- `block/attention[heads]`: heads of an attention, as its output projection reads them.
- `block/attention/dot_product_attention/softmax[1]`: any axis of the output of a layer or operation; samples are 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import keras
import tensorflow as tf

from lrp_tf.core.graph import Graph, Ref, Step, shape_text
from lrp_tf.engine.plan import Plan, reached

_INDEXED = re.compile(r"(.+)\[(-?\d+|heads)\]")
# The layer that mixes the heads, in Keras' attentions and in those of KerasHub.
_PROJECTION = "attention_output"
_MOVES_AXES = re.compile(r"Permute|Transpose|Moveaxis|Swapaxes|Reshape|Einsum")


class Channels(NamedTuple):
    """Where the channels of a layer lie in the graph of a plan.

    Attributes:
        name: as the caller gave it.
        ref: the tensor of the canonized graph.
        axis: of the channels, counted with the samples as 0.
        place: the number of the step that makes the tensor; -1 for inputs of the model.
        padding: steps from the tensor to the output of a padding layer, which a convolution absorbed.
    """

    name: str
    ref: Ref
    axis: int
    place: int
    padding: tuple[Step, ...] = ()

    @property
    def size(self) -> int | None:
        """How many channels there are; None: only the call knows."""
        return self.ref.shape[self.axis - 1]

    @property
    def others(self) -> list[int]:
        """The axes of positions: all but those of samples and channels."""
        return [axis for axis in range(1, len(self.ref.shape) + 1) if axis != self.axis]

    def sums(self, relevance: tf.Tensor) -> tf.Tensor:
        """Relevance of each channel, summed over positions: [B, C]."""
        return tf.reduce_sum(relevance, self.others)

    def shaped(self, weights: tf.Tensor, axis: int | None = None) -> tf.Tensor:
        """Weights [C] or [B, C] of the channels, or those of another axis, to be multiplied with the tensor."""
        shape = [1] * (len(self.ref.shape) + 1)
        shape[self.axis if axis is None else axis] = -1
        if weights.shape.rank == 2:
            shape = [tf.shape(weights)[i] if i == 0 else n for i, n in enumerate(shape)]
        return tf.reshape(weights, shape)


def find(plan: Plan, name: str) -> Channels:
    """The channels of the layer, operation or heads of this name.

    Raises:
        TypeError: the name is no text.
        ValueError: no such layer, one that is called several times, off the way to the output, without channels, or
            that shares its tensor with a branch beside it.
    """
    if not isinstance(name, str):
        raise TypeError(f"layer expects the name or path of a layer. Received: {name!r}")
    graph = plan.graph
    match = None if name in graph.layers else _INDEXED.fullmatch(name)
    base, index = match.groups() if match else (name, None)
    source = _heads(graph, base) if index == "heads" else _output(plan, base)
    ref, padding = graph.resolve(source)
    _check_reached(plan, name, ref)
    _check_alone(graph, name, source, ref)
    rank = len(ref.shape) + 1
    if rank < 2 or ref.axis != 0 or ref.each != 1 or rank != len(source.shape) + 1:
        raise ValueError(
            f"Layer {name!r} has no channels that lie apart by sample. Expected an output of shape [B, ..., C]. "
            f"Received: {shape_text(ref.shape)}, with {ref.each} rows for each sample and the samples on axis "
            f"{ref.axis}. Remedy: name a layer ahead of it or behind it, such as the TimeDistributed around it"
        )
    axis = channel_axis(plan, ref) if index is None else _axis(name, ref, -2 if index == "heads" else int(index))
    place = next((i for i, step in enumerate(graph.steps) if ref in step.outputs), -1)
    return Channels(name, ref, axis, place, tuple(padding))


def channel_axis(plan: Plan, ref: Ref) -> int:
    """The axis that the channels of a tensor lie on: the last one, unless the layer that made it says channels_first.

    Layers without a data format, such as activations and sums, leave the channels where the layer ahead put them.
    """
    rank = len(ref.shape) + 1
    step = plan.makers.get(ref)
    while step is not None and rank > 2:
        if (layout := getattr(step.op, "data_format", None)) is not None:
            return 1 if layout == "channels_first" else rank - 1
        if isinstance(step.op, keras.layers.BatchNormalization):
            return int(step.op.axis) % rank
        signals = [step.inputs[i] for i in step.signals]
        if step.linear is not None or not signals or len(signals[0].shape) + 1 != rank:
            break
        if _MOVES_AXES.search(step.operation):
            break
        step = plan.makers.get(signals[0])
    return rank - 1


def reaches(plan: Plan, above: Channels, below: Channels) -> bool:
    """Whether relevance that starts at one tensor arrives at the other."""
    return below.ref in reached(plan.graph.steps[: above.place + 1], [above.ref])


def _output(plan: Plan, name: str) -> Ref:
    """The output of the only call of a layer; of several outputs the only one that relevance reaches."""
    graph = plan.graph
    calls = graph.find_layer(name)
    if len(calls) != 1:
        raise _called(name, len(calls))
    refs = [ref for ref in calls[0] if graph.resolve(ref)[0] in plan.reached]
    if len(refs) > 1:
        raise ValueError(
            f"Relevance reaches {len(refs)} outputs of layer {name!r}. Expected a layer with one. Remedy: name a layer "
            "ahead of it or behind it"
        )
    return refs[0] if refs else calls[0][0]


def _heads(graph: Graph, name: str) -> Ref:
    """What the output projection of an attention reads, [B, ..., heads, size]."""
    outputs = graph.find_layer(name)
    path = next(p for p, found in graph.layers.items() if found is outputs)
    inner = [call for call in graph.calls if call.path == f"{path}/{_PROJECTION}"]
    if not inner:
        raise ValueError(
            f"Layer {name!r} has no heads that lrp_tf knows: it calls no layer {_PROJECTION!r}, as Keras' attentions "
            f'do. Remedy: name an operation inside of it, and the axis of its heads: "{path}/einsum[2]". Inside of it: '
            f"{', '.join(p for p in graph.layers if p.startswith(f'{path}/')) or 'nothing'}"
        )
    if len(inner) != 1:
        raise _called(name, len(inner))
    return inner[0].inputs[0]


def _called(name: str, times: int) -> ValueError:
    return ValueError(
        f"Layer {name!r} is called {times} times: which of its outputs is meant? Expected a layer that is called once. "
        f"Remedy: name a layer ahead of one of the calls or behind it; explain(x, layers=[{name!r}]) gives the "
        "relevance of each call"
    )


def _check_reached(plan: Plan, name: str, ref: Ref) -> None:
    graph = plan.graph
    if ref not in plan.makers and ref not in graph.inputs:
        raise ValueError(f"Layer {name!r} does not lie on a way to the output that is explained.")
    if ref not in plan.reached:
        raise ValueError(
            f"No relevance arrives at layer {name!r}. Expected a layer that the rules give relevance to. Received: a "
            "constant, or what rules keep relevance out of, such as gates; summary() shows the rules"
        )


def _check_alone(graph: Graph, name: str, source: Ref, ref: Ref) -> None:
    """Refuse padding or BatchNormalization that went into the layer behind, where others read what is ahead of it."""
    made: set[object] = set()
    while source is not ref:
        made.update(call.op for call in graph.calls if source in call.outputs)
        source = graph.aliases[source]
    readers = [step for step in graph.steps if ref in step.inputs]
    behind = [step for step in readers if made.intersection(step.before)]
    if behind and (len(behind) < len(readers) or ref in graph.outputs):
        raise ValueError(
            f"Layer {name!r} went into {behind[0].path!r}, and what is ahead of it is read elsewhere too: its channels "
            "share a tensor with those of another branch. Remedy: name the layer ahead of it or behind it"
        )


def _axis(name: str, ref: Ref, axis: int) -> int:
    rank = len(ref.shape) + 1
    if not -rank < axis < rank or axis == 0:
        raise ValueError(
            f"Layer {name!r}: no such axis. Expected 1 to {rank - 1}, or -1 to {1 - rank}, of an output of shape "
            f"{shape_text(ref.shape)}; axis 0 holds the samples. Received: {axis}"
        )
    return axis % rank

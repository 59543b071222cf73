"""Which tensor of the graph holds the channels of a layer, and on which of its axes they lie."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from lrp_tf.core.graph import Graph, Ref, Step


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels of one layer.

    Attributes:
        name: of the layer, as the caller gave it.
        ref: the tensor of the canonized graph.
        padding: steps from it to the layer's output, where a convolution absorbed a padding layer.
        axis: where the channels lie in `shape`.
        shape: of the layer's output without the batch axis.
    """

    name: str
    ref: Ref
    padding: tuple[Step, ...]
    axis: int
    shape: tuple[int | None, ...]

    @property
    def count(self) -> int:
        """How many channels there are."""
        found = self.shape[self.axis]
        assert found is not None  # `channels_of` refuses others
        return found

    @property
    def positions(self) -> tuple[int | None, ...]:
        """The sizes of all other axes: () for a Dense layer, (rows, columns) for a convolution."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def padded(self, values: tf.Tensor) -> tf.Tensor:
        """Values or relevance of `ref`, [B, ...], as the layer gives them."""
        for step in self.padding:
            values = step.call(values)
        return values

    def by_channel(self, values: tf.Tensor) -> tf.Tensor:
        """Values of `ref`, [B, ...], as [B, C, P], positions in the order of `positions`."""
        rank = len(self.shape) + 1
        axis = self.axis + 1
        values = tf.transpose(self.padded(values), [0, axis, *(i for i in range(1, rank) if i != axis)])
        size = tf.shape(values)
        return tf.reshape(values, tf.stack([size[0], self.count, -1]))


def channels_of(graph: Graph, name: str) -> Channels:
    """The channels of a layer.

    Args:
        graph: canonized.
        name: name or path of the layer.

    Raises:
        ValueError: no such layer, or one that is called several times, has several outputs, lies off the way to the
            explained output, or has no channels.
    """
    outputs = [ref for call in graph.find_layer(name) for ref in call]
    if len(outputs) != 1:
        raise ValueError(
            f"Layer {name!r}: expected a layer with one output that the model calls once. Received: {len(outputs)} "
            "outputs. Remedy: another layer, for example the one behind it"
        )
    ref, padding = graph.resolve(outputs[0])
    if ref not in {*graph.inputs, *(made for step in graph.steps for made in step.outputs)}:
        raise ValueError(f"Layer {name!r} does not lie on a way to the output that is explained.")
    shape = tuple(outputs[0].shape)
    axis = channel_axis(graph, ref) % len(shape) if shape else 0
    floating = tf.as_dtype(ref.dtype).is_floating
    if not shape or not floating or shape[axis] is None or not ref.batched or ref.axis or ref.each != 1:
        raise ValueError(
            f"Layer {name!r} has no channels. Expected an output [B, ..., C] of floats with a known number of "
            f"channels. Received: {outputs[0].dtype} {('B', *shape)}. Remedy: a convolution or a Dense layer, or the "
            "activation behind one"
        )
    return Channels(name, ref, tuple(padding), axis, shape)


def channel_axis(graph: Graph, ref: Ref) -> int:
    """The axis of a tensor's `shape` that its channels lie on: 0 with channels first, else the last one.

    The nearest step above it that has a data format and keeps the rank tells.
    """
    producers = {made: step for step in graph.steps for made in step.outputs}
    rank = len(ref.shape)
    while rank > 1 and (step := producers.get(ref)) is not None and step.inputs and len(step.inputs[0].shape) == rank:
        layout = getattr(step.op, "data_format", None)
        if layout is not None:
            return 0 if layout == "channels_first" else rank - 1
        ref = step.inputs[0]
    return rank - 1

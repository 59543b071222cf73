"""Relevance under conditions (Achtibat et al. 2023): masked to channels of layers on its way, one map for each concept.

The forward pass, the way from the output down to the layer and the denominators below it are shared by all concepts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.protocol import Propagate
from lrp_tf.engine import diagnosis, initial, stages
from lrp_tf.engine import propagate as propagation
from lrp_tf.engine.channels import Channels
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.passes import Verdict
from lrp_tf.engine.propagate import Forward
from lrp_tf.engine.savings import targets as side_by_side
from lrp_tf.engine.targets import Target


class Wanted(NamedTuple):
    """What a compiled pass is made for; which channels and positions are its arguments.

    Attributes:
        layer: the layer of the concepts.
        conditions: channels of other layers that hold together with each concept.
        chosen: "channels", those given; "top", ranks from 0 on, by |relevance|; "all", every channel at a position.
        placed: concepts are single positions.
        cut: relevance that passes the layers by is left out.
    """

    layer: Channels
    conditions: tuple[Channels, ...] = ()
    chosen: str = "channels"
    placed: bool = False
    cut: bool = False

    def signature(self) -> list[tf.TensorSpec]:
        """What a pass takes beside inputs and target: `Asked.tensors`."""
        found = [] if self.chosen == "all" else [tf.TensorSpec([None, None], tf.int32)]
        found += [tf.TensorSpec([None, None, len(self.layer.others)], tf.int32)] if self.placed else []
        return found + [tf.TensorSpec([None], tf.int32)] * len(self.conditions)


class Asked(NamedTuple):
    """Which concepts a call asks for.

    Attributes:
        channels: int32 [B, k], or ranks; None: all channels.
        positions: int32 [B, k, n], an index for each axis of positions; None: all.
        conditions: int32 [n] each, the channels of other layers.
    """

    channels: tf.Tensor | None
    positions: tf.Tensor | None
    conditions: tuple[tf.Tensor, ...]

    @property
    def tensors(self) -> list[tf.Tensor]:
        """What a compiled pass takes."""
        return [t for t in (self.channels, self.positions, *self.conditions) if t is not None]

    def part(self, rows: slice) -> Asked:
        """That of some of the samples."""
        cut = {name: value[rows] for name in ("channels", "positions") if (value := getattr(self, name)) is not None}
        return self._replace(**cut)

    @classmethod
    def of(cls, wanted: Wanted, tensors: Sequence[tf.Tensor]) -> Asked:
        """What `tensors` gave to a pass."""
        left = list(tensors)
        channels = None if wanted.chosen == "all" else left.pop(0)
        return cls(channels, left.pop(0) if wanted.placed else None, tuple(left))


class Found(NamedTuple):
    """What a pass under conditions gives; see `Concepts`.

    Attributes:
        maps: of each input, [B, k, ...].
        passed_by: of each input, [B, ...]; None where nothing passes by, or where it was left out.
    """

    logits: tf.Tensor
    target: tf.Tensor | None
    relevance: tf.Tensor
    channels: tf.Tensor | None
    positions: tf.Tensor | None
    amounts: tf.Tensor
    maps: list[tf.Tensor]
    passed_by: list[tf.Tensor] | None


@dataclasses.dataclass(frozen=True)
class Concepts:
    """What `Explainer.concepts` returns, for k concepts of each of B samples.

        c = explainer.concepts(x, layer="conv2", top=3)
        c.channels, c.share, c.maps

    Attributes:
        layer: the layer of the concepts, as the caller named it.
        channels: int32 [B, k]; None where concepts are whole positions.
        relevance: [B, C], of every channel of the layer, summed over positions.
        share: [B, k], |amounts| as a share of the sum of |relevance|.
        maps: relevance of the inputs that passed each concept, in their structure, [B, k, ...]. Those of all channels
            and `passed_by` add up to the relevance of the inputs.
        passed_by: relevance of the inputs that passed the layer by on other branches, [B, ...]; None where there are
            none, or where they were cut.
        amounts: [B, k], the relevance of each concept at the layer.
        positions: int32 [B, k, n] for concepts at single positions; None: channels as a whole.
        logits, target: see `Explanation`.
    """

    layer: str
    channels: tf.Tensor | None
    relevance: tf.Tensor
    share: tf.Tensor
    maps: Any
    passed_by: Any
    amounts: tf.Tensor
    positions: tf.Tensor | None
    logits: tf.Tensor
    target: tf.Tensor | None


def share_of(amounts: tf.Tensor, relevance: tf.Tensor) -> tf.Tensor:
    """`Concepts.share`, of amounts [B, k] and relevance [B, C]; 0 where there is no relevance."""
    return tf.math.divide_no_nan(tf.abs(amounts), tf.reduce_sum(tf.abs(relevance), axis=1, keepdims=True))


def plain(clone: Clone, target: Target, wanted: Wanted) -> Callable[..., tuple[Found, Verdict, tf.Tensor]]:
    """A pass as a function that is not compiled: of flat inputs, the tensors of a target, and `Asked.tensors`.

    What it returns last is whether all channels and positions exist in their layers, a boolean scalar.
    """
    count, more = len(clone.graph.inputs), len(wanted.signature())
    layer = wanted.layer

    def run(*tensors: tf.Tensor) -> tuple[Found, Verdict, tf.Tensor]:
        inputs, asked = tensors[:count], Asked.of(wanted, tensors[len(tensors) - more :])
        forward = clone.forward(inputs)
        logits = clone.output(forward)
        classes, begin, in_range = initial.initial_relevance(target.holding(tensors[count:]), logits)
        way = _Way(clone, forward, wanted, asked, tf.shape(begin)[0])
        at, beside = way.to_layer(begin)
        relevance = layer.sums(at)
        known = _in_range(wanted, asked, forward)
        channels = _ranked(asked.channels, relevance) if wanted.chosen == "top" else asked.channels
        asked = asked._replace(channels=channels)
        passed_by = None if wanted.cut or not beside else way.to_inputs(beside)
        maps, amounts = way.of_concepts(at, asked)
        found = Found(logits, classes, relevance, channels, asked.positions, amounts, maps, passed_by)
        finite = diagnosis.finite(clone, inputs, forward, [*maps, relevance, *(passed_by or [])], False)
        verdict = Verdict(tf.constant(True) & clone.as_declared(inputs), tf.constant(True) & in_range, finite)
        return found, verdict, known

    return run


def of_layers(clone: Clone, target: Target, layers: Sequence[Channels]) -> Callable:
    """A pass that ends at the lowest of some layers: logits and the relevance at each, and whether all went well."""
    count = len(clone.graph.inputs)

    def run(*tensors: tf.Tensor) -> tuple[tuple[tf.Tensor, list[tf.Tensor]], Verdict]:
        inputs = tensors[:count]
        forward = clone.forward(inputs)
        logits = clone.output(forward)
        _, begin, in_range = initial.initial_relevance(target.holding(tensors[count:]), logits)
        hook = _filter(clone, tf.shape(begin)[0])
        relevance, last = {clone.graph.outputs[0]: begin}, len(clone.graph.steps)
        found: dict[Channels, tf.Tensor] = {}
        for layer in sorted(layers, key=lambda one: -one.place):
            relevance = stages.passed(clone.plan, forward, relevance, layer.place + 1, last, hook=hook)
            found[layer], last = relevance[layer.ref], layer.place + 1
            for step in layer.padding:
                found[layer] = step.call(found[layer])
        finite = diagnosis.finite(clone, inputs, forward, list(found.values()), False)
        verdict = Verdict(tf.constant(True) & clone.as_declared(inputs), tf.constant(True) & in_range, finite)
        return (logits, [found[layer] for layer in layers]), verdict

    return run


class _Way:
    """One way down through the model, past the conditions and the layer."""

    def __init__(self, clone: Clone, forward: Forward, wanted: Wanted, asked: Asked, samples: tf.Tensor) -> None:
        self._clone, self._forward, self._wanted = clone, forward, wanted
        self._hook = _filter(clone, samples)
        pairs = sorted(zip(wanted.conditions, asked.conditions, strict=True), key=lambda pair: -pair[0].place)
        masks = [(layer, self._mask(layer, channels)) for layer, channels in pairs]
        self._above = [pair for pair in masks if pair[0].place >= wanted.layer.place]
        self._below = [pair for pair in masks if pair[0].place < wanted.layer.place]
        self._propagators: dict[Step, Propagate] | None = None

    def to_layer(self, begin: tf.Tensor) -> tuple[tf.Tensor, dict[Ref, tf.Tensor]]:
        """The relevance of the layer, and that on its way beside it, of the relevance of the output."""
        plan, layer = self._clone.plan, self._wanted.layer
        relevance, last = self._past(self._above, {plan.graph.outputs[0]: begin}, len(plan.graph.steps))
        beside = stages.passed(plan, self._forward, relevance, layer.place + 1, last, hook=self._hook)
        at = beside.pop(layer.ref)
        if not self._clone.recomputes:  # else they would keep what is to be computed again
            below = stages.part(plan, 0, layer.place + 1, [layer.ref] if self._wanted.cut else [layer.ref, *beside])
            self._propagators = propagation.propagators(below, self._forward)
        return at, beside

    def to_inputs(self, relevance: Mapping[Ref, tf.Tensor]) -> list[tf.Tensor]:
        """The relevance of the inputs, of that at the layer or beside it."""
        plan = self._clone.plan
        left, last = self._past(self._below, relevance, self._wanted.layer.place + 1, self._propagators)
        found = stages.passed(plan, self._forward, left, 0, last, hook=self._hook, propagators=self._propagators)
        return [
            found[ref] if ref in found else tf.zeros_like(self._forward.values[ref], dtype=plan.graph.dtype)
            for ref in plan.graph.inputs
        ]

    def of_concepts(self, at: tf.Tensor, asked: Asked) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Relevance of the inputs, [B, k, ...] each, and at the layer, [B, k], of each concept of relevance `at`."""
        layer, graph = self._wanted.layer, self._clone.graph
        parts = [] if asked.channels is None else [asked.channels[..., None]]
        rows = tf.concat(parts + ([] if asked.positions is None else [asked.positions]), axis=2)
        axes = ([] if asked.channels is None else [layer.axis]) + (layer.others if self._wanted.placed else [])

        def one(concept: tf.Tensor) -> dict[str, Any]:
            """Of an index [B, m], one for each of `axes`."""
            masked = at
            for i, axis in enumerate(axes):
                chosen = tf.one_hot(concept[:, i], tf.shape(at)[axis], dtype=at.dtype)
                masked = masked * layer.shaped(chosen, axis)
            masked = tf.ensure_shape(masked, at.shape)
            return {"maps": self.to_inputs({layer.ref: masked}), "amounts": tf.reduce_sum(layer.sums(masked), 1)}

        signature = {"maps": [at.dtype] * len(graph.inputs), "amounts": at.dtype}
        several = tf.transpose(rows, [1, 0, 2])
        if side_by_side.vectorizes(graph):
            found: Any = side_by_side.in_groups(one, several, signature)
        else:
            found = tf.map_fn(one, several, fn_output_signature=signature)
        found = tf.nest.map_structure(lambda v: tf.transpose(v, [1, 0, *range(2, v.shape.rank)]), found)
        return found["maps"], found["amounts"]

    def _past(
        self,
        stops: Sequence[tuple[Channels, tf.Tensor]],
        relevance: Mapping[Ref, tf.Tensor],
        last: int,
        propagators: dict[Step, Propagate] | None = None,
    ) -> tuple[Mapping[Ref, tf.Tensor], int]:
        """The relevance below the last of some conditions, and the number of the step that it arrives at."""
        for layer, mask in stops:
            relevance = stages.passed(
                *(self._clone.plan, self._forward, relevance, layer.place + 1, last),
                hook=self._hook,
                propagators=propagators,
            )
            last = layer.place + 1
            masked = {layer.ref: relevance[layer.ref] * mask} if layer.ref in relevance else {}
            relevance = masked if self._wanted.cut else {**relevance, **masked}
        return relevance, last

    def _mask(self, layer: Channels, channels: tf.Tensor) -> tf.Tensor:
        """1 at some channels of a layer, 0 at the others."""
        count = tf.shape(self._forward.values[layer.ref])[layer.axis]
        return layer.shaped(tf.reduce_max(tf.one_hot(channels, count, dtype=self._clone.graph.dtype), axis=0))


def _filter(clone: Clone, samples: tf.Tensor) -> propagation.Hook | None:
    """The relevance filter of the clone."""
    if clone.relevance_filter is None:
        return None
    return propagation.largest(clone.relevance_filter, samples, clone.plan.starts)


def _ranked(ranks: tf.Tensor, relevance: tf.Tensor) -> tf.Tensor:
    """The channels of these ranks, [B, k], by the |relevance| of each channel, [B, C]."""
    order = tf.argsort(tf.abs(relevance), axis=1, direction="DESCENDING", stable=True)
    return tf.gather(order, tf.minimum(ranks, tf.shape(order)[1] - 1), batch_dims=1)


def _in_range(wanted: Wanted, asked: Asked, forward: Forward) -> tf.Tensor:
    """Whether all channels and positions exist in their layers."""
    shape = tf.shape(forward.values[wanted.layer.ref])
    pairs = [] if asked.channels is None else [(asked.channels, shape[wanted.layer.axis])]
    if asked.positions is not None:
        pairs.append((asked.positions, tf.gather(shape, wanted.layer.others)))
    for layer, channels in zip(wanted.conditions, asked.conditions, strict=True):
        pairs.append((channels, tf.shape(forward.values[layer.ref])[layer.axis]))
    return tf.reduce_all([tf.reduce_all((index >= 0) & (index < size)) for index, size in pairs])

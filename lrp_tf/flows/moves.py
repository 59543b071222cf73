"""Relevance moves with the values: reshaping, slicing, padding, casts, look-ups; or ends at the step."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Ref, Step
from lrp_tf.core.numerics import vjp
from lrp_tf.core.protocol import Propagate, ZeroInput
from lrp_tf.flows.base import (
    UNBOUNDED,
    Flow,
    Identity,
    Interval,
    Kept,
    PassThrough,
    hull,
    numbers,
    replaced,
    scatter,
    unbroadcast,
)


@dataclasses.dataclass(frozen=True, repr=False)
class Move(Flow):
    """R moves with its entries: reshape, permute, concatenate, slice, repeat.

    Where an entry comes from a constant, for example a class token, its relevance is booked as "bias".

    Args:
        moved: positions of the inputs whose entries are moved, if others only say where to; None: all.
    """

    moved: tuple[int, ...] | None = dataclasses.field(default=None, repr=False)
    transparent = True
    at_zero = ZeroInput.MOVES

    def _sources(self, step: Step) -> Sequence[int]:
        return range(len(step.inputs)) if self.moved is None else self.moved

    def enters(self, step: Step) -> tuple[int, ...]:
        return tuple(i for i in self._sources(step) if i in step.signals)

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, _ = saved
        signals, constants = ([i for i in self._sources(step) if (i in step.held) == held] for held in (False, True))

        def function(positions: list[int]) -> Callable:
            return lambda *values: keras.tree.flatten(step.call(*replaced(inputs, positions, values)))

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            # Integers, as of uint8 images, have no gradient: the transpose needs floats.
            floats = [tf.cast(inputs[i], relevances[0].dtype) for i in signals]
            if account is not None and constants:
                marks = [tf.zeros_like(x) for x in floats] + [tf.ones_like(inputs[i]) for i in constants]
                marks = [tf.cast(mark, relevances[0].dtype) for mark in marks]
                for r, mark in zip(relevances, function([*signals, *constants])(*marks), strict=True):
                    account.add("bias", r * mark)
            return scatter(step, signals, vjp(function(signals), floats, relevances))

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return hull([intervals[i] for i in self._sources(step)])


class Pad(Move):
    """Padding: R moves with its entries; relevance of the padding is booked as "other"."""

    def __init__(self) -> None:
        super().__init__(moved=(0,))

    def backward(self, step: Step, saved: Kept) -> Propagate:
        move = super().backward(step, saved)
        x, *rest = saved[0]

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            if account is not None:
                # The difference of ones and zeros is 0 on the padding, whatever constant it has.
                ones = tf.ones_like(x, relevances[0].dtype)
                inside = step.call(ones, *rest) - step.call(tf.zeros_like(ones), *rest)
                account.add("other", relevances[0] * (1 - inside))
            return move(relevances, account)

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        values = getattr(step.op, "constant_values", None)
        return hull([intervals[0], (0, 0)]) if values in (None, 0) and not numbers(step) else UNBOUNDED


class Cast(Identity):
    """A change of dtype. Floats stay as they are: relevance is computed in one precision throughout."""

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], None]:
        wanted = tf.as_dtype(step.outputs[0].dtype)
        (x,) = inputs
        return [x if x.dtype.is_floating and wanted.is_floating else tf.cast(x, wanted)], None

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return (0, 1) if step.inputs[0].dtype == "bool" else intervals[0]  # a mask is a gate


class Lookup(Flow):
    """Embedding: the relevance of a token is the sum of the relevance of its vector."""

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, _ = saved
        (tokens,) = step.signals

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            rank = inputs[tokens].shape.rank
            axes = list(range(rank, relevances[0].shape.rank))
            return scatter(step, [tokens], [tf.reduce_sum(relevances[0], axes)])

        return propagate


class Gather(Move):
    """Slices chosen by indices; from a table that is constant, the indices take the relevance, as in an Embedding."""

    def enters(self, step: Step) -> tuple[int, ...]:
        return tuple(step.signals) if 0 in step.held else super().enters(step)

    def backward(self, step: Step, saved: Kept) -> Propagate:
        return Lookup().backward(step, saved) if 0 in step.held and step.signals else super().backward(step, saved)


class Select(Flow):
    """where(condition, a, b): a and b get the relevance of the entries that they gave; that of constants is "bias"."""

    def _positions(self, step: Step) -> list[int | None]:
        """Where condition, a and b are in `step.inputs`; None for numbers."""
        places = itertools.count()
        return [next(places) if isinstance(a, Ref) else None for a in step.args]

    def enters(self, step: Step) -> tuple[int, ...]:
        return tuple(i for i in self._positions(step)[1:] if i in step.signals)

    def backward(self, step: Step, saved: Kept) -> Propagate:
        inputs, _ = saved
        condition, positions = step.args[0], self._positions(step)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            (r,) = relevances
            chosen = tf.cast(inputs[positions[0]] if positions[0] is not None else condition, tf.bool)
            found: list[tf.Tensor | None] = [None] * len(inputs)
            for position, mask in zip(positions[1:], (chosen, ~chosen), strict=True):
                part = tf.where(mask, r, tf.zeros_like(r))
                if position is not None and position not in step.held:
                    found[position] = unbroadcast(step, part, inputs[position])
                elif account is not None:
                    account.add("bias", part)
            return found

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        branches = [intervals[i] for i, ref in enumerate(step.inputs) if any(ref is a for a in step.args[1:])]
        return hull([*branches, *((n, n) for n in numbers(step))])


class Detached(Flow):
    """Relevance never enters: comparisons, statistics, indices. What arrives is booked as "bias"."""

    def enters(self, step: Step) -> tuple[int, ...]:
        return ()

    def backward(self, step: Step, saved: Kept) -> Propagate:
        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            if account is not None:
                account.add("bias", relevances[0])
            return [None] * len(step.inputs)

        return propagate


@dataclasses.dataclass(frozen=True, repr=False)
class InputScaling(PassThrough):
    """Rescaling and Normalization: R unchanged. `affine`: (layer, x) -> the value, in x's own precision."""

    transparent: bool = dataclasses.field(default=True, repr=False)
    at_zero = ZeroInput.UNKNOWN
    affine: Callable[[keras.Layer, tf.Tensor], tf.Tensor] = dataclasses.field(kw_only=True, repr=False)

    def forward(self, step: Step, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], None]:
        (x,) = inputs
        if not x.dtype.is_floating:  # uint8 images
            x = tf.cast(x, "float64" if step.op.compute_dtype == "float64" else "float32")
        return [self.affine(step.op, x)], None

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return UNBOUNDED


def rescale(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """What keras.layers.Rescaling computes."""
    scale, shift = (tf.convert_to_tensor(value, x.dtype) for value in (layer.scale, layer.offset))
    if scale.shape.rank and keras.config.image_data_format() == "channels_first":
        scale = tf.reshape(scale, [*scale.shape, *[1] * (3 - scale.shape.rank)])
    return x * scale + shift


def normalize(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """What keras.layers.Normalization computes."""
    mean, variance = layer.mean, layer.variance
    if layer.input_mean is None:
        # layer.mean is a copy of the adapted variable, which a tf.function would freeze.
        mean, variance = tf.reshape(layer.adapt_mean, mean.shape), tf.reshape(layer.adapt_variance, mean.shape)
    mean, variance = tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
    deviation = tf.maximum(tf.sqrt(variance), tf.constant(keras.config.epsilon(), x.dtype))
    return mean + x * deviation if layer.invert else (x - mean) / deviation

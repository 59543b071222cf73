"""Max pooling of every kind: windows, whole maps, adaptive, along axes. Averages are sums and live in sums.py."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.linear import channels_first, each
from lrp_tf.core.protocol import Propagate, Propagator, ZeroInput
from lrp_tf.flows.base import Flow, Interval, Kept, lookup
from lrp_tf.flows.sums import Share


def _to_last(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [0, *range(2, x.shape.rank), 1])


def _to_first(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [0, x.shape.rank - 1, *range(1, x.shape.rank - 1)])


class WinnerTakesAll(Flow):
    """Max pooling: R goes to the first maximum of each window, in row-major order."""

    at_zero = ZeroInput.MOVES

    def backward(self, step: Step, saved: Kept) -> Propagate:
        (x,), (y,) = saved
        op, rank = step.op, x.shape.rank - 2
        sizes = each(op.pool_size, rank)
        strides = sizes if op.strides is None else each(op.strides, rank)
        first = channels_first(op)
        shape = x.shape[2:] if first else x.shape[1:-1]
        tiled = all(a is not None and a % b == 0 for a, b in zip(shape, sizes, strict=True))
        shared = step.marks.savings and tiled and sizes == strides
        return _Windows(x, y, sizes, strides, op.padding.upper(), first, shared)

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return intervals[0]

    def average(self, step: Step) -> Callable[[tf.Tensor], tf.Tensor]:
        """Average pooling of the same windows."""
        op = step.op
        rank = len(step.inputs[0].shape) - 1
        sizes = each(op.pool_size, rank)
        strides = sizes if op.strides is None else each(op.strides, rank)

        def pool(x: tf.Tensor) -> tf.Tensor:
            x = _to_last(x) if channels_first(op) else x
            x = tf.nn.avg_pool(x, sizes, strides, op.padding.upper())
            return _to_first(x) if channels_first(op) else x

        return pool


@dataclasses.dataclass(frozen=True)
class _Windows(Propagator):
    """R to the first maximum of each window.

    Attributes:
        x, y: input and output of the pooling, [B, ..., C], or [B, C, ...] with `channels_first`.
        shared: the windows tile x, so that several targets can share the winners.
    """

    x: tf.Tensor
    y: tf.Tensor
    sizes: list[int]
    strides: list[int]
    padding: str
    channels_first: bool
    shared: bool

    def precompute(self) -> None:
        if self.shared:
            self._winners  # noqa: B018

    def __call__(self, relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
        (r,) = relevances
        if "_winners" not in vars(self):
            return [self._routed(r)]
        for axis, size in enumerate(self.sizes, start=2 if self.channels_first else 1):
            r = tf.repeat(r, size, axis)
        return [r * self._winners]

    @functools.cached_property
    def _winners(self) -> tf.Tensor:
        """1 at the first maximum of each window, else 0. Shape of x."""
        return self._routed(tf.ones_like(self.y))

    def _routed(self, r: tf.Tensor) -> tf.Tensor:
        windows = self.sizes, self.strides, self.padding
        if not self.channels_first:
            return _max_pool_grad(self.x, self.y, r, *windows)
        return _to_first(_max_pool_grad(_to_last(self.x), _to_last(self.y), _to_last(r), *windows))


def _max_pool_grad(x: tf.Tensor, y: tf.Tensor, r: tf.Tensor, sizes: list, strides: list, padding: str) -> tf.Tensor:
    """R at the first maximum of each window of x [B, ..., C], y and r [B, ..., C] being outputs."""
    if len(sizes) == 3:
        # First the maximum of each slice, then of slices: TensorFlow's own 3-D gradient goes to all equal maxima.
        shape, out = tf.shape(x), tf.shape(y)
        slices = tf.reshape(x, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
        top = tf.nn.max_pool2d(slices, sizes[1:], strides[1:], padding)
        stack = tf.stack([shape[0], shape[1], out[2] * out[3], shape[4]])
        flat = tf.stack([shape[0], out[1], out[2] * out[3], shape[4]])
        r = _max_pool_grad_2d(
            tf.reshape(top, stack), tf.reshape(y, flat), tf.reshape(r, flat), [sizes[0], 1], [strides[0], 1], padding
        )
        r = _max_pool_grad_2d(slices, top, tf.reshape(r, tf.shape(top)), sizes[1:], strides[1:], padding)
        return tf.reshape(r, shape)
    if len(sizes) == 1:
        r = _max_pool_grad_2d(x[:, :, None], y[:, :, None], r[:, :, None], [*sizes, 1], [*strides, 1], padding)
        return r[:, :, 0]
    return _max_pool_grad_2d(x, y, r, sizes, strides, padding)


def _max_pool_grad_2d(x: tf.Tensor, y: tf.Tensor, r: tf.Tensor, sizes: list, strides: list, padding: str) -> tf.Tensor:
    x, y = tf.cast(x, r.dtype), tf.cast(y, r.dtype)  # uint8 images
    window = {"ksize": [1, *sizes, 1], "strides": [1, *strides, 1], "padding": padding}
    return tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=r, **window)


@dataclasses.dataclass(frozen=True, repr=False)
class GlobalWinnerTakesAll(Flow):
    """Maximum over axes: R goes to the first maximum, in row-major order. Global max pooling, keras.ops.max.

    `initial` of keras.ops.max is one more entry, the last one: where it wins, R is booked as "bias".

    Args:
        smallest: the minimum instead.
    """

    smallest: bool = dataclasses.field(default=False, repr=False)
    at_zero = ZeroInput.MOVES

    def backward(self, step: Step, saved: Kept) -> Propagate:
        (x,), _ = saved
        rank, axes = x.shape.rank, _axes(step)
        order = [*[i for i in range(rank) if i not in axes], *axes]
        back = np.argsort(order).tolist()
        moved = tf.transpose(x, order)
        shape = tf.shape(moved)
        flat = tf.reshape(moved, tf.concat([shape[: rank - len(axes)], [-1]], 0))
        best = tf.argmin(flat, -1) if self.smallest else tf.argmax(flat, -1)
        winner = tf.transpose(tf.reshape(tf.one_hot(best, tf.shape(flat)[-1], dtype=x.dtype), shape), back)
        kept = tf.concat([[1] if i in axes else tf.shape(x)[i : i + 1] for i in range(rank)], 0)
        won = self._won(step, flat)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            r = tf.reshape(relevances[0], kept)
            if won is None:
                return [winner * r]
            entries = tf.where(tf.reshape(won, kept), r, tf.zeros_like(r))
            if account is not None:
                account.add("bias", r - entries)
            return [winner * entries]

        return propagate

    def _won(self, step: Step, flat: tf.Tensor) -> tf.Tensor | None:
        """Where an entry, and not `initial`, gave the value; None: there is no `initial`."""
        initial = _initial(step)
        if initial is None:
            return None
        top = tf.reduce_min(flat, -1) if self.smallest else tf.reduce_max(flat, -1)
        return top <= tf.cast(initial, top.dtype) if self.smallest else top >= tf.cast(initial, top.dtype)

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        ((low, high),) = intervals
        if (initial := _initial(step)) is None:
            return low, high
        choose = min if self.smallest else max
        return choose(low, initial), choose(high, initial)

    def average(self, step: Step) -> Callable[[tf.Tensor], tf.Tensor]:
        """The mean over the same axes."""
        axes = _axes(step)
        return lambda x: tf.reduce_mean(x, axes, keepdims=step.op.keepdims)


def _initial(step: Step) -> float | None:
    """`initial` of keras.ops.max, which counts as one more entry; or None."""
    initial = getattr(step.op, "initial", None)
    return None if initial is None else float(initial)


def _axes(step: Step) -> list[int]:
    """The axes that a global pooling or reduction takes together; ascending."""
    rank = len(step.inputs[0].shape) + 1
    if isinstance(step.kind, str):
        axis = step.op.axis
        axes = range(rank) if axis is None else each(axis, 1)
        return sorted(a % rank for a in axes)
    return list(range(2, rank)) if channels_first(step.op) else list(range(1, rank - 1))


class AdaptiveWinnerTakesAll(Flow):
    """Adaptive max pooling: R goes to the first maximum of each window, in row-major order."""

    def backward(self, step: Step, saved: Kept) -> Propagate:
        (x,), _ = saved
        op, rank = step.op, x.shape.rank - 2
        first = channels_first(op)
        axes = range(2, rank + 2) if first else range(1, rank + 1)
        # Axis by axis from the last one: of equal maxima, the first in row-major order remains.
        stages = []
        for axis, size in reversed(list(zip(axes, each(op.output_size, rank), strict=True))):
            x, found = _adaptive_max(x, axis, size)
            stages.append((axis, found))

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor]:
            (r,) = relevances
            for axis, (index, size) in reversed(stages):
                winner = tf.one_hot(index, size, dtype=r.dtype)  # [..., windows, entries]
                moved = tf.einsum("...w,...we->...e", _axis_last(r, axis), winner)
                r = _axis_back(moved, axis)
            return [r]

        return propagate

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        return intervals[0]

    def average(self, step: Step) -> Callable[[tf.Tensor], tf.Tensor]:
        """Average pooling of the same windows."""
        op = step.op
        return lambda x: keras.ops.adaptive_average_pool(x, op.output_size, op.data_format)


def _axis_last(x: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.transpose(x, [*[i for i in range(x.shape.rank) if i != axis], axis])


def _axis_back(x: tf.Tensor, axis: int) -> tf.Tensor:
    rank = x.shape.rank
    return tf.transpose(x, [*range(axis), rank - 1, *range(axis, rank - 1)])


def _adaptive_max(x: tf.Tensor, axis: int, windows: int) -> tuple[tf.Tensor, tuple[tf.Tensor, int]]:
    """The maximum of each window along one axis, and its position there."""
    size = x.shape[axis]
    starts = np.array([math.floor(i * size / windows) for i in range(windows)])
    ends = np.array([math.ceil((i + 1) * size / windows) for i in range(windows)])
    # Shorter windows repeat their last entry. It comes after the original, so it is never the first maximum.
    entries = np.minimum(starts[:, None] + np.arange((ends - starts).max())[None, :], ends[:, None] - 1)
    gathered = tf.gather(_axis_last(x, axis), entries, axis=-1)  # [..., windows, entries of one]
    place = tf.argmax(gathered, -1, output_type=tf.int32)
    index = place + tf.constant(starts, tf.int32)
    return _axis_back(tf.reduce_max(gathered, -1), axis), (index, size)


MAXIMA = (WinnerTakesAll, GlobalWinnerTakesAll, AdaptiveWinnerTakesAll)


class MaxAsAverage(Share):
    """Max pooling propagated as average pooling of the same windows.

        composites.Composite([(composites.max_pooling(), flows.MaxAsAverage()),
                              (None, rules.Epsilon())])

    It is the choice of the LRP tutorial.
    """

    def linear_map(self, step: Step, inputs: list[tf.Tensor]) -> Callable[..., tf.Tensor]:
        flow = lookup(step)
        if not isinstance(flow, MAXIMA):
            raise ValueError(
                f"MaxAsAverage expects a max pooling. Received: {step.path!r} ({step.operation}). Remedy: give this "
                "step another flow."
            )
        return flow.average(step)

    def interval(self, step: Step, intervals: list[Interval]) -> Interval:
        flow = lookup(step)
        return intervals[0] if flow is None else flow.interval(step, intervals)

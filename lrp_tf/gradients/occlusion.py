"""Occlusion: how much the explained value falls when a window of the input is covered."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf import composites, flows
from lrp_tf.core.graph import Graph, Step
from lrp_tf.engine.clone import structured
from lrp_tf.engine.passes import Verdict
from lrp_tf.engine.targets import Target
from lrp_tf.explainer import Explainer
from lrp_tf.gradients.method import Method
from lrp_tf.gradients.options import Fill, at_least, chosen, filled
from lrp_tf.gradients.source import Weights, folded, repeated

Size = int | Sequence[int]
Sizes = Size | Mapping[str, Size]


class Occlusion(Method):
    """The fall of the explained value when a window is covered (Zeiler and Fergus 2014), for every window.

        R = lrp_tf.gradients.Occlusion(model, window=16, stride=8)(x)

    The fall is shared equally by the entries of its window; where windows overlap, an entry gets the mean of its
    shares. A window covers all channels. Features [B, F] are covered like a series; integers, as tokens, too. Of
    several inputs one is covered at a time. Costs a forward pass for each window, and two more; three with "keep".

    Args:
        model, output, max_batch: see `Method`. It needs no gradient: of an Explainer its clone alone is used.
        window: size of the window, a number or one for each axis; for several inputs also such a size for each, by the
            names of the inputs: {"photo": (16, 16), "table": 1}. So is `stride`.
        stride: from window to window, at most `window`; None: `window`, so that none overlap. The last window of an
            axis ends where the input does.
        fill: what covers, as the baseline of `IntegratedGradients`: a number, an array or a function of the batch.
        mode: "mask": the value falls from that of x to that of x with the window covered; or "keep": it rises from that
            of an input that is covered everywhere to that of the same with the window of x alone.
        chunk: at most this many inputs run at once, windows times samples; one window of the whole batch at least.

    Raises:
        ValueError: a window larger than the input or smaller than 1, a stride that leaves gaps, an unknown mode.
    """

    _needs_gradient = False

    def __init__(
        self,
        model: keras.Model | Explainer,
        *,
        window: Sizes = 8,
        stride: Sizes | None = None,
        fill: Fill = 0.0,
        mode: str = "mask",
        chunk: int = 32,
        output: int | str | None = None,
        max_batch: int | None = None,
    ) -> None:
        if not isinstance(model, Explainer):
            entries = [(looks_up, flows.Lookup()), *composites.get("gradient").entries]  # tokens count as inputs
            model, output = Explainer(model, composites.Composite(entries, "gradient"), output=output), None
        super().__init__(model, output=output, max_batch=max_batch)
        self.start = "one"  # the value itself falls
        self.window, self.stride, self.fill = window, window if stride is None else stride, fill
        self.mode, self.chunk = chosen(mode, ("mask", "keep"), "mode"), at_least(1, chunk, "chunk")
        self._options = {"window": window, "stride": stride, "fill": fill, "mode": mode, "chunk": chunk}
        for position, ref in enumerate(self.graph.inputs):
            axes = positions(self.graph, len(ref.shape))
            _windows([ref.shape[axis - 1] for axis in axes], *self._sizes(position, len(axes)))

    def _sizes(self, position: int, count: int) -> tuple[list[int], list[int]]:
        """Window and stride of an input with so many axes of positions."""
        names = self.graph.input_names
        pairs = (("window", self.window), ("stride", self.stride))
        window, stride = (_each(_of_input(sizes, names, position, name), count, name) for name, sizes in pairs)
        return window, stride

    def structured(self, found: Sequence[tf.Tensor | None]) -> Any:
        """Of every input, whether or not a gradient reaches it."""
        return structured(self.graph, self.graph.inputs, found)

    def beside(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        return filled(self.graph, self.fill, inputs, "fill")

    def explained(self, inputs: list[tf.Tensor], wanted: Target, beside: list[tf.Tensor]) -> list[tf.Tensor]:
        weights = self.source.weights(inputs, wanted)
        if weights.times_output:  # a constant weight of each output, as for every other point
            weights = self._scaled(inputs, weights)
        return [self._of_input(position, inputs, weights, beside) for position in range(len(inputs))]

    def _scaled(self, inputs: list[tf.Tensor], weights: Weights) -> Weights:
        def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, Verdict]:
            forward = self.source.clone.forward(tensors[:-1])
            z = self.source.clone.output(forward)
            found = tensors[-1] * (z[:, None] if weights.several else z)
            return found, self.source.verdict(list(tensors[:-1]), forward, [found])

        more = [(weights.values, weights.spec(self.graph))]
        found = self.source.run(("scaled", weights.several), run, inputs, more, weights)
        return Weights(found, weights.several, False)

    def _of_input(
        self, position: int, inputs: list[tf.Tensor], weights: Weights, beside: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        x = inputs[position]
        axes = positions(self.graph, x.shape.rank - 1)
        sizes = [x.shape[axis] for axis in axes]
        if None in sizes:
            raise ValueError(f"Occlusion needs samples whose shape is known. Received: {tuple(x.shape)}")
        window, stride = self._sizes(position, len(axes))
        starts = tf.constant(_windows(sizes, window, stride), tf.int32)
        reference = self._value(inputs, weights)
        if self.mode == "keep":
            covered = [b if i == position else t for i, (t, b) in enumerate(zip(inputs, beside, strict=True))]
            reference = self._value(covered, weights)

        def run(*tensors: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Verdict]:
            flat, (values, known, fill, some) = list(tensors[: len(inputs)]), tensors[len(inputs) :]
            masks = _masks(some, window, axes, tf.shape(flat[position]))  # [d, 1, ...], True in the window
            kept = masks if self.mode == "keep" else ~masks
            points = [tf.repeat(t[None], tf.shape(some)[0], axis=0) for t in flat]
            points[position] = tf.where(kept, flat[position], fill)
            batch = [folded(p, t) for p, t in zip(points, flat, strict=True)]
            times = tf.shape(some)[0]
            found, verdict = self.source.value(batch, repeated(values, times), weights.several)
            found = tf.reshape(found, tf.concat([tf.shape(some)[:1], tf.shape(known)], 0))
            change = found - known if self.mode == "keep" else known - found  # [d, B] or [d, B, k]
            shape = tf.concat([tf.shape(change), tf.ones([x.shape.rank - 1], tf.int32)], 0)
            inside = tf.cast(masks, change.dtype)
            inside = inside[:, :, None] if weights.several else inside
            shares = inside / tf.reduce_sum(inside, list(range(1, inside.shape.rank)), keepdims=True)
            total = tf.reduce_sum(tf.reshape(change, shape) * shares, 0)
            return (total, tf.reduce_sum(inside, 0)), verdict

        rest = [None] * (2 if weights.several else 1)
        more = [(weights.values, weights.spec(self.graph)), (reference, tf.TensorSpec(rest, reference.dtype))]
        more += [(beside[position], tf.TensorSpec([None, *x.shape[1:]], x.dtype))]
        spec, parts = tf.TensorSpec([None, len(axes)], tf.int32), None
        at_once = 1 if x.shape[0] is None else max(1, self.chunk // x.shape[0])
        for first in range(0, starts.shape[0], at_once):
            some = (starts[first : first + at_once], spec)
            key = (position, weights.several, tuple(x.shape[1:]))
            part = self.source.run(key, run, inputs, [*more, some], weights)
            parts = part if parts is None else [a + b for a, b in zip(parts, part, strict=True)]
        assert parts is not None  # there is a window at least
        return parts[0] / parts[1]

    def _value(self, inputs: list[tf.Tensor], weights: Weights) -> tf.Tensor:
        def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, Verdict]:
            return self.source.value(list(tensors[:-1]), tensors[-1], weights.several)

        more = [(weights.values, weights.spec(self.graph))]
        return self.source.run(("value", weights.several), run, inputs, more, weights)


def looks_up(step: Step) -> bool:
    """Whether a step is an Embedding."""
    return isinstance(step.op, keras.layers.Embedding)


def channels_first(graph: Graph) -> bool:
    """Whether the model's images have their channels on the first axis, as its first layer that says so has them."""
    for step in graph.steps:
        if (found := getattr(step.op, "data_format", None)) is not None:
            return found == "channels_first"
    return False


def positions(graph: Graph, rank: int) -> list[int]:
    """The axes of an input that positions lie on: all but those of samples and channels.

    Args:
        rank: of a sample. One of rank 1 holds features or tokens, which are positions themselves.
    """
    axes = list(range(1, rank + 1))
    return axes if rank <= 1 else axes[1:] if channels_first(graph) else axes[:-1]


def _of_input(sizes: Sizes, names: list[str], position: int, name: str) -> Size:
    if not isinstance(sizes, Mapping):
        return sizes
    if set(sizes) != set(names):
        raise ValueError(f"{name} expects a size for each input, {', '.join(names)}. Received: {sizes!r}")
    return sizes[names[position]]


def _each(size: Size, count: int, name: str) -> list[int]:
    found = [size] * count if isinstance(size, (int, np.integer)) else list(size)
    if len(found) != count:
        raise ValueError(f"{name} expects a number or {count}, one for each axis. Received: {size!r}")
    return [int(at_least(1, one, name)) for one in found]


def _windows(sizes: Sequence[int | None], window: list[int], stride: list[int]) -> list[tuple[int, ...]]:
    """Where the windows start, for each axis. A size that is not known yet is not checked."""
    if not all(step <= width for step, width in zip(stride, window, strict=True)):
        raise ValueError(
            f"stride leaves gaps that no window covers. Expected: at most the window, {tuple(window)}. "
            f"Received: {tuple(stride)}"
        )
    if any(size is not None and width > size for size, width in zip(sizes, window, strict=True)):
        raise ValueError(
            f"window is larger than the input. Expected: at most {tuple(sizes)}. Received: {tuple(window)}. Remedy for "
            "several inputs: a size for each, by name"
        )
    rows = []
    for size, width, step in zip(sizes, window, stride, strict=True):
        last = (size or width) - width
        rows.append([*range(0, last, step), last])
    return list(itertools.product(*rows))


def _masks(starts: tf.Tensor, window: list[int], axes: list[int], shape: tf.Tensor) -> tf.Tensor:
    """True in each window, [d, 1, ...]: it broadcasts to [d, B, ...], of whole shape along the axes of samples."""
    rank = shape.shape[0]
    found = tf.ones([tf.shape(starts)[0], 1, *[shape[i] for i in range(1, rank)]], tf.bool)
    for column, (axis, width) in enumerate(zip(axes, window, strict=True)):
        places = tf.reshape(tf.range(shape[axis]), [-1 if i == axis + 1 else 1 for i in range(rank + 1)])
        start = tf.reshape(starts[:, column], [-1] + [1] * rank)
        found &= (places >= start) & (places < start + width)
    return found

"""The kernel of a linear step: read once, with BatchNormalization folded in and padding absorbed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from lrp_tf.core import linear
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import vjp

# If the kernel has more than this many entries per output value, scale the output, not the kernel.
_ENTRIES_PER_OUTPUT = 4


def present(bias: tf.Tensor | float) -> bool:
    """Whether there is a bias: the number 0.0 means none."""
    return not isinstance(bias, float)


class LinearMap:
    """The bias-free map of a step, at any input and any kernel: absorbed padding, then the layer."""

    def __init__(self, step: Step) -> None:
        self.layer, self.entry = step.op, step.entry
        self.padding = [layer for layer in step.before if linear.lookup(layer) is None]

    def forward(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """z at the input x and the kernel w."""
        for layer in self.padding:
            x = layer.call(x)
        return self.entry.forward(self.layer, x, w)

    def transpose(self, x: tf.Tensor, w: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
        """The transpose of x -> forward(x, w), applied to g in the shape of z. In the shape of x."""
        return vjp(lambda x: self.forward(x, w), [x], g)[0]

    def closed_transpose(self, x: tf.Tensor, w: tf.Tensor, g: tf.Tensor, size: tf.Tensor) -> tf.Tensor | None:
        """The same by one operation, without a forward pass to trace, where the layer knows it; else None.

        Args:
            size: the shape of x as a tensor.
        """
        if self.entry.transpose is None or self.padding:
            return None
        whole = x.shape[self.entry.channel_axis(self.layer)] == w.shape[-2]  # not in groups
        return self.entry.transpose(self.layer, g, w, size) if whole else None


class FoldedKernel:
    """The kernel and bias of a step, with the BatchNormalization layers that were folded into it.

    Attributes:
        raw: the layer's own kernel. w: with all that is folded in.
        bias: what the forward pass adds, broadcasting to z, or 0.0.
        output_scale: what BatchNormalization scales the outputs of `raw` by, where that is cheaper than scaling the
            kernel; else None.
    """

    def __init__(
        self,
        step: Step,
        linear_map: LinearMap,
        x: tf.Tensor,
        kernel: tf.Tensor | None,
        addend: tf.Tensor | None,
        fold_no_earlier_than: Sequence[tf.Tensor],
    ) -> None:
        self._map, self._x, self._rank = linear_map, x, len(step.outputs[0].shape) + 1
        self._no_earlier_than = fold_no_earlier_than
        self._folds: list[tuple[Callable[..., tf.Tensor], tf.Tensor]] = []
        w, b = self._read(step.op) if kernel is None else (tf.cast(kernel, x.dtype), 0.0)
        self.raw = w
        if addend is not None:
            b = b + tf.cast(addend, x.dtype)
        self.output_scale: tf.Tensor | None = None
        for layer in step.after:
            w, b = self._fold_behind(layer, w, b)
        for layer in step.before:
            if linear.lookup(layer) is not None:
                w, b = self._fold_ahead(layer, w, b)
        self.bias = b
        outputs = math.prod(size or math.inf for size in step.outputs[0].shape)
        if not step.marks.savings or (w.shape.num_elements() or 0) <= _ENTRIES_PER_OUTPUT * outputs:
            self.output_scale = None
        self._first = w

    @functools.cached_property
    def w(self) -> tf.Tensor:
        """The kernel, folded anew for the backward pass: kept since the forward pass it is a copy of the model."""
        w = self.raw
        for scale, factors in self._folds:
            w = scale(self._map.layer, w, factors)
        return w

    def run(self, x: tf.Tensor) -> tf.Tensor:
        """z of the forward pass, without the bias."""
        if self.output_scale is None:
            return self._map.forward(x, self._first)
        return self._map.forward(x, self.raw) * self.output_scale

    def _fold_behind(self, norm: keras.Layer, w: tf.Tensor, b: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
        """linear -> BatchNormalization: a (x w + b) + c = x (a w) + (a b + c)."""
        scale, shift = self._read(norm, flat=True)
        along, shift = self._along_channels(scale), self._along_channels(shift)
        self.output_scale = along if self.output_scale is None else self.output_scale * along
        return self._fold(self._map.entry.scale_outputs, w, scale), b * along + shift if present(b) else shift

    def _fold_ahead(self, norm: keras.Layer, w: tf.Tensor, b: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
        """BatchNormalization -> linear: A(a x + c) = A_a(x) + A(c); A(c) is a map, less at a padded border."""
        scale, shift = self._read(norm, flat=True)
        entry = linear.lookup(norm)
        assert entry is not None
        axis = entry.channel_axis(norm)
        shift_map = linear.along(shift, axis, self._x.shape.rank) * one_sample(self._x)
        self.output_scale = None
        return self._fold(self._map.entry.scale_inputs, w, scale), b + self._map.forward(shift_map, w)

    def _fold(self, scale: Callable[..., tf.Tensor] | None, w: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
        assert scale is not None  # canonization folds only where there is one
        self._folds.append((scale, factors))
        with tf.control_dependencies(self._no_earlier_than):
            return scale(self._map.layer, w, factors)

    def _read(self, layer: keras.Layer, flat: bool = False) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Kernel and bias of a layer; a bias of shape [C] broadcasts to z unless `flat`."""
        entry = linear.lookup(layer)
        assert entry is not None
        assert entry.kernel is not None
        w = self._read_once(entry.kernel(layer))
        b = entry.bias(layer) if entry.bias_given is None else entry.bias_given(layer, w)
        if b is None:
            return w, 0.0
        b = self._read_once(b)
        return w, self._along_channels(b) if b.shape.rank == 1 and not flat else b

    def _along_channels(self, values: tf.Tensor) -> tf.Tensor:
        """Values [C] so that they broadcast to z; as they are where channels lie on the last axis."""
        axis = self._map.entry.channel_axis(self._map.layer)
        return values if axis % self._rank == self._rank - 1 else linear.along(values, axis, self._rank)

    def _read_once(self, value: tf.Tensor | keras.Variable) -> tf.Tensor:
        # TensorFlow does not deduplicate a kernel that the backward pass reads again.
        return tf.cast(tf.convert_to_tensor(value), self._x.dtype)


def one_sample(x: tf.Tensor) -> tf.Tensor:
    """A single sample of ones in the shape of x: [1, ...]."""
    dynamic = tf.shape(x)
    sizes = [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]
    return tf.ones([1, *sizes[1:]], x.dtype)

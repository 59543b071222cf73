"""What a rule sees of one linear step: its input, kernel and bias, sums of contributions and their transposes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import negative, positive, shape_of
from lrp_tf.core.protocol import Saved
from lrp_tf.rules.kernels import FoldedKernel, LinearMap, one_sample, present
from lrp_tf.rules.side_by_side import side_by_side
from lrp_tf.rules.terms import Pair


class Operator(Saved):
    """One linear step in one call: z = forward(x, w) + b, padding and folded BatchNormalization included.

    Attributes:
        x: input, [B, ...]. `positive` and `negative` are max(x, 0) and min(x, 0); None is a part known to be empty.
        w: kernel. `w_positive` and `w_negative` are its parts.
        b: bias that broadcasts to z, or the number 0.0; with `zero_bias` it is 0.0.
        bias: what the forward pass adds, whatever the rule.
        z: forward(x, w), without the bias. output: with `bias`.
        marks: what savings know of the step.
        positive_only: relevance arrives only where the denominator z + b is above 0.
        rectified: relu(output) if `positive_only`, else None.
    """

    def __init__(
        self,
        step: Step,
        x: tf.Tensor,
        *,
        zero_bias: bool = False,
        kernel: tf.Tensor | None = None,
        addend: tf.Tensor | None = None,
        fold_no_earlier_than: Sequence[tf.Tensor] = (),
    ) -> None:
        self.layer, self.entry, self.x = step.op, step.entry, x
        self._map = LinearMap(step)
        self.kernel = FoldedKernel(step, self._map, x, kernel, addend, fold_no_earlier_than)
        self.bias = self.kernel.bias
        self.z = self.kernel.run(x)
        self.output = _added(self.z, self.bias)
        self._explained: tf.Tensor | None = None
        self._sums: dict[tuple[int, ...], tuple[list[Pair], tf.Tensor]] | None = None
        self._read_by(step, zero_bias)

    def _read_by(self, step: Step, zero_bias: bool) -> None:
        """What depends on the rule that reads it, and on what is known of the step under this rule."""
        self.marks, self.nonnegative = step.marks, step.marks.nonnegative
        self.b = 0.0 if zero_bias else self.bias
        self.positive_only = step.marks.positive_only and not (zero_bias and present(self.bias))
        self.rectified = tf.nn.relu(self.output) if self.positive_only else None
        self._halves: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}

    @property
    def shares_sums(self) -> bool:
        """Whether several rules read this operator, so that a sum which does not depend on their numbers pays."""
        return self._sums is not None and not self.marks.bfloat16_sums

    def share_sums(self) -> None:
        """Compute each sum over the same pairs once from now on, also in copies that `read_by` makes."""
        self._sums = {}
        # Sums are the same if their tensors are: the copies take these along.
        self.positive, self.negative, self.w_positive, self.w_negative  # noqa: B018

    def read_by(self, step: Step, *, zero_bias: bool) -> Operator:
        """The same operator as another rule reads it, which may know other things of the step."""
        found = copy.copy(self)
        if step.marks.nonnegative != self.nonnegative:
            for part in ("positive", "negative"):
                vars(found).pop(part, None)
        found._read_by(step, zero_bias)
        return found

    def with_output(self, output: tf.Tensor) -> Operator:
        """The same operator with an output that was recomputed: the forward pass need not keep its own."""
        found = copy.copy(self)
        found.output = output
        found.z = output - self.bias if present(self.bias) else output
        return found

    def as_part(
        self, bias: tf.Tensor | float, b: tf.Tensor | float, output: tf.Tensor, explained: tf.Tensor
    ) -> Operator:
        """The same operator as one of several whose outputs add up: all but `z` of its output is that of the sum."""
        found = copy.copy(self)
        found.bias, found.b, found.output, found._explained = bias, b, output, explained
        return found

    # --- parts ---------------------------------------------------------------------------------

    @property
    def w(self) -> tf.Tensor:
        return self.kernel.w

    @functools.cached_property
    def positive(self) -> tf.Tensor:
        return self.x if self.nonnegative else positive(self.x)

    @functools.cached_property
    def negative(self) -> tf.Tensor | None:
        return None if self.nonnegative else negative(self.x)

    @functools.cached_property
    def w_positive(self) -> tf.Tensor:
        # As relu(w), but -Inf does not become 0: whatever is wrong with a kernel then shows in the relevance.
        return tf.nn.leaky_relu(self.w, alpha=0.0)

    @functools.cached_property
    def w_negative(self) -> tf.Tensor:
        return negative(self.w)

    @property
    def explained(self) -> tf.Tensor:
        """z + b, with the bias as far as the rule counts it."""
        if self._explained is not None:
            return self._explained
        return self.output if self.b is self.bias else self.z

    # --- sums and shares -----------------------------------------------------------------------

    def forward(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The bias-free map at another input or kernel."""
        return self._map.forward(x, w)

    def transpose(self, g: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The transpose of x -> forward(x, w), applied to g (shape of z). Shape of x."""
        if w is self.w and self.kernel.output_scale is not None:
            g, w = g * self.kernel.output_scale, self.kernel.raw
        if not self.marks.bfloat16_shares:
            return self.transpose_at(self.x, g, w)
        return tf.cast(self.transpose_at(self.x, tf.cast(g, tf.bfloat16), self._half(w)), self.x.dtype)

    def transpose_at(self, x: tf.Tensor, g: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The same in the shape of another x, computed in the dtype of g and w."""
        size = self._size if x is self.x else tf.shape(x)
        found = self._map.closed_transpose(x, w, g, size) if self.marks.savings else None
        return self._map.transpose(tf.cast(x, w.dtype), w, g) if found is None else found

    @functools.cached_property
    def _size(self) -> tf.Tensor:
        return shape_of(self.x)

    def halve(self, kernels: Iterable[tf.Tensor]) -> None:
        """Cast kernels to bfloat16 where the step computes in it, once for denominators, shares and all targets."""
        if not self.marks.bfloat16_shares:
            return
        for w in kernels:
            if w is self.w and self.kernel.output_scale is not None:
                w = self.kernel.raw
            self._halves[id(w)] = w, tf.cast(w, tf.bfloat16)

    def _half(self, w: tf.Tensor) -> tf.Tensor:
        return self._halves[id(w)][1] if id(w) in self._halves else tf.cast(w, tf.bfloat16)

    def sum(self, pairs: list[Pair], addend: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Sum over pairs of forward(x', w'), and the addend, in the shape of z. z itself is never summed anew."""
        if not self.shares_sums:
            return self._sum(pairs, addend)
        assert self._sums is not None
        key = tuple(id(part) for pair in pairs for part in pair)
        if key not in self._sums:  # with the tensors, so that no other one gets their ids
            self._sums[key] = pairs, self._sum(pairs, 0.0)
        return _added(self._sums[key][1], addend)

    def _sum(self, pairs: list[Pair], addend: tf.Tensor | float) -> tf.Tensor:
        pairs, total = self._together(pairs)[0], None
        for x, w in pairs:
            if x is self.x and w is self.w:
                z = self.z
            elif not self.marks.bfloat16_sums:
                z = self.forward(self._filled(x), w)
            else:
                z = self.forward(tf.cast(self._filled(x), tf.bfloat16), self._half(w))
                if len(pairs) == 1 and present(addend):  # TensorFlow adds it together with the convolution
                    z, addend = _added(z, tf.cast(addend, tf.bfloat16)), 0.0
                z = tf.cast(z, self.x.dtype)
            total = z if total is None else total + z
        total = tf.zeros_like(self.z) if total is None else total
        return _added(total, addend)

    def total(self, pairs: list[Pair], bias: tf.Tensor | float) -> tf.Tensor:
        """The sum and the bias; where the forward pass has computed just that, its output."""
        same_bias = bias is self.bias or not (present(bias) or present(self.bias))
        if (
            self._explained is None
            and same_bias
            and len(pairs) == 1
            and pairs[0][0] is self.x
            and pairs[0][1] is self.w
        ):
            return self.output
        return self.sum(pairs, bias)

    def share(self, pairs: list[Pair], g: tf.Tensor) -> tf.Tensor:
        """Sum over pairs of x' transpose(g, w'), in the shape of x."""
        total = None
        pairs, parts = self._together(pairs)
        for x, w in pairs:
            part = self.transpose_at(x, g, w) if parts > 1 else self.transpose(g, w)
            part = part if isinstance(x, float) else x * part
            total = part if total is None else total + part
        if total is None:
            return tf.zeros_like(self.x)
        return tf.add_n(tf.split(total, parts, self.channels)) if parts > 1 else total

    def _together(self, pairs: list[Pair]) -> tuple[list[Pair], int]:
        """The pairs that are not empty; where it pays as one, and how many that one holds."""
        pairs = [(x, w) for x, w in pairs if x is not None]
        return side_by_side(self.x, pairs, self.channels) if self.marks.savings and self.mixes else (pairs, 1)

    # --- shapes --------------------------------------------------------------------------------

    @property
    def mixes(self) -> bool:
        """Whether every input channel meets every output channel: w is [..., C, F]."""
        return self.entry.mixes and self.x.shape[self.channels] == self.kernel.raw.shape[-2]

    @property
    def channels(self) -> int:
        """The axis of x and z that channels lie on."""
        return self.entry.channel_axis(self.layer)

    def ones(self) -> tf.Tensor:
        """A single sample of ones in the shape of x: [1, ...]."""
        return one_sample(self.x)

    def _filled(self, x: tf.Tensor | float) -> tf.Tensor:
        return self.ones() if isinstance(x, float) else x


def _added(z: tf.Tensor, bias: tf.Tensor | float) -> tf.Tensor:
    """z + bias; 0.0 is none."""
    if isinstance(bias, float):
        return z
    if bias.shape.rank == 1 < z.shape.rank and bias.shape[0] == z.shape[-1]:
        return tf.nn.bias_add(z, bias)  # which TensorFlow fuses with the convolution
    return z + bias

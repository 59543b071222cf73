"""What a rule sees of one linear step: its input, kernel and bias, sums of contributions and their transposes."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.core import linear
from lrp_tf.core.numerics import Relative, negative, offset, positive, vjp

# From so many summands on, z+ is derived as z - z-. With fewer a convolution is cheap, and the books close better.
_MANY = 512
# Channels up to which contributions are put side by side and summed by one convolution: copies of more cost more.
_FEW = 16
# Entries of the kernel for each of a sample's output from which on BatchNormalization scales the output instead.
_HEAVY = 4

_folded_after: contextvars.ContextVar[Sequence[tf.Tensor]] = contextvars.ContextVar("folded_after", default=())

Pair = tuple[Any, tf.Tensor]  # x', w'


@contextlib.contextmanager
def folded_after(tensors: Sequence[tf.Tensor]) -> Iterator[None]:
    """Kernels are folded once these tensors are there: TensorFlow would fold those of the whole model at once."""
    token = _folded_after.set(tensors)
    try:
        yield
    finally:
        _folded_after.reset(token)


class Operator:
    """One linear step in one call: z = forward(x, w) + b, padding and folded BatchNormalization included.

    Attributes:
        x: input, [B, ...]. `positive` and `negative` are its parts; a part known to be empty is None.
        large: denominators are computed one after the other, not at once.
        quiet: relevance arrives only where z + b is above 0.
        w: kernel. b: bias that broadcasts to z, or 0.0.
        z: forward(x, w), without the bias.
    """

    def __init__(
        self, step: Any, x: tf.Tensor, *, zero_bias: bool = False, kernel: Any = None, addend: Any = None
    ) -> None:
        self.layer, self.entry, self.x, self.nonnegative = step.op, step.linear, x, step.nonnegative
        self.large = step.large
        self._is_fast = step.fast
        self._rank = len(step.outputs[0].shape) + 1  # of z
        self._padding = [layer for layer in step.before if linear.lookup(layer) is None]
        w, b = self._read(step.op) if kernel is None else (tf.cast(kernel, x.dtype), 0.0)
        self._raw, self._folds = w, []
        self._gain = None  # what BatchNormalization scales outputs by, where that is cheaper than to scale the kernel
        if addend is not None:
            b = b + tf.cast(addend, x.dtype)
        for layer in step.after:
            scale, shift = self._read(layer, flat=True)
            w = self._fold(self.entry.scale_outputs, w, scale)
            axis = self.entry.channel_axis(step.op)
            gain = linear.along(scale, axis, self._rank)
            shift = linear.along(shift, axis, self._rank)
            b = b * gain + shift if present(b) else shift
            self._gain = gain if self._gain is None else self._gain * gain
        for layer in step.before:
            if linear.lookup(layer) is not None:
                # A(a x + c) = A_a(x) + A(c): exact with zero padding too, A(c) is then a map.
                scale, shift = self._read(layer, flat=True)
                axis = linear.lookup(layer).channel_axis(layer)
                b = b + self.forward(linear.along(shift, axis, x.shape.rank) * self.ones(), w)
                w = self._fold(self.entry.scale_inputs, w, scale)
                self._gain = None
        self.bias = b  # what the forward pass adds
        self.b = 0.0 if zero_bias else b
        outputs = math.prod(size or math.inf for size in step.outputs[0].shape)
        if self._gain is not None and (w.shape.num_elements() or 0) <= _HEAVY * outputs:
            self._gain = None
        self.z = self.forward(x, w) if self._gain is None else self.forward(x, self._raw) * self._gain
        self.output = self._with_bias(self.z)
        self.quiet = step.quiet and not (zero_bias and present(b))
        # The activation takes it for its own, see `clone`.
        self.above = tf.nn.relu(self.output) if self.quiet else None

    def _read(self, layer: Any, flat: bool = False) -> tuple[tf.Tensor, Any]:
        entry = linear.lookup(layer)
        w = self._read_once(entry.kernel(layer))
        b = entry.bias(layer) if entry.bias_given is None else entry.bias_given(layer, w)
        if b is None:
            return w, 0.0
        b = self._read_once(b)
        if b.shape.rank == 1 and not flat:
            b = linear.along(b, entry.channel_axis(layer), self._rank)
        return w, b

    def _read_once(self, value: Any) -> tf.Tensor:
        # identity reads a variable once and for all: a kernel re-read in the backward pass is not deduplicated.
        return tf.cast(value if isinstance(value, tf.Tensor) else tf.identity(value), self.x.dtype)

    @functools.cached_property
    def _size(self) -> tf.Tensor:
        return tf.shape(self.x)

    def _with_bias(self, z: tf.Tensor) -> tf.Tensor:
        b = self.bias
        if not present(b):
            return z
        if b.shape.rank == z.shape.rank and b.shape.num_elements() == b.shape[-1] == z.shape[-1]:
            return tf.nn.bias_add(z, tf.reshape(b, [-1]))  # TensorFlow then surely fuses it with what it can
        return z + b

    def _fold(self, scale: Callable[..., tf.Tensor], w: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
        self._folds.append((scale, factors))
        with tf.control_dependencies(_folded_after.get()):
            return scale(self.layer, w, factors)

    @functools.cached_property
    def w(self) -> tf.Tensor:
        """The kernel, folded anew where it is asked for: kept since the forward pass it is a copy of the model."""
        w = self._raw
        for scale, factors in self._folds:
            w = scale(self.layer, w, factors)
        return w

    def given(self, output: tf.Tensor) -> Operator:
        """The same, with what `output` is found to be: the forward pass need not keep its own."""
        found = copy.copy(self)
        found.output = output
        found.z = output - self.bias if present(self.bias) else output
        return found

    @functools.cached_property
    def positive(self) -> tf.Tensor:
        return self.x if self.nonnegative else positive(self.x)

    @functools.cached_property
    def negative(self) -> tf.Tensor | None:
        return None if self.nonnegative else negative(self.x)

    @functools.cached_property
    def explained(self) -> tf.Tensor:
        """z + b (the bias as far as the rule counts it) wherever relevance arrives."""
        if self.quiet:
            return self.above
        return self.output if self.b is self.bias else self.z

    @functools.cached_property
    def total_negative(self) -> tf.Tensor:
        """z-, the sum of the negative contributions: x+ w- + x- w+ + b-."""
        total = self.sum([(self.positive, self.w_negative), (self.negative, self.w_positive)])
        return total + negative(self.b) if present(self.b) else total

    def boosted(self, gamma: float, epsilon: float) -> tf.Tensor:
        """gamma (x+ w+ + x- w- + b+) + epsilon."""
        up, down = gamma * self.w_positive, gamma * self.w_negative
        total = self.sum([(self.positive, up), (self.negative, down)])
        return total + (gamma * positive(self.b) + self.per_channel(epsilon))

    @property
    def many(self) -> bool:
        """Whether so many contributions meet that one part of them is better derived from the sum and the other."""
        return self.entry.fan_in is not None and self.entry.fan_in(self.w) >= _MANY

    @functools.cached_property
    def w_positive(self) -> tf.Tensor:
        # As relu(w), but -Inf does not become 0: whatever is wrong with a kernel then shows in the relevance.
        return tf.nn.leaky_relu(self.w, alpha=0.0)

    @functools.cached_property
    def w_negative(self) -> tf.Tensor:
        return negative(self.w)

    def forward(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The bias-free map at another input or kernel."""
        for layer in self._padding:
            x = layer.call(x)
        return self.entry.forward(self.layer, x, w)

    def transpose(self, g: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The transpose of x -> forward(x, w), applied to g (shape of z). Shape of x."""
        if w is self.w and self._gain is not None:
            g, w = g * self._gain, self._raw
        return self.transpose_at(self.x, g, w)

    def transpose_at(self, x: tf.Tensor, g: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The same in the shape of another x."""
        return self._fast(self._transposed, x, w, g)

    def _transposed(self, x: tf.Tensor, w: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
        found = None
        if self.entry.transpose is not None and not self._padding and x.shape[self.channels] == w.shape[-2]:
            found = self.entry.transpose(self.layer, g, w, self._size if x is self.x else tf.shape(x))
        return vjp(lambda x: self.forward(x, w), [x], g)[0] if found is None else found

    def _fast(self, function: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
        """`function` in bfloat16, if the caller has chosen so; never z itself."""
        if not self._is_fast:
            return function(*tensors)
        return tf.cast(function(*[tf.cast(t, tf.bfloat16) for t in tensors]), self.x.dtype)

    def sum(self, pairs: list[Pair]) -> tf.Tensor:
        """Sum over j of forward(x'_j, w'_j); an x' may be the number 1.0, or None for an empty part."""
        total = None
        for x, w in self._side_by_side(pairs)[0]:
            known = x is self.x and w is self.w
            z = self.z if known else self._fast(self.forward, self.ones() if isinstance(x, float) else x, w)
            total = z if total is None else total + z
        return tf.zeros_like(self.z) if total is None else total

    def share(self, pairs: list[Pair], g: tf.Tensor) -> tf.Tensor:
        """Sum over j of x'_j transpose(g, w'_j), in the shape of x."""
        total = None
        pairs, parts = self._side_by_side(pairs)
        for x, w in pairs:
            part = self.transpose_at(x, g, w) if parts > 1 else self.transpose(g, w)
            part = part if isinstance(x, float) else x * part
            total = part if total is None else total + part
        if total is None:
            return tf.zeros_like(self.x)
        return tf.add_n(tf.split(total, parts, self.channels)) if parts > 1 else total

    def _side_by_side(self, pairs: list[Pair]) -> tuple[list[Pair], int]:
        """Pairs as one of more input channels, where these are few: one pass over the outputs, which are many."""
        pairs = [(x, w) for x, w in pairs if x is not None]
        if len(pairs) < 2 or not self.mixes or self.x.shape[self.channels] > _FEW:
            return pairs, 1
        if any(isinstance(x, float) or x.shape.rank != self.x.shape.rank for x, _ in pairs):
            return pairs, 1
        x = tf.concat([tf.broadcast_to(x, tf.shape(self.x)) for x, _ in pairs], self.channels)
        return [(x, tf.concat([w for _, w in pairs], -2))], len(pairs)

    @property
    def mixes(self) -> bool:
        """Whether every input channel meets every output channel: w is [..., C, F]."""
        return self.entry.mixes and self.x.shape[self.channels] == self._raw.shape[-2]

    @property
    def channels(self) -> int:
        """The axis of x and z that channels lie on."""
        return self.entry.channel_axis(self.layer)

    def channel(self, x: tf.Tensor) -> tf.Tensor:
        """The first channel of x."""
        return tf.gather(x, [0], axis=self.channels)

    def per_channel(self, value: float) -> tf.Tensor:
        """`value` in the form of a bias: TensorFlow adds it together with the convolution."""
        shape = [1] * self.z.shape.rank
        shape[self.channels] = self.z.shape[self.channels] or 1
        return tf.constant(np.full(shape, value), self.z.dtype)

    def ones(self) -> tf.Tensor:
        """A single sample of ones in the shape of x: [1, ...]."""
        dynamic = tf.shape(self.x)
        sizes = [dynamic[i] if size is None else size for i, size in enumerate(self.x.shape)]
        return tf.ones([1, *sizes[1:]], self.x.dtype)


@dataclasses.dataclass(frozen=True)
class Term:
    """Contributions that share one denominator.

    Attributes:
        pairs: (x', w') each; x' is shaped like x, or broadcasts to it, or is the number 1.0, or is None for a
            part that is empty (the pair is then left out).
        bias: what joins the denominator and so absorbs its share.
        weight: factor of the term, as alpha or -beta.
        where: z -> mask of the outputs that the term explains; None: all.
        one_sided: all contributions have one sign, so that a denominator of exactly 0 means that there is
            nothing to share; the account calls it "other".
        sign: +1 or -1, which the denominator has wherever relevance arrives (wherever at all, if `one_sided`);
            0: either.
        total: gives the sum of the contributions and the bias, where it follows from what is known.
        stabilized: epsilon -> s(z), where that is cheaper to come by than by `total`; with `sign` only.
    """

    pairs: list[Pair]
    bias: Any = 0.0
    weight: float = 1.0
    where: Callable[[tf.Tensor], tf.Tensor] | None = None
    one_sided: bool = False
    sign: int = 0
    total: Callable[[], tf.Tensor] | None = None
    stabilized: Callable[[float], tf.Tensor] | None = None


class Denominator:
    """s(z) of a term, where z is the sum of its contributions and its bias. Computed when it is asked for.

    Attributes:
        stabilized: s(z) wherever relevance arrives; elsewhere any number but 0 may stand in its place.
        epsilon: what the stabiliser adds.
    """

    def __init__(self, op: Operator, term: Term, stabilizer: float | Relative) -> None:
        self._op, self._term = op, term
        self._stabilizer = stabilizer

    @property
    def _signed(self) -> bool:
        return self._term.sign != 0 and not isinstance(self._stabilizer, Relative)

    @functools.cached_property
    def epsilon(self) -> tf.Tensor:
        if not self._signed:
            return offset(self.total, self._stabilizer)
        return tf.constant(math.copysign(self._stabilizer, self._term.sign), self._op.z.dtype)

    @functools.cached_property
    def stabilized(self) -> tf.Tensor:
        op, term = self._op, self._term
        if not self._signed:
            return self.total + self.epsilon
        if term.stabilized is not None:
            return term.stabilized(self._stabilizer)
        if term.one_sided and term.total is None:
            # To the bias first, which TensorFlow adds together with the convolution.
            epsilon = op.per_channel(math.copysign(self._stabilizer, term.sign))
            return op.sum(term.pairs) + (term.bias + epsilon if present(term.bias) else epsilon)
        if term.one_sided:
            return self.total + self.epsilon
        if op.quiet and self._is_output:
            return op.above + self.epsilon
        return (positive if term.sign > 0 else negative)(self.total) + self.epsilon

    @property
    def _is_output(self) -> bool:
        pairs, op = self._term.pairs, self._op
        if len(pairs) != 1 or self._term.total is not None or pairs[0][0] is not op.x or pairs[0][1] is not op.w:
            return False
        return self._term.bias is op.bias or not (present(op.bias) or present(self._term.bias))

    @functools.cached_property
    def total(self) -> tf.Tensor:
        """z."""
        if self._is_output:
            return self._op.output
        if self._term.total is not None:
            return self._term.total()
        total = self._op.sum(self._term.pairs)
        return total + self._term.bias if present(self._term.bias) else total


def present(bias: Any) -> bool:
    """Whether there is a bias: none is the number 0.0."""
    return not isinstance(bias, float)

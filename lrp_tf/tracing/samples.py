"""Whether a step keeps the samples of a batch apart, and on which axis they lie behind it.

Relevance is that of a sample. A step in which one sample depends on another has none, so it is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from lrp_tf.core.graph import Ref, Step
from lrp_tf.tracing.probes import MixedSamplesError, places_moved_to, rank_of, try_some

# (step, the tensors among its inputs that hold samples) -> the axis of the samples behind it
Rule = Callable[[Step, list[Ref]], int]


def places_behind(step: Step, outputs: list[Any], size: int | None = None) -> list[tuple[int, int] | None]:
    """Where the samples lie in each output of a step: the axis, and how many of its entries each sample has.

    None where no input of the step holds samples.

    Args:
        outputs: the symbolic outputs.
        size: of the batch, where the model fixes it.

    Raises:
        MixedSamplesError: a sample would depend on the others.
    """
    signals = [ref for ref in step.inputs if ref.batched]
    if not signals:
        return [None] * len(outputs)
    if isinstance(step.kind, str) and step.kind.removeprefix("ops.") in _MOVES.split():
        return list(places_moved_to(step, outputs, size))
    _same(ref.each for ref in signals)
    return [(_axis_behind(step, signals, size), signals[0].each)] * len(outputs)


def _axis_behind(step: Step, signals: list[Ref], size: int | None) -> int:
    if isinstance(step.op, keras.Layer):
        return _of_layer(step, signals)
    if not isinstance(step.kind, str):  # our own
        return 0
    name = step.kind.removeprefix("ops.")
    if (rule := _RULES.get(name)) is not None:
        return rule(step, signals)
    axis = _broadcast(step.inputs)
    if name not in ELEMENTWISE and step.activation is None and axis == 0:
        try_some(step, size)
    return axis


def _numbers(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _check(axes: Any, ref: Ref) -> list[int]:
    """The axes that an operation computes over, counted from 0; None means all. Samples must not lie on one of them."""
    rank = rank_of(ref)
    found = list(range(rank)) if axes is None else [a % rank for a in _numbers(axes)]
    if ref.batched and ref.axis in found:
        raise MixedSamplesError
    return found


# --- layers ------------------------------------------------------------------------------------

_WITH_AXIS = (
    *(keras.layers.LayerNormalization, keras.layers.UnitNormalization, keras.layers.BatchNormalization),
    *(keras.layers.GroupNormalization, keras.layers.Softmax, keras.layers.Concatenate),
    *(getattr(keras.layers, name) for name in ("RMSNormalization",) if hasattr(keras.layers, name)),
)
# These do the same to every entry, wherever the samples lie.
_ANYWHERE = (
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Softmax),
    *(keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise, keras.layers.Identity),
)


def _of_layer(step: Step, signals: list[Ref]) -> int:
    layer, first = step.op, signals[0]
    if isinstance(layer, _WITH_AXIS):
        _check(layer.axis, first)
    elif isinstance(layer, keras.layers.Dot):
        axes = layer.axes if isinstance(layer.axes, (list, tuple)) else [layer.axes] * 2
        for axis, ref in zip(axes, step.inputs, strict=True):
            _check(axis, ref)
    elif isinstance(layer, keras.layers.EinsumDense):
        return _einsum(layer.equation, [first, Ref(layer.kernel.shape, layer.dtype, batched=False)])
    if first.axis and step.activation in _ALONG_LAST:
        _check(-1, first)
    if any(ref.axis for ref in signals) and not isinstance(layer, _ANYWHERE):
        raise MixedSamplesError(*_elsewhere(first.axis, "a layer takes the first axis for the batch"))
    return first.axis


def _elsewhere(axis: int, why: str) -> tuple[str, str]:
    return (
        f"gets the samples of a batch on axis {axis}, but {why}",
        "transpose, so that the samples are on the first axis again, before this step",
    )


# --- along axes --------------------------------------------------------------------------------

_ALONG_LAST = ("softmax", "log_softmax", "sparsemax")


def _along(step: Step, signals: list[Ref]) -> int:
    """Softmax, cumsum, sort and the like: entries along an axis depend on one another."""
    (ref, *others) = signals
    _check(getattr(step.op, "axis", -1), ref)
    if any(other.axis != ref.axis or rank_of(other) != rank_of(ref) for other in others):
        raise MixedSamplesError
    return ref.axis


def _reduced(step: Step, signals: list[Ref]) -> int:
    """Sum, max, norm and the like: axes are left out."""
    (ref, *others) = signals
    axes = _check(step.op.axes if hasattr(step.op, "axes") else step.op.axis, ref)
    if any(other.axis != ref.axis or rank_of(other) != rank_of(ref) for other in others):  # weights of an average
        raise MixedSamplesError
    shift = 0 if getattr(step.op, "keepdims", False) else sum(axis < ref.axis for axis in axes)
    return ref.axis - shift


def _quantile(step: Step, signals: list[Ref]) -> int:
    """Several quantiles lie on an axis of their own, ahead of all others."""
    wanted = step.args[1] if len(step.args) > 1 else step.kwargs.get("q")
    if len(signals) > 1:
        raise MixedSamplesError
    ahead = rank_of(wanted) if isinstance(wanted, Ref) else np.ndim(np.asarray(wanted))
    return _reduced(step, signals) + ahead


def _trace(step: Step, signals: list[Ref]) -> int:
    axes = _check([step.op.axis1, step.op.axis2], signals[0])
    return signals[0].axis - sum(axis < signals[0].axis for axis in axes)


def _one_hot(step: Step, signals: list[Ref]) -> int:
    inserted = step.op.axis % (rank_of(signals[0]) + 1)
    return signals[0].axis + (inserted <= signals[0].axis)


def _mixed(step: Step, signals: list[Ref]) -> int:
    raise MixedSamplesError


def _first(step: Step, signals: list[Ref]) -> int:
    """Convolutions, pooling, images: the first axis is the batch, whatever it holds."""
    ref = step.inputs[0]
    if len(signals) > 1 or not ref.batched or rank_of(ref) < _LEAST_RANK.get(str(step.kind), 3):
        raise MixedSamplesError
    if ref.axis:
        raise MixedSamplesError(*_elsewhere(ref.axis, "it takes the first axis for the batch"))
    return 0


_LEAST_RANK = {"ops.Resize": 4}  # an image alone has three axes, and nothing says that the first one is no height


# --- several tensors ---------------------------------------------------------------------------


def _broadcast(refs: Iterable[Ref]) -> int:
    """Entry by entry, as NumPy broadcasts: ranks are aligned at the last axis."""
    refs = list(refs)
    rank = max(map(rank_of, refs))
    return _same(ref.axis + rank - rank_of(ref) for ref in refs if ref.batched)


def _same(axes: Iterable[int]) -> int:
    found = set(axes)
    if len(found) > 1:
        raise MixedSamplesError(
            "puts the samples of one tensor against something else of another one",
            "give both the same number of axes, with the samples on the first one",
        )
    return found.pop()


def _along_together(step: Step, signals: list[Ref]) -> int:
    """take_along_axis: entry by entry, but for one axis."""
    if step.op.axis is None:
        raise MixedSamplesError
    for ref in signals:
        _check(step.op.axis, ref)
    return _broadcast(step.inputs)


def _cross(step: Step, signals: list[Ref]) -> int:
    """Entry by entry, but for the last axis."""
    if {step.op.axisa, step.op.axisb, step.op.axisc} != {-1}:  # Keras gives all of them the value of `axis`
        raise MixedSamplesError(remedy="compute the product along the last axis")
    for ref in signals:
        _check(-1, ref)
    return _broadcast(step.inputs)


def _taken(step: Step, signals: list[Ref]) -> int:
    """take(x, indices): the axes of the indices replace one axis of x."""
    x, indices, axis = step.args[0], (*step.args, step.kwargs.get("indices"))[1], step.op.axis
    of_indices = isinstance(indices, Ref)
    rank = rank_of(indices) if of_indices else np.ndim(indices)
    if not x.batched:
        return (0 if axis is None else axis % rank_of(x)) + indices.axis
    (place,) = [None] if axis is None else _check(axis, x)
    if place is None or (of_indices and indices.batched):
        raise MixedSamplesError
    return x.axis if x.axis < place else x.axis + rank - 1


def _axes(equation: str, refs: list[Ref]) -> tuple[list[list[str]], list[str]]:
    """A name for each axis of the tensors, and of the output; those that `...` stands for get names too."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left.replace(",", "").replace(".", "")))
        right = ("..." if "..." in left else "") + "".join(c for c in letters if left.count(c) == 1)
    width = max(
        (rank_of(ref) - len(term.replace("...", "")) for term, ref in zip(terms, refs, strict=True) if "..." in term),
        default=0,
    )
    ellipsis = [f"<{i}>" for i in range(width)]

    def named(term: str, rank: int) -> list[str]:
        ahead, dots, behind = term.partition("...")
        inner = ellipsis[width - (rank - len(ahead) - len(behind)) :] if dots else []
        return [*ahead, *inner, *behind]

    names = [named(term, rank_of(ref)) for term, ref in zip(terms, refs, strict=True)]
    return names, named(right, len(right.replace("...", "")) + width if "..." in right else len(right))


def _einsum(equation: str, refs: list[Ref]) -> int:
    """The letter of the samples must be the same in all tensors, and remain in the output."""
    names, output = _axes(equation, refs)
    found = {row[ref.axis] for row, ref in zip(names, refs, strict=True) if ref.batched}
    signals = [row for row, ref in zip(names, refs, strict=True) if ref.batched]
    (letter, *others) = found
    if others and len(signals) == 2 and found.issubset(output):
        raise MixedSamplesError(*_PAIRS)
    if others or letter not in output or any(row.count(letter) > 1 for row in signals):
        raise MixedSamplesError(remedy="give the samples one letter in all tensors and in the output")
    return output.index(letter)


_PAIRS = (
    "multiplies every sample of one tensor with every sample of another, as images with texts, so that the outputs of "
    "one sample depend on all others of its batch",
    "explain the model of one factor by itself, with start= the other one; or multiply each sample with its own "
    "partner alone, keras.ops.sum(a * b, axis=-1)",
)


@dataclasses.dataclass(frozen=True)
class SamplesFirst:
    """A product with weights whose samples lie on the first axis, in place of one that has them elsewhere.

    Attributes:
        equation: of einsum.
        signal: which of the two factors is no weight.
        ahead, behind: the axes to transpose the signal by, and those to transpose the result by.
    """

    equation: str
    signal: int
    ahead: list[int]
    behind: list[int]

    def __call__(self, *factors: Any) -> Any:
        factors = tuple(_transposed(t, self.ahead) if i == self.signal else t for i, t in enumerate(factors))
        return _transposed(keras.ops.einsum(self.equation, *factors), self.behind)


def _transposed(x: Any, axes: list[int]) -> Any:
    return x if axes == sorted(axes) else keras.ops.transpose(x, axes)


def samples_first(step: Step) -> SamplesFirst | None:
    """The same product with the samples first, as that of a mixture of experts; None where nothing has to be moved."""
    signals = [i for i, ref in enumerate(step.inputs) if ref.batched]
    if step.kind not in ("ops.Einsum", "ops.Matmul") or len(signals) != 1 or len(step.inputs) != 2:
        return None
    refs, (signal,) = list(step.inputs), signals
    equation = _equation(step, [rank_of(ref) for ref in refs])
    try:
        axis = _einsum(equation, refs)
    except MixedSamplesError:  # `places_behind` says so
        return None
    if axis == 0 and refs[signal].axis == 0:
        return None
    rows, output = _axes(equation, refs)
    letters = dict(zip(dict.fromkeys(name for row in rows for name in row), _LETTERS, strict=False))
    before, made = ([output[axis], *(n for n in names if n != output[axis])] for names in (rows[signal], output))
    terms = [before if i == signal else row for i, row in enumerate(rows)]
    left, right = (["".join(letters[name] for name in term) for term in part] for part in (terms, [made]))
    return SamplesFirst(
        equation=f"{','.join(left)}->{right[0]}",
        signal=signal,
        ahead=[rows[signal].index(name) for name in before],
        behind=[made.index(name) for name in output],
    )


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _matmul_equation(ranks: list[int]) -> str:
    first, second = ranks
    row, column = "y" if first > 1 else "", "z" if second > 1 else ""
    ahead = ["..." if rank > 2 else "" for rank in ranks]
    return f"{ahead[0]}{row}x,{ahead[1]}x{column}->{ahead[0] or ahead[1]}{row}{column}"


def _pair_equation(ranks: list[int], over: list[tuple[int, int]]) -> str:
    """A product of two tensors that sums over pairs of axes; the remaining axes follow one another."""
    first, second = ranks
    a, b = list(_LETTERS[:first]), list(_LETTERS[first : first + second])
    for i, j in over:
        b[j] = a[i]
    left = [c for c in a if c not in b] + [c for c in b if c not in a]
    return f"{''.join(a)},{''.join(b)}->{''.join(left)}"


def _equation(step: Step, ranks: list[int]) -> str:
    """A product of two tensors that sums, as einsum writes it."""
    name = type(step.op).__name__
    if name == "Einsum":
        return step.op.subscripts
    if name == "Matmul":
        return _matmul_equation(ranks)
    if 0 in ranks:
        return _pair_equation(ranks, [])
    if name == "Dot":
        return _pair_equation(ranks, [(ranks[0] - 1, max(ranks[1] - 2, 0))])
    if name == "Inner":
        return _pair_equation(ranks, [(ranks[0] - 1, ranks[1] - 1)])
    axes = step.op.axes
    if isinstance(axes, int):
        return _pair_equation(ranks, [(ranks[0] - axes + i, i) for i in range(axes)])
    first, second = map(_numbers, axes)
    return _pair_equation(ranks, [(i % ranks[0], j % ranks[1]) for i, j in zip(first, second, strict=True)])


def _contracted(step: Step, signals: list[Ref]) -> int:
    refs = list(step.inputs)
    if len(refs) < 2 and type(step.op).__name__ != "Einsum":  # the other factor is a number or a list
        raise MixedSamplesError(remedy="give both factors as tensors")
    axis = _einsum(_equation(step, [rank_of(ref) for ref in refs]), refs)
    if len(refs) > len(signals) and (axis or signals[0].axis):  # a kernel, whose rules keep books by the first axis
        where = signals[0].axis or axis
        raise MixedSamplesError(
            *_elsewhere(where, "a product with weights wants them on the first axis, before and after")
        )
    return axis


# --- which operation is what -------------------------------------------------------------------

_MOVES = """
    Reshape Transpose Concatenate Squeeze ExpandDims GetItem Stack Split ArraySplit Hsplit Vsplit Dsplit Hstack Vstack
    Dstack Unstack Append Flip Fliplr Flipud Rot90 Roll Repeat Tile Moveaxis Swapaxes Ravel BroadcastTo Diagonal
    Rearrange CropImages DepthToSpace SpaceToDepth Slice Pad PadImages Tril Triu ExtractPatches Unfold Diag Diagflat
    SliceUpdate"""
# Every entry of the output depends on one entry of each input.
_NAMES = """
    Abs Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Cast Cbrt Ceil Clip ConvertToTensor Copy Cos
    Cosh Divide DivideNoNan Equal Erf Erfc Exp Exp2 Expm1 Fabs Floor FloorDivide Fmax Fmin Fmod FullLike Greater
    GreaterEqual Heaviside Hypot Isclose Isfinite Isinf Isnan Less LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2
    LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum Negative NotEqual OnesLike Power
    Reciprocal Round Rsqrt SaturateCast Select Sign Sin Sinh Sqrt Square StopGradient Subtract Tan Tanh Threshold
    TrueDivide Trunc View Where ZerosLike"""
ELEMENTWISE = frozenset(_NAMES.split())
_TABLE: list[tuple[Rule, str]] = [
    (_along, "Softmax LogSoftmax Sparsemax Cumsum Cumprod Nancumsum Nancumprod Sort Argsort Argpartition"),
    (_along, "Normalize LayerNorm RMSNorm BatchNorm Diff Glu TopK"),
    (_reduced, "Sum Mean Average Max Min Amax Amin Prod Var Std Median Logsumexp Norm Ptp All Any CountNonzero"),
    (_reduced, "Argmax Argmin Moments Trapezoid Nanmax Nanmin Nanmean Nansum Nanprod Nanvar Nanstd Nanmedian"),
    (_reduced, "Nanargmax Nanargmin"),
    (_quantile, "Quantile Percentile Nanquantile Nanpercentile"),
    (_contracted, "Matmul Einsum Tensordot Dot Inner"),
    (_mixed, "Vdot Outer Kron Size Bincount Unique Histogram Corrcoef Nonzero"),
    (_first, "Conv DepthwiseConv ConvTranspose SeparableConv MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool"),
    (_first, "Resize RGBToGrayscale"),
    (_trace, "Trace"),
    (_one_hot, "OneHot"),
    (_taken, "Take"),
    (_along_together, "TakeAlongAxis"),
    (_cross, "Cross"),
]
_RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE for name in names.split()}

"""Where the tokens of an input lie in the tensors of a graph: on which axes, and which token each entry belongs to."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from lrp_tf import flows
from lrp_tf.core.graph import Graph, Ref, Step


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one input of the model in one tensor.

    Attributes:
        source: the input.
        axes: axes of the tensor, the batch being axis 0: one, or the two of a map of patches.
        labels: for each place on these axes the number of the token; -1 for a place of none, as a class token has.
    """

    source: Ref
    axes: tuple[int, ...]
    labels: np.ndarray


# For each tensor its tokens: once, or twice for the scores of an attention, by query and by key.
Found = dict[Ref, tuple[Tokens, ...]]


def tokens_of(graph: Graph) -> tuple[Found, dict[Ref, np.ndarray]]:
    """The tokens in every tensor, and for each input the token of each of its places, channels left out.

    Tokens are the entries of integers [B, T], the vectors of [B, T, C], and the patches that a convolution cuts out of
    pictures, whose strides are the sizes of its kernel, without padding. They are followed through layers that keep
    the axes, through contractions by their subscripts, and where entries move by moving numbers of tokens. Behind all
    other steps nothing is known.
    """
    found: Found = {}
    inputs: dict[Ref, np.ndarray] = {}
    for ref in graph.inputs:
        sequence = len(ref.shape) == 2 or (len(ref.shape) == 1 and tf.as_dtype(ref.dtype).is_integer)
        if sequence and ref.shape[0] and ref.batched:  # a loop also reads the kernels of its cell
            inputs[ref] = np.arange(ref.shape[0])
            found[ref] = (Tokens(ref, (1,), inputs[ref]),)
    for step in graph.steps:
        patches = _patches(graph, step)
        if patches is not None and step.inputs[0] not in inputs:
            inputs[step.inputs[0]], found[step.outputs[0]] = patches
        elif any(ref in found for ref in step.inputs) and not _moves_samples(step):
            found.update(_behind(step, found))
    return found, inputs


def _moves_samples(step: Step) -> bool:
    return any(ref.axis or ref.each != 1 for ref in (*step.inputs, *step.outputs))


def _behind(step: Step, found: Found) -> Found:
    known = [found.get(ref, ()) for ref in step.inputs]
    flow = None if step.linear is not None else flows.lookup(step)
    subscripts = getattr(step.op, "subscripts", None) or getattr(step.op, "equation", None)
    if isinstance(subscripts, str):
        return {step.outputs[0]: _by_letters(subscripts, known, len(step.outputs[0].shape) + 1)}
    if step.kind == "ops.Matmul":
        return {step.outputs[0]: _by_matmul(step, known)}
    if isinstance(flow, flows.Lookup) or (isinstance(flow, flows.Gather) and 0 in step.constant):
        return dict.fromkeys(step.outputs, known[-1])
    if isinstance(flow, flows.Move):
        return _moved(step, known)
    if isinstance(flow, flows.Contraction):
        return {}
    return {ref: _kept(ref, known, step) for ref in step.outputs}


def _kept(out: Ref, known: list[tuple[Tokens, ...]], step: Step) -> tuple[Tokens, ...]:
    """Tokens on the axes that a step keeps: those of the same size in a tensor of the same rank."""
    rank = len(out.shape)
    same = [t for ref, tokens in zip(step.inputs, known, strict=True) if len(ref.shape) == rank for t in tokens]
    channels = step.linear is not None and not step.linear.elementwise
    last = rank if channels else rank + 1  # a kernel mixes the last axis
    fitting = [t for t in same if all(a < last and out.shape[a - 1] in (None, n) for a, n in _sizes(t))]
    return _apart(fitting)


def _sizes(tokens: Tokens) -> list[tuple[int, int]]:
    return list(zip(tokens.axes, tokens.labels.shape, strict=True))


def _apart(tokens: list[Tokens]) -> tuple[Tokens, ...]:
    """One for each place and source."""
    return tuple({(t.axes, t.source): t for t in reversed(tokens)}.values())[::-1]


def _by_letters(subscripts: str, known: list[tuple[Tokens, ...]], rank: int) -> tuple[Tokens, ...]:
    """Tokens behind an einsum; an ellipsis stands for leading axes."""
    sources, _, target = subscripts.replace(" ", "").partition("->")
    output = _letters(target, rank)
    moved = []
    for letters, tokens in zip(sources.split(","), known, strict=False):
        for t in tokens:
            named = _letters(letters, rank) if "..." in letters else letters
            wanted = [named[a] for a in t.axes if a < len(named)]
            if len(wanted) == len(t.axes) and all(letter in output for letter in wanted):
                moved.append(dataclasses.replace(t, axes=tuple(output.index(letter) for letter in wanted)))
    return _apart(moved)


def _letters(subscript: str, rank: int) -> str:
    """Subscripts of one operand with digits for the axes of an ellipsis, if the others fill up the rank."""
    return subscript.replace("...", "0123456789"[: max(rank - len(subscript) + 3, 0)])


def _by_matmul(step: Step, known: list[tuple[Tokens, ...]]) -> tuple[Tokens, ...]:
    rank = len(step.outputs[0].shape) + 1
    contracted = (rank - 1, rank - 2)
    moved = []
    for ref, tokens, axis in zip(step.inputs[:2], known[:2], contracted, strict=True):  # a third one is added behind
        if len(ref.shape) + 1 == rank:
            moved += [t for t in tokens if axis not in t.axes]
    return _apart(moved)


def _moved(step: Step, known: list[tuple[Tokens, ...]]) -> Found:
    """Tokens behind a step that moves entries: it runs once on the numbers of the tokens."""
    found: Found = dict.fromkeys(step.outputs, ())
    for number in range(max(map(len, known))):
        chosen = [tokens[number] if len(tokens) > number else None for tokens in known]
        source = next(t.source for t in chosen if t is not None)
        feeds = [_numbered(ref, t) for ref, t in zip(step.inputs, chosen, strict=True)]
        if any(feed is None for feed in feeds):
            return {}
        with tf.init_scope():
            outputs = [np.asarray(y) for y in keras.tree.flatten(step.call(*feeds))]
        for ref, y in zip(step.outputs, outputs, strict=True):
            axes = tuple(a for a in range(1, y.ndim) if np.any(y != y.take([0], a)))
            if axes:
                places = tuple(slice(None) if a in axes else 0 for a in range(y.ndim))
                labels = np.rint(y[places]).astype(int) - 1
                found[ref] = (*found[ref], Tokens(source, axes, labels))
    return {ref: _apart(list(tokens)) for ref, tokens in found.items()}


def _numbered(ref: Ref, tokens: Tokens | None) -> tf.Tensor | None:
    """One sample that holds 1 + the number of the token at each place, 0 at others; None: its size is open."""
    own = {} if tokens is None else dict(_sizes(tokens))
    known = [1, *ref.shape] if ref.batched else list(ref.shape)
    shape = [own.get(axis, size) or 0 for axis, size in enumerate(known)]
    if 0 in shape:
        return None
    if tokens is None:
        return tf.zeros(shape, ref.dtype)
    form = [size if axis in own else 1 for axis, size in enumerate(shape)]
    return tf.cast(tf.broadcast_to((tokens.labels + 1).reshape(form), shape), ref.dtype)


def _patches(graph: Graph, step: Step) -> tuple[np.ndarray, tuple[Tokens, ...]] | None:
    """For a convolution that cuts a picture into patches: the patch of each pixel, and the tokens that it makes."""
    op = step.op
    if type(op) is not keras.layers.Conv2D or step.inputs[0] not in graph.inputs or step.before:
        return None
    exact = tuple(op.kernel_size) == tuple(op.strides) and op.padding == "valid" and set(op.dilation_rate) == {1}
    sizes = tuple(size or 0 for size in step.inputs[0].shape[:2])
    if not exact or op.data_format != "channels_last" or 0 in sizes:
        return None
    rows, columns = (size // stride for size, stride in zip(sizes, op.strides, strict=True))
    labels = np.arange(rows * columns).reshape(rows, columns)
    pixels = np.full(sizes, -1)
    large = labels.repeat(op.strides[0], 0).repeat(op.strides[1], 1)
    pixels[: large.shape[0], : large.shape[1]] = large
    return pixels, (Tokens(step.inputs[0], (1, 2), labels),)


def entries_of(ref: Ref, places: np.ndarray) -> int:
    """How many entries of an input lie at each of its places: its channels."""
    return math.prod(n or 1 for n in ref.shape[places.ndim :])

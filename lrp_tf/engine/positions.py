"""Positions: which constants of a model say where a token is, and whose relevance they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.engine.tokens import Found, Tokens, entries_of, tokens_of
from lrp_tf.rules.operators import Operator

POSITIONS = (None, "token")
_SUMS = ("ops.Add", "ops.Subtract", keras.layers.Add, keras.layers.Subtract)
_PRODUCTS = ("ops.Multiply", keras.layers.Multiply)
# Scores are masked by -1e9, -3e4 in half precision.
_MASKED = 1e4


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A step that reads positions.

    Attributes:
        inputs: which of its inputs are positions.
        tokens: where the tokens lie in its output, along the axes that the positions vary on. Several share alike: a
            relative bias belongs half to the query and half to the key.
        product: it multiplies with them.
    """

    inputs: tuple[int, ...]
    tokens: tuple[Tokens, ...]
    product: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """The positions of a model.

    Attributes:
        places: the steps that read them.
        inputs: for each input with tokens, the token of each of its places.
        given_back: relevance of positions is given to the tokens.
    """

    places: dict[Step, Place]
    inputs: dict[Ref, np.ndarray]
    given_back: bool = False


def find(graph: Graph, reached: Iterable[Ref], positions: str | None = None) -> Positions:
    """The positions of a graph whose steps have their handlers' `held` inputs.

    A position is an input of a sum, or of a product, or the constant that is added behind a kernel, for which all of
    this holds:

    - no input of the model can change it, and it holds floats;
    - the signal that it meets has tokens on some axis (`tokens.tokens_of`), and on that axis it has as many entries as
      the signal, more than one: it is not broadcast along it, as a bias [C] is;
    - its values differ along that axis, or are all 0, as in a table that is not trained yet. It is read when the plan
      is made;
    - it is no mask: in a sum, not all of its values are 0 or beyond 1e4; in a product, not all are 0 or 1.

    So are tables of learned or sinusoidal positions, rotary factors, and relative biases of scores, one for each
    distance or a slope times it. Not so are class tokens, whose entries are concatenated, and scales and biases of
    channels or heads.

    Args:
        reached: tensors that relevance reaches; tokens of other inputs take none.
        positions: None or "token", see `Explainer`.

    Raises:
        ValueError: neither, or "token" for a graph without positions.
    """
    if positions not in POSITIONS:
        raise ValueError(f'positions expects None or "token". Received: {positions!r}')
    places: dict[Step, Place] = {}
    inputs: dict[Ref, np.ndarray] = {}
    candidates = [step for step in graph.steps if _candidates(step)]
    if candidates:
        found, inputs = tokens_of(graph)
        values = _constants(graph)
        main = _main_source(graph, inputs, set(reached))
        for step in candidates:
            place = _place(step, found, values, main)
            if place is not None:
                places[step] = place
    if positions is not None and not places:
        raise ValueError(
            f'positions="token" gives the relevance of positions to the tokens, but {graph.model.name!r} has none that '
            "could be told: constants that vary along the tokens of a sum or product, where the tokens can be followed "
            "from token ids [B, T], vectors [B, T, C] or a convolution that cuts pictures into patches. Remedy: leave "
            "positions out."
        )
    return Positions(places, inputs, positions is not None)


def _candidates(step: Step) -> list[int]:
    """Inputs that may be positions, from their kinds and shapes."""
    if step.addend is not None:
        plain = not step.after and all(hasattr(layer, "padding") for layer in step.before)
        chosen = [len(step.inputs) - 1] if plain else []
    elif step.kind in _SUMS or step.kind in _PRODUCTS:
        chosen = list(step.constant) if step.signals else []
    else:
        chosen = []
    return [i for i in chosen if tf.as_dtype(step.inputs[i].dtype).is_floating and _aligned_shape(step, i)]


def _aligned_shape(step: Step, position: int) -> list[int | None]:
    """The shape of a constant with the axes of the output, the batch first; empty if it is a scalar or does not fit."""
    ref, rank = step.inputs[position], len(step.outputs[0].shape) + 1
    shape = [1, *ref.shape] if ref.batched else list(ref.shape)
    missing = rank - len(shape)  # merging layers insert missing axes behind the batch
    fits = missing == 0 or (missing > 0 and not (isinstance(step.op, keras.Layer) and ref.batched))
    if not shape or not fits:
        return []
    return [1] * (rank - len(shape)) + shape


def _place(step: Step, found: Found, values: dict[Ref, np.ndarray], main: list[Ref]) -> Place | None:
    """What a step reads of positions, or None."""
    known = [t for t in found.get(step.outputs[0], ()) if t.source in main]
    rank, product = len(step.outputs[0].shape) + 1, step.kind in _PRODUCTS
    inputs: list[int] = []
    tokens: dict[tuple[int, ...], Tokens] = {}
    for position in _candidates(step):
        value = values.get(step.inputs[position])
        if value is None or _is_mask(value, product):
            continue
        value = value.reshape((1,) * (rank - value.ndim) + value.shape)
        for t in sorted(known, key=lambda t: main.index(t.source)):
            if _varies(value, t):
                inputs += [position] if position not in inputs else []
                tokens.setdefault(t.axes, t)
    return Place(tuple(inputs), tuple(tokens.values()), product) if inputs else None


def _varies(value: np.ndarray, tokens: Tokens) -> bool:
    """Whether a constant has a value of its own for each token, on one axis of them at least."""
    own = [a for a, size in zip(tokens.axes, tokens.labels.shape, strict=True) if value.shape[a] == size > 1]
    return any(not value.any() or np.any(value != value.take([0], a)) for a in own)


def _is_mask(value: np.ndarray, product: bool) -> bool:
    if not value.any():
        return False
    other = value == 1 if product else np.abs(value) >= _MASKED
    return bool(np.all((value == 0) | other))


def _main_source(graph: Graph, inputs: dict[Ref, np.ndarray], reached: set[Ref]) -> list[Ref]:
    """The inputs whose tokens may take relevance, that with the largest vocabulary first: not numbers of segments."""
    rows = dict.fromkeys(inputs, 0)
    for step in graph.steps:
        if isinstance(step.op, keras.layers.Embedding) and step.inputs[0] in rows:
            rows[step.inputs[0]] = max(rows[step.inputs[0]], step.op.input_dim)
    return sorted((ref for ref in inputs if ref in reached), key=lambda ref: -rows[ref])


def _constants(graph: Graph) -> dict[Ref, np.ndarray]:
    """The present values of the constants, one sample of each; those that need an open size are left out."""
    found: dict[Ref, tf.Tensor] = {}
    with tf.init_scope():
        for step in graph.steps:
            if not step.outputs or not graph.constants.issuperset(step.outputs):
                continue
            tensors = [found[ref] if ref in found else _empty(ref) for ref in step.inputs]
            if all(tensor is not None for tensor in tensors):
                found.update(zip(step.outputs, keras.tree.flatten(step.call(*tensors)), strict=True))
        # A variable in bfloat16 gives NumPy no array of itself.
        return {ref: tf.convert_to_tensor(value).numpy() for ref, value in found.items()}


def _empty(ref: Ref) -> tf.Tensor | None:
    """A sample of zeros, for steps that read the shape of an input alone."""
    return None if None in ref.shape else tf.zeros([1, *ref.shape] if ref.batched else ref.shape, ref.dtype)


# --- in a backward pass --------------------------------------------------------------------------


class PositionAccount(Account):
    """The account of a step that reads positions: their part of what would be "bias" is booked as "positions".

    Args:
        fraction: the part of the positions in all that is added, which broadcasts to the output; None: all of it.

    Attributes:
        parts: what positions took, in the shape of the output.
    """

    def __init__(self, batch: tf.Tensor | None, axis: int, dtype: tf.DType, fraction: tf.Tensor | None = None) -> None:
        super().__init__(batch, axis, dtype)
        self.fraction = fraction
        self.parts: list[tf.Tensor] = []

    def add(self, name: str, values: tf.Tensor, times: tf.Tensor | float = 1.0) -> None:
        if name != "bias":
            super().add(name, values, times)
            return
        entries = values * tf.cast(times, values.dtype)
        part = entries if self.fraction is None else entries * self.fraction
        if self.fraction is not None:
            super().add("bias", entries - part)
        self.take(part)

    def take(self, part: tf.Tensor) -> None:
        """Book relevance of positions, in the shape of the output."""
        super().add("positions", part)
        self.parts.append(part)

    def partial_sums(self, values: tf.Tensor, times: tf.Tensor | float = 1.0) -> tf.Tensor:
        """The values themselves: which token each belongs to must stay known."""
        return values


def account_of(
    step: Step, place: Place, values: dict[Ref, tf.Tensor], saved: Any, samples: tf.Tensor, books: tf.DType
) -> PositionAccount:
    """The account of a step that reads positions.

    Args:
        values: of the forward pass. saved: what the step's handler kept.
        samples, books: see `Account`.
    """
    fraction = None
    if isinstance(saved, Operator) and isinstance(saved.bias, tf.Tensor):
        fraction = tf.math.divide_no_nan(tf.cast(values[step.inputs[-1]], saved.bias.dtype), saved.bias)
    elif step.has_constants and len(step.constant) > len(place.inputs):
        whole, alone = (
            step.call(*[_only(values[ref], i in kept) for i, ref in enumerate(step.inputs)])
            for kept in (step.constant, place.inputs)
        )
        fraction = tf.math.divide_no_nan(alone, whole)
    return PositionAccount(samples, step.outputs[0].axis, books, fraction)


def _only(value: tf.Tensor, kept: bool) -> tf.Tensor:
    return value if kept else tf.zeros_like(value)


class GivenBack:
    """Collects the relevance of positions in one backward pass, for the tokens that they belong to."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._found: dict[Ref, tf.Tensor] = {}

    def collect(self, step: Step, account: Account | None) -> None:
        """Take over what the positions of a step took, if it is to be given back."""
        if not (self._positions.given_back and isinstance(account, PositionAccount) and account.parts):
            return
        place = self._positions.places[step]
        part = tf.add_n(account.parts) / len(place.tokens)
        for tokens in place.tokens:
            count = int(self._positions.inputs[tokens.source].max()) + 1
            share = _by_token(part, tokens, count)
            known = self._found.get(tokens.source)
            self._found[tokens.source] = share if known is None else known + share

    def give(self, relevance: dict[Ref, tf.Tensor]) -> tf.Tensor | None:
        """Add it to the relevance of the inputs, spread evenly over the entries of a token; its sum, [B], if any."""
        for ref, shares in self._found.items():
            places = self._positions.inputs[ref]
            counts = np.bincount(places[places >= 0], minlength=shares.shape[1]) * entries_of(ref, places)
            each = shares / tf.constant(counts, shares.dtype)
            each = tf.concat([each, tf.zeros_like(each[:, :1])], 1)  # for places of no token
            spread = tf.gather(each, np.where(places < 0, shares.shape[1], places).ravel(), axis=1)
            spread = tf.reshape(spread, [-1, *places.shape, *[1] * (len(ref.shape) - places.ndim)])
            relevance[ref] = relevance[ref] + spread
        return tf.add_n([tf.reduce_sum(shares, 1) for shares in self._found.values()]) if self._found else None


def _by_token(part: tf.Tensor, tokens: Tokens, count: int) -> tf.Tensor:
    """[B, count]: the sum of the entries of each token."""
    others = [a for a in range(1, part.shape.rank) if a not in tokens.axes]
    sums = tf.reshape(tf.reduce_sum(part, others), [-1, tokens.labels.size])
    labels = tokens.labels.ravel()
    places = np.flatnonzero(labels >= 0)
    if len(places) < len(labels):
        sums, labels = tf.gather(sums, places, axis=1), labels[places]
    if not np.array_equal(labels, np.arange(count)):
        sums = tf.transpose(tf.math.unsorted_segment_sum(tf.transpose(sums), labels, count))
    return tf.ensure_shape(sums, [None, count])

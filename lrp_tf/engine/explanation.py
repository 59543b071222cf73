"""What an explanation consists of."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from lrp_tf.engine.rows import Shares


class Conservation(NamedTuple):
    """Where the start relevance went, per sample: start = relevance + bias + stabilizer + other + positions + the rest.

        share = e.conservation.bias / e.conservation.start      # what biases absorbed of each sample's score

    Each is a float64 tensor of shape [B], or [B, k] for k targets.

    Attributes:
        start: sum of the start relevance.
        relevance: sum of the relevance of all inputs.
        bias: absorbed by biases, folded BatchNormalization included: sum of R b / s(z).
        stabilizer: absorbed by stabilisers: sum of R epsilon sign(z) / s(z).
        other: named mechanisms only: an empty denominator part, Gamma at z = 0, relevance that lands on padding, and
            what the relevance filter drops.
        positions: taken by positions of tokens, embeddings or relative biases, unless it was given to the tokens:
            `Explainer(..., positions="token")`.
        unexplained: the rest, relative to the sum of |start relevance|; more than rounding is a bug. With `fast` it is
            the rounding of bfloat16, see docs/speed.md.
    """

    start: tf.Tensor
    relevance: tf.Tensor
    bias: tf.Tensor
    stabilizer: tf.Tensor
    other: tf.Tensor
    positions: tf.Tensor
    unexplained: tf.Tensor

    def of_six(self) -> tuple[tf.Tensor, ...]:
        """`SIX`: positions as a part of "bias", which takes what constants take, where tables have six columns."""
        return self.start, self.relevance, self.bias + self.positions, self.stabilizer, self.other, self.unexplained


SIX = ("start", "relevance", "bias", "stabilizer", "other", "unexplained")


def conservation(shares: Shares) -> Conservation:
    """The conservation of each sample from its shares; what the relevance filter dropped is part of `other`."""
    parts = (shares.relevance, shares.bias, shares.stabilizer, shares.other + shares.filter, shares.positions)
    rest = shares.start - tf.add_n(list(parts))
    return Conservation(shares.start, *parts, tf.math.divide_no_nan(rest, shares.size))


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `Explainer.explain` returns.

        e = explainer.explain(x)
        e.relevance, e.logits, e.target

    Attributes:
        relevance: as the model's inputs; [B, ...], or [B, k, ...] for k targets. None for an integer input that
            relevance does not reach.
        output: the model's output, softmax included, [B, ...].
        logits: what is explained: the pre-softmax values, [B, ...].
        target: int tensor [B], [B, k] or [B, rank - 1]; None if the start relevance was given.
        layers: layer name -> relevance of its output; a list, in the order of its calls, for a layer called
            several times.
        conservation: see `Conservation`.
        amplification: float64, sum of |relevance| over `begin`, for each sample and target. A million or more raises a
            `RelevanceWarning`, but not inside a tf.function: look at it there.
        begin: float64, what relevance grew from: the sum of |start relevance|, or of |relevance| below the last layer,
            where that is more. It is much more where the output is nearly 0 because its contributions cancel.
    """

    relevance: Any
    output: tf.Tensor
    logits: tf.Tensor
    target: tf.Tensor | None
    layers: dict[str, Any]
    conservation: Conservation
    amplification: tf.Tensor
    begin: tf.Tensor

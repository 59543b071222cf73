"""What compiled passes count beside the relevance: the shares of each sample, and of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Ref, Step


class Shares(NamedTuple):
    """Where the initial relevance of each sample went; tensors of one shape, [B] or [B, k].

    Attributes:
        size: sum of |initial relevance|.
        start: sum of the initial relevance.
        relevance: sum of the relevance of all inputs.
        bias, stabilizer, other, positions, filter: what the steps absorbed, see `core.account.Account`. Relevance of
            positions that was given to the tokens is part of `relevance`.
    """

    size: tf.Tensor
    start: tf.Tensor
    relevance: tf.Tensor
    bias: tf.Tensor
    stabilizer: tf.Tensor
    other: tf.Tensor
    positions: tf.Tensor
    filter: tf.Tensor

    def stack(self) -> tf.Tensor:
        """One tensor, [..., 8]."""
        return tf.stack(list(self), axis=-1)

    @classmethod
    def unstack(cls, stacked: tf.Tensor) -> Shares:
        """The shares from what `stack` returned."""
        return cls(*tf.unstack(stacked, axis=-1))


class StepRow(NamedTuple):
    """What one step did with its relevance, summed over the batch: float64 scalars, or floats.

    Attributes:
        arrived: relevance that arrived at its outputs.
        sent: relevance that it sent to its inputs.
        bias, stabilizer, other, positions, filter: what it absorbed, see `core.account.Account`. `positions` also holds
            what was given to the tokens.
        bad: how many entries of its outputs and of the relevance that it sent are NaN or Inf.
    """

    arrived: tf.Tensor | float
    sent: tf.Tensor | float
    bias: tf.Tensor | float
    stabilizer: tf.Tensor | float
    other: tf.Tensor | float
    positions: tf.Tensor | float
    filter: tf.Tensor | float
    bad: tf.Tensor | float

    def stack(self) -> tf.Tensor:
        """One float64 tensor, [8]."""
        return tf.stack(list(self))

    @classmethod
    def unstack(cls, stacked: np.ndarray) -> list[StepRow]:
        """The rows from [S, 8], several stacked rows."""
        return [cls(*map(float, row)) for row in stacked]


def row_of(
    step: Step, values: Mapping[Ref, tf.Tensor], arrived: list[tf.Tensor], sent: list[tf.Tensor], account: Account
) -> StepRow:
    """The row of a step.

    Args:
        values: of the forward pass. arrived, sent: relevance of its outputs and inputs.
    """
    absorbed = {name: tf.reduce_sum(account.shares.get(name, tf.zeros([], tf.float64))) for name in Account.NAMES}
    known = [values[ref] for ref in step.outputs if values[ref].dtype.is_floating]
    bad = [tf.reduce_sum(tf.cast(~tf.math.is_finite(r), tf.float64)) for r in (*sent, *known)]
    return StepRow(total_of(arrived), total_of(sent), **absorbed, bad=tf.add_n([tf.zeros([], tf.float64), *bad]))


def total_of(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
    """The sum of all entries, float64."""
    return tf.add_n([tf.zeros([], tf.float64), *[tf.reduce_sum(tf.cast(t, tf.float64)) for t in tensors]])


def no_row() -> tf.Tensor:
    """The stacked row of a step that no relevance reaches: zeros, [8]."""
    return tf.zeros([len(StepRow._fields)], tf.float64)

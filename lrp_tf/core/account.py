"""The account of what a step absorbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from lrp_tf.core.numerics import partial_sums, sample_sum

if TYPE_CHECKING:
    from lrp_tf.core.graph import Step


class Account:
    """What one step absorbed, per sample, by named mechanisms; each a tensor [B], float64 by default.

    `bias`: sum of R b / s(z). `stabilizer`: sum of R epsilon sign(z) / s(z). `other`: named mechanisms
    only, see docs/conservation.md. `positions`: what constants took that say where a token is, see
    `engine.positions`. `filter`: what a relevance filter dropped.

    Attributes:
        rows: the rows of the steps that a loop runs, see `engine.rows`; None: nobody asked for them.
    """

    NAMES = ("bias", "stabilizer", "other", "positions", "filter")

    def __init__(self, batch: tf.Tensor | None = None, axis: int = 0, dtype: tf.DType = tf.float64) -> None:
        self.batch, self.axis, self.dtype = batch, axis, dtype  # axis: of the samples
        self.shares: dict[str, tf.Tensor] = {}
        self.rows: dict[Step, tf.Tensor] | None = None

    def add(self, name: str, values: tf.Tensor, times: tf.Tensor | float = 1.0) -> None:
        """Book the sum of `values * times` over each sample under `name`.

        Args:
            times: a number, or a tensor that broadcasts to `values`, as a bias does.
        """
        if name not in self.NAMES:
            raise ValueError(f"An account has the shares {self.NAMES}. Received: {name!r}")
        number = isinstance(times, float) or times.shape.rank == 0
        if not number:
            values = self.partial_sums(values, times)
            values *= tf.cast(times, values.dtype)
        if self.axis:
            values = tf.transpose(values, [self.axis, *(i for i in range(values.shape.rank) if i != self.axis)])
        share = sample_sum(values, self.batch, self.dtype)
        if number:
            share *= tf.cast(times, share.dtype) if tf.is_tensor(times) else tf.constant(times, share.dtype)
        self.merge(name, share)

    def merge(self, name: str, share: tf.Tensor) -> None:
        """Book a share that is summed already, [B]."""
        self.shares[name] = self.shares[name] + share if name in self.shares else share

    def partial_sums(self, values: tf.Tensor, times: tf.Tensor | float = 1.0) -> tf.Tensor:
        """Sums over short blocks of `values`, to be booked in their place: once for several shares.

        Args:
            times: what `add` will multiply them with.
        """
        return partial_sums(values, self.dtype, factor=times, samples=self.axis)

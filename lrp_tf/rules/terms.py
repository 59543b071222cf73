"""A rule as formulas: contributions over one denominator.

    R_i = sum over terms of  weight * sum over pairs of  x'_i sum_j w'_ij R_j / s(z')_j,   z'_j = sum x' w' + bias

with s(z) = z + epsilon sign(z) and sign(0) = +1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from lrp_tf.core.numerics import Relative, offset, relative_epsilon

Pair: TypeAlias = tuple[tf.Tensor | float | None, tf.Tensor]  # x', w'


@dataclasses.dataclass(frozen=True)
class Term:
    """Contributions that share one denominator.

    Attributes:
        pairs: (x', w') each. x' is shaped like x, or broadcasts to it, or is the number 1.0, or is None for a part that
            is known to be empty.
        bias: what joins the denominator and so absorbs its share; the number 0.0: nothing.
        weight: factor of the term, such as alpha or -beta.
        where: z + b -> bool mask of the outputs that the term explains; None: all.
        one_sided: all contributions have one sign, so that a denominator of exactly 0 means that there is nothing to
            share; the account calls it "other".
    """

    pairs: list[Pair]
    bias: tf.Tensor | float = 0.0
    weight: float = 1.0
    where: Callable[[tf.Tensor], tf.Tensor] | None = None
    one_sided: bool = False


class Denominator:
    """s(z') of a term. Every part is computed when it is asked for, and once.

    Args:
        total: gives z'.
        stabilizer: epsilon, or relative to z'.
        sign: +1 or -1 where the sign of z' is known wherever relevance arrives; 0: it is not.
        stabilized: gives s(z') where that is cheaper than z' + epsilon, only with `sign` and a number as stabilizer.
            Where no relevance arrives it may be any number but 0.
        filled: wherever relevance arrives there are contributions, or a bias, to share it among.
    """

    def __init__(
        self,
        total: Callable[[], tf.Tensor],
        stabilizer: float | Relative,
        *,
        sign: int = 0,
        stabilized: Callable[[], tf.Tensor] | None = None,
        filled: bool = False,
    ) -> None:
        self._total, self._stabilizer, self._stabilized = total, stabilizer, stabilized
        self.sign, self._filled = sign, filled

    @property
    def vanishes(self) -> bool:
        """Whether s(z') can be 0."""
        return isinstance(self._stabilizer, Relative) or self._stabilizer == 0

    def empty(self, one_sided: bool) -> tf.Tensor | None:
        """A mask of the outputs that have nothing to share relevance among; None: known to be none.

        Args:
            one_sided: all contributions have one sign. Otherwise a z' of 0 may be a sum that cancels.
        """
        if self._filled or not (one_sided or self.vanishes):
            return None
        if one_sided:
            return self.total == 0 if self._stabilized is None else self.stabilized == self.epsilon
        return self.stabilized == 0

    @functools.cached_property
    def total(self) -> tf.Tensor:
        """z'."""
        return self._total()

    @functools.cached_property
    def epsilon(self) -> tf.Tensor | float:
        """What the stabiliser adds."""
        if not self.sign:
            return offset(self.total, self._stabilizer)
        if isinstance(self._stabilizer, Relative):
            return self.sign * relative_epsilon(self.total, self._stabilizer)
        return math.copysign(self._stabilizer, self.sign)

    @functools.cached_property
    def stabilized(self) -> tf.Tensor:
        """s(z')."""
        return self.total + self.epsilon if self._stabilized is None else self._stabilized()

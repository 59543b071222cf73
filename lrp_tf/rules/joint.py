"""A rule for all outputs of a step together."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from lrp_tf.core.account import Account
from lrp_tf.core.graph import Step
from lrp_tf.core.numerics import Relative, ratio
from lrp_tf.core.protocol import Propagate
from lrp_tf.rules.base import Rule, at_signal, denominator_of
from lrp_tf.rules.operators import Operator
from lrp_tf.rules.terms import Term


@dataclasses.dataclass(frozen=True, repr=False)
class JointWSquare(Rule):
    """R_i = v_i^2 / (sum_i v_i^2) sum_j R_j, with v_i = sum_j w_ij R_j / s(z_j): `WSquare` for the step as a whole.

        composites.Composite([(composites.first(), rules.JointWSquare()),
                              (None, rules.Gamma(0.5))])

    Near its input a step hands on sum_j (R_j / z_j) z_j, a linear function whose weights are v, and the nearest root of
    a linear function lies along its weights (the argument for the w^2 rule in Montavon et al. 2017, who make it for
    each output by itself). Weights of opposite signs cancel here, as they do in the model. All inputs of a sample get
    the sign of the sum of R_j. The map hardly depends on the input's values, so it is for first steps that read signed
    inputs. Under TimeDistributed each time step is a step of its own: its sum of R_j is shared among its own inputs.
    """

    stabilizer: float | Relative = 1e-6
    zero_bias: bool = False
    shows_kernel = True

    def backward(self, step: Step, op: Operator) -> Propagate:
        """See `Rule.backward`."""
        denominator = denominator_of(op, Term([(op.x, op.w)], op.b), self.stabilizer)

        def propagate(relevances: list[tf.Tensor], account: Account | None) -> list[tf.Tensor | None]:
            weights = op.share([(1.0, op.w)], ratio(relevances[0], denominator.stabilized, self.stabilizer))
            axes = list(range(1, weights.shape.rank))
            # Scaled first: squares of small numbers vanish.
            scaled = tf.math.divide_no_nan(weights, tf.reduce_max(tf.abs(weights), axes, keepdims=True))
            squares = tf.square(scaled)
            shares = tf.math.divide_no_nan(squares, tf.reduce_sum(squares, axes, keepdims=True))
            arrived = tf.reduce_sum(relevances[0], list(range(1, relevances[0].shape.rank)))
            sent = shares * tf.reshape(arrived, [-1, *[1] * len(axes)])
            if account is not None:  # no weights, nothing to share it by
                account.add("other", relevances[0])
                account.add("other", -sent)
            return at_signal(step, sent)

        return propagate

"""Rules for linear steps: see docs/rules.md for the formulas, docs/extending.md for a rule of your own."""

from lrp_tf.core.numerics import Relative, negative, positive
from lrp_tf.rules import shortcuts as shortcuts
from lrp_tf.rules.base import Rule
from lrp_tf.rules.joint import JointWSquare
from lrp_tf.rules.lrp import AlphaBeta, Epsilon, Flat, Gamma, Jacobian, Magnitude, Pass, WSquare, ZBox, Zero, ZPlus
from lrp_tf.rules.operators import Operator
from lrp_tf.rules.terms import Term

__all__ = [
    "AlphaBeta",
    "Epsilon",
    "Flat",
    "Gamma",
    "Jacobian",
    "JointWSquare",
    "Magnitude",
    "Operator",
    "Pass",
    "Relative",
    "Rule",
    "Term",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "negative",
    "positive",
]

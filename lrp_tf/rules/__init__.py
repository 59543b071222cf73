"""Rules for linear steps: see docs/rules.md for the formulas, docs/extending.md for a rule of your own."""

from lrp_tf.core.numerics import Relative, negative, positive
from lrp_tf.rules.lrp import AlphaBeta, Epsilon, Flat, Gamma, Magnitude, Pass, Rule, WSquare, ZBox, Zero, ZPlus
from lrp_tf.rules.operators import Operator, Term

__all__ = [
    "AlphaBeta",
    "Epsilon",
    "Flat",
    "Gamma",
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

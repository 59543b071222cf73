"""Relevance through everything without a kernel: sums, products, pooling, data movement, activations, normalisation.

A flow has the protocol of a rule (`forward`, `backward`, see rules.py). One entry of the registry makes a layer or
operation known; conservation is accounted for as in the rules. The entries stand in entries.py.
"""

from lrp_tf.flows import entries as entries
from lrp_tf.flows.base import (
    UNBOUNDED,
    Flow,
    Identity,
    Interval,
    PassThrough,
    entry,
    keeps,
    lookup,
    register,
    register_activation,
)
from lrp_tf.flows.functions import Angle, Homogeneous, ProductOver, Ranked, Remainder, Replacement, SoftMaximum
from lrp_tf.flows.moves import Cast, Detached, Gather, InputScaling, Lookup, Move, Pad, Select
from lrp_tf.flows.normalization import Centered, GroupNorm, LayerNorm
from lrp_tf.flows.pooling import (
    MAXIMA,
    AdaptiveWinnerTakesAll,
    GlobalWinnerTakesAll,
    MaxAsAverage,
    WinnerTakesAll,
)
from lrp_tf.flows.sums import Affine, Contraction, Product, Quotient, Share, Winner

__all__ = [
    "MAXIMA",
    "UNBOUNDED",
    "AdaptiveWinnerTakesAll",
    "Affine",
    "Angle",
    "Cast",
    "Centered",
    "Contraction",
    "Detached",
    "Flow",
    "Gather",
    "GlobalWinnerTakesAll",
    "GroupNorm",
    "Homogeneous",
    "Identity",
    "InputScaling",
    "Interval",
    "LayerNorm",
    "Lookup",
    "MaxAsAverage",
    "Move",
    "Pad",
    "PassThrough",
    "Product",
    "ProductOver",
    "Quotient",
    "Ranked",
    "Remainder",
    "Replacement",
    "Select",
    "Share",
    "SoftMaximum",
    "Winner",
    "WinnerTakesAll",
    "entry",
    "keeps",
    "lookup",
    "register",
    "register_activation",
]

"""Flows: rules of layers without weights (sums, products, pooling, moved entries, activations, normalisation).

A flow has the protocol of a rule, `enters`, `forward` and `backward`, and keeps the same books. One entry in entries.py
makes a layer or operation known.
"""

from lrp_tf.flows import entries as entries
from lrp_tf.flows.attention import TaylorSoftmax
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
from lrp_tf.flows.derivative import Deconvolved, Derivative, Guided
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
from lrp_tf.flows.sums import Affine, Contraction, Product, Quotient, Share, Winner, factors

__all__ = [
    "MAXIMA",
    "UNBOUNDED",
    "AdaptiveWinnerTakesAll",
    "Affine",
    "Angle",
    "Cast",
    "Centered",
    "Contraction",
    "Deconvolved",
    "Derivative",
    "Detached",
    "Flow",
    "Gather",
    "GlobalWinnerTakesAll",
    "GroupNorm",
    "Guided",
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
    "TaylorSoftmax",
    "Winner",
    "WinnerTakesAll",
    "entry",
    "factors",
    "keeps",
    "lookup",
    "register",
    "register_activation",
]

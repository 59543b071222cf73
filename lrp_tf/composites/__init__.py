"""Which rule a step gets: matchers, composites and the named presets."""

from lrp_tf.composites.bounds import InputZBox
from lrp_tf.composites.composite import Composite, Handler
from lrp_tf.composites.convolutional import (
    convolutions,
    dense_like,
    first_convolution,
    first_half_of_convolutions,
    first_quarter_of_convolutions,
)
from lrp_tf.composites.kinds import contractions, max_pooling, products, quotients
from lrp_tf.composites.match import Match, activation, at, first, first_n, last, linear_steps, named, of_type, span
from lrp_tf.composites.presets import FOR_TRANSFORMERS, PRESETS, get, needs_bounds, register
from lrp_tf.composites.text import load, parse, toml

__all__ = [
    "FOR_TRANSFORMERS",
    "PRESETS",
    "Composite",
    "Handler",
    "InputZBox",
    "Match",
    "activation",
    "at",
    "contractions",
    "convolutions",
    "dense_like",
    "first",
    "first_convolution",
    "first_half_of_convolutions",
    "first_n",
    "first_quarter_of_convolutions",
    "get",
    "last",
    "linear_steps",
    "load",
    "max_pooling",
    "named",
    "needs_bounds",
    "of_type",
    "parse",
    "products",
    "quotients",
    "register",
    "span",
    "toml",
]

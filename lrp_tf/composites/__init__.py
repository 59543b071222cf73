"""Which rule a step gets: matchers, composites and the named presets."""

from lrp_tf.composites.bounds import InputZBox
from lrp_tf.composites.composite import Composite, Handler
from lrp_tf.composites.match import (
    Match,
    at,
    dense_like,
    first,
    first_convolution,
    last,
    linear_steps,
    named,
    of_type,
)
from lrp_tf.composites.presets import PRESETS, get, needs_bounds

__all__ = [
    "PRESETS",
    "Composite",
    "Handler",
    "InputZBox",
    "Match",
    "at",
    "dense_like",
    "first",
    "first_convolution",
    "get",
    "last",
    "linear_steps",
    "named",
    "needs_bounds",
    "of_type",
]

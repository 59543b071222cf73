"""Which rule a step gets: matchers, composites and the named presets."""

from lrp_tf.composites.presets import (
    PRESETS,
    Composite,
    Handler,
    InputZBox,
    Match,
    at,
    dense_like,
    first,
    first_convolution,
    get,
    last,
    linear_steps,
    named,
    needs_bounds,
    of_type,
)

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

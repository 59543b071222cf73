"""The public door to operations that consist of several: `lrp_tf.expansions.register`, see docs/extending.md."""

from lrp_tf.tracing.decompositions import lookup, register

__all__ = ["lookup", "register"]

"""The public door to linear layers: `lrp_tf.linear.register`, see docs/extending.md."""

from lrp_tf.core.linear import LinearLayer, entry, lookup, operations, register, register_operation

__all__ = ["LinearLayer", "entry", "lookup", "operations", "register", "register_operation"]

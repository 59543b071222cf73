"""Explanations by many processes and machines through Ray; it comes with the extra "ray"."""

from lrp_tf.ray.explain import explain
from lrp_tf.ray.run import run

__all__ = ["explain", "run"]

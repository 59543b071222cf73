"""Explanations as files for LiteRT, in builtin operations alone."""

from lrp_tf.exporting.lite.export import Lite, export_lite

__all__ = ["Lite", "export_lite"]

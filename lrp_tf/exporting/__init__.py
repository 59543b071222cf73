"""Explanations in formats that run without TensorFlow."""

from lrp_tf.exporting.stablehlo import StableHLO, export_stablehlo

__all__ = ["StableHLO", "export_stablehlo"]

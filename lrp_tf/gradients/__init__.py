"""Gradients, occlusion and Grad-CAM with the Explainer's call, to compare with LRP. See docs/gradients.md."""

from lrp_tf.gradients.method import Method
from lrp_tf.gradients.plain import Gradient, InputTimesGradient

__all__ = ["Gradient", "InputTimesGradient", "Method"]

"""Gradients, occlusion and Grad-CAM with the Explainer's call, to compare with LRP. See docs/gradients.md."""

from lrp_tf.gradients.averaged import ExpectedGradients, IntegratedGradients, SmoothGrad
from lrp_tf.gradients.cam import GradCAM, GradCAMPlusPlus
from lrp_tf.gradients.method import Method
from lrp_tf.gradients.occlusion import Occlusion
from lrp_tf.gradients.plain import Gradient, InputTimesGradient

__all__ = [
    "ExpectedGradients",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "InputTimesGradient",
    "IntegratedGradients",
    "Method",
    "Occlusion",
    "SmoothGrad",
]

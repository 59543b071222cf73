"""XAI-TRIS: pictures whose class is known to be in known pixels (Clark et al. 2023)."""

from lrp_tf.evaluate.problem import Problem, Samples
from lrp_tf.evaluate.xaitris.data import BACKGROUNDS, INPUTS, PROBLEMS, SIZES, generate

__all__ = ["BACKGROUNDS", "INPUTS", "PROBLEMS", "SIZES", "Problem", "Samples", "generate"]

"""Is the explanation right? Perturbation, metrics, comparison; for explainers and classifiers of any library."""

from __future__ import annotations

from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.localisation import masks_of
from lrp_tf.evaluate.metric import Metric, get, metric, names
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Explain, Predict, UndefinedMetricWarning

__all__ = [
    "Case",
    "Explain",
    "Metric",
    "Predict",
    "Predictor",
    "UndefinedMetricWarning",
    "get",
    "masks_of",
    "metric",
    "names",
]

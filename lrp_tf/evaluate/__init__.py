"""Is the explanation right? Perturbation, metrics, comparison; for explainers and classifiers of any library."""

from __future__ import annotations

from lrp_tf.evaluate import (
    adversarial,
    baselines,
    completeness,
    complexity,
    evidence,
    faithfulness,
    fills,
    flipping,
    imputation,
    localisation,
    sanity,
    schedules,
    stability,
    transport,
    xaitris,
)
from lrp_tf.evaluate.adapters import quantus
from lrp_tf.evaluate.benchmark import Benchmark, benchmark
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.compare import compare
from lrp_tf.evaluate.comparison import Comparison
from lrp_tf.evaluate.copies import randomized
from lrp_tf.evaluate.curves import Curve, Perturbation
from lrp_tf.evaluate.localisation import masks_of
from lrp_tf.evaluate.metric import Metric, get, metric, names
from lrp_tf.evaluate.perturbation import perturb, perturb_steps
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Explain, Predict, UndefinedMetricWarning
from lrp_tf.evaluate.randomization import Randomization, randomization
from lrp_tf.evaluate.similarity import similarity
from lrp_tf.evaluate.tuning.result import Tuning
from lrp_tf.evaluate.tuning.tune import tune

__all__ = [
    "Benchmark",
    "Case",
    "Comparison",
    "Curve",
    "Explain",
    "Metric",
    "Perturbation",
    "Predict",
    "Predictor",
    "Randomization",
    "Tuning",
    "UndefinedMetricWarning",
    "adversarial",
    "baselines",
    "benchmark",
    "compare",
    "completeness",
    "complexity",
    "evidence",
    "faithfulness",
    "fills",
    "flipping",
    "get",
    "imputation",
    "localisation",
    "masks_of",
    "metric",
    "names",
    "perturb",
    "perturb_steps",
    "quantus",
    "randomization",
    "randomized",
    "sanity",
    "schedules",
    "similarity",
    "stability",
    "transport",
    "tune",
    "xaitris",
]

"""Layer-wise Relevance Propagation for Keras 3 on TensorFlow."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"


def _require_tensorflow_backend() -> None:
    # Before keras is imported, since it fixes its backend then.
    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if "keras" not in sys.modules and wanted != "tensorflow":
        raise ImportError(
            f"lrp_tf needs Keras on TensorFlow. Expected KERAS_BACKEND=tensorflow (or unset). Received: {wanted!r}"
        )


_require_tensorflow_backend()

from lrp_tf import composites, flows, linear, rules  # noqa: E402
from lrp_tf.explainer import Conservation, Explainer, Explanation, clone_with_rules  # noqa: E402
from lrp_tf.graph import UnsupportedLayerError  # noqa: E402

__all__ = [
    "Conservation",
    "Explainer",
    "Explanation",
    "UnsupportedLayerError",
    "clone_with_rules",
    "composites",
    "flows",
    "heatmap",
    "linear",
    "rules",
]


def __getattr__(name: str) -> Any:
    # Pictures need matplotlib and OpenCV: imported when first used.
    if name == "heatmap":
        return importlib.import_module("lrp_tf.heatmap")
    raise AttributeError(f"module 'lrp_tf' has no attribute {name!r}")

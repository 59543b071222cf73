"""Layer-wise Relevance Propagation for Keras 3 on TensorFlow."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

__version__ = "0.1.0"


def _require_tensorflow_backend() -> None:
    # Before keras is imported, since it fixes its backend then; graph.trace looks again.
    if "keras" in sys.modules:
        return
    wanted, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not wanted:
        home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
        source = os.path.join(home, "keras.json")
        try:
            with open(source, encoding="utf-8") as file:
                wanted = json.load(file).get("backend")
        except (OSError, ValueError):
            wanted = None
    if wanted not in (None, "tensorflow"):
        raise ImportError(
            "lrp_tf needs Keras on TensorFlow. Expected KERAS_BACKEND=tensorflow in the environment. "
            f"Received: {wanted!r} from {source}"
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
    "export",
    "flows",
    "heatmap",
    "linear",
    "rules",
]


def __getattr__(name: str) -> Any:
    # Pictures need matplotlib and OpenCV: imported when first used.
    if name == "heatmap":
        return importlib.import_module("lrp_tf.heatmap")
    if name == "export":
        return importlib.import_module("lrp_tf.serving").export
    raise AttributeError(f"module 'lrp_tf' has no attribute {name!r}")

"""Layer-wise Relevance Propagation for Keras 3 on TensorFlow."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrp_tf import (
        arrays,
        callbacks,
        composites,
        concepts,
        evaluate,
        expansions,
        flows,
        gallery,
        gradients,
        heatmap,
        linear,
        losses,
        ray,
        rules,
        tables,
        texts,
    )
    from lrp_tf.core.graph import UnsupportedLayerError
    from lrp_tf.engine import canonize
    from lrp_tf.engine.check import Check, CheckError, CheckWarning
    from lrp_tf.engine.diagnosis import RelevanceWarning
    from lrp_tf.explainer import Conservation, Explainer, Explanation, clone_with_rules
    from lrp_tf.exporting import export_stablehlo
    from lrp_tf.exporting.lite import export_lite
    from lrp_tf.recipe import Recipe
    from lrp_tf.saved.archive import SaveError
    from lrp_tf.serving.saved_model import export

__version__ = "0.1.0"

__all__ = [
    "Check",
    "CheckError",
    "CheckWarning",
    "Conservation",
    "Explainer",
    "Explanation",
    "Recipe",
    "RelevanceWarning",
    "SaveError",
    "UnsupportedLayerError",
    "arrays",
    "callbacks",
    "canonize",
    "clone_with_rules",
    "composites",
    "concepts",
    "evaluate",
    "expansions",
    "export",
    "export_lite",
    "export_stablehlo",
    "flows",
    "gallery",
    "gradients",
    "heatmap",
    "linear",
    "losses",
    "ray",
    "rules",
    "tables",
    "texts",
]

# Public name -> its module. Imported when first used: TensorFlow takes seconds, and `lrp-tf --help` needs none of it.
_HOMES = {
    "Check": "engine.check",
    "CheckError": "engine.check",
    "CheckWarning": "engine.check",
    "Conservation": "explainer",
    "Explainer": "explainer",
    "Explanation": "explainer",
    "Recipe": "recipe",
    "RelevanceWarning": "engine.diagnosis",
    "SaveError": "saved.archive",
    "UnsupportedLayerError": "core.graph",
    "clone_with_rules": "explainer",
    "export": "serving",
    "export_lite": "exporting.lite",
    "export_stablehlo": "exporting",
}
# Modules that code was written against before they moved into packages.
_MOVED = {"drawing": "gallery.draw", "images": "files.images", "loading": "files.loading"}
# Public modules that are at home in a package.
_MODULES = {"canonize": "lrp_tf.engine.canonize"}


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


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return importlib.import_module(f"lrp_tf.{_MOVED[name]}")
    if name not in __all__:
        raise AttributeError(f"module 'lrp_tf' has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(_MODULES.get(name, f"lrp_tf.{name}"))
    value = globals()[name] = getattr(importlib.import_module(f"lrp_tf.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

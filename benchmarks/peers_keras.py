"""SHAP's and tf-explain's gradient methods on the Keras model itself, for run.py --peers.

They explain by other methods than ours, so that nothing but time can be compared. Calls alternate with the plain
gradient and with `epsilon_plus_flat`. A method that does not run gets a row with its error.
"""

from __future__ import annotations

import importlib
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import keras
import models
import numpy as np
import tensorflow as tf
import timing

import lrp_tf

PACKAGES = {"shap": "shap", "tf_explain": "tf-explain"}  # module -> distribution
OURS = "epsilon_plus_flat"
SAMPLES = 20  # of SHAP's GradientExplainer, which takes 200 by default
BACKGROUND = 8

Function = Callable[[], Any]


def measure(model: keras.Model, x: tf.Tensor, absent: set[str], runs: int) -> list[dict[str, Any]]:
    """Rows of all methods whose package is not among `absent`, each printed as soon as it is measured."""
    head = "on the Keras model"
    print(f"\n{head:44s}    median    maps/s   x gradient              x ours ({OURS})", flush=True)
    tf.get_logger().setLevel("ERROR")  # SHAP and tf-explain retrace at every call
    unit, ours = models.gradient(model), lrp_tf.Explainer(model, OURS)
    top = np.asarray(models.logits(model)(x)).argmax(1)
    rows = []
    for name, build in METHODS.items():
        if (package := name.split()[0].lower().replace("-", "_")) in absent:
            continue
        row: dict[str, Any] = {"name": name, "package": package}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SHAP and tf-explain warn of Keras 3 at every call
            try:
                function = build(model, np.asarray(x), top)
                row |= _timed(function, unit, ours, x, runs)
            except Exception as error:  # whatever a library raises is its row
                row["error"] = f"{type(error).__name__}: {last_line(error)}"
        rows.append(row)
        print(line(row), flush=True)
    return rows


def _timed(function: Function, unit: Callable, ours: Callable, x: tf.Tensor, runs: int) -> dict[str, float]:
    own = lambda found: found  # noqa: E731  # their results are arrays already
    function(), timing.seconds(unit, x), timing.seconds(ours, x)
    times = [
        (timing.seconds(unit, x), timing.seconds(function, wait=own), timing.seconds(ours, x)) for _ in range(runs)
    ]
    gradient, theirs, our = map(list, zip(*times, strict=True))
    found = timing.ratio(gradient, theirs)
    our_ms = 1000 * statistics.median(our)
    return {**found, "maps_s": 1000 * len(x) / found["ms"], "ours_ms": our_ms, "times_ours": found["ms"] / our_ms}


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:44s}does not run: {row['error']}"
    ratios = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['name']:44s}{row['ms']:10.1f} ms{row['maps_s']:10.2f}   {ratios:24s}{row['times_ours']:.2f}"


def last_line(error: Exception) -> str:
    """AutoGraph puts the place of an error first, and what it says last."""
    return (str(error).strip().splitlines() or [""])[-1].strip()[:200]


# --- methods: each makes a function without arguments, ready to be called again and again --------


def _shap(explainer: str, **options: Any) -> Callable[[keras.Model, np.ndarray, np.ndarray], Function]:
    """SHAP values of the top class's logit."""

    def build(model: keras.Model, x: np.ndarray, top: np.ndarray) -> Function:
        shap = importlib.import_module("shap")
        background = np.asarray(models.image(model, BACKGROUND))
        made = getattr(shap, explainer)(before_softmax(model), background)
        return lambda: made.shap_values(x, ranked_outputs=1, **options)

    return build


def before_softmax(model: keras.Model) -> keras.Model:
    """A Keras model of the logits, which is what SHAP's explainers take."""
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense):
        return keras.Model(model.inputs[0], last.input)
    linear = keras.layers.Dense(last.units)
    logits = keras.Model(model.inputs[0], linear(last.input))
    linear.set_weights(last.get_weights())
    return logits


def _tf_explain(module: str, name: str) -> Callable[[keras.Model, np.ndarray, np.ndarray], Function]:
    """The method's grid of pictures; it knows one class for a whole batch."""

    def build(model: keras.Model, x: np.ndarray, top: np.ndarray) -> Function:
        made = getattr(importlib.import_module(f"tf_explain.core.{module}"), name)()
        functional = keras.Model(model.inputs[0], model.outputs[0])  # it asks a Sequential for its output
        options = {}
        if name == "GradCAM":  # it finds no layer by itself: Keras 3 has no Layer.output_shape
            options["layer_name"] = [layer.name for layer in model.layers if len(layer.output.shape) == 4][-1]
        return lambda: made.explain((x, None), functional, class_index=int(top[0]), **options)

    return build


METHODS: dict[str, Callable[[keras.Model, np.ndarray, np.ndarray], Function]] = {
    f"SHAP GradientExplainer, {SAMPLES} samples": _shap("GradientExplainer", nsamples=SAMPLES),
    "tf-explain VanillaGradients": _tf_explain("vanilla_gradients", "VanillaGradients"),
    "tf-explain GradientsInputs": _tf_explain("gradients_inputs", "GradientsInputs"),
    "tf-explain IntegratedGradients, 10 steps": _tf_explain("integrated_gradients", "IntegratedGradients"),
    "tf-explain SmoothGrad, 5 samples": _tf_explain("smoothgrad", "SmoothGrad"),
    "tf-explain GradCAM": _tf_explain("grad_cam", "GradCAM"),
    # The last: where it fails, TensorFlow's registry of gradients stays as DeepExplainer changed it.
    "SHAP DeepExplainer": _shap("DeepExplainer", check_additivity=False),
}

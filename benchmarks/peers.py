"""Other libraries on the same weights and the same batch, for run.py --peers. What cannot run gets a line saying why.

SHAP and tf-explain run on the Keras model, see peers_keras.py; zennit and captum on torch, in a child process. The
child first computes relevances in float64 (in float32, rounding settles which of two nearly equal maxima wins a
pooling window, and moves some pixels by percents); only where they agree with ours are times taken, in float32. Every
method explains the same classes, and the peers are spared what is not theirs: hooks stay registered, and captum is
told the class.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

import folding
import keras
import models
import numpy as np
import peers_keras
import tensorflow as tf
import timing
import twin
from peers_presets import ZENNIT

import lrp_tf
from lrp_tf import composites, rules

TORCH = ("torch", "zennit", "captum")
PACKAGES = {name: name for name in TORCH} | peers_keras.PACKAGES  # module -> distribution
THREADS = 2
# Largest difference relative to the largest value, in float64; a wrong convention differs by more.
TOLERANCE = 1e-6
NO_BIAS = "epsilon_plus, no conv biases"
# Preset -> the row of captum that corresponds to it.
CAPTUM = {"epsilon": "epsilon", "epsilon_plus": NO_BIAS}
LEFT_OUT = {
    "zennit tutorial": "no rule propagates max pooling as average pooling",
    "captum epsilon_plus": f"Alpha1_Beta0_Rule adds negative biases to z⁺ too; compared as '{NO_BIAS}'",
    "captum epsilon_plus_flat": "no Flat rule",
    "zennit epsilon_gamma_wsquare": "no preset of that name there; its rules are those of other rows",
    "captum epsilon_gamma_wsquare": "no WSquare rule",
    "captum epsilon_alpha2_beta1": "no AlphaBeta rule with β > 0",
    "captum epsilon_alpha2_beta1_flat": "no AlphaBeta rule with β > 0, no Flat rule",
    "captum epsilon_gamma_box": "no ZBox rule, and GammaRule has no branch for z < 0 and leaves the bias as it is",
    **{
        f"{peer} {preset}": "no rules for attention"
        for preset in composites.FOR_TRANSFORMERS
        for peer in ("zennit", "captum")
    },
    "captum tutorial": "no ZBox rule, and none that propagates max pooling as average pooling",
}


def absent() -> set[str]:
    """The modules of PACKAGES that cannot be imported."""
    return {name for name in PACKAGES if util.find_spec(name) is None}


def missing() -> str | None:
    """One line on what to install if there is no peer at all, or None."""
    found = set(PACKAGES) - absent()
    if found - set(TORCH) or {"torch", "zennit"} <= found or {"torch", "captum"} <= found:
        return None
    return (
        "--peers compares with zennit, captum, SHAP and tf-explain, and none of them can be imported. "
        "Remedy: pip install torch==2.13.0 zennit captum shap tf-explain"
    )


def limit_threads() -> None:
    """Give TensorFlow as many threads as torch, and no GPU. Call this before TensorFlow computes anything."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def set_biases(model: keras.Model) -> None:
    """Set small biases instead of the zeros of a new net, so that conventions about biases show in the comparison."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        for name in ("bias", "beta"):
            if (variable := getattr(layer, name, None)) is not None:
                variable.assign(0.01 * generator.standard_normal(variable.shape))


def in_float64(model: keras.Model) -> keras.Model:
    """The same layers and weights."""

    def cast(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(layer.get_config() | {"dtype": "float64"})

    inputs = keras.Input(model.input_shape[1:], dtype="float64")
    exact = keras.models.clone_model(keras.Model(model.inputs[0], model.outputs[0]), inputs, cast)
    exact.set_weights(model.get_weights())
    return exact


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        raise ValueError(f"Relevances differ in shape. Expected: {expected.shape}. Received: {found.shape}")
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def agree(deviated: float) -> bool:
    """False for NaN, too."""
    return deviated <= TOLERANCE


def compared(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Row -> our name for it, and row -> why it is left out, for the presets and rules asked for."""
    rows, reasons = {}, {}
    for name in names:
        for peer in ("zennit", "captum"):
            if reason := LEFT_OUT.get(f"{peer} {name}"):
                reasons[f"{peer} {name}"] = reason
        if name in ZENNIT:
            rows[f"zennit {name}"] = name
        if name in CAPTUM:
            rows[f"captum {CAPTUM[name]}"] = CAPTUM[name]
    return rows, reasons


def measure(
    model: keras.Model, x: tf.Tensor, names: list[str], runs: int, explained: Callable[[str], Any]
) -> dict[str, Any]:
    """Rows of the peers, each as soon as it is measured.

    Raises:
        ValueError: the logits or the gradient of the torch twin are not the model's.
    """
    set_biases(model)
    gone = absent()
    versions = {name: "absent" if name in gone else metadata.version(wheel) for name, wheel in PACKAGES.items()}
    about = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"\n{about}; {THREADS} threads", flush=True)
    rows, reasons = compared(names)
    for row in list(rows):
        if without := {"torch", row.split()[0]} & gone:
            reasons[row] = f"{', '.join(sorted(without))} cannot be imported"
            del rows[row]
    try:
        found = _on_torch(model, x, rows, runs, explained)
    except twin.NoTwin as error:
        found, reasons = [], reasons | dict.fromkeys(rows, str(error))
    for row, reason in reasons.items():
        print(f"{row:44s}left out: {reason}")
    theirs = peers_keras.measure(model, x, gone, runs)
    about_torch = {"versions": versions, "threads": THREADS, "tolerance": TOLERANCE, "rows": found}
    return {**about_torch, "left_out": reasons, "on_keras": theirs}


def _on_torch(
    model: keras.Model, x: tf.Tensor, rows: dict[str, str], runs: int, explained: Callable[[str], Any]
) -> list[dict[str, Any]]:
    if not rows:
        return []
    exact, exact_x = in_float64(model), tf.cast(x, tf.float64)
    nodes = twin.describe(exact)
    arrays = folding.arrays(nodes, {v.path: keras.ops.convert_to_numpy(v) for v in exact.variables})
    head = "on torch"
    print(f"{head:44s}    median    maps/s   x its gradient    x ours   deviation", flush=True)
    explanation = lrp_tf.Explainer(exact, "epsilon").explain(exact_x)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nodes.json").write_text(json.dumps(nodes), encoding="utf-8")
        np.savez(folder / "net.npz", **arrays, x=x.numpy(), target=np.asarray(explanation.target))
        _child(folder, "relevance", runs, list(rows))
        _check(folder, "logits", np.asarray(explanation.logits))
        _check(folder, "gradient", np.asarray(models.gradient(exact)(exact_x)))
        errors = json.loads((folder / "errors.json").read_text(encoding="utf-8"))
        for row, our_name in rows.items():
            if row in errors:
                found.append({"name": row, "error": errors[row]})
                show(found[-1])
                continue
            composite = _composite(our_name, explained)
            relevance = np.asarray(lrp_tf.Explainer(exact, composite)(exact_x))
            found.append({"name": row, "deviation": deviation(np.load(folder / f"{row}.npy"), relevance)})
            if agree(found[-1]["deviation"]):
                found[-1] |= _timed(folder, row, runs, lrp_tf.Explainer(model, composite), x)
            show(found[-1])
    return found


def _composite(name: str, explained: Callable[[str], Any]) -> Any:
    if name != NO_BIAS:
        return explained(name)
    positive = (composites.of_type(keras.layers.Conv2D), rules.ZPlus(zero_bias=True))
    return composites.Composite([positive, (None, rules.Epsilon())], NO_BIAS)


def _timed(folder: Path, row: str, runs: int, explainer: lrp_tf.Explainer, x: tf.Tensor) -> dict[str, float]:
    """Time the peer and its gradient in turn in the child, and ours right after."""
    _child(folder, "time", runs, [row])
    times = json.loads((folder / "times.json").read_text(encoding="utf-8"))[row]
    timing.seconds(explainer, x)
    ms = 1000 * statistics.median(timing.seconds(explainer, x) for _ in range(runs))
    result = timing.ratio(times["gradient"], times["explain"])
    gradient = 1000 * statistics.median(times["gradient"])
    rate = {"maps_s": 1000 * len(x) / result["ms"]}
    return {**result, **rate, "gradient_ms": gradient, "ours_ms": ms, "times_ours": result["ms"] / ms}


def show(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"{row['name']:44s}does not run: {row['error']}", flush=True)
        return
    deviated = f"{row['deviation']:.1e}"
    if "ms" not in row:
        print(f"{row['name']:44s}no time: deviates by {deviated}, more than {TOLERANCE:.0e} of the maximum", flush=True)
        return
    ratios = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    rate = f"{row['ms']:10.1f} ms{row['maps_s']:10.1f}"
    print(f"{row['name']:44s}{rate}   {ratios:22s}{row['times_ours']:.2f}   {deviated}", flush=True)


def _check(folder: Path, name: str, expected: np.ndarray) -> None:
    if not agree(deviated := deviation(np.load(folder / f"{name}.npy"), expected)):
        raise ValueError(f"The torch twin is not the Keras model: its {name} deviate by {deviated:.1e} of the maximum.")


def _child(folder: Path, task: str, runs: int, rows: list[str]) -> None:
    script = Path(__file__).with_name("peers_child.py")
    command = [sys.executable, str(script), str(folder), task, str(THREADS), str(runs), *rows]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"The torch process failed ({task} of {', '.join(rows)}):\n{done.stderr.strip()}")

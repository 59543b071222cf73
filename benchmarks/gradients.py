"""What each gradient method costs: its time as a ratio to the plain gradient of the same net, in turn in one process.

    python benchmarks/gradients.py --json gradients.json

Nets have seeded weights. The plain gradient is that of each sample's top logit, a compiled tape on the Keras model
without lrp_tf. Times are CPU time, which other processes disturb least; --clock wall takes the time on the wall.
Means are over --n points, and occlusion covers 4 x 4 windows that do not overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import tensorflow as tf
from timing import in_turn, ratio

from lrp_tf import gradients

CASES = {"mnist": 32, "mobilenet": 1}
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def methods(model: keras.Model, x: tf.Tensor, n: int) -> dict[str, Callable]:
    """The methods under the names of the table."""
    window = model.input_shape[1] // 4
    return {
        "Gradient": gradients.Gradient(model),
        "InputTimesGradient": gradients.InputTimesGradient(model),
        f"SmoothGrad, n = {n}": gradients.SmoothGrad(model, n=n),
        f"IntegratedGradients, n = {n}": gradients.IntegratedGradients(model, n=n),
        f"ExpectedGradients, n = {n}": gradients.ExpectedGradients(model, x, n=n),
        "Occlusion, 16 windows": gradients.Occlusion(model, window=window),
        "Occlusion, 16 windows, keep": gradients.Occlusion(model, window=window, mode="keep"),
        "GradCAM": gradients.GradCAM(model),
        "GradCAMPlusPlus": gradients.GradCAMPlusPlus(model),
        "Gradient, guided_backprop": gradients.Gradient(model, "guided_backprop"),
    }


def measured(network: str, batch: int, n: int, runs: int, clock: str) -> list[dict[str, Any]]:
    """A row of figures for each method, printed as it is measured."""
    model = models.build(network)
    x = models.image(model, batch)
    plain, rows = models.gradient(model), []
    for name, method in methods(model, x, n).items():
        found = ratio(*in_turn(lambda: plain(x), lambda m=method: m(x), runs, clock=CLOCKS[clock]))
        rows.append({"network": network, "batch": batch, "method": name, "clock": clock, **found})
        quartiles = f"{found['low']:.2f} to {found['high']:.2f}"
        print(f"| {network}, batch {batch} | {name} | {found['ratio']:.2f} | {quartiles} |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=models.MODELS)
    parser.add_argument("--batch", type=int, help="default: 32 for the digits CNN, else 1")
    parser.add_argument("--n", type=int, default=10, help="points of means (default: 10)")
    parser.add_argument("--runs", type=int, default=9, help="pairs of calls, at least 2 (default: 9)")
    parser.add_argument("--clock", default="cpu", choices=CLOCKS)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    print("| net | method | of the plain gradient | quartiles |\n|---|---|---|---|")
    rows = [
        row
        for name in options.networks
        for row in measured(name, options.batch or CASES.get(name, 1), options.n, options.runs, options.clock)
    ]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Time and memory of relevance as ratios to the plain input gradient, measured in turn in one process: --help."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import memory
import models
import numpy as np
import peers
import tensorflow as tf
from timing import ratio, seconds

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine.savings import bfloat16

RULES = {
    "Epsilon": rules.Epsilon(),
    "ZPlus": rules.ZPlus(),
    "AlphaBeta": rules.AlphaBeta(),
    "Gamma": rules.Gamma(),
    "Flat": rules.Flat(),
    "WSquare": rules.WSquare(),
}
MANY = 5  # targets of one image
IN_BFLOAT16 = ("epsilon_plus_flat", "epsilon", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box")


def explained(name: str) -> Any:
    """A preset (with bounds where it needs some) or a single rule."""
    if name in RULES:
        return RULES[name]
    return composites.get(name, **({"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}))


def timed(model: keras.Model, x: tf.Tensor, names: list[str], runs: int) -> list[dict[str, Any]]:
    """A row for the forward pass and for each of `names`, as it is measured."""
    gradient, forward = models.gradient(model), models.forward(model)
    for _ in range(2):
        seconds(gradient, x), seconds(forward, x)
    pairs = [(seconds(gradient, x), seconds(forward, x)) for _ in range(runs)]
    plain = [a for a, _ in pairs]
    batch = int(x.shape[0])
    show({"name": "gradient", "ratio": 1.0, "low": 1.0, "high": 1.0, "ms": 1000 * statistics.median(plain)}, batch)
    rows = [{"name": "forward", **ratio(plain, [b for _, b in pairs])}]
    show(rows[0], batch)
    for name in names:
        begin = time.perf_counter()
        explainer = lrp_tf.Explainer(model, explained(name))
        built = time.perf_counter() - begin
        first = built + seconds(explainer, x)
        seconds(explainer, x)
        pairs = [(seconds(gradient, x), seconds(explainer, x)) for _ in range(runs)]
        rows.append({"name": name, "first_call_s": first, **ratio(*map(list, zip(*pairs, strict=True)))})
        show(rows[-1], batch)
    return rows


def targets(model: keras.Model, x: tf.Tensor, name: str, runs: int) -> list[dict[str, Any]]:
    """Several targets of one image, and one set against the other classes, against a single one."""
    explainer, one, many = lrp_tf.Explainer(model, explained(name)), x[:1], [list(range(MANY))]
    against = functools.partial(explainer, contrast="softmax")
    for _ in range(2):
        seconds(explainer, one, 0), seconds(explainer, one, many), seconds(against, one, 0)
    calls = [(seconds(explainer, one, 0), seconds(explainer, one, many), seconds(against, one, 0)) for _ in range(runs)]
    single, several, contrast = map(list, zip(*calls, strict=True))
    rows = [
        {"name": f"{name}, {MANY} targets / 1 target", **ratio(single, several)},
        {"name": f"{name}, contrast / no contrast", **ratio(single, contrast)},
    ]
    for row, count in zip(rows, (MANY, 1), strict=True):
        show(row, count)
    return rows


def _both(function: Callable, x: tf.Tensor) -> tuple[float, float]:
    """Seconds by the clock, and of all cores, which a busy machine changes less."""
    begin = time.process_time()
    wall = seconds(function, x)
    return wall, time.process_time() - begin


def in_bfloat16(model: keras.Model, x: tf.Tensor, name: str, runs: int) -> dict[str, Any]:
    """A preset or rule in bfloat16 where that pays, against the gradient, and how close its relevance is to float32."""
    label = f"{name}, bfloat16"
    try:
        explainer = lrp_tf.Explainer(model, explained(name), fast="bfloat16")
    except ValueError as error:  # it says why nothing would be faster
        print(f"{label}: left out. {error}", flush=True)
        return {"name": label, "left_out": str(error)}
    gradient, exact = models.gradient(model), lrp_tf.Explainer(model, explained(name))
    for _ in range(2):
        seconds(gradient, x), seconds(exact, x), seconds(explainer, x)
    times = [[_both(function, x) for function in (gradient, exact, explainer)] for _ in range(runs)]
    plain, slow, fast = ([wall for wall, _ in found] for found in zip(*times, strict=True))
    work = [[cpu for _, cpu in found] for found in zip(*times, strict=True)]
    expected, found = np.ravel(exact(x)).astype(np.float64), np.ravel(explainer(x)).astype(np.float64)
    row = {"name": label, **ratio(plain, fast), "to_float32": ratio(slow, fast)["ratio"], "machine": bfloat16.kind()}
    row |= {"cpu": ratio(work[0], work[2])["ratio"], "cpu_float32": ratio(work[0], work[1])["ratio"]}
    row["correlation"] = float(np.corrcoef(found, expected)[0, 1])
    row["deviation"] = float(np.abs(found - expected).max() / np.abs(expected).max())
    show({**row, "name": f"{name}, float32", **ratio(plain, slow)}, int(x.shape[0]))
    show(row, int(x.shape[0]))
    print(
        f"{label} ({row['machine']}): {row['to_float32']:.2f} of float32, in CPU time {row['cpu']:.2f} of the gradient "
        f"(float32: {row['cpu_float32']:.2f}); correlation {row['correlation']:.5f}, "
        f"largest deviation {row['deviation']:.1e} of the maximum. {explainer!r}",
        flush=True,
    )
    return row


def show(row: dict[str, Any], maps: int) -> None:
    """Complete a row by the maps per second, `maps` in each call, and print it."""
    row["maps_s"] = 1000 * maps / row["ms"]
    first = f"{row['first_call_s']:8.2f} s" if "first_call_s" in row else " " * 10
    ratios = f"{row['ratio']:.2f}  ({row['low']:.2f} to {row['high']:.2f})"
    print(f"{row['name']:44s}{first}{row['ms']:10.1f} ms{row['maps_s']:10.1f}   {ratios}", flush=True)


# --- memory, in a process of its own -----------------------------------------------------------


def growth(model_name: str, batch: int, name: str) -> float:
    """MiB that a call adds at its peak, see memory.py."""
    command = [sys.executable, __file__, "--model", model_name, "--batch", str(batch), "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def grow(model_name: str, batch: int, name: str) -> None:
    """In the child: print the growth of the peak."""
    model = models.build(model_name)
    function = models.gradient(model) if name == "gradient" else lrp_tf.Explainer(model, explained(name))
    print(memory.growth(function, models.image(model, batch)))


# --- command -----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=models.MODELS, default="mnist")
    parser.add_argument("--batch", type=int, help="default: 128 for mnist, else 1")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"presets, or single rules: {', '.join(RULES)}")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--targets", action="store_true", help=f"{MANY} targets of one image, and a contrast, too")
    parser.add_argument(
        "--bfloat16", action="store_true", help=f"in bfloat16, too: {', '.join(IN_BFLOAT16)}, or --only"
    )
    parser.add_argument("--memory", action="store_true", help="growth of the peak, too")
    parser.add_argument("--peers", action="store_true", help="zennit, captum, SHAP and tf-explain, too (CPU)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    batch = options.batch or models.BATCHES.get(options.model, 1)
    if options.memory_of:
        grow(options.model, batch, options.memory_of)
        return
    names = options.only or [*composites.PRESETS, *RULES]
    if options.peers:
        if message := peers.missing():
            parser.error(message)
        peers.limit_threads()
    device = (tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("CPU"))[0].device_type
    machine = f"{device}, {os.cpu_count()} cores, {platform.machine()}, TensorFlow {tf.__version__}"
    print(f"{options.model}, batch {batch}, {machine}\n{'':44s}first call      median    maps/s   ratio (quartiles)")
    model = models.build(options.model)
    x = models.image(model, batch)
    rows = timed(model, x, names, options.runs)
    found: dict[str, Any] = {"model": options.model, "batch": batch, "machine": machine, "rows": rows}
    if options.targets:
        found["targets"] = targets(model, x, "epsilon_plus_flat", options.runs)
    if options.bfloat16:
        chosen = options.only or IN_BFLOAT16
        found["bfloat16"] = [in_bfloat16(model, x, name, options.runs) for name in chosen]
    if options.memory:
        found["memory_mib"] = {name: growth(options.model, batch, name) for name in ("gradient", *names)}
        for name, size in found["memory_mib"].items():
            print(f"{name:44s}{size:10.0f} MiB   {size / found['memory_mib']['gradient']:.2f}", flush=True)
    if options.peers:
        found["peers"] = peers.measure(model, x, names, options.runs, explained)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What each rule costs on each kind of layer, against the layer's own gradient.

The net is the layer, a ReLU and a dense layer with one output, whose cost hardly counts. Forward pass, gradient and
every rule take turns in one process; a step is what a call takes beyond the forward pass. Times are CPU time, which
other processes disturb least. Inputs are declared nonnegative, as they are behind a ReLU, unless --signed is given.

    python benchmarks/rules.py --json rules.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import tensorflow as tf
import timing

import lrp_tf
from lrp_tf import composites, rules

RULES = {
    "Epsilon": rules.Epsilon(),
    "ZPlus": rules.ZPlus(),
    "AlphaBeta": rules.AlphaBeta(2, 1),
    "Gamma": rules.Gamma(),
    "Flat": rules.Flat(),
    "WSquare": rules.WSquare(),
    "ZBox": rules.ZBox(0.0, 1.0),
}
# Kind -> the layer, and the shape of a batch that keeps two cores busy for some milliseconds.
KINDS: dict[str, tuple[Callable[[], keras.Layer], tuple[int, ...]]] = {
    "Dense": (lambda: keras.layers.Dense(2048), (64, 2048)),
    "Conv1D": (lambda: keras.layers.Conv1D(128, 5, padding="same"), (8, 512, 128)),
    "Conv2D": (lambda: keras.layers.Conv2D(64, 3, padding="same"), (4, 56, 56, 64)),
    "Conv3D": (lambda: keras.layers.Conv3D(32, 3, padding="same"), (1, 16, 28, 28, 32)),
    "DepthwiseConv2D": (lambda: keras.layers.DepthwiseConv2D(3, padding="same"), (8, 56, 56, 128)),
    "Conv2DTranspose": (lambda: keras.layers.Conv2DTranspose(64, 3, strides=2, padding="same"), (4, 28, 28, 128)),
}


def network(kind: str) -> tuple[keras.Model, tf.Tensor]:
    """The net around a layer, and a batch for it."""
    keras.utils.set_random_seed(0)
    build, shape = KINDS[kind]
    inputs = keras.Input(shape[1:])
    layer = build()
    layer.name = "layer"
    outputs = keras.layers.Flatten()(keras.layers.ReLU()(layer(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    return model, models.image(model, shape[0])


def clone(model: keras.Model, rule: rules.Rule, nonnegative: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """The net whose gradient is the relevance by `rule`."""
    composite = composites.Composite([(composites.named("layer"), rule), (None, rules.Epsilon())])
    return lrp_tf.clone_with_rules(model, composite, nonnegative=nonnegative)


def differentiated(call: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Function of batches such as x: output and gradient. It gives both, so that the forward pass is never left out."""

    def function(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = call(x)
        return [z, tape.gradient(z, x)]

    # The concrete function: TensorFlow would take one function a rule for retraces.
    return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(x.shape, x.dtype))


def ready(found: tf.Tensor | list[tf.Tensor]) -> None:
    for tensor in tf.nest.flatten(found):
        tensor.numpy()


def measured(kind: str, names: list[str], runs: int, nonnegative: bool) -> dict[str, Any]:
    """Median ratios to the gradient step: of the forward pass, and of the step of each rule."""
    model, x = network(kind)
    functions: dict[str, Callable] = {"forward": models.forward(model), "gradient": differentiated(model, x)}
    functions |= {name: differentiated(clone(model, RULES[name], nonnegative), x) for name in names}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(runs + 2):
        for name, function in functions.items():
            spent = timing.seconds(function, x, wait=ready, clock=time.process_time)
            if run >= 2:
                times[name].append(spent)
    row: dict[str, Any] = {"kind": kind, "shape": list(x.shape)}
    row |= {f"{name}_ms": 1000 * statistics.median(spent) for name, spent in times.items()}
    forward, gradient = times["forward"], times["gradient"]
    steps = [b - a for a, b in zip(forward, gradient, strict=True)]
    row["forward"] = statistics.median(forward) / statistics.median(steps)
    for name in names:
        own = [b - a for a, b in zip(forward, times[name], strict=True)]
        row[name] = statistics.median(own) / statistics.median(steps)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs="+", choices=RULES, default=list(RULES), metavar="RULE")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--signed", action="store_true", help="inputs of unknown sign")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    names = options.only
    print(f"of the gradient step  {'forward':>8s}{''.join(f'{name:>10s}' for name in names)}   gradient, forward (ms)")
    rows = []
    for kind in options.kinds:
        row = measured(kind, names, options.runs, nonnegative=not options.signed)
        rows.append(row)
        cells = "".join(f"{row[name]:10.2f}" for name in names)
        print(f"{kind:22s}{row['forward']:8.2f}{cells}   {row['gradient_ms']:.1f}, {row['forward_ms']:.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

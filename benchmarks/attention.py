"""What attn_lrp and cp_lrp cost on a BERT-like encoder, against the plain gradient of the same model.

The encoder reads vectors, as behind an Embedding, so that there is a gradient. Gradient and presets take turns in one
process; ratios are given by the clock and by CPU time, which other processes disturb least.

    python benchmarks/attention.py --layers 4 --width 768 --tokens 128 --json attention.json
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
import numpy as np
import tensorflow as tf
import timing

import lrp_tf
from lrp_tf import composites

PRESETS = ("attn_lrp", "cp_lrp")


def encoder(layers: int, width: int, heads: int, tokens: int) -> keras.Model:
    """BERT (Devlin et al. 2019) behind its embeddings: blocks normalised at their end, the first token classified."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((tokens, width))
    x = keras.layers.LayerNormalization(epsilon=1e-12)(inputs)
    for _ in range(layers):
        attended = keras.layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = keras.layers.LayerNormalization(epsilon=1e-12)(x + attended)
        h = keras.layers.Dense(4 * width, activation="gelu")(x)
        x = keras.layers.LayerNormalization(epsilon=1e-12)(x + keras.layers.Dense(width)(h))
    x = keras.layers.Dense(width, activation="tanh")(x[:, 0])
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def spent(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tuple[float, float]:
    """Seconds by the clock, and of all cores."""
    begin = time.process_time()
    wall = timing.seconds(function, x)
    return wall, time.process_time() - begin


def measured(model: keras.Model, x: tf.Tensor, runs: int) -> list[dict[str, Any]]:
    """A row for each preset: medians of its ratios to the gradient, in turn with it."""
    gradient = models.gradient(model)
    explainers: dict[str, Callable] = {name: lrp_tf.Explainer(model, composites.get(name)) for name in PRESETS}
    rows = []
    for name, explainer in explainers.items():
        begin = time.perf_counter()
        timing.seconds(explainer, x)
        first = time.perf_counter() - begin
        for function in (gradient, explainer):
            timing.seconds(function, x), timing.seconds(function, x)
        pairs = [(spent(gradient, x), spent(explainer, x)) for _ in range(runs)]
        by_clock, by_cpu = ([[a[i] for a, _ in pairs], [b[i] for _, b in pairs]] for i in range(2))
        row = {"name": name, **timing.ratio(*by_clock), "first_call_s": first, "cpu": timing.ratio(*by_cpu)}
        row["gradient_ms"] = 1000 * float(np.median(by_clock[0]))
        rows.append(row)
        cpu = row["cpu"]
        print(
            f"{name:10s} {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f}) of the gradient by the clock, "
            f"{cpu['ratio']:.2f} ({cpu['low']:.2f} to {cpu['high']:.2f}) in CPU time; {row['ms']:.0f} ms, gradient "
            f"{row['gradient_ms']:.0f} ms, first call {first:.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    model = encoder(options.layers, options.width, options.heads, options.tokens)
    rows = measured(model, models.image(model, options.batch), options.runs)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What LRP of recurrent layers costs: of the plain gradient of the same Keras model, by the number of time steps.

    python benchmarks/recurrent_speed.py --json recurrent_speed.json
    python benchmarks/recurrent_speed.py --nets lstm --steps 100 --composite "all: gamma 0.25"
    python benchmarks/recurrent_speed.py --memory --nets lstm --steps 100 500 --batch 64 --width 256

Gradient and relevance are compiled, forward and backward, and take turns in one process; the ratio is the median of
pairs, by the clock and by CPU time, which other processes disturb less. The first call is that of a new Explainer,
which traces and optimises, beside the gradient's. --memory measures something else: by how much the resident set of a
process grows at most, from the model that is built to the end of two calls; each way in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
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
from keras import layers as kl

import lrp_tf

SIDE = 12  # of the pictures that ConvLSTM2D reads
NETS: dict[str, Callable[[int], list[keras.Layer]]] = {
    "lstm": lambda width: [kl.LSTM(width)],
    "gru": lambda width: [kl.GRU(width)],
    "simple": lambda width: [kl.SimpleRNN(width)],
    "bidirectional": lambda width: [kl.Bidirectional(kl.LSTM(width))],
    "stacked": lambda width: [kl.LSTM(width, return_sequences=True), kl.Dropout(0.2), kl.LSTM(width)],
    "convlstm": lambda width: [kl.ConvLSTM2D(max(1, width // 8), 3, padding="same"), kl.Flatten()],
}

WAYS: dict[str, Callable[[keras.Model, str], Callable]] = {
    "relevance": lambda model, composite: lrp_tf.Explainer(model, composite, check=False),
    "gradient": lambda model, composite: models.gradient(model),
}


def net(name: str, steps: int, width: int, channels: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    shape = (steps, SIDE, SIDE, channels) if name == "convlstm" else (steps, channels)
    return keras.Sequential([keras.Input(shape), *NETS[name](width), kl.Dense(5, "softmax")])


def spent(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tuple[float, float]:
    """Seconds by the clock, and of all cores."""
    begin = time.process_time()
    wall = timing.seconds(function, x)
    return wall, time.process_time() - begin


def first_call(make: Callable[[], Callable], x: tf.Tensor) -> tuple[Callable, float, float]:
    """A function, the seconds that it takes to make it, and those of its first call."""
    begin = time.perf_counter()
    function = make()
    made = time.perf_counter() - begin
    return function, made, timing.seconds(function, x)


def measured(name: str, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    model = net(name, steps, options.width, options.channels)
    x = tf.random.stateless_normal([options.batch, *model.input_shape[1:]], seed=(1, 2))
    gradient, _, gradient_first = first_call(lambda: models.gradient(model), x)
    explainer, made, first = first_call(lambda: lrp_tf.Explainer(model, options.composite, check=False), x)
    for _ in range(2):
        timing.seconds(gradient, x), timing.seconds(explainer, x)
    pairs = [(spent(gradient, x), spent(explainer, x)) for _ in range(options.runs)]
    by_clock, by_cpu = ([[a[i] for a, _ in pairs], [b[i] for _, b in pairs]] for i in range(2))
    return {
        "net": name,
        "steps": steps,
        **timing.ratio(*by_clock),
        "cpu": timing.ratio(*by_cpu),
        "gradient ms": 1000 * float(np.median(by_clock[0])),
        "explainer s": made,
        "first call s": first,
        "gradient first call s": gradient_first,
    }


def peaks(name: str, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """MiB of each way, in a process of its own, and what the states of all time steps take."""
    sizes = ("width", "channels", "batch", "composite")
    given = [part for size in sizes for part in (f"--{size}", str(getattr(options, size)))]
    row: dict[str, Any] = {"net": name, "steps": steps}
    for way in WAYS:
        command = [sys.executable, __file__, "--nets", name, "--steps", str(steps), *given, "--only", way]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row[f"{way} MiB"] = float(found.stdout.splitlines()[-1])
    units = sum(
        s.shape[-1] for layer in net(name, steps, options.width, options.channels).layers for s in _states(layer)
    )
    row["states MiB"] = steps * options.batch * units * 4 / 2**20
    print(f"| {' | '.join([name, str(steps), *(f'{row[c]:.0f}' for c in list(row)[2:])])} |", flush=True)
    return row


def _states(layer: keras.Layer) -> list[tf.Tensor]:
    """The initial states of a recurrent layer without axes of space."""
    if isinstance(layer, kl.Bidirectional):
        return _states(layer.forward_layer) + _states(layer.backward_layer)
    return layer.get_initial_state(1) if isinstance(layer, (kl.LSTM, kl.GRU, kl.SimpleRNN)) else []


def peak(options: argparse.Namespace) -> float:
    """MiB by which this process grows at most, from a built model to the end of two calls of one way."""
    model = net(options.nets[0], options.steps[0], options.width, options.channels)
    x = tf.random.stateless_normal([options.batch, *model.input_shape[1:]], seed=(1, 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function = WAYS[options.only](model, options.composite)
    for _ in range(2):
        np.asarray(function(x))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def show(row: dict[str, Any]) -> None:
    """A row of the table in Markdown."""
    cpu = row["cpu"]
    cells = [row["net"], str(row["steps"]), f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"]
    cells += [f"{cpu['ratio']:.2f} ({cpu['low']:.2f} to {cpu['high']:.2f})", f"{row['ms']:.1f}"]
    cells += [f"{row['gradient ms']:.1f}", f"{row['explainer s']:.2f} + {row['first call s']:.2f}"]
    cells.append(f"{row['gradient first call s']:.2f}")
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["lstm", "gru", "bidirectional", "convlstm"])
    parser.add_argument("--steps", nargs="+", type=int, default=[40, 100, 200, 500])
    parser.add_argument("--width", type=int, default=64, help="units; ConvLSTM2D has an eighth as many filters")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--composite", default="epsilon")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(peak(options))
        return
    models.gradient(net("lstm", 4, 4, 1))(tf.ones((1, 4, 1)))  # what TensorFlow does once only
    columns = ["net", "steps", "of the gradient, by the clock", "CPU time", "ms", "gradient's ms"]
    columns += ["explainer + first call, s", "gradient's first call, s"]
    if options.memory:
        columns = ["net", "steps", "relevance, MiB", "gradient, MiB", "states, MiB"]
    print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}", flush=True)
    rows = []
    for name in options.nets:
        for steps in options.steps:
            if options.memory:
                rows.append(peaks(name, steps, options))
            else:
                rows.append(measured(name, steps, options))
                show(rows[-1])
    if options.json:
        given = {name: value for name, value in vars(options).items() if name not in ("json", "only")}
        options.json.write_text(json.dumps(given | {"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

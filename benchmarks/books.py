"""What keeping the books costs: `explain(x)` against a call without them, in turn in one process; and how they close.

python benchmarks/books.py                                     # default preset, five networks
python benchmarks/books.py --networks mobilenet75 --presets all --json books.json
python benchmarks/books.py --networks mnist --dtype float64    # what float64 leaves unexplained

Networks have seeded weights, with biases and statistics that are not 0 and 1. Of each pair of calls two ratios are
taken, of wall time and of CPU time, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import numpy as np
import same_numbers
import tensorflow as tf
from timing import ratio

import lrp_tf
from lrp_tf import composites

CASES = (("vgg16", 1), ("vgg16", 8), ("resnet50", 8), ("mobilenet75", 8), ("mnist", 128))
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=sorted({name for name, _ in CASES}), choices=models.MODELS)
    parser.add_argument("--batch", type=int, help="default: 1 and 8 for VGG16, 128 for the digits CNN, else 8")
    parser.add_argument("--presets", nargs="+", default=["epsilon_plus_flat"], choices=["all", *composites.PRESETS])
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--runs", type=int, default=15, help="pairs of calls, at least 2 (default: 15)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    keras.config.set_floatx(options.dtype)
    presets = list(composites.PRESETS) if "all" in options.presets else options.presets
    print(f"{'explain(x) / explainer(x)':44s} wall (quartiles)       CPU (quartiles)        maps/s        unexplained")
    rows = [
        measured(name, batch, preset, options.runs)
        for name in options.networks
        for batch in ([options.batch] if options.batch else [b for n, b in CASES if n == name] or [8])
        for preset in presets
    ]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measured(network: str, batch: int, preset: str, runs: int) -> dict[str, Any]:
    """A row of figures, printed as it is measured."""
    model = models.build(network)
    same_numbers.set_weights(model)
    x = tf.cast(models.image(model, batch), keras.config.floatx())
    bounds = same_numbers.BOUNDS if composites.needs_bounds(preset) else {}
    explainer = lrp_tf.Explainer(model, composites.get(preset, **bounds))
    functions = (lambda: explainer(x), lambda: explainer.explain(x).relevance)
    times: list[list[dict[str, float]]] = [[], []]
    for run in range(-2, runs):  # the first two pairs do not count
        for which in (0, 1) if run % 2 else (1, 0):
            spent = clocked(functions[which])
            if run >= 0:
                times[which].append(spent)
    row: dict[str, Any] = {"network": network, "batch": batch, "preset": preset}
    row |= {clock: ratio(*[[spent[clock] for spent in side] for side in times]) for clock in CLOCKS}
    row["maps_per_s"] = [batch / float(np.median([spent["wall"] for spent in side])) for side in times]
    row["unexplained"] = float(np.abs(explainer.explain(x).conservation.unexplained).max())
    cells = [f"{row[c]['ratio']:.2f} ({row[c]['low']:.2f} to {row[c]['high']:.2f})" for c in CLOCKS]
    plain, full = row["maps_per_s"]
    print(
        f"{f'{network}, batch {batch}, {preset}':44s} {cells[0]:22s} {cells[1]:22s} {plain:5.1f} {full:5.1f}"
        f"   {row['unexplained']:.0e}",
        flush=True,
    )
    return row


def clocked(function: Any) -> dict[str, float]:
    """Seconds of a call by each clock."""
    begin = {name: clock() for name, clock in CLOCKS.items()}
    np.asarray(function())
    return {name: clock() - begin[name] for name, clock in CLOCKS.items()}


if __name__ == "__main__":
    main()

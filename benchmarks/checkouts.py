"""Compares speed, first call and memory of two checkouts, in turn and in one run.

python benchmarks/checkouts.py BEFORE AFTER, two folders that hold the repository at two commits. One process for each
checkout waits; calls alternate between them, so that a busy machine slows both. Times are CPU time, which other
processes disturb least. First calls are measured in fresh processes, in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = (
    ("mnist", 128, ("epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma_box")),
    ("vgg16", 1, ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma_box", "tutorial")),
    ("resnet50", 1, ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma_box", "tutorial")),
    ("mobilenet", 4, ("epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma_box")),
    ("efficientnetb0", 2, ("epsilon_plus_flat",)),
)


class Checkout:
    """A process that explains with the package of one folder."""

    def __init__(self, folder: Path, network: str, preset: str, batch: int) -> None:
        environment = os.environ | {"PYTHONPATH": str(folder.resolve()), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", network, preset, str(batch)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._process = subprocess.Popen(command, env=environment, cwd=folder, **pipes)
        self.first = float(self._process.stdout.readline())

    def ask(self, what: str) -> float:
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--networks", nargs="+", default=[name for name, _, _ in CASES])
    parser.add_argument("--runs", type=int, default=15, help="pairs of calls (default: 15)")
    parser.add_argument("--first-calls", type=int, default=3, help="fresh processes of each checkout (default: 3)")
    parser.add_argument("--serve", nargs=3, metavar=("NETWORK", "PRESET", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], options.serve[1], int(options.serve[2]))
        return
    print("after / before | call (quartiles) | explain (quartiles) | first call | memory of a call", flush=True)
    for network, batch, presets in CASES:
        for preset in presets if network in options.networks else ():
            row = measured(options, network, preset, batch)
            print(f"{network} {preset} B={batch} | {' | '.join(row)}", flush=True)


def measured(options: argparse.Namespace, network: str, preset: str, batch: int) -> list[str]:
    """Cells of a row, each a ratio of `after` to `before`."""
    folders, firsts = (options.before, options.after), ([], [])
    for _ in range(options.first_calls - 1):
        for folder, times in zip(folders, firsts, strict=True):
            fresh = Checkout(folder, network, preset, batch)
            times.append(fresh.first)
            fresh.close()
    pair = [Checkout(folder, network, preset, batch) for folder in folders]
    for checkout, times in zip(pair, firsts, strict=True):
        times.append(checkout.first)
    cells = []
    for what in ("call", "explain"):
        ratios = []
        for run in range(options.runs + 2):
            order = (0, 1) if run % 2 else (1, 0)
            spent = {side: pair[side].ask(what) for side in order}
            ratios.append(spent[1] / spent[0])
        low, middle, high = statistics.quantiles(ratios[2:], n=4)
        cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
    cells.append(f"{min(firsts[1]) / min(firsts[0]):.3f}")
    cells.append(f"{pair[1].ask('memory') / pair[0].ask('memory'):.3f}")
    for checkout in pair:
        checkout.close()
    return cells


def serve(network: str, preset: str, batch: int) -> None:
    """Answer requests on standard input with seconds of CPU time or MiB on standard output."""
    import memory
    import models
    import numpy as np

    import lrp_tf
    from lrp_tf import composites

    model = models.build(network)
    x = models.image(model, batch)
    bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(preset) else {}
    begin = time.process_time()
    explainer = lrp_tf.Explainer(model, composites.get(preset, **bounds))
    np.asarray(explainer(x))
    print(time.process_time() - begin, flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            # The least of several: how much is held at once depends on which operations happen to run side by side.
            print(min(memory.growth(explainer, x) for _ in range(5)), flush=True)
            continue
        function = explainer if line.strip() == "call" else lambda x: explainer.explain(x).relevance
        begin = time.process_time()
        np.asarray(function(x))
        print(time.process_time() - begin, flush=True)


if __name__ == "__main__":
    main()

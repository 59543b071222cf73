"""First calls of explainers that are loaded from a file, beside those that are built.

python benchmarks/saved.py --networks resnet50 efficientnetb7 nasnetlarge

For each network one process builds the explainer, calls it and saves it; another one, in which TensorFlow and the model
are there, loads it and calls it. Seconds by the clock and of CPU time, at batch 1, and whether all bits agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NETWORKS = ("resnet50", "efficientnetb7", "nasnetlarge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--child", nargs=3, metavar=("STEP", "NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step, network, folder = options.child
        child(step, network, Path(folder))
        return
    found = {}
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("save", "load"):
                command = [sys.executable, str(Path(__file__).resolve()), "--child", step, network, folder]
                subprocess.run(command, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}, check=True)
            found[network] = {
                step: json.loads((Path(folder) / f"{step}.json").read_text()) for step in ("save", "load")
            }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def child(step: str, network: str, folder: Path) -> None:
    """Measure one process, print a line for each part, and leave `step`.json."""
    import models
    import numpy as np

    import lrp_tf

    model = models.build(network)
    model(models.image(model, 1), training=False)
    x, file, times = models.image(model, 1), folder / "explainer.lrp", {}
    lrp_tf.Explainer  # noqa: B018 - its import is no part of the first call

    def timed(what: str, function: Callable[[], object]) -> object:
        begin, cpu = time.perf_counter(), time.process_time()
        result = function()
        times[what] = (round(time.perf_counter() - begin, 3), round(time.process_time() - cpu, 3))
        print(f"{network} {step}: {what}: {times[what][0]:.2f} s, CPU {times[what][1]:.2f} s", flush=True)
        return result

    if step == "save":
        explainer = timed("build", lambda: lrp_tf.Explainer(model))
    else:
        explainer = timed("load", lambda: lrp_tf.Explainer.load(file, model))
    relevance = timed("first call", lambda: np.asarray(explainer(x)))
    timed("later call", lambda: np.asarray(explainer(x)))
    explained = timed("first explain", lambda: explainer.explain(x).relevance.numpy())
    timed("later explain", lambda: explainer.explain(x).relevance.numpy())
    if step == "save":
        timed("save", lambda: explainer.save(file))
        times["megabytes"] = file.stat().st_size / 1e6
        np.savez(folder / "expected.npz", relevance=relevance, explained=explained)
    else:
        with np.load(folder / "expected.npz") as expected:
            equal = (expected["relevance"] == relevance).all() and (expected["explained"] == explained).all()
        times["equal"] = bool(equal)
        print(f"{network}: {'all bits agree' if equal else 'THE NUMBERS DIFFER'}", flush=True)
    (folder / f"{step}.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()

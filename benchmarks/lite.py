"""Files for LiteRT against the explainer they were written from: error, time, size; a table in Markdown: --help."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import numpy as np
import tensorflow as tf
import timing

import lrp_tf
from lrp_tf.exporting.lite import verify

PRESETS = ("epsilon_plus_flat", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat")
NETS = ("vgg16", "resnet50", "mobilenet", "efficientnetb0")
HEAD = (
    "| net | composite | from TensorFlow | of one rounding | file, TensorFlow from float64 | TensorFlow, ms | "
    "LiteRT, ms | ratio | file / weights |\n|---|---|---|---|---|---|---|---|---|"
)


def measure(net: str, composite: str, runs: int, threads: int, double: bool, weights: str | None, shares: bool) -> str:
    """A row of the table."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = models.build(net)
    if weights is not None:
        model.load_weights(weights)
    x = models.image(model, 1)
    options = {"low": 0.0, "high": 1.0} if composite.endswith("box") else {}
    explainer = lrp_tf.Explainer(model, composite, **options)
    with tempfile.TemporaryDirectory() as folder:
        lite = lrp_tf.export_lite(explainer, Path(folder) / "net.tflite", check=False, conservation=shares)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        explain = verify.interpreter(lite.path.read_bytes(), threads).get_signature_runner("explain")
    got = explain(x=x.numpy(), target=np.array([-1], np.int32))["relevance"]
    want = explainer(x).numpy()
    errors = [_apart(got, want), _apart(explainer(verify.rounded(x.numpy())).numpy(), want)]
    exact = "–"
    if double:
        reference = _reference(model, net, composite, options, x)
        exact = f"{_apart(got, reference):.1e}, {_apart(want, reference):.1e}"
    feed = {"x": x.numpy(), "target": np.array([-1], np.int32)}
    plain, other = timing.in_turn(lambda: explainer(x), lambda: explain(**feed)["relevance"], runs)
    a, b = 1000 * min(plain), 1000 * min(other)
    return (
        f"| {net} | `{composite}` | {errors[0]:.1e} | {errors[1]:.1e} | {exact} | {a:.1f} | {b:.1f} | {b / a:.2f} | "
        f"{lite.size / lite.weights:.2f} |  <!-- export: {peak:.1f} GiB -->"
    )


def _apart(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def _reference(model: keras.Model, net: str, composite: str, options: dict, x: tf.Tensor) -> np.ndarray:
    """Relevance of the same weights in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    twin = models.MODELS[net]()
    twin.set_weights(model.get_weights())
    return lrp_tf.Explainer(twin, composite, **options)(tf.cast(x, tf.float64)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=NETS, choices=models.MODELS)
    parser.add_argument("--composites", nargs="+", default=PRESETS)
    parser.add_argument("--runs", type=int, default=15, help="pairs of calls in turn; the best of each counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--double", action="store_true", help="compare with relevance in float64, too")
    parser.add_argument("--weights", help="a file of weights for mobilenet75, which is then one of the nets")
    parser.add_argument("--conservation", action="store_true", help="files with the output of this name")
    parser.add_argument("--row", action="store_true", help="one row in this process; otherwise each has its own")
    options = parser.parse_args()
    if options.row:
        (net,), (composite,) = options.nets, options.composites
        print(
            measure(
                net, composite, options.runs, options.threads, options.double, options.weights, options.conservation
            ),
            flush=True,
        )
        return
    print(HEAD, flush=True)
    more = [
        "--runs",
        str(options.runs),
        "--threads",
        str(options.threads),
        *(["--double"] if options.double else []),
        *(["--conservation"] if options.conservation else []),
    ]
    for net in [*options.nets, *(["mobilenet75"] if options.weights and "mobilenet75" not in options.nets else [])]:
        trained = ["--weights", options.weights] if options.weights and net == "mobilenet75" else []
        for composite in options.composites:
            command = [sys.executable, __file__, "--row", "--nets", net, "--composites", composite, *more, *trained]
            environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            found = subprocess.run(command, capture_output=True, text=True, env=environment)
            print(found.stdout.strip() or f"{net} {composite}: {found.stderr[-2000:]}", flush=True)


if __name__ == "__main__":
    main()

"""Compares the relevance of two checkouts: every preset on five networks, in float32 and float64.

python benchmarks/same_numbers.py BEFORE AFTER, two folders that hold the repository at two commits. Every network has
seeded weights; relevance and the books of `explain` are compared, relative to the largest |relevance| of a map. A
difference above the limit is an error. `--kept FOLDER` keeps what a checkout gave, so that it need not be run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LIMITS = {"float64": 1e-12, "float32": 1e-6}
NETWORKS = {"digits": 8, "mobilenet": 2, "efficientnetb0": 2, "resnet50": 1, "vgg16": 1}  # name -> batch size
BOUNDS = {"low": 0.0, "high": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--dtypes", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--kept", type=Path, help="folder for the results of `before`, read where they exist")
    parser.add_argument("--record", nargs=3, metavar=("NETWORK", "DTYPE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record:
        record(*options.record)
        return
    worst = 0
    with tempfile.TemporaryDirectory() as scratch:
        kept = options.kept or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        for dtype in options.dtypes:
            for network in options.networks:
                before = kept / f"{network}_{dtype}.npz"
                if not before.exists():
                    run(options.before, network, dtype, before)
                if options.after is None:
                    continue
                after = Path(scratch) / "after.npz"
                run(options.after, network, dtype, after)
                worst |= compare(network, dtype, np.load(before), np.load(after))
    sys.exit(worst)


def run(checkout: Path, network: str, dtype: str, file: Path) -> None:
    """Record what one checkout gives, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(Path(__file__).resolve()), ".", "--record", network, dtype, str(file)]
    subprocess.run(command, env=environment, check=True)


def compare(network: str, dtype: str, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> int:
    """Print one line for each preset; 1 if any difference is above the limit, or an array is missing."""
    failed = int(set(before) != set(after))
    for preset in sorted({name.split("/")[0] for name in before}):
        maps, books = f"{preset}/relevance", f"{preset}/books"
        difference = np.abs(before[maps] - after[maps]).max() / np.abs(before[maps]).max()
        shares = np.abs(before[books] - after[books]).max() / np.abs(before[books][0]).max()
        bad = not (difference <= LIMITS[dtype] and shares <= 100 * LIMITS[dtype])  # sums over a whole map round more
        failed |= bad
        print(f"{network:15} {dtype} {preset:26} maps {difference:.1e}  books {shares:.1e}{'  FAILED' if bad else ''}")
    sys.stdout.flush()
    return failed


def record(network: str, dtype: str, file: str) -> None:
    """Write the maps and books of every preset for one network."""
    import keras
    import tensorflow as tf

    import lrp_tf
    from lrp_tf import composites

    keras.config.set_floatx(dtype)
    keras.utils.set_random_seed(0)
    model = digits_network() if network == "digits" else build(network)
    set_weights(model)
    x = np.random.default_rng(1).random((NETWORKS[network], *model.input_shape[1:]))
    found = {}
    for preset in composites.PRESETS:
        bounds = BOUNDS if composites.needs_bounds(preset) else {}
        explanation = lrp_tf.Explainer(model, composites.get(preset, **bounds)).explain(tf.constant(x, dtype))
        found[f"{preset}/relevance"] = explanation.relevance.numpy()
        books = explanation.conservation._asdict()
        books["bias"] += books.get("positions", 0)  # which earlier commits booked there
        names = ("start", "relevance", "bias", "stabilizer", "other")
        found[f"{preset}/books"] = np.stack([books[name].numpy() for name in names])
    np.savez(file, **found)


def digits_network():
    """The architecture of mnist/train.py."""
    import keras

    layers = keras.layers
    return keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip


def build(network: str):
    """A network of keras.applications, not trained."""
    import keras

    names = {"vgg16": "VGG16", "resnet50": "ResNet50", "mobilenet": "MobileNet", "efficientnetb0": "EfficientNetB0"}
    return getattr(keras.applications, names[network])(weights=None)


def set_weights(model: object) -> None:
    """Biases and statistics that are not 0 and 1, so that every term of every rule takes part."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean", "mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "moving_variance", "variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))


if __name__ == "__main__":
    main()

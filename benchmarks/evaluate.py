"""What perturbation costs beside its forward passes, beside Quantus' pixel flipping, and by fill; memory of compare.

    python benchmarks/evaluate.py                                   # cost and fills
    python benchmarks/evaluate.py --part memory                     # of compare, by the number of samples
    python benchmarks/evaluate.py --part quantus --json quantus.json

Quantus is no dependency of lrp_tf: the part `quantus` runs where it is installed beside TensorFlow, for instance

    python -m pip install -e . tensorflow-cpu==2.21.0 quantus==0.6.0 torch==2.13.0 scipy numpy==2.3.5

(Quantus 0.6.0 calls np.trapz, which NumPy 2.4 no longer has.) Quantus gets the Keras model itself, through the wrapper
that it has for Keras models, in the same process. Both flip the same pixels in the same order; the scores are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import models
import numpy as np
import tensorflow as tf
from timing import in_turn, ratio

import lrp_tf
from lrp_tf import evaluate


def samples(name: str, batch: int | None) -> tuple[evaluate.Predictor, np.ndarray, np.ndarray, np.ndarray]:
    """A predictor, samples, random relevance, and the classes of the samples."""
    model = models.build(name)
    x = models.image(model, batch or models.BATCHES.get(name, 16)).numpy()
    predict = evaluate.Predictor(model, batch_size=len(x))
    relevance = np.random.default_rng(0).normal(size=x.shape[:-1]).astype(np.float32)
    return predict, x, relevance, predict(x).argmax(axis=1)


def cost(name: str, options: argparse.Namespace) -> dict[str, object]:
    """perturb beside as many forward passes of the same predictor."""
    predict, x, relevance, target = samples(name, options.batch)

    def bare() -> np.ndarray:
        return [predict.both(x) for _ in range(options.steps + 1)][-1][0]

    def flipped() -> np.ndarray:
        return evaluate.perturb(predict, x, relevance, target, steps=options.steps, fill=options.fill).scores

    def pictures() -> int:
        return sum(1 for _ in evaluate.perturb_steps(x, relevance, steps=options.steps, fill=options.fill))

    clock = time.process_time if options.cpu_time else time.perf_counter
    whole = ratio(*in_turn(bare, flipped, options.runs, clock=clock))
    alone = ratio(*in_turn(bare, pictures, options.runs, clock=clock))
    print(
        f"{name}, {len(x)} samples, {options.steps} steps, {options.fill}: {whole['ratio']:.3f} of its forward passes "
        f"({whole['low']:.3f} to {whole['high']:.3f}); the pictures alone {alone['ratio']:.3f}",
        flush=True,
    )
    return {"batch": len(x), "perturb": whole, "pictures": alone}


def beside_quantus(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """perturb beside Quantus' PixelFlipping: single pixels, black, the same number at each step."""
    import quantus

    predict, x, relevance, target = samples(name, options.batch)
    if x.shape[-1] != 1:
        raise ValueError(f"Quantus flips channels one by one: expected a model of one channel. Received: {name}")
    model, pixels = models.build(name), x[0].size
    size = -(-pixels // options.steps)
    flips = [*range(0, pixels, size), pixels]
    metric = quantus.PixelFlipping(
        features_in_step=size, normalise=False, abs=False, perturb_baseline=0.0, return_aggregate=False,
        disable_warnings=True,
    )  # fmt: skip
    found = {}
    for batch in options.quantus_batch or (len(x), 1):

        def other(batch: int = batch) -> np.ndarray:
            return np.asarray(metric(model, x, target, relevance[:, None], softmax=True, batch_size=batch))

        def flipped() -> np.ndarray:
            return evaluate.perturb(predict, x, relevance, target, region=1, schedule=flips, fill=0.0).probabilities

        apart = float(np.abs(flipped()[:, 1:] - other()).max())
        times = ratio(*in_turn(flipped, other, options.runs)) | {"apart": apart}
        found[f"batches of {batch}"] = times
        print(
            f"{name}, {len(x)} samples, {len(flips) - 1} steps: Quantus {metadata.version('quantus')} in batches of "
            f"{batch} takes {times['ratio']:.1f} times as long ({times['low']:.1f} to {times['high']:.1f}); scores "
            f"differ by {apart:.1e}",
            flush=True,
        )
    return found


def fills(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of a picture at a step, by fill, without forward passes; of parallel ones with one thread, too."""
    _, x, relevance, _ = samples(name, options.batch)

    def milliseconds(fill: evaluate.fills.FillLike) -> float:
        begin = time.perf_counter()
        for _ in evaluate.perturb_steps(x, relevance, steps=options.steps, fill=fill):
            pass
        return 1000 * (time.perf_counter() - begin) / options.steps / len(x)

    found = {fill: {"ms": milliseconds(fill)} for fill in evaluate.fills.names()}
    for fill, times in found.items():
        declared = evaluate.fills.get(fill)
        if hasattr(declared, "threads"):
            times["ms_one_thread"] = milliseconds(dataclasses.replace(declared, threads=1))
        print(f"{name} {x.shape[1:]}, {fill}: " + ", ".join(f"{key} {value:.2f}" for key, value in times.items()))
    return found


def memory(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The most memory that a process takes which compares over a stream, for several numbers of samples."""
    found = {}
    for count in options.samples:
        command = [sys.executable, __file__, "--model", name, "--stream", str(count)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"{count} samples"] = sizes = json.loads(run.stdout.splitlines()[-1])
        print(
            f"{name}, {count} samples: " + ", ".join(f"{key} {mib:.1f} MiB" for key, mib in sizes.items()), flush=True
        )
    return found


def streamed(name: str, count: int) -> None:
    """Compare over a stream that is made as it is read, and print the peak of this process, in JSON."""
    model = models.build(name)
    numbers, shape = np.random.default_rng(0), model.input_shape[1:]
    stream = (numbers.random((min(32, count - first), *shape), np.float32) for first in range(0, count, 32))
    methods = {"epsilon": lrp_tf.Explainer(model, "epsilon"), "random": "random"}
    found = evaluate.compare(methods, stream, metrics=["sparseness", "complexity", "conservation"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    samples = count * int(np.prod(shape)) * 4 / 2**20
    print(json.dumps({"peak": peak, "table of values": found.values.nbytes / 2**20, "all samples would be": samples}))


PARTS: dict[str, Callable[[str, argparse.Namespace], dict]] = {
    "cost": cost,
    "quantus": beside_quantus,
    "fills": fills,
    "memory": memory,
}
MODELS = {"cost": ["mnist", "mobilenet75"], "quantus": ["mnist"], "fills": ["mobilenet75"], "memory": ["mnist"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=["cost", "fills"])
    parser.add_argument("--model", choices=models.MODELS, nargs="+", help="default: mnist, mobilenet75, by part")
    parser.add_argument("--batch", type=int, help="samples; default: 128 of mnist, else 16")
    parser.add_argument(
        "--quantus-batch", type=int, nargs="+", help="samples that Quantus runs at once; default: all, and 1"
    )
    parser.add_argument("--steps", type=int, default=29)
    parser.add_argument("--fill", default="blur", help="of the part cost")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="cost by CPU time, for machines that others use, too")
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 10_000], help="of the part memory")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)  # a process of the part memory
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    options = parser.parse_args()
    if options.stream is not None:
        streamed(options.model[0], options.stream)
        return
    versions = {"python": sys.version.split()[0], "tensorflow": tf.__version__, "numpy": np.__version__}
    print(f"{os.cpu_count()} cores, {', '.join(f'{key} {value}' for key, value in versions.items())}")
    results: dict[str, object] = {"cores": os.cpu_count(), **versions}
    for part in options.part:
        results[part] = {name: PARTS[part](name, options) for name in options.model or MODELS[part]}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

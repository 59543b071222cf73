"""`lrp_tf.export_stablehlo` in jax, in a process without TensorFlow: how exact, how fast, how large.

    python benchmarks/stablehlo.py vgg16 resnet50 mobilenet
    python benchmarks/stablehlo.py trained --data DIR          # with mobilenet075.weights.h5 and photos/

Each row is a preset. Deviations are each sample's largest difference of relevance, relative to its largest value: of
jax and TensorFlow in float32; of either from TensorFlow in float64, which tells how much of it is float32 itself; of
jax and TensorFlow in float64. Seconds of both are taken in turn, a call of one behind a call of the other; CPU time is
that of all threads, which tells more where the machine has other work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import models
import numpy as np
import peers
import timing

import lrp_tf
from lrp_tf import composites

PRESETS = ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box")
COLUMNS = ("net", "preset", "jax – TF", "TF – float64", "jax – float64", "both in float64", "jax : TF", "CPU time")
COLUMNS += ("TF ms", "first call s", "text kB", "weights MB", "export s")


class Jax:
    """What `stablehlo_child.py` runs: its first results, and another call whenever it is asked."""

    def __init__(self, process: subprocess.Popen, results: Path) -> None:
        self._process = process
        self.first, _ = self._seconds()
        with np.load(results) as file:
            self.found = dict(file)

    def __call__(self) -> tuple[float, float]:
        """Seconds of a call, and those of the CPU."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._seconds()

    def _seconds(self) -> tuple[float, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"jax failed with exit code {self._process.wait()}")
        passed, cpu = map(float, line.split())
        return passed, cpu


@contextmanager
def in_jax(explainer: lrp_tf.Explainer, x: np.ndarray) -> Iterator[tuple[Jax, dict[str, float]]]:
    """An explainer exported and run in jax, and what the export took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.perf_counter()
        lrp_tf.export_stablehlo(explainer, len(x), folder / "export")
        took = {"export s": time.perf_counter() - begin}
        took["text kB"] = (folder / "export/explain.mlir").stat().st_size / 1e3
        took["weights MB"] = (folder / "export/weights.npz").stat().st_size / 1e6
        np.save(folder / "x.npy", x)
        child = Path(__file__).with_name("stablehlo_child.py")
        command = [sys.executable, str(child), str(folder / "export"), str(folder / "x.npy"), str(folder / "found.npz")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Jax(process, folder / "found.npz"), took
            finally:
                assert process.stdin is not None
                process.stdin.close()


def deviations(found: np.ndarray, expected: np.ndarray) -> str:
    """Of each sample."""
    return ", ".join(f"{peers.deviation(one, other):.1e}" for one, other in zip(found, expected, strict=True))


def row(name: str, model: keras.Model, exact: keras.Model, x: np.ndarray, preset: str, runs: int) -> dict[str, object]:
    """One row of the table.

    Args:
        exact: the same model in float64.
        x: a batch, float32.
    """
    options = {"low": x.min(), "high": x.max()} if composites.needs_bounds(preset) else {}
    explainer, double = (lrp_tf.Explainer(m, preset, **options) for m in (model, exact))
    wanted = double.explain(x, (target := np.argmax(model(x, training=False), axis=-1))).relevance.numpy()
    with in_jax(double, x) as (jax, _):
        doubled = jax.found["relevance"]
    with in_jax(explainer, x) as (jax, took):
        found = explainer.explain(x)
        if not np.array_equal(jax.found["target"], target):
            raise ValueError(f"{name}: the top classes differ, so that nothing can be compared")
        relevance = found.relevance.numpy()
        ours, others = [], []
        for _ in range(runs):
            cpu = time.process_time()
            passed = timing.seconds(lambda: explainer.explain(x).relevance)
            ours.append((passed, time.process_time() - cpu))
            others.append(jax())
        ours, others = (np.min(times, axis=0) for times in (ours, others))
        return {
            "net": name,
            "preset": preset,
            "jax – TF": deviations(jax.found["relevance"], relevance),
            "TF – float64": deviations(relevance, wanted),
            "jax – float64": deviations(jax.found["relevance"], wanted),
            "both in float64": deviations(doubled, wanted),
            "jax : TF": f"{others[0] / ours[0]:.2f}",
            "CPU time": f"{others[1] / ours[1]:.2f}",
            "TF ms": f"{1000 * ours[0]:.0f}",
            "first call s": f"{jax.first:.1f}",
            "text kB": f"{took['text kB']:.0f}",
            "weights MB": f"{took['weights MB']:.1f}",
            "export s": f"{took['export s']:.1f}",
        }


def photographs(data: Path, count: int) -> np.ndarray:
    """The first of data/photos, from 0 to 255, float32 [count, 224, 224, 3].

    Raises:
        SystemExit: there are not as many.
    """
    files = sorted((data / "photos").glob("*.jpg"))[:count]
    if len(files) < count:
        raise SystemExit(f"Expected {count} photographs (*.jpg) in {data / 'photos'}. Received: {len(files)}")
    return np.stack([keras.utils.img_to_array(keras.utils.load_img(f, target_size=(224, 224))) for f in files])


def trained(data: Path, batch: int) -> tuple[keras.Model, np.ndarray]:
    """MobileNet 0.75 with the weights of ImageNet, and photographs."""
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(data / "mobilenet075.weights.h5")
    return model, keras.applications.mobilenet.preprocess_input(photographs(data, batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", choices=["trained", *models.MODELS], metavar="NET")
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=composites.PRESETS, metavar="PRESET")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9, help="calls of each, of which the fastest counts")
    parser.add_argument("--data", type=Path, metavar="DIR", help="for trained")
    options = parser.parse_args()
    if "trained" in options.nets and options.data is None:
        parser.error("trained needs --data")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name in options.nets:
        if name == "trained":
            model, x = trained(options.data, options.batch)
        else:
            model = models.build(name)
            x = models.image(model, options.batch).numpy()
        exact = peers.in_float64(model)
        for preset in options.presets:
            found = row(name, model, exact, x, preset, options.runs)
            print(f"| {' | '.join(str(found[column]) for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()

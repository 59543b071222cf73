"""What docs/scale.md counts with: CPU time of each part of explaining an image, rates of tables, bytes of results.

    python benchmarks/rates.py nets --models vgg16 resnet50 mobilenet      # explaining, loading, the first call
    python benchmarks/rates.py pictures                                    # decoding, resizing, drawing
    python benchmarks/rates.py tables --rows 100000                        # names, ledger, resuming, merging
    python benchmarks/rates.py sizes --weights mobilenet075.weights.h5     # bytes of rows and maps; needs pyarrow

CPU time is the unit, one thread: other processes on the machine disturb it less than the clock, and a rate per core is
what a price is asked for. Where a GPU does the work, the clock counts; `nets` prints both.
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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

Figures = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("nets", "pictures", "tables", "sizes", "net"), metavar="WHAT", help="see above"
    )
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet50", "mobilenet"], help="of models.py")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--weights", type=Path, help="of MobileNet 0.75, for sizes; default: random ones")
    parser.add_argument("--photos", type=Path, help="folder of photographs; default: those of scikit-image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "net":
        print(json.dumps(net(options.file, options.batch, options.calls)))
        return
    if options.what == "nets":
        found = nets(options)
    elif options.what == "pictures":
        import rates_files

        found = rates_files.pictures(options.calls)
    elif options.what == "tables":
        import rates_tables

        found = rates_tables.tables(options.rows)
    else:
        import rates_files

        found = rates_files.sizes(options.weights, options.photos)
    tell(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def tell(found: Figures) -> None:
    """Print a line for each row."""
    for name, row in found.items():
        print(f"{name:44s}" + "  ".join(f"{what} {value:,.4g}" for what, value in row.items()), flush=True)


def cpu(function: Callable[[], object], calls: int) -> float:
    """The least CPU seconds of a call, after one that does not count."""
    function()
    spent = []
    for _ in range(calls):
        begin = time.process_time()
        function()
        spent.append(time.process_time() - begin)
    return min(spent)


# --- explaining --------------------------------------------------------------------------------


def nets(options: argparse.Namespace) -> Figures:
    """Each network in a process of its own, from a file as `lrp-tf explain` has it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            path = Path(folder) / f"{name}.keras"
            code = f"import models; models.build({name!r}).save({str(path)!r})"
            here = Path(__file__).parent
            subprocess.run([sys.executable, "-c", code], cwd=here, check=True, stderr=subprocess.DEVNULL)
            command = [sys.executable, str(here / "rates.py"), "net", "--file", str(path)]
            command += ["--batch", str(options.batch), "--calls", str(options.calls)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[f"{name}, batch {options.batch}"] = json.loads(run.stdout.splitlines()[-1])
            path.unlink()
    return found


def net(path: Path, batch: int, calls: int) -> dict[str, float]:
    """Seconds of loading a model and of its first call, by the clock; then images/s of `explain`."""
    begin = time.perf_counter()
    import keras
    import numpy as np
    import tensorflow as tf

    import lrp_tf

    lrp_tf.Explainer  # noqa: B018  (TensorFlow is imported when the first name is used)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    imported = time.perf_counter()
    model = keras.models.load_model(path)
    loaded = time.perf_counter()
    x = np.random.default_rng(0).uniform(0, 1, (batch, *model.input_shape[1:])).astype(np.float32)
    explainer = lrp_tf.Explainer(model)
    explainer.explain(x).relevance.numpy()
    first = time.perf_counter()
    spent = [_both(lambda: explainer.explain(x).relevance.numpy()) for _ in range(calls)]
    wall, busy = (min(column) for column in zip(*spent, strict=True))
    return {
        "import s": imported - begin,
        "load s": loaded - imported,
        "first call s": first - loaded,
        "images/s by the clock": batch / wall,
        "CPU s of an image": busy / batch,
        "images/s of a core": batch / busy,
        "MiB of weights": model.count_params() * 4 / 2**20,
        "GPUs": float(len(tf.config.list_physical_devices("GPU"))),
    }


def _both(function: Callable[[], object]) -> tuple[float, float]:
    begin = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


if __name__ == "__main__":
    main()

"""The jax side of stablehlo.py, in a process that cannot import TensorFlow, Keras or lrp_tf.

It prints the seconds of the first call, on the clock and of the CPU, and then, for each line that it reads, those of
another one.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np


def main(folder: Path, *files: Path) -> None:
    """Run what lies in `folder` on arrays in files, and write its results to files: input, output, input, output ..."""
    sys.modules.update(dict.fromkeys(("tensorflow", "keras", "lrp_tf")))  # None: an import of them fails
    clocks = time.perf_counter, time.process_time
    began = [clock() for clock in clocks]
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    explain = run.load(folder)
    for inputs, outputs in zip(files[::2], files[1::2], strict=True):
        x = np.load(inputs)
        np.savez(outputs, **{key: np.asarray(value) for key, value in explain(x).items()})
    print(*(clock() - begin for clock, begin in zip(clocks, began, strict=True)), flush=True)
    for _ in sys.stdin:
        began = [clock() for clock in clocks]
        np.asarray(explain(x)["relevance"])
        print(*(clock() - begin for clock, begin in zip(clocks, began, strict=True)), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

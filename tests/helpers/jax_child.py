"""Runs what `export_stablehlo` wrote, in a process that cannot import TensorFlow, Keras or lrp_tf."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path


def main(root: Path) -> None:
    """For each call in calls.json, (name, folder, arguments, target): write its results to <name>.npz."""
    sys.modules.update(dict.fromkeys(("tensorflow", "keras", "lrp_tf")))  # None: an import of them fails
    import jax
    import numpy as np

    loaded: dict = {}
    for name, folder, arguments, options in json.loads((root / "calls.json").read_text(encoding="utf-8")):
        if folder not in loaded:
            spec = importlib.util.spec_from_file_location("run", root / folder / "run.py")
            run = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(run)
            loaded = {folder: run.load(root / folder)}  # one at a time, for the sake of memory
        with np.load(root / f"{arguments}.npz") as file:
            inputs = [file[f"x{i}"] for i in range(len(file))]
        if options.pop("grad", False):
            refused = None
            try:
                jax.grad(lambda x, explain=loaded[folder]: explain(x)["relevance"].sum())(*inputs)
            except NotImplementedError as error:
                refused = str(error)
            np.savez(root / f"{name}.npz", refused=str(refused))
            continue
        explain = jax.jit(loaded[folder]) if options.pop("jit", False) else loaded[folder]
        found = {key: np.asarray(value) for key, value in explain(*inputs, **options).items()}
        np.savez(root / f"{name}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

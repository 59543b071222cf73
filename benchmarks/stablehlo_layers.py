"""Every case of a layer in tests/helpers/layer_cases.py in jax, against the Explainer. It takes some ten minutes.

    python benchmarks/stablehlo_layers.py                     # all
    python benchmarks/stablehlo_layers.py LSTM Conv2D         # those of these classes

In float64, or in float32 where TensorFlow has no kernel in float64 on a CPU. A deviation is the largest difference of
relevance, relative to the largest relevance. All run in one process that cannot import TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PRESET = "epsilon_plus_flat"
LIMITS = {"float64": 1e-10, "float32": 1e-5}


def exported(build: Callable, folder: Path) -> tuple[str, list[np.ndarray | None]]:
    """Export one case beside its inputs. Returns the precision, and the relevance of each input."""
    import keras
    import tensorflow as tf

    import lrp_tf

    for kind in LIMITS:
        keras.config.set_floatx(kind)
        keras.config.set_dtype_policy(kind)
        model, x = build()
        explainer = lrp_tf.Explainer(model, PRESET)
        tf.config.run_functions_eagerly(True)  # compiling it takes longer
        try:
            relevance = explainer(x)
        except (TypeError, tf.errors.OpError):  # no kernel
            if kind == "float32":
                raise
            continue
        finally:
            tf.config.run_functions_eagerly(False)
        lrp_tf.export_stablehlo(explainer, 3, folder)
        np.savez(folder / "x.npz", *keras.tree.flatten(x))
        return kind, [None if r is None else np.asarray(r) for r in keras.tree.flatten(relevance)]
    raise AssertionError("unreachable")


def run(root: Path) -> None:
    """In the process with jax: each export of `root` with the inputs beside it; results or the error beside those."""
    sys.modules.update(dict.fromkeys(("tensorflow", "keras", "lrp_tf")))  # None: an import of them fails
    import jax

    for folder in sorted(root.iterdir()):
        spec = importlib.util.spec_from_file_location("run", folder / "run.py")
        assert spec is not None
        assert spec.loader is not None
        runner = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(runner)
        try:
            with np.load(folder / "x.npz") as file:
                found = runner.load(folder)(*file.values())
            np.savez(folder / "found.npz", **{key: np.asarray(value) for key, value in found.items()})
        except Exception as error:  # whatever fails is the result of the case
            (folder / "error.txt").write_text(f"{type(error).__name__}: {error}".split("\n")[0], encoding="utf-8")
        jax.clear_caches()


def deviation(folder: Path, wanted: list[np.ndarray | None]) -> float:
    """Of jax.

    Raises:
        RuntimeError: it failed there.
    """
    if (folder / "error.txt").exists():
        raise RuntimeError((folder / "error.txt").read_text(encoding="utf-8"))
    names = [part["name"] for part in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["inputs"]][:-1]
    keys = ["relevance"] if len(names) == 1 else [f"relevance_{name}" for name in names]
    with np.load(folder / "found.npz") as file:
        if file["status"].any():
            raise RuntimeError(f"status {file['status']}")
        pairs = [(file[key], r) for key, r in zip(keys, wanted, strict=True) if r is not None]
    largest = max(np.abs(r).max() for _, r in pairs)
    return float(max(np.abs(found - r).max() for found, r in pairs) / largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="names of layers; default: all")
    chosen = parser.parse_args().classes
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import keras
    from helpers.layer_cases import CASES, LAYERS

    from lrp_tf.exporting.text import ExportError

    warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask", UserWarning)  # it ends there
    found: dict[str, tuple[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for cls in chosen or sorted(set(CASES) & set(LAYERS)):
            for k, build in enumerate(CASES[cls]):
                keras.backend.clear_session()
                try:
                    found[f"{cls}-{k}"] = exported(build, root / f"{cls}-{k}")
                except ExportError as error:
                    print(f"{cls}-{k} is refused: {error}", flush=True)
        subprocess.run([sys.executable, __file__, "--run", name], check=True)
        far: dict[str, list[float]] = {kind: [] for kind in LIMITS}
        for case, (kind, wanted) in found.items():
            try:
                far[kind].append(deviation(root / case, wanted))
                if not far[kind][-1] <= LIMITS[kind]:
                    print(f"{case} deviates by {far[kind][-1]:.1e} in {kind}")
            except RuntimeError as error:
                print(f"{case} fails in jax: {error}")
    for kind, values in far.items():
        for limit in (1e-14, 1e-12, 1e-10, 1e-7, 1e-6, 1e-5):
            print(f"{kind}: {sum(value <= limit for value in values)} of {len(values)} within {limit:.0e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]))
    else:
        main()

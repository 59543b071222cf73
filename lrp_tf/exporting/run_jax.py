"""Explanations in jax alone: `python run.py x.npy explained.npz [CLASS]`, or `load(folder)(x, target=CLASS)`.

`lrp_tf.export_stablehlo` puts this file, as run.py, beside explain.mlir, weights.npz and manifest.json.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export
from jax.extend import mlir
from jax.extend.mlir.dialects import stablehlo


def load(folder=Path(__file__).parent):
    """The function explain(*inputs, target) -> {name: array}; target: [B] classes, -1 for a sample's top class."""
    about = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    inputs, outputs = about["inputs"], about["outputs"]
    if any(part["dtype"].endswith("64") for part in [*inputs, *outputs, *about["weights"]]):
        jax.config.update("jax_enable_x64", True)
    with np.load(Path(folder) / "weights.npz") as file:
        weights = [jax.numpy.asarray(file[w["key"]].view(jax.numpy.dtype(w["dtype"]))) for w in about["weights"]]
    kinds = [jax.ShapeDtypeStruct(p["shape"], p["dtype"]) for p in [*inputs, *about["weights"]]]
    blank = jax.jit(lambda *_: [jax.numpy.zeros(p["shape"], p["dtype"]) for p in outputs], keep_unused=True)
    text = (Path(folder) / "explain.mlir").read_text(encoding="utf-8")
    portable = getattr(mlir, "serialize_portable_artifact", None) or stablehlo.serialize_portable_artifact_str
    code = portable(text, stablehlo.get_current_version())
    run = jax.jit(dataclasses.replace(export.export(blank)(*kinds), mlir_module_serialized=code).call)

    def explain(*arrays, target=about["target"]):
        target = np.broadcast_to(np.asarray(target, "int32"), inputs[-1]["shape"])
        arrays = [jax.numpy.asarray(x, p["dtype"]) for x, p in zip([*arrays, target], inputs, strict=True)]
        return dict(zip((p["name"] for p in outputs), run(*arrays, *weights), strict=True))

    return explain


if __name__ == "__main__":
    *files, out = [arg for arg in sys.argv[1:] if not arg.lstrip("-").isdigit()]
    classes = [int(arg) for arg in sys.argv[1:] if arg.lstrip("-").isdigit()]
    np.savez(out, **load()(*map(np.load, files), **({"target": classes} if classes else {})))

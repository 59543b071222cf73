"""Explanations in jax alone: `python run.py x.npy explained.npz [CLASS]`, or `load(folder)(x, target=CLASS)`.

`lrp_tf.export_stablehlo` puts this file, as run.py, beside explain.mlir, weights.npz and manifest.json.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend import mlir
from jax.extend.mlir.dialects import stablehlo


def load(folder: str | Path = Path(__file__).parent) -> Callable[..., dict[str, jax.Array]]:
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
    call = jax.custom_vjp(dataclasses.replace(export.export(blank)(*kinds), mlir_module_serialized=code).call)
    call.defvjp(_refuse, _refuse)
    run = jax.jit(call)

    def explain(*arrays: Any, target: Any = about["target"]) -> dict[str, jax.Array]:
        target = jax.numpy.broadcast_to(jax.numpy.asarray(target, "int32"), inputs[-1]["shape"])
        given = [jax.numpy.asarray(x, p["dtype"]) for x, p in zip([*arrays, target], inputs, strict=True)]
        return dict(zip((p["name"] for p in outputs), run(*given, *weights), strict=True))

    return explain


def _refuse(*_: Any) -> Any:
    raise NotImplementedError("the derivative of relevance is not in this export")


if __name__ == "__main__":
    *files, out = [arg for arg in sys.argv[1:] if not arg.lstrip("-").isdigit()]
    classes = [int(arg) for arg in sys.argv[1:] if arg.lstrip("-").isdigit()]
    found = load()(*map(np.load, files), **({"target": classes} if classes else {}))
    np.savez(out, **{name: np.asarray(array) for name, array in found.items()})  # type: ignore[arg-type]

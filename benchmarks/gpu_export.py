"""The half of gpu.py that needs TensorFlow: explanations, gradient and forward pass as StableHLO text."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import models
import numpy as np
import peers
import seeded
import tensorflow as tf
import twin

import lrp_tf
from lrp_tf import composites
from lrp_tf.engine.savings import bfloat16

PRESETS = tuple(composites.PRESETS)
REFERENCES = 2  # images whose relevance is kept
_STEP = 4  # every fourth row and column of it, where the images are large

Function = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def export(folder: Path, names: Sequence[str], presets: Sequence[str], batches: Sequence[int]) -> dict[str, Any]:
    """Write manifest.json and a folder for each net; return the manifest."""
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    manifest: dict[str, Any] = {"lrp_tf": lrp_tf.__version__, "versions": versions, "nets": {}}
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        manifest["nets"][name] = _net(folder / name, models.build(name), presets, batches)
        keras.backend.clear_session()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return manifest


def _net(folder: Path, model: keras.Model, presets: Sequence[str], batches: Sequence[int]) -> dict[str, Any]:
    nodes = twin.describe(model)
    recipes = _recipes(model, nodes)
    values = seeded.weights(recipes)
    for variable in model.variables:
        variable.assign(values[variable.path])
    for made in recipes:
        made["sum"] = seeded.total(values.pop(made["path"]))
    functions, left_out = _functions(model, presets)
    files = []
    for (name, dtype), function in functions.items():
        for batch in batches:
            file = f"{name}_{dtype}_{batch}.mlir.gz"
            text, arguments, shape = stablehlo(model, function, batch)
            (folder / file).write_bytes(gzip.compress(text.encode(), mtime=0))
            files.append({"name": name, "dtype": dtype, "batch": batch, "file": file, "arguments": arguments})
            files[-1]["output"] = shape
            print(f"{model.name} {file}: {len(text) / 1e6:.2f} MB of text", flush=True)
    about = {"input": model.input_shape[1:], "classes": model.output_shape[-1], "nodes": nodes, "weights": recipes}
    return {**about, "functions": files, "left_out": left_out, "reference": _reference(folder, model, presets)}


def _recipes(model: keras.Model, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sums = {name for node in nodes if node["kind"] == "add" for name in node["inputs"]}
    calm = {node["weights"].get("gamma") for node in nodes if node["name"] in sums and not node["relu"]}
    return [seeded.recipe(v.path, tuple(v.shape), index, v.path in calm) for index, v in enumerate(model.variables)]


def _functions(model: keras.Model, presets: Sequence[str]) -> tuple[dict[tuple[str, str], Function], dict[str, str]]:
    """(name, dtype) -> function of images and targets; and why there is no bfloat16 of a preset."""
    logits = models.logits(model)
    functions: dict[tuple[str, str], Function] = {
        ("forward", "float32"): lambda x, target: logits(x),
        ("gradient", "float32"): lambda x, target: _gradient(logits, x, target),
    }
    left_out = {}
    for name in presets:
        functions[name, "float32"] = lrp_tf.Explainer(model, _composite(name))
        try:
            # Another machine will run it, so that what this one can do is no obstacle.
            with mock.patch.object(bfloat16, "obstacle", return_value=None):
                functions[name, "bfloat16"] = lrp_tf.Explainer(model, _composite(name), fast="bfloat16")
        except ValueError as error:
            left_out[name] = str(error)
    return functions, left_out


def _composite(name: str) -> composites.Composite:
    return composites.get(name, **({"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}))


def _gradient(logits: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.gather(logits(x), target, axis=1, batch_dims=1)
    return tape.gradient(z, x)


def stablehlo(model: keras.Model, function: Function, batch: int) -> tuple[str, list[str], list[int]]:
    """The text, what its arguments are ("x", "target" or the path of a weight), and the shape of its result."""
    x = tf.TensorSpec([batch, *model.input_shape[1:]], model.inputs[0].dtype)
    target = tf.TensorSpec([batch], tf.int32)
    compiled = tf.function(lambda x, target: function(x, target), jit_compile=True, autograph=False)
    traced = compiled.get_concrete_function(x, target)
    paths = {id(variable.value.handle): variable.path for variable in model.variables}
    arguments = ["x", "target", *(paths[id(tensor)] for tensor in traced.captured_inputs)]
    text = compiled.experimental_get_compiler_ir(x, target)(stage="stablehlo")
    # Locations name files of this machine, and jaxlib knows no attributes of the module that begin with mhlo.
    text = re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", text)
    text = re.sub(r"^#loc.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^module @\S+ attributes \{.*\} \{$", "module @main {", text, flags=re.MULTILINE)
    return text, arguments, traced.outputs[0].shape.as_list()


def _reference(folder: Path, model: keras.Model, presets: Sequence[str]) -> dict[str, Any]:
    """Relevance of the first images in float64, from TensorFlow without XLA."""
    exact = peers.in_float64(model)
    x = tf.constant(seeded.images(REFERENCES, model.input_shape[1:]), tf.float64)
    function = models.logits(exact)
    logits = np.asarray(function(x))
    step = _STEP if model.input_shape[1] > 100 else 1
    target = logits.argmax(1)
    found = {"target": target, "logits": logits, "gradient": np.asarray(_gradient(function, x, target))}
    found |= {name: np.asarray(lrp_tf.Explainer(exact, _composite(name))(x, target)) for name in presets}
    images = {name: v[:, ::step, ::step].astype(np.float32) for name, v in found.items() if v.ndim == 4}
    np.savez_compressed(folder / "reference.npz", **{**found, **images})
    spread = float(logits.std())
    if not 0.01 < spread < 100:
        raise ValueError(f"Expected logits that neither vanish nor explode. Received a standard deviation of {spread}")
    return {"file": "reference.npz", "step": step, "images": REFERENCES, "dtype": "float64"}

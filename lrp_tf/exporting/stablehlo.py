"""`export_stablehlo`: an explanation as a folder that jax runs, without TensorFlow, Keras or lrp_tf."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lrp_tf import __version__
from lrp_tf.atomic import atomic_folder
from lrp_tf.core.graph import shape_text
from lrp_tf.engine import streams, targets
from lrp_tf.engine.explanation import SIX
from lrp_tf.engine.targets import Targets
from lrp_tf.explainer import Explainer
from lrp_tf.exporting.text import ExportError, Module, lowered
from lrp_tf.serving.signatures import STATUS, Served
from lrp_tf.tracing.sizes import as_argument

TEXT, WEIGHTS, ABOUT, RUN = "explain.mlir", "weights.npz", "manifest.json", "run.py"
TOP = -1
Part: TypeAlias = tuple[str, tuple[int, ...], str]


@dataclasses.dataclass(frozen=True)
class StableHLO:
    """What `export_stablehlo` wrote.

    Attributes:
        path: the folder.
        inputs, outputs: (name, shape, dtype) of each, in the order of run.py; the last input is the target.
    """

    path: Path
    inputs: list[Part]
    outputs: list[Part]


def export_stablehlo(
    explainer: Explainer,
    batch: int,
    path: str | os.PathLike,
    *,
    target: Targets = None,
    contrast: str | int | None = None,
    classes: Sequence[str] = (),
) -> StableHLO:
    """Write an explanation as StableHLO text, weights beside it, and a runner that needs jax and NumPy alone.

        lrp_tf.export_stablehlo(explainer, 1, "explained")     # then, elsewhere: python explained/run.py x.npy R.npz

    docs/stablehlo.md lists the files, their inputs and their outputs.

    Args:
        explainer: its current weights are written. `max_batch` and `jit_compile` have no effect in what is written.
        batch: samples of every call, since shapes are fixed.
        path: a folder that does not exist. It appears whole or not at all.
        target: what the runner explains unless a call says otherwise: a class for all samples, [B] classes, or None
            or "top1" for each sample's top class. An index, for outputs without a top class.
        contrast: as for the Explainer: "softmax", "mean" or a class. It is fixed, while the target is an argument.
        classes: their names, for the manifest.

    Raises:
        ValueError: `ExportError`, what XLA cannot compile or no other program could run: texts, Python, random
            numbers, sizes that are open. A batch below 1; a target or contrast that the model does not have; not as
            many names as classes.
        FileExistsError: `path` exists.
        TypeError: not an Explainer, or a batch or target that is no integer.
    """
    if not isinstance(explainer, Explainer):
        raise TypeError(f"Expected an lrp_tf.Explainer. Received: {explainer!r}")
    if batch is None:
        raise TypeError("Expected batch, the number of samples of every call. Received: None")
    streams.checked_size(batch, "batch")
    path = Path(path)
    if path.exists() or path.is_symlink():  # told before the work begins
        raise FileExistsError(f"{path} exists. Expected a folder that does not")
    served = Served(explainer, contrast)
    chosen = _default(served, target, batch)
    count = targets.class_count(served.graph)
    if classes and count is not None and len(classes) != count:
        raise ValueError(f"Expected a name for each of {count} classes. Received: {len(classes)} names")
    specs = _specs(served, batch)
    module = lowered(_function(served), specs)
    names = [*served.names, served.target.name]
    inputs = [(name, tuple(spec.shape), spec.dtype.name) for name, spec in zip(names, specs, strict=True)]
    with atomic_folder(path) as folder:
        write(folder, module, inputs, _about(served, batch, chosen, list(classes)))
    return StableHLO(path, inputs, module.results)


def write(folder: Path, module: Module, inputs: list[Part], about: dict[str, object]) -> None:
    """Put a function and the runner into a folder.

        write(folder, lowered(function, specs), [("x", (1, 3), "float32"), ("target", (1,), "int32")], {"target": -1})

    Args:
        inputs: (name, shape, dtype) of each argument. run.py fills the last one with the target.
        about: what else the manifest says; run.py reads "target", which a call takes that names none.
    """
    part = lambda name, shape, dtype: {"name": name, "shape": shape, "dtype": dtype}  # noqa: E731
    weights = [(name, array.shape, array.dtype.name) for name, array in module.values]
    manifest = {
        "inputs": [part(*one) for one in inputs],
        "weights": [{"key": f"w{i}", **part(*one)} for i, one in enumerate(weights)],
        "outputs": [part(*one) for one in module.results],
        **about,
    }
    (folder / TEXT).write_text(module.text, encoding="utf-8")
    arrays: dict[str, Any] = {f"w{i}": array for i, (_, array) in enumerate(module.values)}
    np.savez(folder / WEIGHTS, **arrays)
    (folder / ABOUT).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("run_jax.py"), folder / RUN)


def _default(served: Served, target: Targets, batch: int) -> int | list:
    """The target of a call that names none, as the manifest holds it.

    Raises:
        TypeError, ValueError: a target that the model does not have; several for a sample.
    """
    if target is None and not served.has_top:
        shape = served.graph.outputs[0].shape
        raise ValueError(
            f"The output {shape_text(shape)} has no top class. Expected target, an index of {len(shape)} integers into "
            "it, which a call may replace. Received: None"
        )
    chosen = targets.checked(served.graph, target, "output", tf.zeros([batch]))
    if chosen.mode not in ("top", "class", "index"):
        raise ValueError(
            "An export explains one target of each sample. Expected None, a class, or one for each sample. Received: "
            f"{target!r}. Remedy: a call of run.py for each target"
        )
    if chosen.tensor is None:
        return TOP
    if served.contrast is not None and served.contrast in chosen.tensor.numpy():
        raise ValueError(f"Expected another class as contrast than the target. Received: {target!r} for both")
    return target if isinstance(target, int) else chosen.tensor.numpy().tolist()


def _specs(served: Served, batch: int) -> list[tf.TensorSpec]:
    """Of the flat inputs and of the target.

    Raises:
        ExportError: an input of an open size, or of texts.
    """
    found, graph = [], served.graph
    for ref, name in zip(graph.inputs, graph.input_names, strict=True):
        if None in ref.shape:
            remedy = as_argument(graph.input_names, [ref.shape for ref in graph.inputs])
            raise ExportError(
                f"StableHLO has fixed shapes. Expected a model of fixed sizes. Received: {name} of shape "
                f"{shape_text(ref.shape)}. Remedy: Explainer(model, ..., sizes={remedy}) with your sizes"
            )
        if tf.as_dtype(ref.dtype) == tf.string:
            raise ExportError(f"StableHLO has numbers alone, and {name} takes texts. Remedy: a model of token ids")
        found.append(tf.TensorSpec([batch, *ref.shape], ref.dtype))
    return [*found, tf.TensorSpec([batch, *served.target.shape[1:]], tf.int32)]


def _function(served: Served) -> Callable[..., dict[str, tf.Tensor]]:
    mode = "class_or_top" if served.has_top else "index"
    return lambda *arguments: served.coded(mode, list(arguments[:-1]), arguments[-1])


def _about(served: Served, batch: int, target: int | list, classes: list[str]) -> dict[str, object]:
    """What the manifest says of the numbers and of where they come from."""
    explainer = served.explainer
    return {
        "batch": batch,
        "target": target,
        "contrast": served.contrast,
        "classes": classes,
        "status": list(STATUS),
        "conservation": list(SIX),
        "model": explainer.model.name,
        "composite": explainer.composite.name,
        "rules": str(explainer.composite),
        "relevance_filter": explainer.clone.relevance_filter,
        "lrp_tf": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": sys.version.split()[0],
    }

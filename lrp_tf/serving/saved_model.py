"""Explanations from TensorFlow Serving: a SavedModel whose signatures need neither Python nor Keras nor lrp_tf."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf import __version__
from lrp_tf.engine import targets
from lrp_tf.explainer import Conservation, Explainer
from lrp_tf.files import images, loading
from lrp_tf.files.errors import ExtraError, LoadError
from lrp_tf.files.form import begins_with_scaling
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.heatmap.colours import RELEVANCE_CMAP
from lrp_tf.serving.signatures import STATUS, Picture, Served
from lrp_tf.serving.tensor_images import Painter

EXTRA, WARMUP, ABOUT = "assets.extra", "tf_serving_warmup_requests", "lrp_tf.json"
_PYTHON = frozenset(["PyFunc", "PyFuncStateless", "EagerPyFunc"])


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the version folder.
        signatures: name -> (names of inputs, names of outputs).
        left_out: signature or part that could not be made -> why, with the remedy.
    """

    path: Path
    signatures: dict[str, tuple[list[str], list[str]]]
    left_out: dict[str, str]


def export(
    explainer: Explainer,
    path: str | os.PathLike,
    *,
    preprocess: str | Preprocessing | None = None,
    classes: Classes | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    resize: str = "squash",
    max_pixels: int = images.MAX_PIXELS,
    top_k: int | None = None,
    cmap: Any = RELEVANCE_CMAP,
    gamma: float = 1.0,
    reduce: str = "sum",
    scale: float | None = None,
    warmup: bool = True,
    print_fn: Callable[[str], Any] | None = print,
) -> Exported:
    """Write a SavedModel for TensorFlow Serving: predictions as before, and explanations beside them.

    Signatures, all for any batch size, see docs/serving.md:
        serving_default: what `model.export` gives, names included.
        explain: inputs -> relevance as the inputs, outputs and logits [B, ...], target int32 [B], conservation [B, 6]
            (as `Conservation`, in the float dtype of the rules: float32 unless the model is float64), status string
            [B]; for the top class.
        explain_target: the same with `target`, int32 [B]; [B, rank - 1] for outputs without a top class.
        explain_top_k: with `top_k`; relevance [B, k, ...], target [B, k], conservation [B, k, 6].
        explain_image: image_bytes string [1], one JPEG or PNG -> heatmap_png string [1], relevance [1, ...], classes
            int32 [1, n], scores [1, n] (the n <= 5 top classes and the model's outputs for them), names string
            [1, n] where they are known, status [1].
        explain_image_rest: the same without relevance, and with the PNG as heatmap_bytes, which the server's REST
            interface gives in base64.

    Args:
        explainer: the weights it has now are written, once for all signatures. Its `max_batch` and `jit_compile` have
            no meaning in a server.
        path: the version folder, "served/1"; its name is an integer. It appears whole or not at all.
        preprocess: what pixels 0..255 go through before the model, as `loading.get_preprocessing` names it. None: a
            model that begins with Rescaling or Normalization needs none; for others explain_image is left out.
        classes: their names.
        size: (height, width) of images, where the model leaves it open.
        resize: "squash", "crop" or "pad", see `images.Fit`.
        max_pixels: larger pictures are refused before they are decoded.
        top_k: classes of explain_top_k; None leaves it out.
        cmap, gamma, reduce, scale: see `heatmap.to_rgb`.
        warmup: write a request for each signature, which the server runs before it takes others. Needs the extra
            "serving".
        print_fn: is told what was left out, and why; None for silence.

    Raises:
        ValueError: a folder whose name is no positive integer, a graph that needs Python, top_k out of range, an
            unknown resize, colour map or preprocessing, another number of names than of classes (`LoadError`).
        FileExistsError: `path` exists.
        ImportError: warmup without the extra.
        TypeError: not an Explainer.
    """
    if not isinstance(explainer, Explainer):
        raise TypeError(f"Expected an lrp_tf.Explainer. Received: {explainer!r}")
    path = _free_version(path)
    logs = _prediction_log() if warmup else None
    painter = Painter(cmap, scale, reduce, gamma)
    classes = classes if isinstance(classes, Classes) else Classes(tuple(classes or ()))
    if isinstance(preprocess, str):
        preprocess = loading.get_preprocessing(preprocess)
    if resize not in images.FITS:
        raise ValueError(f"Expected resize one of {', '.join(images.FITS)}. Received: {resize!r}")
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"Expected max_pixels of at least 1. Received: {max_pixels!r}")

    served, left_out = Served(explainer), {}
    if served.has_top:
        classes.check(targets.class_count(explainer.graph))
    endpoints: dict[str, tuple[Callable, list]] = {"serving_default": (explainer.model.__call__, served.specs)}
    if served.has_top:
        endpoints["explain"] = (served.explain, served.specs)
    else:
        shape = explainer.graph.outputs[0].shape
        left_out["explain"] = f"the output {shape} has no top class. Remedy: explain_target with an index into it"
    endpoints["explain_target"] = (served.explain_target, [*served.specs, served.target])
    if top_k is not None:
        endpoints["explain_top_k"] = (served.top(top_k), served.specs)
    try:
        scaling = begins_with_scaling(explainer.graph)
        picture = Picture(served, preprocess, scaling, classes, size, resize, max_pixels, painter)
    except LoadError as error:
        picture, left_out["explain_image"] = None, str(error)
    else:
        spec = [tf.TensorSpec([None], tf.string, name="image_bytes")]
        endpoints |= {"explain_image": (picture.explain, spec), "explain_image_rest": (picture.explain_rest, spec)}

    temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        _save(explainer.model, endpoints, temporary)
        graph = _checked_graph(temporary)
        signatures = {
            name: (sorted(graph[name].inputs), sorted(graph[name].outputs)) for name in endpoints
        }  # fmt: skip
        (temporary / EXTRA).mkdir()
        if logs is not None:
            requests = _requests(served, picture, endpoints, size, left_out)
            _write_warmup(temporary / EXTRA / WARMUP, path.parent.name, requests, logs)
        about = _about(explainer, signatures, left_out, classes)
        if picture is not None:
            about |= {"preprocess": picture.preprocess.name, "size": picture.form[:2], "resize": resize}
            about |= {"max_pixels": max_pixels}
        (temporary / EXTRA / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if print_fn is not None:
        for name, reason in left_out.items():
            print_fn(f"left out: {name}: {reason}")
    return Exported(path, signatures, left_out)


def _free_version(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not (path.name.isascii() and path.name.isdigit() and int(path.name) > 0):
        raise ValueError(
            f"Expected a version folder whose name is a positive integer, served/1 for instance: TensorFlow Serving "
            f"looks for no other. Received: {str(path)!r}"
        )
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists, and a server may be reading it. Remedy: the next number")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save(model: keras.Model, endpoints: dict[str, tuple[Callable, list]], path: Path) -> None:
    # keras.export would trace each function twice, which takes minutes for deep models.
    traced = {
        name: tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
        for name, (function, specs) in endpoints.items()
    }
    variables = [*(v.value for v in model.variables), *(v for function in traced.values() for v in function.variables)]
    root = tf.Module()
    root.kept = list({id(v): v for v in variables}.values())
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(root, str(path), signatures=traced, options=options)


def _checked_graph(path: Path) -> Any:
    """The signatures that were written; ValueError where the graph needs Python."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if python := sorted({node.name for node in nodes if node.op in _PYTHON}):
        raise ValueError(
            f"The graph calls Python, which a server has not: {', '.join(python[:5])}. Expected TensorFlow operations "
            "alone. Remedy: keras.ops or TensorFlow in the place of tf.numpy_function and tf.py_function"
        )
    return saved.meta_graphs[0].signature_def


# --- what lies beside the graph ----------------------------------------------------------------


def _prediction_log() -> Any:
    """The module of TensorFlow Serving's records."""
    try:
        return importlib.import_module("tensorflow_serving.apis.prediction_log_pb2")
    except ImportError as error:
        raise ExtraError(
            "Warm-up requests need tensorflow-serving-api, which is not installed. Remedy: pip install "
            '"lrp_tf[serving]", or `warmup=False`',
            "warmup=False",
        ) from error


def _requests(
    served: Served,
    picture: Picture | None,
    endpoints: dict[str, Any],
    size: tuple[int, int] | None,
    left_out: dict[str, str],
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(signature, inputs) of a sample each, and of a picture of either kind."""
    shapes = [list(ref.shape) for ref in served.graph.inputs]
    if picture is not None:
        sides = iter(picture.form[:2])
        shapes = [[next(sides) if side is None else side for side in shapes[0]]]
    found: list[tuple[str, dict[str, np.ndarray]]] = []
    if any(side is None for shape in shapes for side in shape):
        left_out["warm-up"] = f"the model leaves sizes of its input open: {shapes}. The first requests are slower"
        shapes = []
    arrays = [np.zeros([1, *shape], ref.dtype) for shape, ref in zip(shapes, served.graph.inputs, strict=False)]
    if arrays:
        inputs = dict(zip(served.names, arrays, strict=True))
        target = {served.target.name: np.zeros([1, *served.target.shape[1:]], np.int32)}
        for name in endpoints:
            if not name.startswith("explain_image"):
                found.append((name, inputs | target if name == "explain_target" else inputs))
    if picture is not None:
        pixels = tf.fill([*picture.form[:2], 3], tf.constant(128, tf.uint8))
        for file in (tf.io.encode_jpeg(pixels), tf.io.encode_png(pixels)):
            data = {"image_bytes": np.array([file.numpy()], object)}
            found += [(name, data) for name in endpoints if name.startswith("explain_image")]
    return found


def _write_warmup(path: Path, name: str, requests: list[tuple[str, dict[str, np.ndarray]]], logs: Any) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = logs.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, array in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
            writer.write(log.SerializeToString())


def _about(
    explainer: Explainer, signatures: dict[str, Any], left_out: dict[str, str], classes: Classes
) -> dict[str, Any]:
    table = explainer.summary(print_fn=None)
    return {
        "lrp_tf": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": sys.version.split()[0],
        "model": explainer.model.name,
        "composite": explainer.composite.name,
        "relevance_filter": explainer.clone.relevance_filter,
        "rules": [dict(zip(table.columns, map(str, row), strict=True)) for row in table.rows],
        "notes": list(table.notes),
        "labels": list(classes.names),
        "conservation": list(Conservation._fields),
        "status": list(STATUS),
        "signatures": {name: {"inputs": i, "outputs": o} for name, (i, o) in signatures.items()},
        "left_out": left_out,
    }

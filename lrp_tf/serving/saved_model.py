"""Explanations from TensorFlow Serving: a SavedModel whose signatures need neither Python nor Keras nor lrp_tf."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from matplotlib.colors import Colormap

from lrp_tf import __version__
from lrp_tf.atomic import atomic_folder
from lrp_tf.engine import targets
from lrp_tf.engine.explanation import SIX
from lrp_tf.explainer import Explainer
from lrp_tf.files import loading
from lrp_tf.files.errors import ExtraError, LoadError
from lrp_tf.files.images import FITS, MAX_PIXELS
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.heatmap.colours import RELEVANCE_CMAP, Reduce
from lrp_tf.heatmap.look import Look
from lrp_tf.serving.signatures import STATUS, ImageOptions, Served, ServedImages
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
    contrast: str | int | None = None,
    preprocess: str | Preprocessing | None = None,
    classes: Classes | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    resize: str = "squash",
    max_pixels: int = MAX_PIXELS,
    top_k: int | None = None,
    cmap: str | Colormap = RELEVANCE_CMAP,
    gamma: float = 1.0,
    reduce: Reduce = "sum",
    scale: float | None = None,
    warmup: bool = True,
    print_fn: Callable[[str], object] | None = print,
) -> Exported:
    """Write a SavedModel for TensorFlow Serving: predictions as before, and explanations in signatures of their own.

        lrp_tf.export(explainer, "served/1", preprocess="none", classes=["cat", "dog", "owl"])

    docs/serving.md lists the signatures, their inputs and their outputs.

    Args:
        explainer: its current weights are written, once for all signatures. `max_batch` and `jit_compile` have no
            effect in a server.
        path: the version folder, "served/1"; its name is an integer. It appears whole or not at all.
        contrast: of all explaining signatures, as for the Explainer: "softmax", "mean" or a class. Without one there
            is a signature explain_contrast, which takes a class to set each target against.
        preprocess: what pixels 0..255 go through before the model, as `loading.get_preprocessing` names it. None: a
            model that begins with Rescaling or Normalization needs none; for others explain_image is left out.
        classes: their names.
        size: (height, width) of images, for a model that leaves them open.
        resize: "squash", "crop" or "pad", see `images.Fit`.
        max_pixels: larger pictures are refused before they are decoded.
        top_k: classes of explain_top_k; None leaves it out.
        cmap, gamma, reduce, scale: see `heatmap.to_rgb`.
        warmup: write requests that the server runs before it accepts others. Needs the extra "serving".
        print_fn: is called with a line for each part that was left out, with the reason; None for silence.

    Raises:
        ValueError: a folder whose name is no positive integer, a graph that needs Python, top_k out of range, a
            contrast that the model does not have, an unknown resize, colour map or preprocessing, not as many names as
            classes (`LoadError`).
        FileExistsError: `path` exists.
        ImportError: warmup without the extra.
        TypeError: not an Explainer.
    """
    if not isinstance(explainer, Explainer):
        raise TypeError(f"Expected an lrp_tf.Explainer. Received: {explainer!r}")
    path = _free_version(path)
    logs = _prediction_log() if warmup else None
    look = Look(cmap=cmap, gamma=gamma, reduce=reduce, scale=scale)
    served = Served(explainer, contrast)
    exported = _export(served, path, _options(preprocess, classes, size, resize, max_pixels, look), top_k, logs)
    if print_fn is not None:
        for name, reason in exported.left_out.items():
            print_fn(f"left out: {name}: {reason}")
    return exported


def _options(
    preprocess: str | Preprocessing | None,
    classes: Classes | Sequence[str] | None,
    size: tuple[int, int] | None,
    resize: str,
    max_pixels: int,
    look: Look,
) -> ImageOptions:
    """The arguments of `export` that concern images, checked as far as that needs no model."""
    Painter(look)  # raises what is wrong with the look
    classes = classes if isinstance(classes, Classes) else Classes(tuple(classes or ()))
    if isinstance(preprocess, str):
        preprocess = loading.get_preprocessing(preprocess)
    if resize not in FITS:
        raise ValueError(f"Expected resize one of {', '.join(FITS)}. Received: {resize!r}")
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"Expected max_pixels of at least 1. Received: {max_pixels!r}")
    return ImageOptions(preprocess, classes, size, resize, max_pixels, look)


# Signature -> its function, and what it takes in the structure of the model's inputs.
Endpoints = dict[str, tuple[Callable[..., object], list[object]]]


def _export(served: Served, path: Path, options: ImageOptions, top_k: int | None, logs: ModuleType | None) -> Exported:
    """Trace all signatures, and write them as the folder `path`."""
    explainer = served.explainer
    if served.has_top:
        options.classes.check(targets.class_count(explainer.graph))
    endpoints, left_out = _endpoints(served, top_k)
    images: ServedImages | None = None
    try:
        images = ServedImages(served, options)
    except LoadError as error:
        left_out["explain_image"] = str(error)
    if images is not None:
        spec = [tf.TensorSpec([None], tf.string, name="image_bytes")]
        endpoints |= {"explain_image": (images.explain, spec), "explain_image_rest": (images.explain_rest, spec)}

    with atomic_folder(path) as temporary:
        _save(explainer.model, endpoints, temporary)
        written = _signatures(temporary)
        signatures = {name: written[name] for name in endpoints}
        (temporary / EXTRA).mkdir()
        if logs is not None:
            requests = _requests(served, images, endpoints, left_out)
            _write_warmup(temporary / EXTRA / WARMUP, path.parent.name, requests, logs)
        about = _about(explainer, signatures, left_out, options.classes) | {"contrast": served.contrast}
        if images is not None:
            about |= {"preprocess": images.preprocess.name, "size": images.form[:2], "resize": options.resize}
            about |= {"max_pixels": options.max_pixels}
        (temporary / EXTRA / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    return Exported(path, signatures, left_out)


def _endpoints(served: Served, top_k: int | None) -> tuple[Endpoints, dict[str, str]]:
    """The signatures of tensors; those that are left out -> why."""
    model: Callable[..., object] = served.explainer.model.__call__
    endpoints: Endpoints = {"serving_default": (model, served.specs)}
    left_out = {}
    if served.has_top:
        endpoints["explain"] = (served.explain, served.specs)
    else:
        shape = served.graph.outputs[0].shape
        left_out["explain"] = f"the output {shape} has no top class. Remedy: explain_target with an index into it"
    endpoints["explain_target"] = (served.explain_target, [*served.specs, served.target])
    if served.contrast is None and served.has_rivals:
        endpoints["explain_contrast"] = (served.explain_contrast, [*served.specs, served.target, served.rival])
    if top_k is not None:
        endpoints["explain_top_k"] = (served.top(top_k), served.specs)
    return endpoints, left_out


def _free_version(path: str | os.PathLike) -> Path:
    """The path of a version folder that does not exist yet; its parent folder is created."""
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


def _save(model: keras.Model, endpoints: Endpoints, path: Path) -> None:
    """Write the signatures and the variables that they read, tracing each function once; `model.export` would twice."""
    traced = {
        name: tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
        for name, (function, specs) in endpoints.items()
    }
    variables = [*(v.value for v in model.variables), *(v for function in traced.values() for v in function.variables)]
    root = tf.Module()
    root.kept = list({id(v): v for v in variables}.values())
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(root, str(path), signatures=traced, options=options)


def _signatures(path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """The signatures that were written: name -> (names of inputs, names of outputs).

    Raises:
        ValueError: the graph needs Python.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if python := sorted({node.name for node in nodes if node.op in _PYTHON}):
        raise ValueError(
            f"The graph calls Python, which a server does not have: {', '.join(python[:5])}. Expected TensorFlow "
            "operations alone. Remedy: keras.ops or TensorFlow instead of tf.numpy_function and tf.py_function"
        )
    signatures = saved.meta_graphs[0].signature_def
    return {name: (sorted(s.inputs), sorted(s.outputs)) for name, s in signatures.items()}


# --- files beside the graph ----------------------------------------------------------------


def _prediction_log() -> ModuleType:
    """The module of TensorFlow Serving's records.

    Raises:
        ExtraError: it is not installed.
    """
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
    images: ServedImages | None,
    endpoints: Endpoints,
    left_out: dict[str, str],
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(signature, inputs): one sample for each signature of tensors; a JPEG and a PNG for each of images."""
    shapes = [list(ref.shape) for ref in served.graph.inputs]
    if images is not None:
        sides = iter(images.form[:2])
        shapes = [[next(sides) if side is None else side for side in shapes[0]]]
    found: list[tuple[str, dict[str, np.ndarray]]] = []
    if any(side is None for shape in shapes for side in shape):
        left_out["warm-up"] = f"the model leaves sizes of its input open: {shapes}. The first requests are slower"
    else:
        arrays = [
            np.zeros((1, *(side for side in shape if side is not None)), ref.dtype)
            for shape, ref in zip(shapes, served.graph.inputs, strict=True)
        ]
        inputs = dict(zip(served.names, arrays, strict=True))
        target = {served.target.name: np.zeros([1, *served.target.shape[1:]], np.int32)}
        more = {"explain_target": target, "explain_contrast": target | {served.rival.name: np.ones(1, np.int32)}}
        for name in endpoints:
            if not name.startswith("explain_image"):
                found.append((name, inputs | more.get(name, {})))
    if images is not None:
        pixels = tf.fill([*images.form[:2], 3], tf.constant(128, tf.uint8))
        for file in (tf.io.encode_jpeg(pixels), tf.io.encode_png(pixels)):
            data = {"image_bytes": np.array([file.numpy()], object)}
            found += [(name, data) for name in endpoints if name.startswith("explain_image")]
    return found


def _write_warmup(path: Path, name: str, requests: list[tuple[str, dict[str, np.ndarray]]], logs: ModuleType) -> None:
    """A file of records, which TensorFlow Serving replays before it accepts requests."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = logs.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, array in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
            writer.write(log.SerializeToString())


def _about(
    explainer: Explainer,
    signatures: dict[str, tuple[list[str], list[str]]],
    left_out: dict[str, str],
    classes: Classes,
) -> dict[str, object]:
    """What lrp_tf.json says: versions, rules, and the meaning of the numbers that the signatures give."""
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
        "conservation": list(SIX),
        "status": list(STATUS),
        "signatures": {name: {"inputs": i, "outputs": o} for name, (i, o) in signatures.items()},
        "left_out": left_out,
    }

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
from keras import tree

from lrp_tf import __version__, gallery, images, loading, tensor_images
from lrp_tf.explainer import Conservation, Explainer, _Want
from lrp_tf.graph import Ref
from lrp_tf.heatmap.colours import RELEVANCE_CMAP
from lrp_tf.loading import Classes, LoadError, Preprocessing
from lrp_tf.tensor_images import Painter

STATUS = ("ok", "NaN or Inf in the input", "target out of range", "NaN or Inf in the relevance", "index out of range")
"""What `status` says of a sample; relevance, and for all but the third outputs and logits, are NaN unless it is "ok"."""

EXTRA, WARMUP, ABOUT = "assets.extra", "tf_serving_warmup_requests", "lrp_tf.json"
_OK, _INPUT, _TARGET, _RELEVANCE, _INDEX = range(len(STATUS))
_PYTHON = frozenset(["PyFunc", "PyFuncStateless", "EagerPyFunc"])
_TOP = 5


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
        explain: inputs -> relevance as the inputs, outputs and logits [B, ...], target int32 [B], conservation float64
            [B, 6] (as `Conservation`), status string [B]; for the top class.
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
            unknown resize, colour map or preprocessing (`LoadError`).
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

    served, left_out = _Served(explainer), {}
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
        scaling = gallery.begins_with_scaling(explainer.graph)
        picture = _Picture(served, preprocess, scaling, classes, size, resize, max_pixels, painter)
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


# --- signatures of tensors ---------------------------------------------------------------------


class _Served:
    """The functions behind the signatures, for tensors in the structure of the model's inputs."""

    def __init__(self, explainer: Explainer) -> None:
        graph = explainer.graph
        self.explainer, self.graph = explainer, graph
        # Keras names the inputs of recorded models alone; TensorFlow numbers the others.
        recorded = len(getattr(explainer.model, "inputs", None) or ()) == len(graph.inputs)
        names = dict(zip(graph.inputs, graph.input_names if recorded else [None] * len(graph.inputs), strict=True))
        spec = lambda ref: tf.TensorSpec([None, *ref.shape], ref.dtype, name=names[ref])  # noqa: E731
        self.specs = [tree.map_structure(spec, graph.input_structure)]
        probe = tf.function(lambda *x: tree.flatten(x)[0], input_signature=self.specs, autograph=False)
        leaves = tree.flatten(probe.get_concrete_function().structured_input_signature)
        self.names = [leaf.name for leaf in leaves]
        rank = len(graph.outputs[0].shape)
        self.has_top = rank <= 1
        name = "target"
        while name in self.names:
            name += "_"
        self.target = tf.TensorSpec([None] if self.has_top else [None, rank], tf.int32, name=name)

        flat = [tf.TensorSpec([None, *ref.shape], ref.dtype) for ref in graph.inputs]
        # Never inlined: pictures and tensors go through the same graph, optimised alike, to the last bit.
        self.top_class = tf.function(
            lambda *x: self.run("top", list(x)),
            input_signature=flat,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )

    def explain(self, *inputs: Any) -> dict[str, tf.Tensor]:
        return self.top_class(*tree.flatten(inputs))

    def explain_target(self, *inputs: Any) -> dict[str, tf.Tensor]:
        *inputs, target = inputs
        return self.run("class" if self.has_top else "index", tree.flatten(inputs), target)

    def top(self, k: int) -> Callable[..., dict[str, tf.Tensor]]:
        """The function of explain_top_k."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"Expected top_k of at least 1, or None. Received: {k!r}")
        from lrp_tf import arguments

        codes = arguments.ranked([f"topK:{k}"], self.graph)

        def explain_top_k(*inputs: Any) -> dict[str, tf.Tensor]:
            flat = tree.flatten(inputs)
            return self.run("ranked", flat, tf.tile(tf.constant([codes], tf.int32), [tf.shape(flat[0])[0], 1]))

        return explain_top_k

    def run(self, mode: str, inputs: list[tf.Tensor], target: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Outputs of a signature. A bad sample gets a status and NaN; nothing here fails for its neighbours."""
        # A merged batch is never empty: this concerns the one request.
        some = tf.debugging.Assert(tf.shape(inputs[0])[0] > 0, ["Expected at least one sample. Received: an empty batch"])
        with tf.control_dependencies([some]):
            inputs, whole, known = self._clean([tf.identity(x) for x in inputs])
        function = self.explainer._function(mode, "output", _Want(account=True, each=True))
        found = function(*inputs, *([] if target is None else [target]))
        logits = found["logits"]
        fits = tf.ones_like(whole) if mode in ("top", "ranked") else self._in_range(target, logits)
        code = tf.fill(tf.shape(whole), _OK)
        finite = found["finite"] & _each(tf.math.is_finite(tf.stack(found["conservation"], -1)))
        for right, wrong in ((finite, _RELEVANCE), (fits, _TARGET), (known, _INDEX), (whole, _INPUT)):
            code = tf.where(right, code, wrong)
        ok, usable = code == _OK, whole & known
        chosen = found["target"]
        results = {
            "outputs": _nan_unless(usable, found["output"]),
            "logits": _nan_unless(usable, logits),
            "target": chosen if mode in ("class", "index") else tf.where(_along(usable, chosen), chosen, -1),
            "conservation": _nan_unless(ok, tf.stack(found["conservation"], axis=-1)),
            "status": tf.gather(tf.constant(STATUS), code),
        }
        return results | {name: _nan_unless(ok, r) for name, r in self._named(found["relevance"]).items()}

    def _named(self, relevances: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Relevance of each input that it reaches, in the input's float dtype."""
        found: dict[str, tf.Tensor] = {}
        for ref, name, r in zip(self.graph.inputs, self.names, relevances, strict=True):
            name = "relevance" if len(self.names) == 1 else f"relevance_{name}"
            if tf.as_dtype(ref.dtype).is_floating:
                found[name] = tf.cast(r, ref.dtype)
            elif ref in self.explainer.clone.reached:
                found[name] = r
        return found

    def _clean(self, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Inputs with zeros in the place of bad samples; which samples are finite; which have indices in range."""
        finite = known = tf.fill(tf.shape(inputs[0])[:1], True)
        for ref, x in zip(self.graph.inputs, inputs, strict=True):
            if x.dtype.is_floating:
                finite &= _each(tf.math.is_finite(x))
            elif (rows := self._rows(ref)) is not None:
                known &= _each((x >= tf.cast(-rows, x.dtype)) & (x < tf.cast(rows, x.dtype)))
        good = finite & known
        return [tf.where(_along(good, x), x, tf.zeros_like(x)) for x in inputs], finite, known

    def _rows(self, ref: Ref) -> int | None:
        """How many entries the smallest Embedding has that looks this input up: a wrong index stops the whole batch."""
        readers = self.graph.consumers().get(ref, [])
        sizes = [step.op.input_dim for step in readers if isinstance(step.op, keras.layers.Embedding)]
        return min(sizes, default=None)

    def _in_range(self, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if not self.has_top:
            return _each((target >= 0) & (target < tf.shape(logits)[1:]))
        units = tf.size(logits) // tf.maximum(tf.shape(logits)[0], 1)
        return (target >= 0) & (target < tf.where(units == 1, 2, units))


def _each(flags: tf.Tensor) -> tf.Tensor:
    """Whether all hold, for each sample."""
    return tf.reduce_all(flags, axis=list(range(1, flags.shape.rank)))


def _along(samples: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    return tf.reshape(samples, [-1, *[1] * (value.shape.rank - 1)])


def _nan_unless(good: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    if not value.dtype.is_floating:
        return value
    return tf.where(_along(good, value), value, tf.constant(np.nan, value.dtype))


# --- signatures of images ----------------------------------------------------------------------


class _Picture:
    """explain_image: from the bytes of a file to the bytes of its heatmap.

    Raises:
        LoadError: the model takes no image, or its preprocessing is not known or needs Python.
    """

    def __init__(
        self,
        served: _Served,
        preprocess: Preprocessing | None,
        scaling: bool,
        classes: Classes,
        size: tuple[int, int] | None,
        resize: str,
        max_pixels: int,
        painter: Painter,
    ) -> None:
        self.form = gallery.form(served.explainer, size)
        if preprocess is None:
            if not scaling:
                raise LoadError(
                    "the model does not scale its input itself, and what its pixels went through in training is not "
                    f"known. Remedy: preprocess= or --preprocess. {loading.choices()}"
                )
            preprocess = loading.get_preprocessing("none")
        self.served, self.preprocess, self.classes, self.painter = served, preprocess, classes, painter
        self.resize, self.max_pixels = resize, max_pixels
        self._check_preprocessing()
        self.run = tf.function(
            self._run, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False
        )

    def _check_preprocessing(self) -> None:
        """It does the same to tensors as to arrays."""
        form, name = self.form, self.preprocess.name
        pixels = np.random.default_rng(0).integers(0, 256, (1, *form[:3]), dtype=np.uint8)
        wanted = self.preprocess(pixels)
        compiled = tf.function(self._prepared, autograph=False)
        try:
            got = compiled(tf.constant(pixels)).numpy()
        except Exception as error:  # code for arrays fails on tensors in any way
            raise LoadError(
                f"preprocessing {name} does not run on tensors ({type(error).__name__}: {str(error).splitlines()[0]}). "
                "Remedy: write it in keras.ops or TensorFlow, or begin the model with keras.layers.Rescaling"
            ) from error
        far = np.abs(got - wanted).max() if got.shape == wanted.shape else np.inf
        if not far <= 1e-5 * max(np.abs(wanted).max(), 1.0):
            raise LoadError(f"preprocessing {name} does something else to tensors than to arrays: {far:.3g} apart")

    def _prepared(self, pixels: tf.Tensor) -> tf.Tensor:
        x = self.preprocess.function(tf.cast(pixels, tf.float32))
        return tf.cast(tf.ensure_shape(x, pixels.shape), tf.float32)

    def explain(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self.run(image_bytes)
        return {name: tensor for name, tensor in found.items() if name != "heatmap_bytes"}

    def explain_rest(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self.run(image_bytes)
        return {name: tensor for name, tensor in found.items() if name not in ("heatmap_png", "relevance")}

    def _run(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        form = self.form
        pixels = tensor_images.decode(image_bytes, self.max_pixels)
        pixels = tensor_images.fit(pixels, form.height, form.width, self.resize)
        x = self._prepared((tensor_images.grey(pixels) if form.channels == 1 else pixels)[None])
        x = tf.cast(tf.transpose(x, [0, 3, 1, 2]) if form.channels_first else x, self.served.graph.inputs[0].dtype)
        found = self.served.top_class(x)
        relevance = found["relevance"]
        shown = tf.transpose(relevance, [0, 2, 3, 1]) if form.channels_first else relevance
        picture = tf.io.encode_png(self.painter(shown[0]))[None]
        top, scores = self._top(found)
        results = {"heatmap_png": picture, "heatmap_bytes": picture, "relevance": relevance}
        results |= {"classes": top, "scores": scores, "status": found["status"]}
        if self.classes.names:
            names = [self.classes.name(i) for i in range(max(self._units() or 2, 2))]
            results["names"] = tf.gather(tf.constant(names), tf.maximum(top, 0))
        return results

    def _units(self) -> int | None:
        shape = self.served.graph.outputs[0].shape
        return shape[0] if shape else 1

    def _top(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Classes [1, n] by descending logit, and the model's outputs for them; of a single unit its value alone."""
        logits, outputs = tf.reshape(found["logits"], [1, -1]), tf.reshape(found["outputs"], [1, -1])
        if self._units() == 1:
            return found["target"][:, None], outputs
        order = tf.argsort(logits, axis=-1, direction="DESCENDING", stable=True)[:, :_TOP]
        return order, tf.gather(outputs, order, batch_dims=1)


# --- what lies beside the graph ----------------------------------------------------------------


def _prediction_log() -> Any:
    """The module of TensorFlow Serving's records."""
    try:
        return importlib.import_module("tensorflow_serving.apis.prediction_log_pb2")
    except ImportError as error:
        raise ImportError(
            "Warm-up requests need tensorflow-serving-api, which is not installed. Remedy: pip install "
            '"lrp_tf[serving]", or warmup=False (--no-warmup)'
        ) from error


def _requests(
    served: _Served,
    picture: _Picture | None,
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

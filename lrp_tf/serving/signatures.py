"""What the signatures of an exported model compute, for tensors and for the bytes of pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from lrp_tf.core.graph import Ref
from lrp_tf.engine import contrast as contrasts
from lrp_tf.engine import initial, passes, targets
from lrp_tf.engine.passes import Request
from lrp_tf.engine.targets import Target
from lrp_tf.explainer import Explainer
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import begins_with_scaling, form_of
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.heatmap.look import Look
from lrp_tf.serving import tensor_images
from lrp_tf.serving.tensor_images import Painter

STATUS = (
    "ok",
    "NaN or Inf in the input",
    "target out of range",
    "NaN or Inf in the relevance",
    "index out of range",
    "input below zero",
    "the target is the class of contrast",
)
"""What `status` says of a sample. Relevance is NaN unless it is "ok"; outputs are NaN if the input is bad."""

_OK, _INPUT, _TARGET, _RELEVANCE, _INDEX, _BELOW, _SAME = range(len(STATUS))
_TOP = 5


# --- signatures of tensors ---------------------------------------------------------------------


class Served:
    """The functions behind the signatures, for tensors in the structure of the model's inputs.

    Args:
        contrast: what all targets are set against, as for the Explainer.

    Raises:
        TypeError, ValueError: a contrast that the model does not have.
    """

    def __init__(self, explainer: Explainer, contrast: str | int | None = None) -> None:
        explainer.renew()
        graph = explainer.graph
        _, rival = contrasts.checked(graph, contrast, tf.zeros([1]))
        if rival is not None and contrast is not None and np.ndim(contrast):
            raise ValueError(f"contrast expects a class for all samples of an export. Received: {contrast!r}")
        self.explainer, self.graph = explainer, graph
        self.contrast = contrast if rival is None else int(rival[0])
        # Keras names the inputs of recorded models alone; TensorFlow numbers the others.
        recorded = len(getattr(explainer.model, "inputs", None) or ()) == len(graph.inputs)
        names = dict(zip(graph.inputs, graph.input_names if recorded else [None] * len(graph.inputs), strict=True))
        spec = lambda ref: tf.TensorSpec([None, *ref.shape], ref.dtype, name=names[ref])  # noqa: E731
        self.specs = [tree.map_structure(spec, graph.input_structure)]
        probe = tf.function(lambda *args: tree.flatten(args)[0], input_signature=self.specs, autograph=False)
        leaves = tree.flatten(probe.get_concrete_function().structured_input_signature)
        self.names = [leaf.name for leaf in leaves]
        rank = len(graph.outputs[0].shape)
        self.has_top = rank <= 1
        self.has_rivals = (graph.outputs[0].shape or (1,))[-1] != 1
        target, rival = (self._unused(name) for name in ("target", "contrast"))
        self.target = tf.TensorSpec([None] if self.has_top else [None, rank], tf.int32, name=target)
        self.rival = tf.TensorSpec([None], tf.int32, name=rival)

        flat = [tf.TensorSpec([None, *ref.shape], ref.dtype) for ref in graph.inputs]
        # Never inlined: pictures and tensors go through the same graph, optimised alike, to the last bit.
        self.top_class = tf.function(
            lambda *x: self.run("top", list(x)),
            input_signature=flat,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )

    def _unused(self, name: str) -> str:
        while name in self.names:
            name += "_"
        return name

    def explain(self, *args: object) -> dict[str, tf.Tensor]:
        # `args` keeps its name: TensorFlow derives the names of unnamed inputs from it, as for a model of Keras.
        return self.run("top", tree.flatten(args))

    def explain_target(self, *args: object) -> dict[str, tf.Tensor]:
        *inputs, target = args
        return self.run("class" if self.has_top else "index", tree.flatten(inputs), target)

    def explain_contrast(self, *args: object) -> dict[str, tf.Tensor]:
        *inputs, target, rival = args
        return self.run("class" if self.has_top else "index", tree.flatten(inputs), target, rival)

    def top(self, k: int) -> Callable[..., dict[str, tf.Tensor]]:
        """The function of explain_top_k."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"Expected top_k of at least 1, or None. Received: {k!r}")
        codes = targets.ranked([f"topK:{k}"], self.graph)

        def explain_top_k(*args: object) -> dict[str, tf.Tensor]:
            flat = tree.flatten(args)
            return self.run("ranked", flat, tf.tile(tf.constant([codes], tf.int32), [tf.shape(flat[0])[0], 1]))

        return explain_top_k

    def run(
        self, mode: str, inputs: list[tf.Tensor], target: tf.Tensor | None = None, rival: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Outputs of a signature: those of `coded` with the text of each status."""
        # A merged batch is never empty: this concerns the one request.
        some = tf.debugging.Assert(
            tf.shape(inputs[0])[0] > 0, ["Expected at least one sample. Received: an empty batch"]
        )
        with tf.control_dependencies([some]):
            inputs = [tf.identity(x) for x in inputs]
        found = self.coded(mode, inputs, target, rival)
        return found | {"status": tf.gather(tf.constant(STATUS), found["status"])}

    def coded(
        self, mode: str, inputs: list[tf.Tensor], target: tf.Tensor | None = None, rival: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Outputs without a text among them, `status` [B] as an index of `STATUS`: for formats that know no texts.

        A bad sample gets a status and NaN; nothing here fails for its neighbours.

        Args:
            mode, target: see `engine.targets.Target`.
            rival: int32 [B], what each target is set against; None: what all are.
        """
        inputs, whole, known, declared = self._clean(inputs)
        request = Request(account=True, each=True, books=tf.as_dtype(self.graph.dtype))  # LiteRT has no sums in float64
        chosen = Target(mode, "output", target, "class", rival)
        if rival is None:
            chosen = targets.against(self.graph, chosen._replace(contrast=None), self.contrast, inputs[0])
        found, verdict = passes.plain(self.explainer.clone, chosen, request)(*inputs, *chosen.tensors)
        assert found.conservation is not None  # as asked for
        logits, conservation = found.logits, tf.stack(found.conservation.of_six(), axis=-1)
        fits = tf.ones_like(whole) if mode in ("top", "ranked") else self._in_range(found.target, logits)
        if rival is not None:
            fits &= self._in_range(rival, logits) if self.has_top else (rival >= 0) & (rival < tf.shape(logits)[-1])
        apart = tf.ones_like(whole) if chosen.rival is None else _each(initial.apart(chosen, found.target))
        code = tf.fill(tf.shape(whole), _OK)
        finite = verdict.finite & _each(tf.math.is_finite(conservation))
        for right, wrong in (
            (finite, _RELEVANCE),
            (apart, _SAME),
            (fits, _TARGET),
            (declared, _BELOW),
            (known, _INDEX),
            (whole, _INPUT),
        ):
            code = tf.where(right, code, wrong)
        ok, usable = code == _OK, whole & known & declared
        classes, asked = found.target, target if mode == "class_or_top" else -1
        results = {
            "outputs": _nan_unless(usable, found.output),
            "logits": _nan_unless(usable, logits),
            "target": classes if mode in ("class", "index") else tf.where(_along(usable, classes), classes, asked),
            "conservation": _nan_unless(ok, conservation),
            "status": code,
        }
        return results | {name: _nan_unless(ok, r) for name, r in self._named(found.relevance).items()}

    def _named(self, relevances: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Relevance of each input that it reaches, in the input's float dtype."""
        found: dict[str, tf.Tensor] = {}
        for ref, name, r in zip(self.graph.inputs, self.names, relevances, strict=True):
            name = "relevance" if len(self.names) == 1 else f"relevance_{name}"
            if tf.as_dtype(ref.dtype).is_floating:
                found[name] = tf.cast(r, ref.dtype)
            elif ref in self.explainer.clone.plan.reached:
                found[name] = r
        return found

    def _clean(self, inputs: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """Inputs with zeros for bad samples; and which samples are finite, have indices in range, are as declared."""
        finite = known = declared = tf.fill(tf.shape(inputs[0])[:1], True)
        for ref, x in zip(self.graph.inputs, inputs, strict=True):
            if x.dtype.is_floating:
                finite &= _each(tf.math.is_finite(x))
                if self.explainer.clone.nonnegative:
                    declared &= _each(x >= tf.zeros([], x.dtype))
            elif (rows := self._rows(ref)) is not None:
                known &= _each((x >= tf.cast(-rows, x.dtype)) & (x < tf.cast(rows, x.dtype)))
        good = finite & known & declared
        return [tf.where(_along(good, x), x, tf.zeros_like(x)) for x in inputs], finite, known, declared

    def _rows(self, ref: Ref) -> int | None:
        """The size of the smallest Embedding that reads this input; a wrong index is an error of the whole batch."""
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


class ImageOptions(NamedTuple):
    """What `export` was asked to do with images; see there.

    Attributes:
        resize: one of `FITS`; with the form of the model it becomes a `Fit`.
        look: the colours of heatmaps.
    """

    preprocess: Preprocessing | None
    classes: Classes
    size: tuple[int, int] | None
    resize: str
    max_pixels: int
    look: Look


class ServedImages:
    """explain_image: from the bytes of a file to the bytes of its heatmap.

    Raises:
        LoadError: the model takes no image, its preprocessing is not known or needs Python.
        ValueError, TypeError: see `Painter`.
    """

    def __init__(self, served: Served, options: ImageOptions) -> None:
        self.painter = Painter(options.look)
        self.form = form_of(served.explainer, options.size)
        self.fit = Fit(self.form.height, self.form.width, options.resize)
        self.served, self.classes, self.max_pixels = served, options.classes, options.max_pixels
        self.preprocess = options.preprocess or self._nothing()
        self.table: np.ndarray | None = None
        self._check_preprocessing()
        self.run = tf.function(
            self._run, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False
        )

    def _nothing(self) -> Preprocessing:
        """The preprocessing of a model that scales its input itself; other models get none by default."""
        if not begins_with_scaling(self.served.graph):
            raise LoadError(
                "the model does not scale its input itself, and what its pixels went through in training is not "
                f"known. Remedy: `preprocess`. {loading.choices()}",
                "preprocess",
            )
        return loading.get_preprocessing("none")

    def _check_preprocessing(self) -> None:
        """Turn a function of each value by itself into a table, exact to the last bit; another one runs in the graph.

        Raises:
            LoadError: the function does not run on tensors, or gives other numbers there.
        """
        form, name = self.form, self.preprocess.name
        pixels = np.random.default_rng(0).integers(0, 256, (1, *form[:3]), dtype=np.uint8)
        wanted = self.preprocess(pixels)
        ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None, None], form.channels, -1)
        table, channels = self.preprocess(ramp)[0, :, 0], np.arange(form.channels)
        for order in (channels, channels[::-1]):  # RGB or BGR
            if np.array_equal(table[pixels[..., order], channels], wanted):
                self.table, self.order = table, order
                return
        compiled = tf.function(self._prepared, autograph=False)
        try:
            got = compiled(tf.constant(pixels)).numpy()
        except Exception as error:  # code for arrays raises almost any type on tensors
            raise LoadError(
                f"preprocessing {name} does not run on tensors ({type(error).__name__}: {str(error).splitlines()[0]}). "
                "Remedy: write it in keras.ops or TensorFlow, or begin the model with keras.layers.Rescaling"
            ) from error
        far = np.abs(got - wanted).max()
        if not far <= 1e-5 * max(np.abs(wanted).max(), 1.0):
            raise LoadError(f"preprocessing {name} does something else to tensors than to arrays: {far:.3g} apart")

    def _prepared(self, pixels: tf.Tensor) -> tf.Tensor:
        if self.table is not None:
            places = tf.gather(tf.cast(pixels, tf.int32), self.order, axis=-1) * len(self.order)
            return tf.gather(tf.constant(self.table.ravel()), places + np.arange(len(self.order), dtype=np.int32))
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
        pixels = tensor_images.fit(pixels, self.fit)
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

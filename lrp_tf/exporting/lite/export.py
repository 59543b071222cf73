"""`export_lite`: an explanation as a file for LiteRT, on phones and boards, in builtin operations alone."""

from __future__ import annotations

import collections
import dataclasses
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from lrp_tf import __version__
from lrp_tf.atomic import atomic
from lrp_tf.engine import contrast as contrasts
from lrp_tf.explainer import Explainer
from lrp_tf.exporting.lite import flatbuffer, verify
from lrp_tf.exporting.lite.nodes import NotAloneError
from lrp_tf.exporting.lite.program import OUTPUTS, WITH_SHARES, program
from lrp_tf.exporting.lite.rewrite import Rewritten
from lrp_tf.exporting.text import ExportError

SIGNATURE = "explain"
# What a file may take, as a multiple of the weights in float32: kernels that are quicker from the file are held up to
# this, all others are computed when it runs.
_ROOM = 1.25
# How often the net may round otherwise: layer by layer, in place of the input alone.
_ROUNDINGS = 10


@dataclasses.dataclass(frozen=True)
class Lite:
    """What `export_lite` wrote.

        lite = lrp_tf.export_lite(explainer, "explained.tflite")
        print(lite.size / lite.weights, lite.operations)

    Attributes:
        path: the file.
        inputs, outputs: (name, shape, dtype) of each, of the signature "explain".
        operations: builtin operation -> how often the file has it.
        size, weights: bytes of the file, and of the model's weights in float32.
        error: the largest difference to the explainer's relevance, logits and shares, as a part of the maximum of each;
            None: not checked.
        rounding: what one more rounding of each input changes of the explainer's own relevance: where it is large, so
            may `error` be, whoever computes.
    """

    path: Path
    inputs: list[tuple[str, tuple[int, ...], str]]
    outputs: list[tuple[str, tuple[int, ...], str]]
    operations: dict[str, int]
    size: int
    weights: int
    error: float | None
    rounding: float | None


def export_lite(
    explainer: Explainer,
    path: str | os.PathLike,
    *,
    contrast: str | int | None = None,
    conservation: bool = False,
    check: bool = True,
    sample: np.ndarray | None = None,
    tolerance: float = 1e-5,
) -> Lite:
    """Write a .tflite file that explains one sample at a time, in builtin operations of LiteRT alone.

        lrp_tf.export_lite(explainer, "explained.tflite")

    docs/litert.md shows how a program runs the file.

    Args:
        explainer: its current weights are written. `max_batch` and `jit_compile` have no effect in a file.
        path: the file. It appears whole or not at all; an old one is replaced.
        contrast: what each target is set against, as for the Explainer: "softmax", "mean" or a class. It is fixed,
            while the target is an input of the file.
        conservation: the file has an output of this name, six shares that say where the score went, summed in float32.
        check: run the file once, for two targets, and compare with the explainer before it gets its name.
        sample: what it is checked with, [...] or [1, ...]; None: random numbers of the range that the rules expect.
        tolerance: the difference that the check forgives, as a part of the maximum of |relevance|, of |logits| and of
            |shares|. Of nets that amplify rounding it forgives more: of each of the three, ten times what one more
            rounding of the input changes of it.

    Raises:
        ValueError: `ExportError`, what LiteRT cannot run, with the operations or the reason: several inputs, inputs
            that are no float32, sizes that are open, outputs without classes, loops, random numbers, bfloat16; or a
            file whose relevance is not that of the explainer. A contrast that the model does not have.
        FileNotFoundError: the folder does not exist.
        TypeError: not an Explainer.
    """
    if not isinstance(explainer, Explainer):
        raise TypeError(f"Expected an lrp_tf.Explainer. Received: {explainer!r}")
    explainer.renew()
    _refuse(explainer)
    contrast = _contrast(explainer, contrast)
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"Expected a file in a folder that exists. Received: {str(path)!r}")
    weights = 4 * explainer.model.count_params()
    outputs = WITH_SHARES if conservation else OUTPUTS
    content = _content(explainer, contrast, int(_ROOM * weights), outputs)
    found = None
    if check:
        found = verify.difference(explainer, content, contrast, sample)
        _refuse_difference(*found, tolerance)
    written = atomic(path, lambda temporary: temporary.write_bytes(content))
    return _described(explainer, written, content, outputs, found)


def _refuse_difference(apart: verify.Apart, rounding: verify.Apart, tolerance: float) -> None:
    """Refuse a file that gives something else.

    Raises:
        ExportError: by how much.
    """
    for name, error, one in zip(verify.Apart._fields, apart, rounding, strict=True):
        if not error <= max(tolerance, _ROUNDINGS * one):
            verb = "is" if name == "relevance" else "are"
            raise ExportError(
                f"The file's {name} {verb} {error:.2g} of the maximum away from the explainer's. Expected: at most "
                f"{tolerance:g}, or {_ROUNDINGS} times what one rounding of the input changes, {one:.2g}. Remedy: "
                "`sample`, one of the data, or a larger `tolerance`; otherwise please report this model as a bug"
            )


def _described(
    explainer: Explainer,
    path: Path,
    content: bytes,
    outputs: list[str],
    found: tuple[verify.Apart, verify.Apart] | None,
) -> Lite:
    """What was written."""
    shape = verify.known_shape(explainer.graph.inputs[0].shape)
    logits = verify.known_shape(explainer.graph.outputs[0].shape)
    return Lite(
        path=path,
        inputs=[("x", (1, *shape), "float32"), ("target", (1,), "int32")],
        outputs=[("relevance", (1, *shape), "float32"), ("logits", (1, *logits), "float32"), ("target", (1,), "int32")]
        + ([("conservation", (1, 6), "float32")] if outputs is WITH_SHARES else []),
        operations=dict(collections.Counter(flatbuffer.operations(content)).most_common()),
        size=len(content),
        weights=4 * explainer.model.count_params(),
        error=None if found is None else max(found[0]),
        rounding=None if found is None else found[1].relevance,
    )


def _content(explainer: Explainer, contrast: str | int | None, room: int, outputs: list[str]) -> bytes:
    """The bytes of the file."""
    try:
        function = program(explainer, contrast, conservation=outputs is WITH_SHARES)
        rewritten = Rewritten(function, outputs, room)
    except NotAloneError as error:
        raise ExportError(
            f"The explanation holds {error}, which LiteRT cannot run: a loop, a function of Python, a table or random "
            "numbers. Expected: layers without loops (not LSTM or GRU) and no relevance_filter. Remedy: lrp_tf.export, "
            "which writes a SavedModel"
        ) from error
    function, kernels = rewritten.trace()
    about = f"lrp_tf {__version__}: {explainer.model.name}, {explainer.composite.name}"
    content = flatbuffer.converted(function)
    return flatbuffer.finished(content, kernels, SIGNATURE, outputs, about)


def _refuse(explainer: Explainer) -> None:
    """Refuse what the form of a file excludes.

    Raises:
        ExportError: with the reason and the remedy.
    """
    graph, clone = explainer.graph, explainer.clone
    remedy = "Remedy: lrp_tf.export, which writes a SavedModel"
    if len(graph.inputs) != 1:
        raise ExportError(
            f"Expected a model of one input. Received: {len(graph.inputs)}, {', '.join(map(str, graph.input_names))}. "
            f"{remedy}"
        )
    (ref,) = graph.inputs
    if ref.dtype != "float32" or graph.dtype != "float32":
        kind = ref.dtype if ref.dtype != "float32" else graph.dtype
        floats = tf.as_dtype(kind).is_floating
        why = "LiteRT computes in float32" if floats else "texts and indices have no relevance of their own"
        raise ExportError(
            f"Expected an input and weights of float32. Received: {kind}; {why}. {remedy}, or a model of float32"
        )
    if None in ref.shape:
        raise ExportError(
            f"Expected an input whose sizes are known. Received: {tuple(ref.shape)}. Remedy: "
            f"Explainer(model, sizes={{{graph.input_names[0]!r}: (...)}})"
        )
    if len(graph.outputs[0].shape) != 1:
        raise ExportError(
            f"Expected an output with a value for each class. Received: one of shape {tuple(graph.outputs[0].shape)}, "
            f"which has no top class. {remedy}"
        )
    if clone.relevance_filter is not None:
        raise ExportError(f"relevance_filter sorts in a loop. Expected: None. {remedy}")
    if any(step.marks.bfloat16_sums or step.marks.bfloat16_shares for step in graph.steps):
        raise ExportError("LiteRT computes in float32. Expected fast=None. Received: bfloat16. Remedy: no `fast`")


def _contrast(explainer: Explainer, contrast: str | int | None) -> str | int | None:
    """The contrast, checked: one for all targets."""
    _, rival = contrasts.checked(explainer.graph, contrast, tf.zeros([1]))
    if rival is not None and contrast is not None and np.ndim(contrast):
        raise ValueError(f"contrast expects a class for all targets of a file. Received: {contrast!r}")
    return contrast if rival is None else int(rival[0])

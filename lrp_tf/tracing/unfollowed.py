"""Why a layer or model cannot be followed, and what to do about it."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path

import keras

from lrp_tf.tracing.symbolic import sublayers

SIZES = "build the model with all sizes but the batch's, as in keras.Input((128, 64))"


class UntraceableError(ValueError):
    """A layer or model whose `call` does not run on symbolic tensors. The message names it, the line and a remedy."""

    _keras_call_info_injected = True  # so that Keras hands it on as it is


def place_of(error: BaseException) -> str:
    """The line of the user's code, or of a library beside Keras, that raised an error; empty where none is known."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _INNER)]
    return f" in {Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line}" if own else ""


_INNER = [f"{os.sep}{name}{os.sep}" for name in ("keras", "tensorflow", "lrp_tf")]


def reason_of(error: BaseException) -> str:
    """Type and text of an error in one line, and where it arose. Keras puts its own remarks around the text."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered"):
        del lines[0]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}{place_of(error)}"


def unsized(path: str, op: object, error: BaseException, remedy: str) -> str:
    """The message for an operation that refuses its arguments, as sizes that do not fit."""
    remedy = remedy or "check the sizes of the inputs, and that the model runs on them"
    return (
        f"{path!r} ({type(op).__name__}) cannot be traced with these sizes. Expected: arguments that it takes. "
        f"Remedy: {remedy}. The reason was: {reason_of(error)}"
    )


def otherwise(path: str, op: object, expected: int, received: int) -> str:
    """The message for a layer whose `call` returns another number of tensors than Keras recorded."""
    return (
        f"{path!r} ({type(op).__name__}) cannot be traced: its call() returns other outputs than the model was built "
        f"with. Expected: {expected}. Received: {received}. Remedy: let compute_output_spec() of the layer say what "
        "its call() returns"
    )


def unbuilt(model: keras.Model) -> str:
    """The message for a model whose layers have no weights yet."""
    return (
        f"Subclassed model {model.name!r} ({type(model).__name__}) cannot be traced: its layers are not built. "
        "Expected a model with one input argument that has been called. Remedy: call it once on a batch of data, "
        "or write it with the functional API."
    )


def untraceable(model: keras.Layer, reason: str, remedy: str = "") -> str:
    """The message for a layer or model whose `call` does not run on symbolic tensors."""
    kind = "Model" if isinstance(model, keras.Model) else "Layer"
    remedy = remedy or (
        "replace np.* by keras.ops.*"
        if "NumPy array" in reason
        else "use the size of the batch, which is None while a call is followed, as the first size of a shape alone"
        if "NoneType" in reason
        else "replace tf.* by keras.ops.*, or write the model with the functional API"
    )
    return (
        f"{kind} {model.name!r} ({type(model).__name__}) cannot be traced: its call() does not run on symbolic "
        "tensors. Expected keras layers and keras.ops only, no raw TensorFlow or NumPy functions and no "
        f"Python branch on tensor values. Remedy: {remedy}{_registration(model)}. The reason was: {reason}"
    )


def _registration(layer: keras.Layer) -> str:
    """The remedy for a layer that belongs to a library, or may be a single step: it holds no other layers."""
    name = type(layer).__name__
    if isinstance(layer, keras.Model) or not isinstance(layer, keras.Layer):
        return ""
    if sublayers(layer):
        return f"; or say in keras.ops what it computes, lrp_tf.expansions.register({name}, call): docs/extending.md"
    return (
        f"; or lrp_tf.linear.register({name}, kernel=..., forward=...) if it is linear, lrp_tf.flows.register({name}, "
        "lrp_tf.flows.PassThrough()) if it is element-wise: see docs/extending.md"
    )

"""Why a layer or model cannot be followed, and what to do about it."""

from __future__ import annotations

import keras

from lrp_tf.tracing.symbolic import sublayers

SIZES = "build the model with all sizes but the batch's, as in keras.Input((128, 64))"


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
        else "replace tf.* by keras.ops.*, or write the model with the functional API"
    )
    return (
        f"{kind} {model.name!r} ({type(model).__name__}) cannot be traced: its call() does not run on symbolic "
        "tensors. Expected keras layers and keras.ops only, no raw TensorFlow or NumPy functions and no "
        f"Python branch on tensor values. Remedy: {remedy}{_registration(model)}. The reason was: {reason}"
    )


def _registration(layer: keras.Layer) -> str:
    """The remedy for a layer that may be a single step: it holds no other layers."""
    name = type(layer).__name__
    if isinstance(layer, keras.Model) or sublayers(layer):
        return ""
    return (
        f"; or lrp_tf.linear.register({name}, kernel=..., forward=...) if it is linear, lrp_tf.flows.register({name}, "
        "lrp_tf.flows.PassThrough()) if it is element-wise: see docs/extending.md"
    )

"""`suppress`: a new model in which a concept is cut, by layers of Keras alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from lrp_tf.evaluate.copies import copy_of, numbers_of

SUFFIX = "suppressed"  # of the name of the layer that cuts
_INDEPENDENT = 1e-6  # share of the longest direction below which what remains of another one is rounding


def suppress(
    model: keras.Model,
    layer: str,
    *,
    channels: Sequence[int] | None = None,
    direction: np.ndarray | None = None,
    neutral: np.ndarray | None = None,
    x: Any = None,
) -> keras.Model:
    """A new model that computes what `model` does, without a concept at the output of one of its layers.

        corrected = concepts.suppress(model, "conv2", channels=[2])
        corrected.save("corrected.keras")     # holds no code of lrp_tf

    Weights are copied: the model itself is never changed, and training the new one leaves it as it is. The cut is one
    more layer, named after `layer` with "_suppressed" behind it: `keras.layers.Rescaling` for channels, a
    `keras.layers.Dense` that is not trainable for a direction. So training the new model cannot undo the cut; it can
    find the concept again by other ways. A layer that is called several times is cut behind each call, as is one in a
    nested model that is. What was compiled is compiled again, with a new optimiser.

    Args:
        model: Sequential or functional, nested as well; built.
        layer: its name, or its path in nested models, such as "features/conv2". Its output has channels as its last
            axis, whatever axes are before.
        channels: those to set to zero: indices, negative ones count from the end.
        direction: what to project out at each position, [C], or [k, C] for the space that k directions span: concept
            activation vectors, see `concept_direction`. Its length does not matter.
        neutral: [C]: what the outputs are instead, in these channels or along this direction, such as their means over
            samples without the concept. None: zero.
        x: samples on which the copy must compute what the model does, before the cut; the first two are used.

    Raises:
        ValueError: an unknown layer, or a name that several have; both or none of `channels` and `direction`; channels
            out of range; directions that are no numbers, of another size, zero, not finite, or that span everything; a
            layer whose output has no channels as its last axis; a layer within one that is no model; a model whose
            class is neither Sequential nor functional, or that Keras cannot copy.
        TypeError: channels that are no integers, a model that is none of Keras.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model expects a Keras model. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(
            f"model expects one that is built. Received: {model.name!r}, which is not. Remedy: keras.Input ahead of "
            "its layers"
        )
    if (channels is None) == (direction is None):
        given = "neither" if channels is None else "both"
        raise ValueError(f"suppress expects exactly one of channels and direction. Received: {given}")
    path = _path_of(model, layer)
    size = _channels_of(model, path[-1], layer)
    at = _neutral(neutral, size)
    plan = _masked(channels, at, size) if channels is not None else _projected(direction, at, size)
    twin = copy_of(model, x)
    with numbers_of(0):  # initializers of the new layer draw from Python's random numbers, which are the user's
        found = _rebuilt(twin, _path_of(twin, "/".join(part.name for part in path)), plan)
    # Layers of the twin are called in two graphs by now, and `layer.output` is that of the first: a copy has one.
    found = copy_of(found)
    if model.compiled and not found.compiled:
        found.compile_from_config(model.get_compile_config())
    return found


class _Cut(NamedTuple):
    """h -> h * scale + offset, entry by entry, or h @ matrix + offset; one of scale and matrix is None."""

    scale: np.ndarray | None
    matrix: np.ndarray | None
    offset: np.ndarray

    def layer(self, name: str, dtype: Any) -> keras.Layer:
        if self.scale is not None:
            return keras.layers.Rescaling(self.scale.tolist(), self.offset.tolist(), name=name, dtype=dtype)
        assert self.matrix is not None
        dense = keras.layers.Dense(len(self.offset), trainable=False, name=name, dtype=dtype)
        dense.build((None, len(self.offset)))
        dense.set_weights([self.matrix, self.offset])
        return dense


# --- what is cut -----------------------------------------------------------------------------------


def _masked(channels: Sequence[int], neutral: np.ndarray, size: int) -> _Cut:
    """Channels set to their neutral values."""
    found = np.asarray(channels)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"channels expects one index or more. Received: {channels!r}")
    if not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"channels expects integers. Received: {channels!r}")
    if found.min() < -size or found.max() >= size:
        raise ValueError(f"channels expects indices below {size}, as many as the layer has. Received: {channels!r}")
    scale, offset = np.ones(size), np.zeros(size)
    scale[found], offset[found] = 0, neutral[found]
    return _Cut(scale, None, offset)


def _projected(direction: Any, neutral: np.ndarray, size: int) -> _Cut:
    """h - P (h - neutral), where P projects onto the directions."""
    try:
        rows = np.atleast_2d(direction).astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"direction expects numbers, [{size}] or [k, {size}]. Received: {_shortened(direction)}. Remedy: "
            "`concept_direction` finds one; channels= takes indices"
        ) from None
    if rows.ndim != 2 or rows.shape[1] != size or not len(rows):
        raise ValueError(f"direction expects [{size}] or [k, {size}]. Received: {list(np.shape(direction))}")
    if not np.isfinite(rows).all():
        raise ValueError("direction expects finite numbers. Received: NaN or Inf")
    lengths, axes = np.linalg.svd(rows, full_matrices=False)[1:]
    axes = axes[lengths > _INDEPENDENT * lengths.max()] if lengths.max() > 0 else axes[:0]
    if not 0 < len(axes) < size:
        what = "zero alone" if not len(axes) else f"directions that span all {size} channels"
        raise ValueError(f"direction expects what leaves something and cuts something. Received: {what}")
    onto = axes.T @ axes
    return _Cut(None, np.eye(size) - onto, onto @ neutral)


def _shortened(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 80 else f"{told[:77]}..."


def _neutral(neutral: np.ndarray | None, size: int) -> np.ndarray:
    if neutral is None:
        return np.zeros(size)
    found = np.asarray(neutral, np.float64)
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ValueError(f"neutral expects [{size}] finite numbers. Received: {list(found.shape)}")
    return found


# --- where it is cut -------------------------------------------------------------------------------


def _path_of(model: keras.Model, name: str) -> list[keras.Layer]:
    """The models that lead to a layer from `model` down, without it, and the layer."""
    places = {"/".join(part.name for part in path): path for path in _paths(model, [])}
    found = [name] if name in places else [place for place in places if place.rsplit("/", 1)[-1] == name]
    if len(found) == 1:
        path = places[found[0]]
        for holder in [model, *path[:-1]]:
            _require_graph(holder)
        return path
    _require_graph(model)
    if found:
        raise ValueError(f"Layer {name!r}: {len(found)} layers have this name: {found}; give the path")
    raise ValueError(
        f"Layer {name!r}: no layer of {model.name!r} that can be cut has this name. Expected one of: "
        f"{', '.join(places)}. Remedy for a layer within another layer: cut that one"
    )


def _paths(model: keras.Model, above: list[keras.Layer]) -> Iterator[list[keras.Layer]]:
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        yield [*above, layer]
        if isinstance(layer, keras.Model):
            yield from _paths(layer, [*above, layer])


def _require_graph(model: keras.Layer) -> None:
    """Raise ValueError for a model that is not made of layers that Keras knows."""
    if isinstance(model, keras.Sequential):
        return
    if not isinstance(model, keras.Model) or not _has_graph(model):
        raise ValueError(
            f"suppress expects a Sequential or functional model. Received: {model.name!r}, a {type(model).__name__}. "
            "Remedy: make it functional: keras.Model(inputs, model.call(inputs)) for inputs = keras.Input(shape)"
        )


def _has_graph(model: keras.Model) -> bool:
    """Whether a model is made of inputs and outputs, of a subclass or not."""
    return any(base.__name__ == "Functional" for base in type(model).__mro__)


def _channels_of(model: keras.Model, layer: keras.Layer, name: str) -> int:
    """How many channels the output of a layer has."""
    try:
        output = layer.output if not isinstance(layer, keras.Model) else layer.outputs
    except ValueError:  # several calls, whose outputs Keras gives one by one
        output = layer.get_output_at(0) if hasattr(layer, "get_output_at") else None
    tensors = keras.tree.flatten(output)
    if len(tensors) != 1 or not keras.backend.is_float_dtype(tensors[0].dtype):
        raise ValueError(
            f"Layer {name!r}: expected one output of floats, [B, ..., C]. Received: "
            f"{[(list(t.shape), t.dtype) for t in tensors]}"
        )
    shape = tensors[0].shape
    first = len(shape) > 2 and _channels_first(model, layer, len(shape))
    if first or len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"Layer {name!r}: expected channels as the last axis of the output, as many as are known. Received: "
            f"{list(shape)}{', channels first' if first else ''}"
        )
    return int(shape[-1])


def _channels_first(model: keras.Model, layer: keras.Layer, rank: int) -> bool:
    """Whether the channels of a layer's output lie first, or may: a layer without a format keeps those ahead of it."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return int(layer.axis) % rank != rank - 1
    parts = [path[-1] for path in _paths(model, [])]
    # Wrappers, such as TimeDistributed, hold the layer that has the format.
    formats = {getattr(part, "data_format", None) for each in parts for part in (each, getattr(each, "layer", None))}
    return getattr(layer, "data_format", "channels_first" if "channels_first" in formats else None) == "channels_first"


def _rebuilt(model: keras.Model, path: list[keras.Layer], cut: _Cut) -> keras.Model:
    """The model on its own layers, with the cut behind the layer at the end of `path`."""
    layer, rest = path[0], path[1:]
    inner = _rebuilt(layer, rest, cut) if rest else None
    made: list[keras.Layer] = []

    def cutting() -> keras.Layer:
        """The same layer behind each call."""
        if not made:
            known = {other.name for other in model.layers}
            name = next(n for n in _names(f"{layer.name}_{SUFFIX}") if n not in known)
            made.append(cut.layer(name, _floats_of(layer.dtype_policy)))
        return made[0]

    if isinstance(model, keras.Sequential):
        first = model.inputs[0]
        layers: list[Any] = [keras.Input(batch_shape=first.shape, dtype=first.dtype, name=first.name)]
        for other in model.layers:
            layers += [other] if other is not layer else [inner] if inner is not None else [other, cutting()]
        return keras.Sequential(layers, name=model.name, trainable=model.trainable)

    def call(called: Any, *args: Any, **kwargs: Any) -> Any:
        found = called(*args, **kwargs)
        return cutting()(found) if called is layer and inner is None else found

    return keras.models.clone_model(
        model, clone_function=lambda other: inner if other is layer and inner is not None else other, call_function=call
    )


def _floats_of(policy: Any) -> Any:
    """The policy of a layer for one that computes behind it: that of a quantised layer without the integers."""
    if getattr(policy, "quantization_mode", None) is None:
        return policy
    computing, kept = policy.compute_dtype, policy.variable_dtype
    return computing if computing == kept else f"mixed_{computing}"


def _names(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1

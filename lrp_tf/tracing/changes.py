"""Notices at every call, cheaply, that a layer has changed what it computes since an explainer was built."""

from __future__ import annotations

import operator
import types
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import keras

from lrp_tf.core.graph import UnsupportedLayerError
from lrp_tf.tracing.symbolic import one_thread, sublayers

# Attributes of Keras' layers that decide nothing, or that Keras and `tracing` set for a while.
_IDLE = {
    *("name", "built", "autocast", "build", "quantize", "add_loss", "supports_jit", "activity_regularizer", "seed"),
    *("train_function", "test_function", "predict_function", "loss"),  # of models: what compile() and fit() set
    *("compiled", "stop_training"),
    *("use_bias", "units", "filters", "lora_rank", "quantization_config", "trainable", "sparse", "dtype"),
}
_SETTINGS = (bool, int, float, str, tuple, types.NoneType)
_PARTS = (keras.Variable, keras.Layer, keras.DTypePolicy, types.FunctionType, types.BuiltinFunctionType)


class Snapshot:
    """What the layers of a model were: which weights they had (not their values), activations, parts and settings.

    Settings (numbers, flags, strings) count for Keras' own layers. Of the user's layers only flags do, since these
    may keep a counter.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        layers = sublayers(model, itself=True)
        self._layers = list(map(id, layers))
        with one_thread():  # a trace in another thread adds attributes to the layers for a while
            attributes = [(vars(layer), _deciding(layer)) for layer in layers]
        self._readers = [(operator.itemgetter(*names, names[0]), values) for values, names in attributes if names]
        self._known = self._ids()
        # Kept, so that no new value takes the id of a value that is gone.
        self._values = (layers, [[values[name] for name in names] for values, names in attributes])

    def outdated(self) -> bool:
        """Whether a layer has other weights, parts or settings than before, or the model has other layers."""
        try:
            return self._layers != list(map(id, sublayers(self._model, itself=True))) or self._known != self._ids()
        except KeyError:  # an attribute is gone
            return True

    def _ids(self) -> list[int]:
        return list(map(id, chain.from_iterable([reader(values) for reader, values in self._readers])))


def _deciding(layer: keras.Layer) -> list[str]:
    """The attributes of a layer that decide what it computes."""
    own = type(layer).__module__.startswith("keras.") and not isinstance(layer, keras.Model)
    return [name for name, value in vars(layer).items() if _decides(name, value, own)]


def _decides(name: str, value: Any, own: bool) -> bool:
    if name in _IDLE or name.endswith(("_initializer", "_regularizer", "_constraint")):
        return False
    if isinstance(value, _PARTS):
        return True
    settings = _SETTINGS if own else bool
    return name[0] != "_" and isinstance(value, settings) and not name.startswith(("supports_", "call_"))


def refuse_quantized(layers: Iterable[keras.Layer]) -> None:
    """Raise UnsupportedLayerError that names every quantized layer, whatever its mode.

    How kernels are packed and how inputs are rounded differs between the versions of Keras, and none tells.
    """
    if found := [f"{layer.name!r} ({type(layer).__name__}, {mode})" for layer, mode in _quantized(layers)]:
        raise UnsupportedLayerError(
            f"Quantized layers cannot be explained: their kernels are no float tensors. Expected a model in floats. "
            f"Received: {', '.join(found)}. Remedy: explain the model before quantization: keep a copy, or build it "
            "anew and load its float weights."
        )


def _quantized(layers: Iterable[keras.Layer]) -> Iterator[tuple[keras.Layer, str]]:
    for layer in layers:
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            yield layer, mode

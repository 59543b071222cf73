"""Whether an activation function acts on every entry alone, found by a run on a symbolic tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras

from lrp_tf.core.operations import activation_name, is_operation_of_keras
from lrp_tf.tracing.samples import ELEMENTWISE
from lrp_tf.tracing.symbolic import names_kept

_ALONG_AN_AXIS = ("softmax", "log_softmax", "sparsemax")


def is_elementwise(function: Callable) -> bool:
    """Whether `function` consists of keras.ops that act on every entry alone, as a `functools.partial` of gelu does."""
    try:
        return _consists_of_elementwise(function)
    except TypeError:  # not hashable
        return _consists_of_elementwise.__wrapped__(function)


@functools.lru_cache(maxsize=256)
def _consists_of_elementwise(function: Callable) -> bool:
    shape = (None, 3, 5)
    try:
        with names_kept():
            x = keras.KerasTensor(shape, "float32")
            y = function(x)
            operations = keras.Function(x, y, name="activation").operations
    except Exception:  # it does not run on symbolic tensors, or gives none
        return False
    return tuple(y.shape) == shape and all(map(_acts_on_entries, operations))


def _acts_on_entries(operation: keras.Operation) -> bool:
    if isinstance(operation, keras.Layer) or not is_operation_of_keras(operation):
        return False
    name = activation_name(operation)
    return name not in _ALONG_AN_AXIS if name is not None else type(operation).__name__ in ELEMENTWISE

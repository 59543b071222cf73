"""Our own small operations, and the names of activations."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Not glu, which halves its axis and so is not element-wise.
_ACTIVATIONS = {name for name in dir(keras.activations) if name.islower()} - {"glu", "get", "serialize", "deserialize"}

# Operations whose values change in steps: a small change of an input changes nothing.
STEPWISE = (
    *("ops.Equal", "ops.NotEqual", "ops.Greater", "ops.GreaterEqual", "ops.Less", "ops.LessEqual", "ops.Isnan"),
    *("ops.Isfinite", "ops.LogicalAnd", "ops.LogicalOr", "ops.LogicalNot", "ops.LogicalXor", "ops.Any", "ops.All"),
    *("ops.Argmax", "ops.Argmin", "ops.Argsort", "ops.CountNonzero"),
)


@dataclasses.dataclass(frozen=True)
class ActivationFunction:
    """An activation split from the layer that held it as an argument."""

    function: Callable
    owner: str

    @property
    def name(self) -> str:
        return f"{self.owner}:{self.label}"

    @property
    def label(self) -> str:
        return activation_name(self) or function_name(self.function)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.function(inputs)


class Constants:
    """Variables and arrays of the model, and what it computes from them alone; evaluated at every call."""

    name = label = "constants"

    def __init__(self, compute: Callable[[], list[tf.Tensor]]) -> None:
        self.compute = compute

    def call(self) -> list[tf.Tensor]:
        return list(self.compute())


@dataclasses.dataclass(frozen=True)
class InputShift:
    """A constant added to the model's input, as in x / 127.5 - 1. It only rescales the input, so it absorbs nothing."""

    operation: keras.Operation

    label = "input shift"

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.operation.call(*args, **kwargs)


class EachSample(keras.Operation):
    """[1, ...] -> [B, ...]: repeats a value, as a class token, for every sample of the second argument."""

    label = "each sample"

    def call(self, value: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(value, tf.concat([tf.shape(samples)[:1], tf.shape(value)[1:]], 0))

    def compute_output_spec(self, value: keras.KerasTensor, samples: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor((None, *value.shape[1:]), dtype=keras.backend.standardize_dtype(value.dtype))


@dataclasses.dataclass(frozen=True)
class BroadcastSamples:
    """ops.broadcast_to(x, (batch, *shape)), with the batch size of x."""

    shape: tuple[int, ...]

    name = "broadcast_to"
    label = "BroadcastTo"

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(inputs, tf.concat([tf.shape(inputs)[:1], self.shape], 0))

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor((None, *self.shape), dtype=inputs.dtype)


class MergeTime:
    """[B, T, ...] -> [B T, ...]: every time step becomes a sample, for the layer in a TimeDistributed."""

    name = label = "merge_time"

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(inputs)
        merged = tf.reshape(inputs, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
        merged.set_shape([None, *inputs.shape[2:]])
        return merged


class SplitTime:
    """[B T, ...] -> [B, T, ...]; the second argument is the tensor [B, T, ...] that was merged."""

    name = label = "split_time"

    def call(self, inputs: tf.Tensor, unmerged: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([tf.shape(unmerged)[:2], tf.shape(inputs)[1:]], 0)
        split = tf.reshape(inputs, shape)
        split.set_shape([None, unmerged.shape[1], *inputs.shape[1:]])
        return split


class InitialState:
    """The states that a recurrent layer begins with, [B, ...] each, for a sequence [B, T, ...]; read at every call.

    Those of a stateful layer are what its last call in Keras left, and remain as they are. The first samples of a batch
    have the first of them.
    """

    name = "initial_state"
    label = "InitialState"

    def __init__(self, layer: keras.layers.RNN) -> None:
        self.layer = layer

    def call(self, sequence: tf.Tensor) -> list[tf.Tensor]:
        """The states, flat.

        Raises:
            tf.errors.InvalidArgumentError: the layer is stateful, and keeps the states of fewer samples.
        """
        rows = tf.shape(sequence)[0]
        if not self.layer.stateful:
            return keras.tree.flatten(self.layer.get_initial_state(sequence.shape[0] or rows))
        states = [tf.convert_to_tensor(state) for state in keras.tree.flatten(self.layer.states)]
        size = states[0].shape[0]
        message = (
            f"{self.layer.name!r} is stateful. Expected a batch of {size}, whose states it keeps, or fewer samples."
        )
        with tf.control_dependencies([tf.debugging.assert_less_equal(rows, size, message)]):
            return [tf.identity(state)[:rows] for state in states]

    def example(self) -> list:
        """The states of one sample, as they are nested in the cell."""
        if self.layer.stateful:
            return [*keras.tree.map_structure(lambda state: tf.convert_to_tensor(state)[:1], self.layer.states)]
        return [*self.layer.get_initial_state(1)]


# Positions of the tensors that these operations read the shape of, and no values.
SHAPE_ONLY: dict[type | str, tuple[int, ...]] = {
    **dict.fromkeys(("ops.OnesLike", "ops.ZerosLike", "ops.FullLike", "ops.Size"), (0,)),
    EachSample: (1,),
    InitialState: (0,),
}


def is_operation_of_keras(op: object) -> bool:
    return type(op).__module__.startswith(("keras.src.ops", "keras.src.activations"))


def function_name(function: Callable) -> str:
    """The name of a function, or of the function that a functools.partial wraps."""
    inner = getattr(function, "func", None)
    return getattr(function, "__name__", None) or getattr(inner, "__name__", None) or type(function).__name__


def activation_name(op: object) -> str | None:
    """Name of the built-in element-wise function (or softmax) that `op` applies; None for anything else."""
    if isinstance(op, ActivationFunction):
        function = op.function
    elif isinstance(op, keras.layers.Softmax) and type(op).call is keras.layers.Softmax.call:
        return "softmax"
    elif isinstance(op, keras.layers.Activation) and type(op).call is keras.layers.Activation.call:
        function = op.activation
    elif is_operation_of_keras(op):
        if type(op).__name__ == "ReLU":  # what keras.activations.relu records; keras.ops.relu records Relu
            return "relu"
        name = "".join("_" + c.lower() if c.isupper() else c for c in type(op).__name__).lstrip("_")
        return name if name in _ACTIVATIONS else None
    else:
        return None
    module, name = getattr(function, "__module__", ""), re.sub(r"_v\d$", "", getattr(function, "__name__", ""))
    return name if module.split(".")[0] in ("keras", "tensorflow") and name in _ACTIVATIONS else None

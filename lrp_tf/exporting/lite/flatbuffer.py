"""The converter of TensorFlow, silent; and the file that it writes, completed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.exporting.lite.kernels import Held
from lrp_tf.exporting.lite.quiet import quietly
from lrp_tf.exporting.lite.rewrite import KERNEL
from lrp_tf.exporting.text import ExportError


def converted(function: tf.types.experimental.ConcreteFunction) -> bytes:
    """The file of a function, in builtin operations alone.

    Raises:
        ExportError: an operation that LiteRT does not have; the message names it.
    """
    try:
        with quietly():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return converter.convert()
    except Exception as error:  # the converter raises a class of its own, which has no public name
        names = sorted(set(re.findall(r"^\s*tf\.(\w+)\(", str(error), re.MULTILINE)))
        what = f"has no builtin {', '.join(names)}" if names else f"cannot hold it: {str(error).splitlines()[0][:200]}"
        raise ExportError(
            f"LiteRT {what}. Expected an explanation in builtin operations. Remedy: another layer, another rule at "
            "that layer, or lrp_tf.export, which writes a SavedModel"
        ) from error


def finished(content: bytes, kernels: list[Held], signature: str, outputs: list[str], about: str) -> bytes:
    """The file with its kernels, a signature that names inputs and outputs, and a description.

    Args:
        kernels: what the inputs named `KERNEL` and a number stand for.
        outputs: their names, in order.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (graph,) = model.subgraphs
    inputs, buffers = dict[str, int](), dict[tuple, int]()
    for index in graph.inputs:
        tensor = graph.tensors[index]
        name = tensor.name.decode()
        if not name.startswith(KERNEL):
            inputs[name] = index
            continue
        held = kernels[int(name.removeprefix(KERNEL))]
        if held.key not in buffers:  # the same numbers in another shape are the same buffer
            buffers[held.key] = len(model.buffers)
            buffer = schema.BufferT()
            buffer.data = held.array.reshape(-1).view(np.uint8)
            model.buffers.append(buffer)
        tensor.buffer = buffers[held.key]
    graph.inputs = list(inputs.values())
    named = dict(zip(outputs, graph.outputs, strict=True))
    entry = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex = signature, 0
    entry.inputs, entry.outputs = _mapped(schema, inputs), _mapped(schema, named)
    model.signatureDefs, model.description = [entry], about
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _mapped(schema: Any, tensors: dict[str, int]) -> list[Any]:
    found = []
    for name, index in tensors.items():
        one = schema.TensorMapT()
        one.name, one.tensorIndex = name, index
        found.append(one)
    return found


def operations(content: bytes) -> list[str]:
    """The operation of each node of a file, as LiteRT names it; CUSTOM for those that are no builtin ones."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    graph = model.Subgraphs(0)
    found = []
    for i in range(graph.OperatorsLength()):
        code = codes[graph.Operators(i).OpcodeIndex()]
        found.append(names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
    return found

"""A function traced anew, in operations that the converter knows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from lrp_tf.exporting.lite import convolutions, masks
from lrp_tf.exporting.lite.folding import fold_scales
from lrp_tf.exporting.lite.kernels import SMALL, Held, Kernels, kernel_operation
from lrp_tf.exporting.lite.nodes import Node, Nodes, Value, order
from lrp_tf.exporting.lite.pooling import avg_pool_grad, max_pool_grad
from lrp_tf.exporting.lite.windows import each_image

# The names of the inputs of a traced function that stand for kernels, without their number.
KERNEL = "lrp_tf_kernel_"
_NODE = 700  # bytes that an operation takes in a file
_SPREADING = frozenset({"AddV2", "Maximum", "Minimum", "Mul", "RealDiv", "SelectV2", "Sub"})


class Rewritten:
    """What a function computes, as one for the converter.

    Args:
        function: all its sizes are known.
        names: of its outputs, in their order.
        room: bytes that the file may have for kernels and other constants.
    """

    def __init__(self, function: tf.types.experimental.ConcreteFunction, names: list[str], room: int) -> None:
        self._nodes = Nodes()
        self.names = names
        self._outputs = fold_scales(self._nodes, self._nodes.read(function))
        self._order = order(self._outputs)
        self._room = room

    def trace(self) -> tuple[tf.types.experimental.ConcreteFunction, list[Held]]:
        """The function, whose inputs are those by name and one for each kernel; and the kernels."""
        kernels = self._kernels()
        self._traced(kernels, [])  # finds which kernels there are
        return self._traced(kernels, [tf.TensorSpec(held.shape, tf.float32) for held in kernels.arrays]), kernels.arrays

    def _kernels(self) -> Kernels:
        """What the file is to hold."""
        kernels, others = Kernels(), dict[tuple, int]()
        for node in self._order:
            if convolutions.concerns(node) and node.inputs[1].size >= SMALL:
                convolutions.wish(node, kernels)
                continue
            # A flipped kernel is another one.
            inputs = [v for v in node.inputs if v.constant and _broadcast(node, v) is None]
            others |= {(id(v.node), v.index, node.type in FORMS): 4 * v.size for v in inputs}
        kernels.settle(self._room - sum(others.values()) - _NODE * len(self._order))
        return kernels

    def _traced(self, kernels: Kernels, more: list[tf.TensorSpec]) -> tf.types.experimental.ConcreteFunction:
        inputs = self._nodes.placeholders
        signature = [tf.TensorSpec(node.shapes[0], node.attributes["dtype"], name) for name, node in inputs.items()]
        signature += [tf.TensorSpec(spec.shape, spec.dtype, f"{KERNEL}{i}") for i, spec in enumerate(more)]

        def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            kernels.begin(list(tensors[len(inputs) :]))
            return self._run(dict(zip(map(id, inputs.values()), tensors, strict=False)), kernels)

        return tf.function(call, input_signature=signature, autograph=False).get_concrete_function()

    def _run(self, given: dict[int, tf.Tensor], kernels: Kernels) -> dict[str, tf.Tensor]:
        made: dict[int, list[tf.Tensor]] = {key: [tensor] for key, tensor in given.items()}

        def tensor(value: Value) -> tf.Tensor:
            return tf.constant(value.array) if value.constant else made[id(value.node)][value.index]

        for node in self._order:
            if node.type != "Placeholder":
                made[id(node)] = _emitted(node, tensor, kernels)
        return {name: tf.identity(tensor(v)) for name, v in zip(self.names, self._outputs, strict=True)}


def _emitted(node: Node, tensor: Callable[[Value], tf.Tensor], kernels: Kernels) -> list[tf.Tensor]:
    """The outputs of a node in the graph that is being traced."""
    attributes, kind = node.attributes, node.type
    if convolutions.concerns(node):
        value = node.inputs[1]
        if kind == "Conv2D":
            return [convolutions.forward(tensor(node.inputs[0]), value, attributes, kernels)]
        if kind == "MatMul":
            return [convolutions.product(tensor(node.inputs[0]), value, attributes, kernels)]
        g = tensor(node.inputs[2])
        return [convolutions.backward(g, value, attributes, node.shapes[0], kernels)]
    if kind == "SelectV2" and (found := masks.chosen(node, tensor)) is not None:
        return [found]
    numbers = [_broadcast(node, value) for value in node.inputs]
    inputs = [tensor(v) if n is None else tf.constant(n) for v, n in zip(node.inputs, numbers, strict=True)]
    form = FORMS.get(kind)
    return kernel_operation(node, inputs) if form is None else [form(node, inputs)]


def _broadcast(node: Node, value: Value) -> np.ndarray | None:
    """The one number of an array that a node spreads anyway, so that the file need not hold the array; or None."""
    if node.type not in _SPREADING or not value.constant or value.size == 1 or value.shape != node.shapes[0]:
        return None
    if not any(other.shape == node.shapes[0] for other in node.inputs if not other.constant):
        return None
    number = masks.uniform(value.array)
    return None if number is None else np.asarray(number, value.array.dtype)


def _max_pool_grad(node: Node, inputs: list[tf.Tensor]) -> tf.Tensor:
    x, y, r = inputs
    size, strides = node.attributes["ksize"][1:3], node.attributes["strides"][1:3]
    padding = node.attributes["padding"]
    return each_image(lambda x, y, r: max_pool_grad(x, y, r, size, strides, padding), x, y, r)


def _avg_pool_grad(node: Node, inputs: list[tf.Tensor]) -> tf.Tensor:
    size, strides = node.attributes["ksize"][1:3], node.attributes["strides"][1:3]
    image = (1, *node.shapes[0][1:])
    return each_image(lambda r: avg_pool_grad(image, r, size, strides, node.attributes["padding"]), inputs[1])


def _depthwise_backward(node: Node, inputs: list[tf.Tensor]) -> tf.Tensor:
    _, kernel, g = inputs
    image = (1, *node.shapes[0][1:])
    return each_image(lambda g: convolutions.depthwise_backward(g, kernel, node.attributes, image), g)


def _sum(node: Node, inputs: list[tf.Tensor]) -> tf.Tensor:
    """One axis at a time: LiteRT's quick library promises sums of any rank, and then refuses those above 4."""
    x, shape = inputs[0], node.inputs[0].shape
    if len(shape) <= 4 or not node.inputs[1].constant:
        return kernel_operation(node, inputs)[0]
    for axis in sorted({int(axis) % len(shape) for axis in node.inputs[1].array.flat}, reverse=True):
        ahead, behind = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
        left = [*x.shape[:axis], *x.shape[axis + 1 :]]
        x = tf.reshape(tf.reduce_sum(tf.reshape(x, [ahead, shape[axis], behind]), axis=1), left)
    return tf.reshape(x, node.shapes[0])


# Operations that LiteRT does not have, or not for all shapes -> the same in operations that it has.
FORMS: dict[str, Callable[[Node, list[tf.Tensor]], tf.Tensor]] = {
    "MaxPoolGrad": _max_pool_grad,
    "AvgPoolGrad": _avg_pool_grad,
    "DepthwiseConv2dNativeBackpropInput": _depthwise_backward,
    "Sum": _sum,
}

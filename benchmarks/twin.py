"""A Keras convolutional net as plain data: what other libraries' twins of it are built from, see folding.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import keras


class NoTwin(ValueError):
    """A layer that other libraries' twins have no counterpart of."""


@dataclass
class Node:
    """One step of the twin: conv, dense, maxpool, average (global), flatten or add.

    Attributes:
        relu: whether a ReLU follows.
        weights: "kernel", "bias" and, of a BatchNormalization right behind, "gamma", "beta", "mean", "variance" -> the
            path of the variable. What a layer leaves out is not listed.
        options: geometry; "epsilon" of the BatchNormalization; "permute", the shape before a Flatten.
    """

    kind: str
    name: str
    inputs: list[str]
    relu: bool = False
    weights: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def describe(model: keras.Model) -> list[dict[str, Any]]:
    """Nodes in order of execution. BatchNormalization belongs to the convolution before it and padding to what it
    pads: a peer would treat either as a step of its own.

    Raises:
        NoTwin: a layer that has no counterpart here.
    """
    nodes: dict[str, Node] = {}
    sources: dict[int, tuple[str, int]] = {}  # tensor -> the node that makes it, and zeros put around it
    layers = keras.Model(model.inputs, model.outputs).layers  # a Sequential does not list its input
    for layer in layers:
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        if isinstance(layer, keras.layers.InputLayer):
            sources[id(layer.output)] = ("input", 0)
            continue
        (name, padding), *_ = found = [sources[id(tensor)] for tensor in tensors]
        inputs = [name for name, _ in found]
        if padding and not isinstance(layer, (keras.layers.Conv2D, keras.layers.MaxPooling2D)):
            raise _unknown(layer)
        if isinstance(layer, keras.layers.ZeroPadding2D):
            sources[id(layer.output)] = (name, _even(layer))
            continue
        if isinstance(layer, keras.layers.BatchNormalization):
            _normalize(layer, nodes.get(name))
        elif isinstance(layer, (keras.layers.Activation, keras.layers.ReLU)):
            if not _is_relu(layer) or name == "input" or nodes[name].relu:
                raise _unknown(layer)
            nodes[name].relu = True
        else:
            node = nodes[layer.name] = _node(layer, inputs, padding, last=layer is layers[-1])
            if node.kind == "dense" and name in nodes and nodes[name].kind == "flatten":
                node.options["permute"] = nodes[name].options["shape"]
            name = layer.name
        sources[id(layer.output)] = (name, 0)
    return [asdict(node) for node in nodes.values()]


def _node(layer: keras.Layer, inputs: list[str], padding: int, last: bool) -> Node:
    # Subclasses, such as a depthwise convolution, are other operations.
    kind, node = type(layer), Node("", layer.name, inputs)
    if kind in (keras.layers.Conv2D, keras.layers.Dense):
        # An output activation is left out, as the explainer strips it.
        node.relu = keras.activations.serialize(layer.activation) == "relu" and not last
        if not (last or node.relu or layer.activation is keras.activations.linear):
            raise _unknown(layer)
        node.weights = _paths(kernel=layer.kernel, bias=layer.bias)
    if kind is keras.layers.Conv2D:
        node.kind = "conv"
        if layer.groups != 1 or layer.dilation_rate != (1, 1) or layer.data_format != "channels_last":
            raise _unknown(layer)
        if layer.padding == "same":
            # Keras pads lopsidedly where a stride leaves a rest; torch never does.
            if padding or layer.strides != (1, 1) or {size % 2 for size in layer.kernel_size} != {1}:
                raise _unknown(layer)
            padding = [size // 2 for size in layer.kernel_size]
        node.options = {"stride": layer.strides, "padding": padding}
    elif kind is keras.layers.Dense:
        node.kind = "dense"
    elif kind is keras.layers.MaxPooling2D and layer.padding == "valid":
        # torch pads with -inf, and these zeros lie around values after a ReLU: the maxima are the same.
        node.kind, node.options = "maxpool", {"size": layer.pool_size, "stride": layer.strides, "padding": padding}
    elif kind is keras.layers.GlobalAveragePooling2D:
        node.kind = "average"
    elif kind is keras.layers.Flatten:
        node.kind, node.options = "flatten", {"shape": layer.input.shape[1:]}
    elif kind is keras.layers.Add and len(inputs) == 2:
        node.kind = "add"
    else:
        raise _unknown(layer)
    return node


def _normalize(layer: keras.layers.BatchNormalization, node: Node | None) -> None:
    if node is None or node.kind != "conv" or node.relu or "mean" in node.weights:
        raise _unknown(layer)
    node.weights |= _paths(gamma=layer.gamma, beta=layer.beta, mean=layer.moving_mean, variance=layer.moving_variance)
    node.options["epsilon"] = layer.epsilon


def _paths(**variables: keras.Variable | None) -> dict[str, str]:
    return {name: variable.path for name, variable in variables.items() if variable is not None}


def _is_relu(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return layer.activation is keras.activations.relu


def _even(layer: keras.layers.ZeroPadding2D) -> int:
    sizes = {size for pair in layer.padding for size in pair}
    if len(sizes) != 1:
        raise _unknown(layer)
    return sizes.pop()


def _unknown(layer: keras.Layer) -> NoTwin:
    return NoTwin(f"Layer {layer.name!r} ({type(layer).__name__}) has no counterpart in the torch twin.")

"""A Keras convolutional net as plain data, weights in torch's layout: what peers_child.py builds its twin from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass
class Node:
    """One step of the twin: conv, dense, maxpool, average (global), flatten or add; `relu` says what follows."""

    kind: str
    name: str
    inputs: list[str]
    relu: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def describe(model: keras.Model) -> tuple[list[dict[str, Any]], Arrays]:
    """Nodes in order of execution, and `name/weight`, `name/bias` of each. BatchNormalization is folded into the
    convolution before it and padding into what it pads: a peer would treat either as a step of its own.

    Raises:
        ValueError: a layer that has no counterpart here.
    """
    nodes: dict[str, Node] = {}
    arrays: Arrays = {}
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
            _fold(layer, nodes.get(name), arrays)
        elif isinstance(layer, (keras.layers.Activation, keras.layers.ReLU)):
            if not _is_relu(layer) or name == "input" or nodes[name].relu:
                raise _unknown(layer)
            nodes[name].relu = True
        else:
            node = nodes[layer.name] = _node(layer, inputs, padding, arrays, last=layer is layers[-1])
            _permute(node, nodes.get(name), arrays)
            name = layer.name
        sources[id(layer.output)] = (name, 0)
    return [asdict(node) for node in nodes.values()], arrays


def _node(layer: keras.Layer, inputs: list[str], padding: int, arrays: Arrays, last: bool) -> Node:
    # Subclasses, such as a depthwise convolution, are other operations.
    kind, node = type(layer), Node("", layer.name, inputs)
    if kind in (keras.layers.Conv2D, keras.layers.Dense):
        # An output activation is left out, as the explainer strips it.
        node.relu = keras.activations.serialize(layer.activation) == "relu" and not last
        if not (last or node.relu or layer.activation is keras.activations.linear):
            raise _unknown(layer)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        arrays[f"{layer.name}/weight"] = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        bias = layer.bias if layer.use_bias else np.zeros(kernel.shape[-1], kernel.dtype)
        arrays[f"{layer.name}/bias"] = keras.ops.convert_to_numpy(bias)
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


def _fold(layer: keras.layers.BatchNormalization, node: Node | None, arrays: Arrays) -> None:
    if node is None or node.kind != "conv" or node.relu:
        raise _unknown(layer)
    gamma, beta, mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(v), np.float64)
        for v in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    scale = gamma / np.sqrt(variance + layer.epsilon)
    weight, bias = arrays[f"{node.name}/weight"], arrays[f"{node.name}/bias"]
    arrays[f"{node.name}/weight"] = (weight * scale[:, None, None, None]).astype(weight.dtype)
    arrays[f"{node.name}/bias"] = ((bias - mean) * scale + beta).astype(bias.dtype)


def _permute(node: Node, source: Node | None, arrays: Arrays) -> None:
    """Inputs of a Dense after Flatten: row, column, channel in Keras; channel, row, column in torch."""
    if node.kind == "dense" and source is not None and source.kind == "flatten":
        weight = arrays[f"{node.name}/weight"]
        shape = source.options["shape"]
        if len(shape) == 3:
            weight = weight.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(weight.shape)
        arrays[f"{node.name}/weight"] = weight


def _is_relu(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return layer.activation is keras.activations.relu


def _even(layer: keras.layers.ZeroPadding2D) -> int:
    sizes = {size for pair in layer.padding for size in pair}
    if len(sizes) != 1:
        raise _unknown(layer)
    return sizes.pop()


def _unknown(layer: keras.Layer) -> ValueError:
    return ValueError(f"Layer {layer.name!r} ({type(layer).__name__}) has no counterpart in the torch twin.")

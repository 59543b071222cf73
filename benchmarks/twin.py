"""A Keras convolutional net as plain data: what other libraries' twins of it are built from, see folding.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import keras

Padding = tuple[tuple[int, int], ...]
_NONE: Padding = ((0, 0), (0, 0))
_PADDED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.MaxPooling2D)


class NoTwin(ValueError):
    """A layer that other libraries' twins have no counterpart of."""


@dataclass
class Node:
    """One step of the twin: conv, depthwise, dense, maxpool, average (global), flatten or add.

    Attributes:
        relu: whether a ReLU follows; options["max_value"] cuts it off.
        weights: "kernel", "bias" and, of a BatchNormalization right behind, "gamma", "beta", "mean", "variance" -> the
            path of the variable. What a layer leaves out is not listed.
        options: "stride", "size" and "padding", ((top, bottom), (left, right)); "epsilon" of the BatchNormalization;
            "permute", the shape before a Flatten.
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
    sources: dict[int, tuple[str, Padding]] = {}  # tensor -> the node that makes it, and zeros put around it
    layers = keras.Model(model.inputs, model.outputs).layers  # a Sequential does not list its input
    for layer in layers:
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        if isinstance(layer, keras.layers.InputLayer):
            sources[id(layer.output)] = ("input", _NONE)
            continue
        (name, padding), *_ = found = [sources[id(tensor)] for tensor in tensors]
        inputs = [name for name, _ in found]
        if padding != _NONE and not isinstance(layer, _PADDED):
            raise _unknown(layer)
        if isinstance(layer, keras.layers.ZeroPadding2D):
            sources[id(layer.output)] = (name, layer.padding)
            continue
        if isinstance(layer, keras.layers.BatchNormalization):
            _normalize(layer, nodes.get(name))
        elif isinstance(layer, (keras.layers.Activation, keras.layers.ReLU)):
            if not (layer is layers[-1] and _is_softmax(layer)):  # an output activation is left out, as ours strips it
                _rectify(layer, nodes.get(name))
        elif not _only_moves(layer, nodes.get(name)):
            node = nodes[layer.name] = _node(layer, inputs, padding, last=layer is layers[-1])
            if node.kind == "dense" and name in nodes and nodes[name].kind == "flatten":
                node.options["permute"] = nodes[name].options["shape"]
            name = layer.name
        sources[id(layer.output)] = (name, _NONE)
    return [asdict(node) for node in nodes.values()]


def _node(layer: keras.Layer, inputs: list[str], padding: Padding, last: bool) -> Node:
    # Subclasses are other operations.
    kind, node = type(layer), Node("", layer.name, inputs)
    if kind in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense):
        # An output activation is left out, as the explainer strips it.
        node.relu = keras.activations.serialize(layer.activation) == "relu" and not last
        if not (last or node.relu or layer.activation is keras.activations.linear):
            raise _unknown(layer)
        node.weights = _paths(kernel=layer.kernel, bias=layer.bias)
    if kind is keras.layers.Dense or (kind is keras.layers.Conv2D and _is_dense(layer)):
        node.kind = "dense"
    elif kind in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
        node.kind = "conv" if kind is keras.layers.Conv2D else "depthwise"
        if getattr(layer, "groups", 1) != 1 or layer.dilation_rate != (1, 1) or layer.data_format != "channels_last":
            raise _unknown(layer)
        if layer.padding == "same":
            if padding != _NONE:
                raise _unknown(layer)
            padding = _same(layer)
        node.options = {"stride": layer.strides, "padding": padding}
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


def _same(layer: keras.layers.Conv2D | keras.layers.DepthwiseConv2D) -> Padding:
    """What Keras puts around an image: more behind than before, where a stride leaves a rest."""
    sizes = zip(layer.input.shape[1:3], layer.kernel_size, layer.strides, strict=True)
    sums = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size, kernel, stride in sizes]
    return tuple((total // 2, total - total // 2) for total in sums)


def _is_dense(layer: keras.layers.Conv2D) -> bool:
    """Whether it is a classifier on a map of one place, as MobileNet's, which the presets treat as a Dense."""
    return layer.input.shape[1:3] == (1, 1) and layer.kernel_size == (1, 1)


def _only_moves(layer: keras.Layer, node: Node | None) -> bool:
    """Whether it changes nothing at inference: a dropout, or a reshape of a vector."""
    vector = node is not None and node.kind in ("average", "dense")
    return isinstance(layer, keras.layers.Dropout) or (isinstance(layer, keras.layers.Reshape) and vector)


def _normalize(layer: keras.layers.BatchNormalization, node: Node | None) -> None:
    if node is None or node.kind not in ("conv", "depthwise") or node.relu or "mean" in node.weights:
        raise _unknown(layer)
    node.weights |= _paths(gamma=layer.gamma, beta=layer.beta, mean=layer.moving_mean, variance=layer.moving_variance)
    node.options["epsilon"] = layer.epsilon


def _paths(**variables: keras.Variable | None) -> dict[str, str]:
    return {name: variable.path for name, variable in variables.items() if variable is not None}


def _rectify(layer: keras.Layer, node: Node | None) -> None:
    is_relu = getattr(layer, "activation", keras.activations.relu) is keras.activations.relu
    if not is_relu or node is None or node.relu:
        raise _unknown(layer)
    node.relu = True
    if isinstance(layer, keras.layers.ReLU):
        if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
            raise _unknown(layer)
        if layer.max_value is not None:
            node.options["max_value"] = layer.max_value


def _is_softmax(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.softmax


def _unknown(layer: keras.Layer) -> NoTwin:
    return NoTwin(f"Layer {layer.name!r} ({type(layer).__name__}) has no counterpart in the torch twin.")

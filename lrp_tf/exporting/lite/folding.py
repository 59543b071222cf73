"""Scales of BatchNormalization moved into the kernels, so that a file holds one kernel in place of two."""

from __future__ import annotations

from lrp_tf.exporting.lite.nodes import Node, Nodes, Value, order

_FORWARD = ("Conv2D", "MatMul")


def fold_scales(nodes: Nodes, outputs: list[Value]) -> list[Value]:
    """The outputs of a graph in which kernels are scaled, where outputs of kernels or what comes back to them was.

    The engine scales the smaller of the two, see `rules.kernels`; rules that split the kernel scale it all the same.
    """
    changed: dict[int, Node] = {}
    for node in order(outputs):
        node.inputs = tuple(Value(changed.get(id(v.node), v.node), v.index) for v in node.inputs)
        found = _behind(nodes, node) or _ahead(nodes, node)
        if found is not None:
            changed[id(node)] = found
    return [Value(changed.get(id(v.node), v.node), v.index) for v in outputs]


def _behind(nodes: Nodes, node: Node) -> Node | None:
    """(x w) a as x (a w)."""
    scaled = _scaled(node)
    if scaled is None or scaled[0].node.type not in _FORWARD:
        return None
    (made, scale), kernel = scaled, scaled[0].node.inputs[1]
    if not kernel.constant or made.node.attributes.get("transpose_b"):
        return None
    kernel = _times(nodes, kernel, scale)
    return nodes.apply(made.node.type, made.node.attributes, [made.node.inputs[0], kernel], made.node.shapes)


def _ahead(nodes: Nodes, node: Node) -> Node | None:
    """(a g) w' as g (a w)'."""
    if node.type == "Conv2DBackpropInput":
        sizes, kernel, arrived = node.inputs
    elif node.type == "MatMul" and node.attributes.get("transpose_b"):
        arrived, kernel = node.inputs
    else:
        return None
    scaled = _scaled(arrived.node)
    if scaled is None or not kernel.constant:
        return None
    kernel = _times(nodes, kernel, scaled[1])
    inputs = [sizes, kernel, scaled[0]] if node.type == "Conv2DBackpropInput" else [scaled[0], kernel]
    return nodes.apply(node.type, node.attributes, inputs, node.shapes)


def _scaled(node: Node) -> tuple[Value, Value] | None:
    """(value, scale) of a product with a constant [C]; None: the node is none."""
    if node.type != "Mul" or node.constant:
        return None
    for value, scale in (node.inputs, node.inputs[::-1]):
        if scale.constant and scale.size == scale.shape[-1:][0] == value.shape[-1] > 1 if scale.shape else False:
            return value, scale
    return None


def _times(nodes: Nodes, kernel: Value, scale: Value) -> Value:
    return Value(nodes.apply("Mul", {}, [kernel, scale], [kernel.shape]))

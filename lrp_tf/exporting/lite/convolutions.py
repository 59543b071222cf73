"""Convolutions and their transposes, with kernels that are in the file and with kernels that are computed."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from lrp_tf.exporting.lite.kernels import COLUMNS, ROWS, SMALL, Kernels
from lrp_tf.exporting.lite.nodes import Attributes, Node, Value
from lrp_tf.exporting.lite.windows import Windows, given_back, taken, windows_of

# LiteRT's quick library runs convolutions with kernels of the file alone, products of matrices with any. So a computed
# kernel meets the places of its windows as a matrix.


def windows_for(attributes: Attributes, image: tuple[int, ...], kernel: tuple[int, ...]) -> Windows | None:
    """The windows of a convolution [1, H, W, C]; None: it has a form of its own (padding given, channels first)."""
    if attributes["data_format"] != "NHWC" or attributes["padding"] not in ("SAME", "VALID"):
        return None
    strides, dilations = attributes["strides"][1:3], attributes["dilations"][1:3]
    return windows_of(image, list(kernel[:2]), strides, attributes["padding"], dilations)


def _pointwise(windows: Windows) -> bool:
    return tuple(windows.size) == (1, 1) and tuple(windows.strides) == (1, 1)


def wish(node: Node, kernels: Kernels) -> None:
    """Tell `kernels` what this node would have from the file."""
    if node.type == "MatMul":
        value = node.inputs[1]
        kernels.wish(value, ROWS, 3 * value.size)
        return
    backward = node.type == "Conv2DBackpropInput"
    value = node.inputs[1]
    image = node.shapes[0] if backward else node.inputs[0].shape
    windows = windows_for(node.attributes, image, value.shape)
    assert windows is not None
    # The matrix of all places is written and read; a computed kernel is read, written and packed.
    places = 0 if _pointwise(windows) else 2 * int(np.prod(windows.grid)) * value.size // value.shape[-1]
    kernels.wish(value, ROWS, 0 if backward and places else places + 3 * value.size)
    if backward and places:
        kernels.wish(value, COLUMNS, 2 * places + 3 * value.size)


def concerns(node: Node) -> bool:
    """Whether the node has a kernel that `kernels` decides on."""
    if node.type == "MatMul":
        return node.inputs[1].constant and not node.inputs[0].constant and not node.attributes["transpose_a"]
    if node.type not in ("Conv2D", "Conv2DBackpropInput") or not node.inputs[1].constant:
        return False
    value = node.inputs[1]
    image = node.shapes[0] if node.type == "Conv2DBackpropInput" else node.inputs[0].shape
    alone = image[0] == 1 and image[-1] == value.shape[-2]  # one image, and not in groups
    return alone and windows_for(node.attributes, image, value.shape) is not None


def forward(x: tf.Tensor, value: Value, attributes: Attributes, kernels: Kernels) -> tf.Tensor:
    """Conv2D of x [1, H, W, C]."""
    if value.size < SMALL:
        return tf.raw_ops.Conv2D(input=x, filter=value.array, **attributes)
    if kernels.holds(value, ROWS):
        height, width, channels, outputs = value.shape
        kernel = kernels.held(value, ROWS, (outputs, height, width, channels))
        return tf.raw_ops.Conv2D(input=x, filter=tf.transpose(kernel, [1, 2, 3, 0]), **attributes)
    windows = windows_for(attributes, tuple(x.shape), value.shape)
    assert windows is not None
    places = taken(x, windows)
    matrix = places[0] if len(places) == 1 else tf.concat(places, axis=-1)
    found = _product(tf.reshape(matrix, [-1, matrix.shape[-1]]), kernels.rows(value), turned=True)
    return tf.reshape(found, [1, *windows.grid, value.shape[-1]])


def backward(g: tf.Tensor, value: Value, attributes: Attributes, shape: tuple[int, ...], kernels: Kernels) -> tf.Tensor:
    """Conv2DBackpropInput of g [1, h, w, F], in the shape of the image."""
    windows = windows_for(attributes, shape, value.shape)
    assert windows is not None
    if kernels.holds(value, COLUMNS) and not _pointwise(windows):
        height, width, inputs, outputs = value.shape
        kernel = tf.constant(value.array)
        if value.size >= SMALL:
            kernel = tf.transpose(kernels.held(value, COLUMNS, (inputs, height, width, outputs)), [1, 2, 0, 3])
        sizes = tf.constant(shape, tf.int32)
        return tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=kernel, out_backprop=g, **attributes)
    matrix = _product(tf.reshape(g, [-1, g.shape[-1]]), kernels.rows(value), turned=False)  # [h w, places C]
    channels = value.shape[-2]
    parts = []
    for place in range(len(windows.offsets)):
        part = matrix
        if len(windows.offsets) > 1:
            part = tf.slice(matrix, [0, place * channels], [matrix.shape[0], channels])
        parts.append(tf.reshape(part, [1, *windows.grid, channels]))
    return given_back(parts, windows)


def product(x: tf.Tensor, value: Value, attributes: Attributes, kernels: Kernels) -> tf.Tensor:
    """MatMul of x [N, C] and a kernel; with transpose_b, x is what comes back to it."""
    if attributes["transpose_b"]:
        return _product(x, kernels.rows(value), turned=False)
    if kernels.holds(value, ROWS):
        return tf.matmul(x, kernels.rows(value), transpose_b=True)
    return _product(x, kernels.rows(value), turned=True)


def _product(x: tf.Tensor, rows: tf.Tensor, *, turned: bool) -> tf.Tensor:
    """The product of two matrices, or with the second one `turned`.

    Of rank 3: LiteRT takes a product of rank 2 for a dense layer, which is slow with a kernel that is computed.
    """
    found = tf.matmul(tf.reshape(x, [1, *x.shape]), tf.reshape(rows, [1, *rows.shape]), transpose_b=turned)
    return tf.reshape(found, found.shape[1:])


def depthwise_backward(g: tf.Tensor, kernel: tf.Tensor, attributes: Attributes, shape: tuple[int, ...]) -> tf.Tensor:
    """DepthwiseConv2dNativeBackpropInput: a depthwise convolution of g, spread by the strides, and the flipped kernel.

    Args:
        g: [1, h, w, C M]. kernel: [height, width, C, M].
    """
    height, width, channels, multiplier = kernel.shape
    windows = windows_for(attributes, shape, tuple(kernel.shape))
    assert windows is not None
    flipped = tf.reshape(kernel[::-1, ::-1], [height, width, channels * multiplier, 1])
    spread = _spread(g, windows)
    reach = [(k - 1) * d for k, d in zip((height, width), windows.dilations, strict=True)]
    room = []
    for axis in (0, 1):
        before = reach[axis] - windows.before[axis]
        room.append((before, windows.image[axis] + reach[axis] - before - spread.shape[axis + 1]))
    spread = _with_room(spread, room)
    found = tf.raw_ops.DepthwiseConv2dNative(
        input=spread, filter=flipped, strides=[1, 1, 1, 1], padding="VALID", dilations=attributes["dilations"]
    )
    if multiplier == 1:
        return found
    return tf.reduce_sum(tf.reshape(found, [1, *windows.image, channels, multiplier]), axis=-1)


def _with_room(x: tf.Tensor, room: list[tuple[int, int]]) -> tf.Tensor:
    """x with rows and columns of zeros around it, or without some of its own where the number is below 0."""
    begin = [max(-before, 0) for before, _ in room]
    size = [x.shape[i + 1] - begin[i] - max(-after, 0) for i, (_, after) in enumerate(room)]
    if list(x.shape[1:3]) != size:
        x = tf.slice(x, [0, *begin, 0], [1, *size, x.shape[3]])
    pads = [[max(before, 0), max(after, 0)] for before, after in room]
    return tf.pad(x, [[0, 0], *pads, [0, 0]]) if any(map(any, pads)) else x


def _spread(g: tf.Tensor, windows: Windows) -> tf.Tensor:
    """g with zeros between its rows and columns: strides apart."""
    down, along = windows.strides
    _, height, width, channels = g.shape
    if along > 1:
        g = tf.reshape(g, [height * width, channels])
        g = tf.pad(g, [[0, 0], [0, (along - 1) * channels]])
    if down > 1:
        g = tf.reshape(g, [height, along * width * channels])
        g = tf.pad(g, [[0, 0], [0, (down - 1) * along * width * channels]])
    return tf.reshape(g, [1, down * height, along * width, channels])

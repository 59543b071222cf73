"""Receptive fields are the support of gradients, for every kind of step that they are followed through."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import lrp_tf
from lrp_tf.concepts.receptive import box_of, fields
from lrp_tf.engine.channels import find

SIZE = (13, 10, 2)


def conv(*arguments, **options):
    return kl.Conv2D(2, *arguments, **options)


STACKS = {
    "valid": [conv(3)],
    "same, even stride": [conv(3, strides=2, padding="same"), conv(2, padding="same")],
    "stride beyond the kernel": [conv(2, strides=3), conv(2)],
    "dilation meets a border": [conv(3, dilation_rate=2, padding="same"), conv(3, dilation_rate=3, padding="same")],
    "oblong": [conv((1, 4), strides=(1, 2), padding="same"), conv((3, 1), dilation_rate=(2, 1))],
    "padding that is absorbed": [kl.ZeroPadding2D(((1, 2), (0, 3))), conv(3, strides=2)],
    "padding that is not": [kl.ZeroPadding2D(((2, 0), (1, 1))), kl.AveragePooling2D(2)],
    "cropping": [kl.Cropping2D(((1, 2), (3, 0))), conv(2)],
    "pooling": [kl.AveragePooling2D(3, strides=2, padding="same"), conv(2)],
    "norms": [conv(3), kl.BatchNormalization(), kl.LayerNormalization(), kl.Activation("softplus"), conv(2)],
    "transposed": [conv(3, strides=2), kl.Conv2DTranspose(2, 3, strides=2)],
    "transposed, same": [conv(2, strides=2), kl.Conv2DTranspose(2, 4, strides=2, padding="same")],
    "upsampling": [conv(3, strides=2), kl.UpSampling2D((2, 3)), conv(2)],
    "depthwise": [kl.DepthwiseConv2D(3, strides=2, padding="same"), kl.SeparableConv2D(3, 2, dilation_rate=2)],
    "permuted": [conv((3, 1)), kl.Permute((2, 1, 3)), conv((2, 1))],
    "dense at each position": [conv(3), kl.Dense(3)],
    "whole": [conv(3), kl.GlobalAveragePooling2D(keepdims=True)],
    "flat": [conv(3), kl.Flatten(), kl.Dense(3)],
}


def positive(model: keras.Model) -> keras.Model:
    """The model with weights above zero, so that no path cancels another one."""
    model.set_weights([np.abs(w) + 0.1 for w in model.get_weights()])
    return model


def support(model: keras.Model, positions: tuple[int, ...]) -> np.ndarray:
    """Boxes around what the gradient of each position reaches, int [P, axes, 2]."""
    every = list(itertools.product(*map(range, positions)))
    x = tf.random.uniform([len(every), *model.input_shape[1:]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x)
        # Squares: the sum that LayerNormalization gives is constant.
        chosen = tf.stack([tf.reduce_sum(y[(i, *at)] ** 2) for i, at in enumerate(every)])
    reached = tape.gradient(chosen, x).numpy() != 0
    boxes = []
    for one in reached:
        where = np.argwhere(one)
        if not len(where):
            boxes.append(np.zeros((len(SIZE), 2), int))
            continue
        boxes.append(np.stack([where.min(axis=0), where.max(axis=0) + 1], axis=-1))
    return np.array(boxes)


def found(model: keras.Model, name: str) -> np.ndarray:
    plan = lrp_tf.Explainer(model, "epsilon").clone.plan
    layer = find(plan, name)
    sizes = [layer.ref.shape[axis - 1] for axis in layer.others] or [1]
    every = itertools.product(*map(range, sizes))
    axes = fields(plan.graph, layer)
    return np.array([box_of(axes, at) for at in every])


@pytest.mark.parametrize("name", STACKS)
def test_boxes_are_the_support_of_gradients(name: str) -> None:
    stack = [layer.__class__.from_config(layer.get_config()) for layer in STACKS[name]]
    i = h = keras.Input(SIZE)
    for layer in stack:
        h = layer(h)
    inner = positive(keras.Model(i, h))
    last = stack[-1].name
    model = keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))
    boxes = found(model, last)
    np.testing.assert_array_equal(boxes, support(inner, tuple(h.shape[1:-1])))
    whole = name in ("whole", "flat")
    assert whole == (len(boxes) == 1)
    assert whole or (boxes[0] != boxes[-1]).any()  # else any box would pass


def test_branches_see_what_any_of_them_sees() -> None:
    i = keras.Input(SIZE)
    h = conv(3, padding="same")(i)
    far, wide = conv(3, padding="same", dilation_rate=3)(h), conv((1, 5), padding="same")(h)
    h = kl.Add(name="sum")([far, wide])
    h = kl.Concatenate(name="both")([h, kl.Activation("relu")(i)])
    h = conv(2, name="end")(h)
    inner = positive(keras.Model(i, h))
    model = keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))
    np.testing.assert_array_equal(found(model, "end"), support(inner, tuple(h.shape[1:-1])))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_maxima_see_what_means_see(padding: str) -> None:
    def net(pool: type) -> keras.Model:
        stack = [conv(2), pool(3, 2, padding=padding), conv(2, name="end"), kl.Flatten(), kl.Dense(2)]
        return keras.Sequential([keras.Input(SIZE), *stack])

    np.testing.assert_array_equal(found(net(kl.MaxPooling2D), "end"), found(net(kl.AveragePooling2D), "end"))


def test_signals_and_volumes() -> None:
    causal = kl.Conv1D(2, 3, dilation_rate=2, padding="causal")
    stacks = {
        (17, 2): [causal, kl.MaxPooling1D(2), kl.Cropping1D(1), kl.ZeroPadding1D(2)],
        (5, 6, 4, 1): [kl.Conv3D(2, 2)],
    }
    for shape, stack in stacks.items():
        i = h = keras.Input(shape)
        for layer in stack:
            h = layer(h)
        model = keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))
        boxes = found(model, stack[-1].name)
        if len(shape) == 4:
            np.testing.assert_array_equal(boxes, support(positive(keras.Model(i, h)), (4, 5, 3)))
            continue
        # Positions on the padding see nothing. Behind the crop the first one is of steps 2 and 3, which see 4 before.
        np.testing.assert_array_equal(boxes[:4, 0], [[0, 0], [0, 0], [0, 4], [0, 6]])
        np.testing.assert_array_equal(boxes[4, 0], [2, 8])


def test_what_is_not_known_sees_all() -> None:
    """Attention and softmax over positions: never too small."""
    i = keras.Input((6, 4))
    h = kl.Softmax(axis=1, name="over")(kl.Conv1D(3, 2, padding="same")(i))
    model = keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))
    np.testing.assert_array_equal(found(model, "over"), np.tile([[0, 6], [0, 4]], (6, 1, 1)))
    i = keras.Input((6, 4))
    h = kl.Conv1D(3, 2, padding="same", name="behind")(kl.MultiHeadAttention(2, 2)(i, i))
    model = keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))
    np.testing.assert_array_equal(found(model, "behind"), np.tile([[0, 6], [0, 4]], (6, 1, 1)))


def test_channels_first() -> None:
    i = keras.Input((2, 7, 9))
    h = kl.Conv2D(3, 3, strides=2, padding="same", data_format="channels_first")(i)
    h = kl.Activation("relu", name="first")(h)
    model = keras.Model(i, kl.Dense(2)(kl.Flatten()(h)))
    plan = lrp_tf.Explainer(model, "epsilon").clone.plan
    rows, columns = fields(plan.graph, find(plan, "first"))
    assert (len(rows), len(columns)) == (4, 5)
    np.testing.assert_array_equal(rows[:, 1], [[0, 2], [1, 4], [3, 6], [5, 7]])
    np.testing.assert_array_equal(columns[-1], [[0, 2], [0, 7], [7, 9]])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv_pw_2_relu", "conv_dw_4_relu", "conv_pw_5_relu"])
def test_mobilenet(name: str) -> None:
    """Padding that is absorbed, depthwise convolutions, BatchNormalization that is folded, ReLU6."""
    model = keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(96, 96, 3), classes=3)
    for layer in model.layers:
        kernel, *rest = layer.get_weights() or [None]
        if isinstance(layer, kl.BatchNormalization):
            layer.set_weights([np.ones_like(kernel), *map(np.zeros_like, rest[:2]), np.ones_like(kernel)])
        elif kernel is not None:  # means, which stay below 6
            inputs = kernel.shape[:2] if isinstance(layer, kl.DepthwiseConv2D) else kernel.shape[:-1]
            layer.set_weights([np.full_like(kernel, 1 / np.prod(inputs)), *map(np.zeros_like, rest)])
    inner = keras.Model(model.inputs[0], model.get_layer(name).output)
    sizes = inner.output_shape[1:3]
    boxes = found(model, name).reshape(*sizes, 3, 2)
    x = tf.random.uniform([4, 96, 96, 3], 0.1, 0.5)
    every = [(0, 0), (sizes[0] - 1, sizes[1] - 1), (sizes[0] // 2, sizes[1] // 3), (1, sizes[1] - 2)]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = inner(x)
        chosen = tf.stack([tf.reduce_sum(y[(i, *at)]) for i, at in enumerate(every)])
    reached = tape.gradient(chosen, x).numpy() != 0
    for one, at in zip(reached, every, strict=True):
        where = np.argwhere(one)
        np.testing.assert_array_equal(boxes[at], np.stack([where.min(axis=0), where.max(axis=0) + 1], axis=-1))

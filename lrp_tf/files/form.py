"""What image a model takes, and whether it scales the pixels itself."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import keras
import numpy as np

from lrp_tf.core.graph import Graph
from lrp_tf.core.operations import InputShift
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError


class Form(NamedTuple):
    """The image that a model takes: its height, width and channels, and whether channels come first."""

    height: int
    width: int
    channels: int
    channels_first: bool

    def arrange(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [H, W, C]; grey if the model takes one channel."""
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None] if self.channels == 1 else pixels

    def order(self, x: np.ndarray) -> np.ndarray:
        """[B, H, W, C] -> [B, H, W, C] or [B, C, H, W], as the model takes it."""
        return np.moveaxis(x, -1, 1) if self.channels_first else x


def form_of(explainer: Explainer, size: tuple[int, int] | None = None) -> Form:
    """The image that the model of `explainer` takes.

    Args:
        size: (height, width), for a model that leaves them open.

    Raises:
        LoadError: the model takes no image, has no classes, or takes another size; its size is open and `size` is None.
    """
    graph = explainer.graph
    shape = graph.inputs[0].shape
    if len(graph.inputs) != 1 or len(shape) != 3:
        shapes = [ref.shape for ref in graph.inputs]
        raise LoadError(f"Expected a model of one image, (height, width, channels). Received inputs: {shapes}")
    if len(graph.outputs[0].shape) > 1:
        raise LoadError(f"Expected a model with classes as output. Received: output {graph.outputs[0].shape}")
    first = shape[-1] not in (1, 3) and shape[0] in (1, 3)
    channels, sides = (shape[0], shape[1:]) if first else (shape[2], shape[:2])
    if channels not in (1, 3):
        raise LoadError(f"Expected a model of images with 1 or 3 channels. Received: input {shape}")
    height, width = sides
    if size is None:
        if height is None or width is None:
            raise LoadError(f"The model leaves the size of its input open, {shape}. Remedy: `size`", "size")
        size = height, width
    if height not in (None, size[0]) or width not in (None, size[1]):
        raise LoadError(f"The model takes images of {height}x{width}. Received: size {size[0]}x{size[1]}")
    return Form(size[0], size[1], channels, first)


def begins_with_scaling(graph: Graph) -> bool:
    """Whether the model itself scales its input, by Rescaling, Normalization or a subtraction of constants."""
    consumers = graph.consumers().get(graph.inputs[0], [])
    scaling = (keras.layers.Rescaling, keras.layers.Normalization, InputShift)
    return bool(consumers) and all(isinstance(step.op, scaling) for step in consumers)

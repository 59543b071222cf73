"""What array a model takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrp_tf.arrays.sample import ArrayError
from lrp_tf.core.graph import Graph, Shape
from lrp_tf.files.errors import LoadError


class ArrayForm(NamedTuple):
    """The array of one sample: its shape, with None where the model leaves a size open, and its dtype."""

    shape: Shape
    dtype: str

    def fit(self, values: np.ndarray, told: str = "") -> np.ndarray:
        """The array as the model takes it; a missing or surplus axis of one channel is added or left out.

        Args:
            told: what the shape of the array means, for the message, see `Array.told`.

        Raises:
            ArrayError: another shape.
        """
        for found in (values, values[..., None], values[..., 0] if values.shape[-1] == 1 else values):
            if self._matches(found.shape):
                return self._cast(found)
        shape = "(" + ", ".join("any" if size is None else str(size) for size in self.shape) + ")"
        means = f", {told}; lrp_tf neither cuts nor resamples it" if told else ""
        raise ArrayError(
            f"the model takes arrays of shape {shape}, one sample in each file. Received: {values.shape}{means}"
        )

    def _cast(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            found = values.astype(self.dtype)
        lost = ~np.isfinite(found) if np.issubdtype(found.dtype, np.floating) else found != values
        if lost.any():
            raise ArrayError(f"the model takes {self.dtype}, which cannot hold {values[lost].flat[0]}")
        return found

    def _matches(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            size in (None, given) for size, given in zip(self.shape, shape, strict=True)
        )


def array_form(graph: Graph) -> ArrayForm:
    """The array that the model of a graph takes.

    Raises:
        LoadError: it has several inputs, one without axes, or no classes as output.
    """
    shapes = [ref.shape for ref in graph.inputs]
    if len(shapes) != 1 or not shapes[0]:
        raise LoadError(f"Expected a model of one array. Received inputs: {shapes}")
    if len(graph.outputs[0].shape) > 1:
        raise LoadError(f"Expected a model with classes as output. Received: output {graph.outputs[0].shape}")
    return ArrayForm(shapes[0], graph.inputs[0].dtype)

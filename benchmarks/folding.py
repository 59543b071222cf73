"""The weights of twin.py's nodes in torch's layout, BatchNormalization folded; needs NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def arrays(nodes: list[dict[str, Any]], weights: Mapping[str, np.ndarray]) -> Arrays:
    """`name/weight` and `name/bias` of each node that has a kernel.

    Args:
        nodes: of `twin.describe`.
        weights: path of a variable -> its value, in the layout of Keras.
    """
    found: Arrays = {}
    for node in nodes:
        if "kernel" not in node["weights"]:
            continue
        values = {name: weights[path] for name, path in node["weights"].items()}
        weight = _of_torch(node["kind"], values["kernel"])
        bias = values.get("bias", np.zeros(len(weight), weight.dtype))
        if "mean" in values:
            weight, bias = _folded(weight, bias, values, node["options"]["epsilon"])
        if len(shape := node["options"].get("permute", ())) == 3:
            # Inputs of a Dense after Flatten: row, column, channel in Keras; channel, row, column in torch.
            weight = weight.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(weight.shape)
        found[f"{node['name']}/weight"], found[f"{node['name']}/bias"] = weight, bias
    return found


def _of_torch(kind: str, kernel: np.ndarray) -> np.ndarray:
    if kind == "conv":
        return kernel.transpose(3, 2, 0, 1)
    if kind == "depthwise":
        return kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    return kernel.reshape(kernel.shape[-2:]).T  # dense, a convolution on one place among them


def _folded(
    weight: np.ndarray, bias: np.ndarray, values: Mapping[str, np.ndarray], epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    wide = {name: values[name].astype(np.float64) for name in ("mean", "variance", "gamma", "beta") if name in values}
    scale = wide.get("gamma", 1.0) / np.sqrt(wide["variance"] + epsilon)
    shift = (bias - wide["mean"]) * scale + wide.get("beta", 0.0)
    return (weight * scale[:, None, None, None]).astype(weight.dtype), shift.astype(bias.dtype)

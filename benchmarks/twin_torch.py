"""The nodes of twin.py as a torch module, and its plain gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Function = Callable[[], torch.Tensor]
# As in the presets of lrp_tf, for every denominator.
STABILIZER = 1e-6


class Add(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Twin(nn.Module):
    """NCHW in, logits out.

    Args:
        nodes, arrays: see twin.py and folding.py.
        stacked: makes the module of a sum that takes its summands stacked along a last axis; None: an `Add` of two.
    """

    def __init__(
        self,
        nodes: list[dict[str, Any]],
        arrays: dict[str, np.ndarray],
        stacked: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.nodes, self.stacked = nodes, stacked
        for node in nodes:
            if node["kind"] != "flatten":  # it only moves values, but captum would require a rule for such a module
                module = stacked() if stacked and node["kind"] == "add" else make(node, arrays)
                self.add_module(node["name"], module)
            if node["relu"]:
                relu = nn.ReLU6() if "max_value" in node["options"] else nn.ReLU()
                self.add_module(f"{node['name']}_relu", relu)
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"input": x}
        for node in self.nodes:
            inputs = [values[name] for name in node["inputs"]]
            if self.stacked and node["kind"] == "add":
                inputs = [torch.stack(inputs, -1)]
            if padding := lopsided(node):
                inputs = [nn.functional.pad(inputs[0], padding)]
            value = inputs[0] if node["kind"] == "flatten" else getattr(self, node["name"])(*inputs)
            value = value.flatten(1) if node["kind"] in ("flatten", "average") else value
            values[node["name"]] = getattr(self, f"{node['name']}_relu")(value) if node["relu"] else value
        return value


def lopsided(node: dict[str, Any]) -> list[int] | None:
    """left, right, top, bottom, where these differ: torch's layers pad evenly."""
    rows, columns = node["options"].get("padding", ((0, 0), (0, 0)))
    return None if rows[0] == rows[1] and columns[0] == columns[1] else [*columns, *rows]


def symmetric(node: dict[str, Any]) -> list[int]:
    """The padding of a layer, zero where it is put around the image before."""
    return [0, 0] if lopsided(node) else [before for before, _ in node["options"]["padding"]]


def make(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> nn.Module:
    options = node["options"]
    match node["kind"]:
        case "conv" | "depthwise" | "dense":
            weight, bias = (torch.from_numpy(arrays[f"{node['name']}/{key}"].copy()) for key in ("weight", "bias"))
            if node["kind"] == "dense":
                module = nn.Linear(weight.shape[1], weight.shape[0])
            else:
                groups = len(weight) if node["kind"] == "depthwise" else 1
                geometry = {"stride": options["stride"], "padding": symmetric(node), "groups": groups}
                module = nn.Conv2d(weight.shape[1] * groups, len(weight), weight.shape[2:], **geometry)
            module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
            return module
        case "maxpool":
            return nn.MaxPool2d(options["size"], options["stride"], symmetric(node))
        case "average":
            return nn.AdaptiveAvgPool2d(1)
        case "add":
            return Add()
    raise ValueError(f"Unknown kind of node. Received: {node}")


def gradient(net: Twin, x: torch.Tensor, target: torch.Tensor) -> Function:
    """The gradient of the targets' logits, ready to be called again and again: the unit, as in models.py."""

    def function() -> torch.Tensor:
        inputs = x.requires_grad_()
        z = net(inputs).gather(1, target[:, None]).sum()
        return torch.autograd.grad(z, inputs)[0]

    return function

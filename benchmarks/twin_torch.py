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
                self.add_module(f"{node['name']}_relu", nn.ReLU())
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"input": x}
        for node in self.nodes:
            inputs = [values[name] for name in node["inputs"]]
            if self.stacked and node["kind"] == "add":
                inputs = [torch.stack(inputs, -1)]
            value = inputs[0] if node["kind"] == "flatten" else getattr(self, node["name"])(*inputs)
            value = value.flatten(1) if node["kind"] in ("flatten", "average") else value
            values[node["name"]] = getattr(self, f"{node['name']}_relu")(value) if node["relu"] else value
        return value


def make(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> nn.Module:
    options = node["options"]
    match node["kind"]:
        case "conv" | "dense":
            weight, bias = (torch.from_numpy(arrays[f"{node['name']}/{key}"].copy()) for key in ("weight", "bias"))
            if node["kind"] == "conv":
                geometry = {"stride": options["stride"], "padding": options["padding"]}
                module = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], **geometry)
            else:
                module = nn.Linear(weight.shape[1], weight.shape[0])
            module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
            return module
        case "maxpool":
            return nn.MaxPool2d(options["size"], options["stride"], options["padding"])
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

"""zennit on the torch twin. It is LGPL, and used through its interface; none of its code is copied."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from twin_torch import STABILIZER, Function, Twin

# zennit imports torchvision whole for canonizers that take no part here, and torchvision must match torch's build.
sys.modules.setdefault("zennit.torchvision", ModuleType("zennit.torchvision"))

import zennit.composites  # noqa: E402
import zennit.layer  # noqa: E402
import zennit.rules  # noqa: E402
import zennit.types  # noqa: E402


def explanation(
    name: str, nodes: list[dict[str, Any]], arrays: dict[str, np.ndarray], x: torch.Tensor, target: torch.Tensor
) -> Function:
    """The composite of that name, its hooks registered once: a call is a forward and a backward pass."""
    net = registered(name, nodes, arrays, x)

    def function() -> torch.Tensor:
        inputs = x.requires_grad_()
        z = net(inputs)
        start = nn.functional.one_hot(target, z.shape[1]) * z.detach()
        return torch.autograd.grad(z, inputs, start)[0]

    return function


def registered(name: str, nodes: list[dict[str, Any]], arrays: dict[str, np.ndarray], x: torch.Tensor) -> Twin:
    """The net, for inputs such as x, with the hooks of the composite of that name."""
    # zennit hooks modules of one input only.
    net = Twin(nodes, arrays, stacked=lambda: zennit.layer.Sum(dim=-1)).to(x.device, x.dtype)
    if name == "epsilon":  # zennit has no name for it
        layers = [((zennit.types.Convolution, nn.Linear), zennit.rules.Epsilon(STABILIZER))]
        composite = zennit.composites.LayerMapComposite([*zennit.composites.layer_map_base(STABILIZER), *layers])
    else:
        bounds = {"low": torch.zeros([]).to(x), "high": torch.ones([]).to(x)} if name.endswith("_box") else {}
        composite = zennit.composites.COMPOSITES[name](epsilon=STABILIZER, stabilizer=STABILIZER, **bounds)
    composite.register(net)
    return net

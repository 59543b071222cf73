"""The torch side of run.py --peers, in a process that peers.py starts; peers.py describes what they exchange.

zennit (LGPL) and captum (BSD) are used through their interfaces; none of their code is copied.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import captum.attr
import captum.attr._utils.lrp_rules as captum_rules
import numpy as np
import timing
import torch
from torch import nn

# zennit imports torchvision whole for canonizers that take no part here, and torchvision must match torch's build.
sys.modules.setdefault("zennit.torchvision", ModuleType("zennit.torchvision"))

import zennit.composites  # noqa: E402
import zennit.layer  # noqa: E402
import zennit.rules  # noqa: E402
import zennit.types  # noqa: E402

Function = Callable[[], torch.Tensor]
# As in the presets of lrp_tf, for every denominator.
STABILIZER = 1e-6


class Add(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Twin(nn.Module):
    """The nodes of twin.py: NCHW in, logits out."""

    def __init__(self, nodes: list[dict[str, Any]], arrays: dict[str, np.ndarray], stacked: bool = False) -> None:
        super().__init__()
        self.nodes = nodes
        for node in nodes:
            if node["kind"] != "flatten":  # it only moves values, but captum would require a rule for such a module
                self.add_module(node["name"], make(node, arrays, stacked))
            if node["relu"]:
                self.add_module(f"{node['name']}_relu", nn.ReLU())
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"input": x}
        for node in self.nodes:
            inputs = [values[name] for name in node["inputs"]]
            if isinstance(getattr(self, node["name"], None), zennit.layer.Sum):
                inputs = [torch.stack(inputs, -1)]  # zennit hooks modules of one input only
            value = inputs[0] if node["kind"] == "flatten" else getattr(self, node["name"])(*inputs)
            value = value.flatten(1) if node["kind"] in ("flatten", "average") else value
            values[node["name"]] = getattr(self, f"{node['name']}_relu")(value) if node["relu"] else value
        return value


def make(node: dict[str, Any], arrays: dict[str, np.ndarray], stacked: bool) -> nn.Module:
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
            return zennit.layer.Sum(dim=-1) if stacked else Add()
    raise ValueError(f"Unknown kind of node. Received: {node}")


# --- methods: each makes a function without arguments, ready to be called again and again --------


def gradient(net: Twin, x: torch.Tensor, target: torch.Tensor) -> Function:
    """The gradient of the targets' logits: the unit, as in models.py."""

    def function() -> torch.Tensor:
        inputs = x.requires_grad_()
        z = net(inputs).gather(1, target[:, None]).sum()
        return torch.autograd.grad(z, inputs)[0]

    return function


def with_zennit(name: str) -> Callable[..., Function]:
    """The composite of that name, its hooks registered once: a call is a forward and a backward pass."""
    if name == "epsilon":  # zennit has no name for it
        layers = [((zennit.types.Convolution, nn.Linear), zennit.rules.Epsilon(STABILIZER))]
        composite = zennit.composites.LayerMapComposite([*zennit.composites.layer_map_base(STABILIZER), *layers])
    else:
        bounds = {"low": torch.tensor(0.0), "high": torch.tensor(1.0)} if name.endswith("_box") else {}
        composite = zennit.composites.COMPOSITES[name](epsilon=STABILIZER, stabilizer=STABILIZER, **bounds)

    def build(net: Twin, x: torch.Tensor, target: torch.Tensor) -> Function:
        composite.register(net)

        def function() -> torch.Tensor:
            inputs = x.requires_grad_()
            z = net(inputs)
            start = nn.functional.one_hot(target, z.shape[1]) * z.detach()
            return torch.autograd.grad(z, inputs, start)[0]

        return function

    return build


def with_captum(name: str) -> Callable[..., Function]:
    """Rules on the layers, and `LRP.attribute`, which scales by the logit itself."""

    def rule(module: nn.Module) -> captum_rules.PropagationRule | None:
        if isinstance(module, nn.MaxPool2d):
            # The winner takes all, as with the others; captum's 1e-9 withholds 1e-5 of it where activations are small.
            return captum_rules.EpsilonRule(1e-20)
        if isinstance(module, nn.Conv2d) and name != "epsilon":
            positive = captum_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True)
            positive.STABILITY_FACTOR = STABILIZER
            return positive
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, Add)):
            return captum_rules.EpsilonRule(STABILIZER)
        return None

    def build(net: Twin, x: torch.Tensor, target: torch.Tensor) -> Function:
        rules = [(module, made) for module in net.children() if (made := rule(module)) is not None]
        lrp = captum.attr.LRP(net)

        def function() -> torch.Tensor:
            for module, made in rules:  # captum removes the rules after each call
                module.rule = made
            return lrp.attribute(x, target=target).detach()

        return function

    return build


# --- command -------------------------------------------------------------------------------------


def main(folder: Path, task: str, threads: int, runs: int, rows: list[str]) -> None:
    """relevance (in float64): logits.npy, gradient.npy and one array for each row; time (in float32): times.json."""
    torch.set_num_threads(threads)
    nodes = json.loads((folder / "nodes.json").read_text(encoding="utf-8"))
    with np.load(folder / "net.npz") as file:
        arrays = dict(file)
    dtype = {"relevance": torch.float64, "time": torch.float32}[task]
    x = torch.from_numpy(arrays.pop("x").transpose(0, 3, 1, 2).copy()).to(dtype)
    target = torch.from_numpy(arrays.pop("target")).long()
    plain = Twin(nodes, arrays).to(dtype)
    unit = gradient(plain, x, target)

    def save(name: str, value: torch.Tensor) -> None:
        array = value.numpy()
        np.save(folder / f"{name}.npy", array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)

    if task == "relevance":
        save("logits", plain(x).detach())
        save("gradient", unit())
    times = {}
    for row in rows:
        peer, name = row.split(" ", 1)
        # A net of its own for each, as hooks and rules stay on it.
        net = Twin(nodes, arrays, stacked=peer == "zennit").to(dtype)
        function = {"zennit": with_zennit, "captum": with_captum}[peer](name)(net, x.clone(), target)
        if task == "relevance":
            save(row, function())
            continue
        for _ in range(2):
            timing.seconds(unit), timing.seconds(function)
        pairs = [(timing.seconds(unit), timing.seconds(function)) for _ in range(runs)]
        times[row] = dict(zip(("gradient", "explain"), map(list, zip(*pairs, strict=True)), strict=True))
    (folder / "times.json").write_text(json.dumps(times), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])

"""The torch side of peers_crp.py: maps of zennit whose relevance is masked at the outputs of layers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_zennit import registered
from torch import nn


def main(folder: Path) -> None:
    """Write maps.npy, one map for each entry of `asked` in about.json: node -> channels, and a place, that are kept."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    with np.load(folder / "net.npz") as file:
        arrays = dict(file)
    x = torch.from_numpy(arrays.pop("x").transpose(0, 3, 1, 2).copy()).double()
    net = registered(about["preset"], about["nodes"], arrays, x)
    masks: dict[str, torch.Tensor] = {}

    def hook(node: str) -> Any:
        def after(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda r: r * masks[node] if node in masks else r)
            shapes[node] = output.shape

        return after

    shapes: dict[str, torch.Size] = {}
    for node in {node for asked in about["asked"] for node in asked}:
        # Behind the hooks of zennit: what arrives here has not met a rule of this layer yet.
        net.get_submodule(node + ("_relu" if hasattr(net, f"{node}_relu") else "")).register_forward_hook(hook(node))
    found = []
    for asked in about["asked"]:
        masks.clear()
        inputs = x.clone().requires_grad_()
        z = net(inputs)
        for node, kept in asked.items():
            masks[node] = torch.zeros(shapes[node], dtype=torch.float64)
            place = kept.get("place")
            for channel in kept["channels"]:
                masks[node][(slice(None), channel, *(place or ()))] = 1.0
        start = nn.functional.one_hot(torch.tensor([about["target"]]), z.shape[1]) * z.detach()
        found.append(torch.autograd.grad(z, inputs, start)[0].numpy()[0].transpose(1, 2, 0))
    np.save(folder / "maps.npy", np.stack(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

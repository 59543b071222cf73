"""zennit and captum on torch for gpu.py, in a process of its own: python gpu_torch.py DIR REQUEST."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import folding
import gpu_net
import numpy as np
import timing
import torch
from gpu_net import Net
from peers_presets import ZENNIT
from twin_torch import Function, Twin, gradient

Row = dict[str, Any]
# Presets that each can express; captum's epsilon_plus treats biases of convolutions otherwise (peers.py).
_PRESETS = {
    "zennit": ZENNIT,
    "captum": ("epsilon",),
}


def main(folder: Path, request: dict[str, Any]) -> None:
    """Print the rows, and write them as JSON to the request's file."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    net = Net(folder, manifest, request["net"])
    arrays = folding.arrays(net.nodes, net.weights)
    peers = {name: _module(name) for name in _PRESETS}
    rows: list[Row] = []
    for batch in request["batches"]:
        for precision in request["precisions"]:
            found = _rows(net, arrays, peers, batch, precision, request)
            rows += [{"net": net.name, "batch": batch, "precision": precision} | row for row in found]
            Path(request["file"]).write_text(json.dumps(rows), encoding="utf-8")


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"peers_{name}")
    except ImportError as error:
        print(f"{name}: absent ({error})", flush=True)
        return None


def _rows(
    net: Net,
    arrays: folding.Arrays,
    peers: dict[str, ModuleType | None],
    batch: int,
    precision: str,
    request: dict[str, Any],
) -> list[Row]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(gpu_net.title(net.name, batch, f"{precision}, torch on {device}"), flush=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = torch.from_numpy(net.images(batch).transpose(0, 3, 1, 2).copy()).to(device)
    plain = Twin(net.nodes, arrays).to(device)
    with torch.no_grad():
        target = torch.from_numpy(net.targets(plain(x).cpu().numpy())).long().to(device)
    x = x.to(dtype)
    unit = gradient(plain.to(dtype), x.clone(), target)
    rows = [_measured(net, "gradient", "torch gradient", precision, unit, lambda: unit, request["runs"])]
    for peer, module in peers.items():
        for preset in _PRESETS[peer] if module else ():
            if preset not in (request["only"] or net.presets):
                continue
            build = functools.partial(module.explanation, preset, net.nodes, arrays, x.clone(), target)
            rows.append(_measured(net, preset, f"{peer} {preset}", precision, unit, build, request["runs"]))
    return rows


def _measured(
    net: Net,
    preset: str,
    name: str,
    precision: str,
    unit: Function,
    build: Callable[[], Function],
    runs: int,
) -> Row:
    try:
        function = build()
        relevance = function()
        row = {"name": name, **net.agreement(preset, _array(relevance))}
        if name == "torch gradient" or gpu_net.agrees(row, precision):
            row |= timing.ratio(*timing.in_turn(unit, function, runs, wait=_wait))
            row["images_s"] = 1000 * len(relevance) / row["ms"]
    except Exception as error:  # the library or the memory of the device: one row fails, and is told
        row = gpu_net.failure(name, error)
    print(gpu_net.line(row), flush=True)
    return row | {"preset": preset, "library": "torch"}


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().float().cpu().numpy().transpose(0, 2, 3, 1)


def _wait(value: torch.Tensor) -> None:
    if value.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

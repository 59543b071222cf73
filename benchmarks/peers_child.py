"""The torch side of run.py --peers, in a process that peers.py starts; peers.py describes what they exchange."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import timing
import torch
from twin_torch import Twin, gradient


def main(folder: Path, task: str, threads: int, runs: int, rows: list[str]) -> None:
    """Write what `task` asks for.

    Args:
        task: "relevance", in float64: logits.npy, gradient.npy, an array for each row, and errors.json, row -> what its
            library raised. "time", in float32: times.json.
    """
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
    times, errors = {}, {}
    for row in rows:
        peer, name = row.split(" ", 1)
        try:
            # A net of its own for each, as hooks and rules stay on it.
            function = importlib.import_module(f"peers_{peer}").explanation(name, nodes, arrays, x.clone(), target)
            if task == "relevance":
                save(row, function())
            else:
                times[row] = dict(zip(("gradient", "explain"), timing.in_turn(unit, function, runs), strict=True))
        except Exception as error:  # whatever a library raises is its row
            if task == "time":
                raise
            errors[row] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    if task == "relevance":
        (folder / "errors.json").write_text(json.dumps(errors), encoding="utf-8")
    (folder / "times.json").write_text(json.dumps(times), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])

"""Exports of models and the calls of them in jax, all in one process without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from keras import tree

CHILD = Path(__file__).with_name("jax_child.py")


class Calls:
    """What a process with jax is to run, and what it found."""

    def __init__(self, root: Path) -> None:
        self.root, self._calls = root, []

    def add(self, name: str, folder: str, x: object, **options: object) -> None:
        """A call of the export in `folder` with inputs in the structure of the model's."""
        arrays = {f"x{i}": np.asarray(part) for i, part in enumerate(tree.flatten(x))}
        np.savez(self.root / f"x_{name}.npz", **arrays)
        self._calls.append((name, folder, f"x_{name}", options))

    def run(self) -> None:
        (self.root / "calls.json").write_text(json.dumps(self._calls), encoding="utf-8")
        command = [sys.executable, str(CHILD), str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def found(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.root / f"{name}.npz") as file:
            return dict(file)


def close(found: np.ndarray, wanted: object, limit: float) -> None:
    """Equal but for `limit` times the largest value."""
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert np.isfinite(wanted).all()
    assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()

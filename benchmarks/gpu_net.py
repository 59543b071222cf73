"""A net of gpu.py's manifest with its weights, images and reference; needs NumPy alone."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seeded

# Least correlation with the relevance in float64; a row below it gets no time.
LIMITS = {"float32": 0.9999, "tf32": 0.99, "bfloat16": 0.95}


class Net:
    """One net of the manifest.

    Attributes:
        nodes: of twin.py.
        functions: (name, dtype, batch) -> what the manifest says of the StableHLO function.
        weights: path -> float32.
        presets: that were exported.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], name: str) -> None:
        about = manifest["nets"][name]
        self.name, self.nodes, self.left_out = name, about["nodes"], about["left_out"]
        self.functions = {(f["name"], f["dtype"], f["batch"]): f for f in about["functions"]}
        self.weights = seeded.weights(about["weights"])
        self._folder, self._shape, self._step = folder / name, about["input"], about["reference"]["step"]
        with np.load(self._folder / about["reference"]["file"]) as file:
            self._reference = dict(file)
        self.presets = [name for name in self._reference if name not in ("target", "logits", "gradient")]

    def text(self, function: Mapping[str, Any]) -> str:
        return gzip.decompress((self._folder / function["file"]).read_bytes()).decode()

    def images(self, batch: int) -> np.ndarray:
        """float32 [batch, height, width, channels]."""
        return seeded.images(batch, self._shape)

    def targets(self, logits: np.ndarray) -> np.ndarray:
        """int32: the top classes, and those of the reference for the images that it has."""
        known = self._reference["target"][: len(logits)]
        return np.concatenate([known, logits.argmax(1)[len(known) :]]).astype(np.int32)

    def agreement(self, name: str, found: np.ndarray) -> dict[str, float]:
        """Correlation with the reference, and the largest difference relative to the largest value."""
        expected = self._reference[name][: len(found)].astype(np.float64)
        found = np.asarray(found, np.float64)[: len(expected)]
        if found.ndim == 4:
            found = found[:, :: self._step, :: self._step]
        correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
        return {
            "correlation": float(correlation),
            "deviation": float(np.abs(found - expected).max() / np.abs(expected).max()),
        }


def title(net: str, batch: int, precision: str) -> str:
    head = f"{net}, batch {batch}, {precision}"
    return f"\n{head:44s}    median  images/s   ratio (quartiles)      correlation   deviation"


def line(row: Mapping[str, Any]) -> str:
    """A row of the table: what was measured, or why there is nothing."""
    if "error" in row:
        return f"{row['name']:44s}{row['error']}"
    same = f"{row['correlation']:11.6f}   {row['deviation']:.1e}"
    if "ms" not in row:
        return f"{row['name']:44s}no time, for it differs from float64: {same}"
    ratios = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['name']:44s}{row['ms']:10.2f}{row['images_s']:10.1f}   {ratios:22s}{same}"


def agrees(row: Mapping[str, Any], precision: str) -> bool:
    """False for NaN, too."""
    return row["correlation"] >= LIMITS[precision]


def failure(name: str, error: Exception) -> dict[str, str]:
    """A row for what could not run: the first line of the error."""
    return {"name": name, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}

"""Sheets: an original, its adversarial image, their difference, and the maps of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrp_tf import heatmap

# Differences are shown enlarged by the largest of these that keeps them within black and white.
FACTORS = (0.5, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000)
GREY = 127.5
WRONG, RIGHT = "wrongly_classified", "rightly_classified"


@dataclasses.dataclass(frozen=True)
class Example:
    """One attack and its maps.

    Attributes:
        row: of attacks.csv. original, adversarial: float [H, W, C] in 0..1.
        maps: by the name of the composite: relevance of the original and of the adversarial image, [2, H, W].
    """

    row: Mapping[str, Any]
    original: np.ndarray
    adversarial: np.ndarray
    maps: Mapping[str, np.ndarray]

    @property
    def folder(self) -> str:
        """As the network classifies the adversarial image."""
        return RIGHT if self.row["class_float"] == self.row["label"] else WRONG


def difference(original: np.ndarray, adversarial: np.ndarray) -> tuple[np.ndarray, float]:
    """What was added as a picture uint8 [H, W, 3], grey where nothing was; and by what it is enlarged.

    Args:
        original, adversarial: [H, W, C] in 0..1.
    """
    gap = adversarial.astype(np.float64) - original.astype(np.float64)
    largest = float(np.abs(gap).max())
    factor = max((f for f in FACTORS if f * largest <= 0.5), default=FACTORS[0])
    pixels = np.clip(GREY + 2 * GREY * factor * gap, 0, 255).round().astype(np.uint8)
    return (np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels), factor


def sheet(path: Path, example: Example, names: Sequence[str]) -> Path:
    """Save one attack: rows of the original, the adversarial image and what changed, with a map for each composite.

    The two maps of a composite and their difference share one scale.

    Args:
        names: of the classes.
    """
    row = example.row
    label, target, said = (names[row[key]] for key in ("label", "target", "class_float"))
    added, factor = difference(example.original, example.adversarial)
    rows = [[_picture(example.original)], [_picture(example.adversarial)], [added]]
    labels = [[f"original, {label}"], [f"adversarial, seen as {said}"], [f"difference x {factor:g}; grey: none"]]
    for name, (before, after) in example.maps.items():
        scale = float(max(np.abs(before).max(), np.abs(after).max())) or None
        for line, values in enumerate((before, after, after - before)):
            rows[line].append(heatmap.to_rgb(values, scale=scale))
        labels[0].append(f"{name} for {label}")
        labels[1].append(f"{name} for {target}")
        labels[2].append("change of the map")
    title = (
        f"{row['attack']}: test image {row['source']}, {label} to {target}\n"
        f"p({label}) {row['p_label_original']:.3f} to {row['p_label_float']:.3f}, p({target}) now "
        f"{row['p_target_float']:.3f} (as 8 bits {row['p_target_png']:.3f}); L2 {row['l2']:.3f}, largest change "
        f"{row['linf']:.3f}"
    )
    return heatmap.grid(path, rows, labels=[text for line in labels for text in line], suptitle=title, tile_inches=1.7)


def overview(path: Path, examples: Sequence[Example], names: Sequence[str], title: str) -> Path:
    """Save one sheet with a row for each example: three pictures, then both maps of each of two composites."""
    rows, labels = [], []
    for example in examples:
        row = example.row
        label, target = names[row["label"]], names[row["target"]]
        added, factor = difference(example.original, example.adversarial)
        tiles = [_picture(example.original), _picture(example.adversarial), added]
        texts = [label, f"seen as {names[row['class_float']]}", f"difference x {factor:g}"]
        for name, (before, after) in list(example.maps.items())[:2]:
            scale = float(max(np.abs(before).max(), np.abs(after).max())) or None
            tiles += [heatmap.to_rgb(values, scale=scale) for values in (before, after)]
            texts += [f"{name}: original for {label}", f"{name}: adversarial for {target}"]
        rows.append(tiles)
        labels += texts
    return heatmap.grid(path, rows, labels=labels, suptitle=title, tile_inches=1.3)


def _picture(image: np.ndarray) -> np.ndarray:
    return heatmap.image_to_rgb(np.clip(image, 0, 1))


def spread(examples: Sequence[Any], most: int) -> list[int]:
    """The numbers of at most `most` of (attack, target, …) tuples, of each attack and target in turn."""
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(examples):
        groups.setdefault(key, []).append(i)
    turns = [list(group) for group in groups.values()]
    chosen: list[int] = []
    while len(chosen) < most and any(turns):
        for turn in turns:
            if turn and len(chosen) < most:
                chosen.append(turn.pop(0))
    return sorted(chosen)

"""Patches over a picture: what a model says when a part of it is hidden."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lrp_tf.files.errors import LoadError

FILLS = ("mean", "noise", "black", "white")
SMALLEST, LARGEST = 8, 64  # pixels of the model's input
MOST = 200  # patches of a picture


class Patch(NamedTuple):
    """A square of a picture: its upper left corner, which may lie outside, its side, and what fills it.

    Noise is the same for the same patch and seed.
    """

    top: int
    left: int
    side: int
    fill: str = "mean"
    seed: int = 0


def patched(image: np.ndarray, patches: Iterable[Patch]) -> np.ndarray:
    """A picture with patches over it, the last on top.

        patched(image, [Patch(top=10, left=20, side=32, fill="noise")])

    Args:
        image: uint8 [H, W, C].
        patches: "mean" is the mean colour of `image`, "noise" even in 0..255 in each channel of each pixel.

    Returns:
        uint8 [H, W, C], a new array.

    Raises:
        ValueError: an unknown fill, a side below 1.
    """
    found = image.copy()
    height, width, channels = image.shape
    for patch in patches:
        if patch.fill not in FILLS or patch.side < 1:
            raise ValueError(f"Expected a side of at least 1 and one of {', '.join(FILLS)}. Received: {patch}")
        top, left = max(patch.top, 0), max(patch.left, 0)
        bottom, right = min(patch.top + patch.side, height), min(patch.left + patch.side, width)
        if top >= bottom or left >= right:
            continue
        if patch.fill == "mean":
            filled: object = np.rint(image.reshape(-1, channels).mean(axis=0)).astype(np.uint8)
        elif patch.fill == "noise":
            numbers = np.random.default_rng([patch.seed, abs(patch.top), abs(patch.left), patch.side])
            noise = numbers.integers(0, 256, (patch.side, patch.side, channels), dtype=np.uint8)
            filled = noise[top - patch.top : bottom - patch.top, left - patch.left : right - patch.left]
        else:
            filled = 0 if patch.fill == "black" else 255
        found[top:bottom, left:right] = filled
    return found


def sides(size: tuple[int, int]) -> tuple[int, int]:
    """The smallest and largest side of patches over a picture of `size` (H, W)."""
    largest = min(LARGEST, *size)
    return min(SMALLEST, largest), largest


def checked(entries: object, size: tuple[int, int]) -> list[Patch]:
    """Patches as a page sends them: [{"top": 3, "left": 5, "side": 16, "fill": "mean"}, ...].

    Raises:
        LoadError: anything else, too many, a patch of another side than `sides` or beside the picture.
    """
    if not isinstance(entries, list) or len(entries) > MOST:
        raise LoadError(f"Expected a list of at most {MOST} patches")
    smallest, largest = sides(size)
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) - {*Patch._fields} or not {"top", "left", "side"} <= set(entry):
            raise LoadError(f"Expected patches of top, left, side, fill and seed. Received: {str(entry)[:80]}")
        patch = Patch(**entry)
        numbers = (patch.top, patch.left, patch.side, patch.seed)
        if not all(type(number) is int and abs(number) < 2**31 for number in numbers) or patch.seed < 0:
            raise LoadError(f"Expected whole numbers. Received: {str(entry)[:80]}")
        if patch.fill not in FILLS or not smallest <= patch.side <= largest:
            fills = ", ".join(FILLS)
            raise LoadError(f"Expected a side of {smallest} to {largest} and {fills}. Received: {str(entry)[:80]}")
        inside = -patch.side < patch.top < size[0] and -patch.side < patch.left < size[1]
        if not inside:
            raise LoadError(f"Expected a patch over the picture of {size[0]}x{size[1]}. Received: {str(entry)[:80]}")
        found.append(patch)
    return found

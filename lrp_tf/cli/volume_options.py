"""Options of volumes. Without TensorFlow."""

from __future__ import annotations

import argparse


def add_volume_options(parser: argparse.ArgumentParser) -> None:
    """--axis, --slices and --spacing."""
    parser.add_argument("--axis", type=_axis, metavar="mid|peak|0|1|2",
                        help="arrays are volumes: draw three slices through the middle (default for NIfTI files) or "
                        "through the largest |R|, or a montage across an axis; without it, .npy files of four axes are "
                        "videos")  # fmt: skip
    parser.add_argument("--slices", type=_count, metavar="N", help="of a montage, evenly chosen; default: 12")
    parser.add_argument("--spacing", type=_spacing, metavar="D,H,W",
                        help="size of a voxel along each axis, as in 3,0.8,0.8; default: the NIfTI header's, else "
                        "1,1,1")  # fmt: skip


def _axis(text: str) -> int | str:
    if text in ("0", "1", "2"):
        return int(text)
    if text in ("mid", "peak"):
        return text
    raise argparse.ArgumentTypeError(f"expected mid, peak, 0, 1 or 2, received {text}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {text}")
    return number


def _spacing(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 3 or not all(0 < step < float("inf") for step in found):
        raise argparse.ArgumentTypeError(f"expected three positive numbers, as in 3,0.8,0.8, received {text}")
    return found

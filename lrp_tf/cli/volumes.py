"""Volumes on the command line: which slices are drawn."""

from __future__ import annotations

import argparse

from lrp_tf.arrays.nifti import is_nifti
from lrp_tf.files.errors import LoadError
from lrp_tf.heatmap.volumes import Slicing

_OF_VOLUMES = ("axis", "slices", "spacing")


def refuse_volume_options(options: argparse.Namespace) -> None:
    """For photographs.

    Raises:
        LoadError: an option of volumes was given.
    """
    for name in _OF_VOLUMES:
        if getattr(options, name, None) is not None:
            raise LoadError(f"--{name} is an option of volumes. Expected .npy or NIfTI files beside it, no photographs")


def slicing_of(options: argparse.Namespace, files: list[tuple[str, str]]) -> Slicing | None:
    """The slices that the options ask for; None: the arrays are no volumes.

    Raises:
        LoadError: options of volumes without `--axis` or a NIfTI file, `--slices` without a montage.
    """
    axis, slices, spacing = (getattr(options, name, None) for name in _OF_VOLUMES)
    if axis is None and any(is_nifti(path) for path, _ in files):
        axis = "mid"
    if slices is not None and axis in ("mid", "peak"):
        raise LoadError(f"--slices is for a montage. Expected --axis 0, 1 or 2 beside it. Received: --axis {axis}")
    if axis is not None:
        return Slicing(axis, slices, spacing)
    for name, value in {"slices": slices, "spacing": spacing}.items():
        if value is not None:
            raise LoadError(f"--{name} is an option of volumes. Expected --axis mid, peak, 0, 1 or 2 beside it")
    return None

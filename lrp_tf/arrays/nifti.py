"""NIfTI files: volumes with their place in space, and relevance that opens over them in a viewer."""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from lrp_tf.arrays.sample import Array, ArrayError, Space
from lrp_tf.atomic import atomic
from lrp_tf.files.errors import optional

SUFFIXES = (".nii", ".nii.gz")


def is_nifti(path: str) -> bool:
    """Whether a name is that of a NIfTI file."""
    return path.lower().endswith(SUFFIXES)


def nibabel() -> ModuleType:
    """The module nibabel.

    Raises:
        ExtraError: it is not installed.
    """
    return optional("nibabel", extra="volumes", what="which reads NIfTI files")


def read(path: Path, limit: int) -> Array:
    """The volume as it is stored: axes in the order of the file, scaled by its slope and intercept, float32.

    Args:
        limit: a file of more voxels is refused before they are read.

    Raises:
        ArrayError: a damaged file, too many voxels, voxels that are no numbers. ExtraError: nibabel is missing.
        OSError: it cannot be opened.
    """
    nib = nibabel()
    with open(path, "rb"):  # says why a file cannot be opened, which nibabel reports in words of its own
        pass
    with _quiet():
        try:
            image = nib.load(path)
            if math.prod(image.shape) > limit:
                raise ArrayError(f"expected one sample in each file. Received: a volume of shape {image.shape}")
            if (
                kind := image.get_data_dtype()
            ).kind not in "fiu":  # complex numbers would lose a part, colours have three
                raise ArrayError(f"expected voxels that are real numbers. Received: {_type_name(kind)}")
            voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
            affine = np.array(image.affine, np.float64)
        except ArrayError:
            raise
        except Exception as error:  # nibabel's parsers raise errors of many kinds for damaged files
            raise ArrayError(f"no NIfTI file that can be read: {_reason(error)}") from error
    if not _spans(affine):
        raise ArrayError("its affine does not span a space. Expected a matrix from voxels to millimetres")
    return Array(voxels, space=Space(affine, image.header))


def write(path: Path, relevance: np.ndarray, space: Space | None) -> None:
    """Write relevance [D, H, W] as float32 to a file .nii.gz, which opens over the scan in a viewer.

    Args:
        space: of the scan; None: voxels are cubes of 1 mm.

    Raises:
        ExtraError: nibabel is missing. OSError: the folder cannot be written.
    """
    nib = nibabel()
    affine, header = (np.eye(4), None) if space is None else space
    kept = None if header is None else header.copy()
    if kept is not None:
        kept.set_data_dtype(np.float32)
        kept["cal_min"] = kept["cal_max"] = 0  # the window of the scan, not of relevance
        kept["descrip"] = b"relevance, lrp_tf"
    with _quiet():  # the header of a NIfTI-2 file becomes one of NIfTI-1
        image = nib.Nifti1Image(np.asarray(relevance, np.float32), affine, kept)
    data = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)  # relevance hardly gets smaller at higher levels
    atomic(path, lambda temporary: temporary.write_bytes(data))


def _spans(affine: np.ndarray) -> bool:
    return bool(affine.shape == (4, 4) and np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _type_name(kind: np.dtype) -> str:
    return "colours" if kind.fields else str(kind)


def _reason(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nibabel logs what it mends in headers to the terminal; whether the volume can be used is told by its numbers."""
    log = logging.getLogger("nibabel.global")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)

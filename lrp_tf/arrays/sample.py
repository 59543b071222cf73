"""One sample as a file holds it: its numbers, and what the file says of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lrp_tf.files.errors import ImageError


class ArrayError(ImageError):
    """A file is no readable array; the message is the reason, without the name of the file."""


class Space(NamedTuple):
    """Where the voxels of a NIfTI file lie.

    Attributes:
        affine: float64 [4, 4], from indices of voxels to millimetres, x to the patient's right, y to the front, z up.
        header: of the file, as nibabel has it.
    """

    affine: np.ndarray
    header: Any = None


class Array(NamedTuple):
    """One sample.

    Attributes:
        values: real numbers or booleans, all finite, of any shape but [].
        names: of the channels on its last axis, as a header gives them; empty: not known.
        rate: samples per second of sound.
        space: of a volume that says where it lies.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()
    rate: float | None = None
    space: Space | None = None

    @property
    def told(self) -> str:
        """What the shape means, for messages: "0.5 s of sound at 44100 Hz"; empty where it says all."""
        if self.rate:
            channels = self.values.shape[1] if self.values.ndim == 2 else 1
            return f"{len(self.values) / self.rate:.3g} s of sound at {self.rate:g} Hz, {channels} channel(s)"
        if self.space and self.values.ndim > 3:
            return f"a NIfTI file of {self.values.shape[3]} volumes or channels"
        return ""

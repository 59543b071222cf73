"""How the slices of a volume lie on the page: by the axes of the array, or as radiologists name them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# World axis across which a slice is taken -> name, world axes to the right and up. Axes of NIfTI: x grows to the
# patient's right, y to the front, z to the head.
_PLANES = {2: ("axial", 0, 1), 1: ("coronal", 0, 2), 0: ("sagittal", 1, 2)}
_SIDES = {0: ("L", "R"), 1: ("P", "A")}


class View(NamedTuple):
    """How slices across one axis of an array lie on the page.

    Attributes:
        name: of the plane, "axial"; empty if it is not known.
        sides: letters for the left and the right side of the page, (); "L" is the patient's left.
        order: of the plane among the three.
        turned: the first of the two other axes runs to the right, not down.
        flipped: whether rows and columns run backwards.
    """

    name: str = ""
    sides: tuple[str, ...] = ()
    order: int = 0
    turned: bool = False
    flipped: tuple[bool, bool] = (False, False)

    def applied(self, flat: np.ndarray) -> np.ndarray:
        """A slice [a, b] or [a, b, C] as it lies on the page."""
        found = flat.swapaxes(0, 1) if self.turned else flat
        rows, columns = (slice(None, None, -1 if back else 1) for back in self.flipped)
        return found[rows, columns]


def views_of(affine: ArrayLike | None) -> tuple[View, View, View]:
    """The views across each of the three axes; without affine those of the array itself."""
    if affine is None:
        return View(order=0), View(order=1), View(order=2)
    worlds, back = _axes(np.asarray(affine, np.float64))
    views = []
    for axis, world in enumerate(worlds):
        name, right, up = _PLANES[world]
        others = [other for other in range(3) if other != axis]
        across, down = worlds.index(right), worlds.index(up)
        flipped = (not back[down], back[across])  # rows run down, so that a growing axis is turned round
        views.append(View(name, _SIDES[right], 2 - world, others[0] == across, flipped))
    return views[0], views[1], views[2]


def _axes(affine: np.ndarray) -> tuple[list[int], list[bool]]:
    """For each axis of the array the nearest axis of the world, and whether it runs backwards."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    together = lambda order: sum(abs(directions[world, axis]) for axis, world in enumerate(order))  # noqa: E731
    worlds = list(max(itertools.permutations(range(3)), key=together))
    return worlds, [bool(directions[world, axis] < 0) for axis, world in enumerate(worlds)]


def spacing_of(spacing: Sequence[float] | None, affine: ArrayLike | None) -> tuple[float, float, float]:
    """The size of a voxel along each axis of the array.

    Raises:
        ValueError: spacing is not three positive numbers, affine no [4, 4] with three directions.
    """
    if affine is not None:
        matrix = np.asarray(affine, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.matrix_rank(matrix[:3, :3]) == 3:
            raise ValueError(
                f"Expected affine as a matrix [4, 4] from voxels to millimetres. Received: shape {matrix.shape}"
                + (", with axes that do not span a volume" if matrix.shape == (4, 4) else "")
            )
    if spacing is None:
        found = (1.0,) * 3 if affine is None else np.linalg.norm(matrix[:3, :3], axis=0)
    else:
        found = np.asarray(spacing, np.float64)
        if found.shape != (3,) or not np.isfinite(found).all() or not (found > 0).all():
            raise ValueError(
                "Expected spacing as three positive numbers, the size of a voxel along each axis. "
                f"Received: {spacing!r}"
            )
    first, second, third = map(float, found)
    return first, second, third

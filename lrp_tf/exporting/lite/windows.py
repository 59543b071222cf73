"""Windows of one image in operations that every runtime has: slices, and sums of what windows give back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Windows(NamedTuple):
    """How windows lie on an image [1, H, W, C].

    Attributes:
        size, strides, dilations: for height and width.
        before, after: rows and columns of padding ahead of the image and behind it.
        image, grid: (height, width) of the image, and how many windows there are along each.
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    image: tuple[int, int]
    grid: tuple[int, int]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The places of a window in row-major order, in pixels from its corner."""
        places = itertools.product(range(self.size[0]), range(self.size[1]))
        return [(i * self.dilations[0], j * self.dilations[1]) for i, j in places]


def each_image(function: Callable[..., tf.Tensor], *images: tf.Tensor) -> tf.Tensor:
    """A function of single images [1, ...], for as many as there are: time steps, or the parts of a dilated image."""
    if images[0].shape[0] == 1:
        return function(*images)
    split = [tf.split(x, x.shape[0]) for x in images]
    return tf.concat([function(*parts) for parts in zip(*split, strict=True)], axis=0)


def windows_of(
    image: tuple[int, ...], size: list[int], strides: list[int], padding: str, dilations: list[int] | None = None
) -> Windows:
    """The windows of TensorFlow's poolings and convolutions.

    Args:
        image: [1, H, W, C].
        size, strides, dilations: for height and width.
        padding: "SAME" or "VALID".
    """
    dilations = [1, 1] if dilations is None else dilations
    before, after, grid = list[int](), list[int](), list[int]()
    for n, k, s, d in zip(image[1:3], size, strides, dilations, strict=True):
        reach = (k - 1) * d + 1
        number = -(-n // s) if padding == "SAME" else (n - reach) // s + 1
        rest = max((number - 1) * s + reach - n, 0) if padding == "SAME" else 0
        grid.append(number)
        before.append(rest // 2)
        after.append(rest - rest // 2)
    pairs = [(a, b) for a, b in (size, strides, dilations, before, after, image[1:3], grid)]
    return Windows(*pairs)


def taken(x: tf.Tensor, windows: Windows, fill: float = 0.0) -> list[tf.Tensor]:
    """For each place of a window, in row-major order, what all windows have there: [1, *grid, C].

    Args:
        fill: the value of padding.
    """
    phases = _phases(_padded(x, windows, fill), windows)
    found = []
    for i, j in windows.offsets:
        (a, p), (b, q) = divmod(i, windows.strides[0]), divmod(j, windows.strides[1])
        found.append(_cut(phases[p, q], (a, b), windows.grid))
    return found


def given_back(parts: list[tf.Tensor], windows: Windows) -> tf.Tensor:
    """The transpose of `taken`: each pixel gets the sum over the windows that have it, in their row-major order."""
    reach = [_blocks(windows, axis) for axis in (0, 1)]
    phases: dict[tuple[int, int], tf.Tensor] = {}
    # The first window that has a pixel has it at the last place.
    for (i, j), part in reversed(list(zip(windows.offsets, parts, strict=True))):
        (a, p), (b, q) = divmod(i, windows.strides[0]), divmod(j, windows.strides[1])
        room = [[0, 0], [a, reach[0] - a - windows.grid[0]], [b, reach[1] - b - windows.grid[1]], [0, 0]]
        part = tf.pad(part, room) if any(map(any, room)) else part
        phases[p, q] = phases[p, q] + part if (p, q) in phases else part
    whole = _interleaved(phases, windows)
    return _cut(whole, windows.before, windows.image)


def _blocks(windows: Windows, axis: int) -> int:
    """How many blocks as long as a stride cover the padded image, and all that windows reach."""
    reach = (windows.size[axis] - 1) * windows.dilations[axis] + 1
    need = max(windows.before[axis] + windows.image[axis], (windows.grid[axis] - 1) * windows.strides[axis] + reach)
    return max(-(-need // windows.strides[axis]), (reach - 1) // windows.strides[axis] + windows.grid[axis])


def _padded(x: tf.Tensor, windows: Windows, fill: float) -> tf.Tensor:
    """x with its padding, and then filled up to whole blocks."""
    room = []
    for axis in (0, 1):
        before, whole = windows.before[axis], _blocks(windows, axis) * windows.strides[axis]
        room.append([before, whole - before - windows.image[axis]])
    if not any(map(any, room)):
        return x
    return tf.pad(x, [[0, 0], *room, [0, 0]], constant_values=fill)


def _phases(x: tf.Tensor, windows: Windows) -> dict[tuple[int, int], tf.Tensor]:
    """x at every row p and column q modulo the strides: [1, blocks, blocks, C] each. Matrices: the quickest slices."""
    down, along = windows.strides
    _, height, width, channels = x.shape
    high, wide = height // down, width // along
    found = {}
    for p in range(down):
        rows = _columns(tf.reshape(x, [high, -1]), p, down)
        for q in range(along):
            columns = _columns(tf.reshape(rows, [high * wide, -1]), q, along)
            found[p, q] = tf.reshape(columns, [1, high, wide, channels])
    return found


def _columns(x: tf.Tensor, part: int, parts: int) -> tf.Tensor:
    """One of the equal parts that the columns of a matrix have."""
    if parts == 1:
        return x
    width = x.shape[1] // parts
    return tf.slice(x, [0, part * width], [x.shape[0], width])


def _interleaved(phases: dict[tuple[int, int], tf.Tensor], windows: Windows) -> tf.Tensor:
    """The transpose of `_phases`; phases that no window has are zeros."""
    down, along = windows.strides
    nothing = tf.zeros_like(next(iter(phases.values())))
    _, high, wide, channels = nothing.shape
    rows = []
    for p in range(down):
        columns = [tf.reshape(phases.get((p, q), nothing), [high * wide, channels]) for q in range(along)]
        rows.append(tf.reshape(_side_by_side(columns), [high, -1]))
    return tf.reshape(_side_by_side(rows), [1, high * down, wide * along, channels])


def _side_by_side(parts: list[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


def _cut(x: tf.Tensor, begin: tuple[int, int], size: tuple[int, int]) -> tf.Tensor:
    """Part of the image x."""
    if tuple(begin) == (0, 0) and tuple(x.shape[1:3]) == tuple(size):
        return x
    return tf.slice(x, [0, *begin, 0], [x.shape[0], *size, x.shape[3]])

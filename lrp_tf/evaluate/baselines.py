"""What an explanation must beat: the input itself, its edges, the middle of the picture, random numbers."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import keras
import numpy as np

from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.protocol import Array, Explain


class _Baseline:
    """An `explain(x, target)` that needs no model, and is the same for every model."""

    def with_model(self, model: keras.Model) -> Explain:
        """Itself: what it shows does not depend on a model."""
        return self

    def __call__(self, x: Array, target: Array, /) -> np.ndarray:
        """Relevance of x's shape and dtype."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Absolute(_Baseline):
    """|x|, of the input as it is fed."""

    def __call__(self, x: Array, target: Array, /) -> np.ndarray:
        return np.abs(protocol.inputs(x))


class _Filtered(_Baseline):
    """A filter of neighbours in each channel of each sample."""

    channel_axis: int | None

    def __call__(self, x: Array, target: Array, /) -> np.ndarray:
        values = protocol.inputs(x)
        axis = None if self.channel_axis is None else self.channel_axis % values.ndim
        if values.ndim - (axis is not None) < 2:
            name = type(self).__name__
            raise ValueError(f"{name} expects positions beside one another, [B, ..., C]. Received: {values.shape}")
        maps = values[..., None] if axis is None else np.moveaxis(values, axis, -1)
        found = np.empty_like(maps)
        for sample in range(len(maps)):
            for channel in range(maps.shape[-1]):
                found[sample, ..., channel] = self.filtered(maps[sample, ..., channel])
        return found[..., 0] if axis is None else np.moveaxis(found, -1, axis)

    def filtered(self, plane: np.ndarray) -> np.ndarray:
        """One channel of one sample through the filter."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Sobel(_Filtered):
    """Edges: the length of the Sobel gradient of each channel; for signals the derivative, for volumes in 3-D.

    Needs the extra `evaluate`.

    Args:
        channel_axis: of x [B, ...]; None if there is none.

    Raises:
        ValueError: features, which have no neighbours.
    """

    channel_axis: int | None = -1

    def filtered(self, plane: np.ndarray) -> np.ndarray:
        ndimage = optional("scipy.ndimage")
        return ndimage.generic_gradient_magnitude(plane, ndimage.sobel)


@dataclasses.dataclass(frozen=True)
class Laplace(_Filtered):
    """|Laplacian| of each channel: how a value differs from its neighbours.

    Needs the extra `evaluate`.

    Args:
        channel_axis: of x [B, ...]; None if there is none.

    Raises:
        ValueError: features, which have no neighbours.
    """

    channel_axis: int | None = -1

    def filtered(self, plane: np.ndarray) -> np.ndarray:
        return np.abs(optional("scipy.ndimage").laplace(plane))


@dataclasses.dataclass(frozen=True)
class Centre(_Baseline):
    """A Gaussian in the middle of the positions: photographers put the object there.

    Args:
        width: its standard deviation, as a share of each side.
        channel_axis: of x [B, ...]; None if there is none. Features [B, F] have none, whatever is given.
    """

    width: float = 0.25
    channel_axis: int | None = -1

    def __call__(self, x: Array, target: Array, /) -> np.ndarray:
        values = protocol.inputs(x)
        channels = None if self.channel_axis is None or values.ndim == 2 else self.channel_axis % values.ndim
        found = np.ones_like(values)
        for axis in range(1, values.ndim):
            if axis == channels:
                continue
            side = values.shape[axis]
            away = ((np.arange(side) + 0.5) / side - 0.5) / self.width
            shape = [1] * values.ndim
            shape[axis] = side
            found *= np.exp(-(away**2) / 2).reshape(shape).astype(values.dtype)
        return found


@dataclasses.dataclass(frozen=True)
class Random(_Baseline):
    """Normal random numbers for each sample: by the seed and what it holds, so in whatever batch it comes."""

    seed: int = 0

    def __call__(self, x: Array, target: Array, /) -> np.ndarray:
        values = protocol.inputs(x)
        found = np.empty_like(values)
        for i, sample in enumerate(values):
            seeds = [self.seed, zlib.crc32(np.ascontiguousarray(sample).tobytes())]
            found[i] = np.random.default_rng(seeds).normal(size=sample.shape)
        return found


def get(name: str, *, channel_axis: int | None = -1, seed: int = 0) -> Explain:
    """A baseline by name, see `NAMES`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in _BASELINES:
        raise ValueError(f"unknown baseline. Expected one of {list(NAMES)}. Received: {name!r}")
    return _BASELINES[name](channel_axis, seed)


_BASELINES: dict[str, Callable[[int | None, int], Explain]] = {
    "absolute": lambda channel_axis, seed: Absolute(),
    "sobel": lambda channel_axis, seed: Sobel(channel_axis),
    "laplace": lambda channel_axis, seed: Laplace(channel_axis),
    "centre": lambda channel_axis, seed: Centre(channel_axis=channel_axis),
    "random": lambda channel_axis, seed: Random(seed),
}
NAMES = tuple(_BASELINES)

"""What flipped regions are filled with, in the range of the model's input."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias

import cv2
import numpy as np

from lrp_tf.evaluate import protocol

# keep (bool [B, *positions]) -> the samples with what is not kept filled, [B, *positions, C].
Filler: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples that are perturbed, with channels last; what has no channels has one.

    Attributes:
        x: [B, *positions, C], floats.
        neighbours: whether positions that lie side by side belong together: pixels and times do, features do not.
        seed, ids: of random numbers.
    """

    x: np.ndarray
    neighbours: bool
    seed: int
    ids: np.ndarray

    def generators(self) -> list[np.random.Generator]:
        """Random numbers for the fill of each sample; the same in every batch, order and step."""
        return protocol.generators(self.seed, self.ids, "fill")

    def over(self, reduce: Callable[..., np.ndarray], *, channels: bool = False) -> np.ndarray:
        """E.g. the maximum of each sample and channel (`channels`: of each sample), [B, 1, ..., 1, C or 1]."""
        axes = tuple(range(1, self.x.ndim if channels else self.x.ndim - 1))
        return reduce(self.x, axis=axes, keepdims=True)

    def range(self, low: float | None, high: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Given bounds, else those of each sample and channel; [B, 1, ..., 1, C]."""
        given = [self.over(np.min) if low is None else low, self.over(np.max) if high is None else high]
        shape = (len(self.x), *[1] * (self.x.ndim - 2), self.x.shape[-1])
        lower, upper = (np.broadcast_to(np.asarray(bound, np.float64), shape) for bound in given)
        if (lower > upper).any():
            raise ValueError(f"fills expect low <= high. Received: low={low}, high={high}")
        return lower, upper


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Fills with values that do not depend on what is kept; x, values: [B, *positions, C]."""

    x: np.ndarray
    values: np.ndarray

    def __call__(self, keep: np.ndarray) -> np.ndarray:
        return np.where(keep[..., None], self.x, self.values)


class Fill:
    """What takes the place of flipped regions. A fill of your own overrides `values`, or `filler`."""

    def values(self, samples: Samples) -> np.ndarray:
        """What the whole picture is filled with; broadcasts to `samples.x`."""
        raise NotImplementedError(f"{type(self).__name__} defines values(samples) or filler(samples)")

    def filler(self, samples: Samples) -> Filler:
        """Called once for all steps; a fill that depends on what is kept, overrides it."""
        values = np.broadcast_to(self.values(samples), samples.x.shape).astype(samples.x.dtype)
        return Fixed(samples.x, np.ascontiguousarray(values))


@dataclasses.dataclass(frozen=True)
class Constant(Fill):
    """A number, a number for each channel, or an array of a sample's shape (channels last)."""

    value: float | tuple[float, ...] | np.ndarray = 0.0

    def values(self, samples: Samples) -> np.ndarray:
        value = protocol.finite(np.asarray(self.value, np.float64).reshape(1, *np.shape(self.value)), "fill")[0]
        channels = samples.x.shape[-1]
        if value.shape == samples.x.shape[1:-1] and channels == 1:
            return value[..., None]
        if value.shape not in ((), (channels,), samples.x.shape[1:]):
            raise ValueError(
                f"a constant fill expects a number, {channels} channels, or a sample's shape {samples.x.shape[1:]}. "
                f"Received: shape {value.shape}"
            )
        return value


@dataclasses.dataclass(frozen=True)
class Mean(Fill):
    """Each sample's own mean: of each channel, or of all channels together."""

    per_channel: bool = True

    def values(self, samples: Samples) -> np.ndarray:
        return samples.over(np.mean, channels=not self.per_channel)


@dataclasses.dataclass(frozen=True)
class Extreme(Fill):
    """Each sample's own least value, over all channels ("black"), or its largest ("white")."""

    largest: bool = False

    def values(self, samples: Samples) -> np.ndarray:
        return samples.over(np.max if self.largest else np.min, channels=True)


@dataclasses.dataclass(frozen=True)
class Grey(Fill):
    """(low + high) / 2, of each sample and channel where bounds are not given."""

    low: float | None = None
    high: float | None = None

    def values(self, samples: Samples) -> np.ndarray:
        low, high = samples.range(self.low, self.high)
        return (low + high) / 2


@dataclasses.dataclass(frozen=True)
class Blur(Fill):
    """The picture under a Gaussian, mirrored at its borders.

    Attributes:
        sigma: in positions; None: a twentieth of the shortest side, and 1 at least.
    """

    sigma: float | None = None

    def values(self, samples: Samples) -> np.ndarray:
        _require_neighbours(samples, "blur")
        sigma = max(1.0, min(samples.x.shape[1:-1]) / 20) if self.sigma is None else self.sigma
        if not sigma > 0:
            raise ValueError(f"blur expects sigma above 0. Received: {self.sigma}")
        x = samples.x.astype(np.result_type(samples.x, np.float32))
        if x.ndim == 4 and x.shape[-1] <= 4:  # as OpenCV has pictures: both axes at once
            rows, columns = (_kernel(side, sigma, x.dtype) for side in x.shape[1:3])
            return np.stack([_filtered(image, rows, columns).reshape(image.shape) for image in x])
        for axis in range(1, x.ndim - 1):
            lines = np.moveaxis(x, axis, 0)
            flat = np.ascontiguousarray(lines.reshape(len(lines), -1))
            found = _filtered(flat, _kernel(len(lines), sigma, x.dtype), np.ones(1, x.dtype))
            x = np.moveaxis(found.reshape(lines.shape), 0, axis)
        return x


def _kernel(side: int, sigma: float, dtype: np.dtype) -> np.ndarray:
    """A Gaussian that is cut off at three sigma, or at the picture's side."""
    reach = min(int(np.ceil(3 * sigma)), side - 1)
    return cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_64F).astype(dtype)


def _filtered(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """An image [H, W] or [H, W, C] under a kernel along its first axis and one along its second."""
    return cv2.sepFilter2D(image, -1, columns, rows, borderType=cv2.BORDER_REFLECT)


@dataclasses.dataclass(frozen=True)
class Uniform(Fill):
    """Uniform random numbers between low and high, by default the bounds of each sample and channel."""

    low: float | None = None
    high: float | None = None

    def values(self, samples: Samples) -> np.ndarray:
        low, high = samples.range(self.low, self.high)
        drawn = np.stack([generator.random(samples.x.shape[1:]) for generator in samples.generators()])
        return low + (high - low) * drawn


@dataclasses.dataclass(frozen=True)
class Gaussian(Fill):
    """Normal random numbers, cut off at low and high.

    Attributes:
        mean, std: None: those of each sample and channel; low, high: None: the bounds of each.
    """

    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None

    def values(self, samples: Samples) -> np.ndarray:
        low, high = samples.range(self.low, self.high)
        mean = samples.over(np.mean) if self.mean is None else self.mean
        std = samples.over(np.std) if self.std is None else self.std
        if np.min(std) < 0:
            raise ValueError(f"a Gaussian fill expects std of at least 0. Received: {std}")
        drawn = np.stack([generator.normal(size=samples.x.shape[1:]) for generator in samples.generators()])
        return np.clip(mean + std * drawn, low, high)


@dataclasses.dataclass(frozen=True)
class Inpaint(Fill):
    """OpenCV's inpainting from the pixels that are kept, anew at each step; images in parallel.

    OpenCV's Telea adds up to 1.4 to each value whatever its range, so each channel is inpainted with its kept values
    spread over 0..255. At the picture's borders OpenCV reads values that are to be replaced, so the mean of the kept
    ones is put there first. If no pixel is kept, the sample's mean takes their place.

    Attributes:
        method: "telea" (Telea 2004), or "navier_stokes" (Bertalmio, Bertozzi, Sapiro 2001).
        radius: of the neighbourhood, in pixels. threads: None: as many as there are cores.
    """

    method: Literal["telea", "navier_stokes"] = "telea"
    radius: float = 3.0
    threads: int | None = None

    def filler(self, samples: Samples) -> Filler:
        flags = {"telea": cv2.INPAINT_TELEA, "navier_stokes": cv2.INPAINT_NS}
        if self.method not in flags:
            raise ValueError(f"inpainting expects one of {list(flags)}. Received: {self.method!r}")
        _require_neighbours(samples, "inpainting", axes=(2,))
        mean = samples.over(np.mean)[:, 0, 0]

        def one(image: np.ndarray, keep: np.ndarray, without: np.ndarray) -> np.ndarray:
            if not keep.any():
                return np.broadcast_to(without, image.shape)
            missing, found = (~keep).astype(np.uint8), np.empty_like(image)
            for c in range(image.shape[-1]):
                kept = image[..., c][keep]
                low, scale = kept.min(), (kept.max() - kept.min()) / 255 or 1.0
                channel = np.where(keep, (image[..., c] - low) / scale, (kept.mean() - low) / scale)
                painted = cv2.inpaint(channel.astype(np.float32), missing, self.radius, flags[self.method])
                found[..., c] = np.clip(painted, 0, 255) * scale + low
            return found

        return _each(samples, self.threads, one, mean)


def _each(samples: Samples, threads: int | None, one: Callable[..., np.ndarray], *rest: Iterable) -> Filler:
    """A fill that is computed for one sample at a time, in parallel: one(x, keep, *rest of the sample)."""
    x = samples.x

    def fill(keep: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            found = np.stack(list(pool.map(one, x, keep, *rest)))
        return np.where(keep[..., None], x, found.astype(x.dtype))

    return fill


def _require_neighbours(samples: Samples, name: str, axes: tuple[int, ...] | None = None) -> None:
    axis_count = samples.x.ndim - 2
    if not samples.neighbours or (axes is not None and axis_count not in axes):
        wanted = "positions" if axes is None else " or ".join(map(str, axes)) + " axes of positions"
        raise ValueError(
            f"{name} expects samples with {wanted}. Received: {'features' if not samples.neighbours else axis_count}. "
            'Remedy: another fill, such as 0.0, "mean" or "uniform"'
        )


@dataclasses.dataclass(frozen=True)
class _Own(Fill):
    """A function (x, keep) -> filled x, in the caller's layout."""

    function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    channel_axis: int | None

    def filler(self, samples: Samples) -> Filler:
        x = samples.x
        given = x[..., 0] if self.channel_axis is None else np.moveaxis(x, -1, self.channel_axis)

        def fill(keep: np.ndarray) -> np.ndarray:
            found = np.asarray(self.function(given.copy(), keep.copy()))
            if found.shape != given.shape:
                raise ValueError(f"fill must return samples. Expected: shape {given.shape}. Received: {found.shape}")
            found = protocol.finite(found, "what fill returns")
            found = found[..., None] if self.channel_axis is None else np.moveaxis(found, self.channel_axis, -1)
            return np.where(keep[..., None], x, found).astype(x.dtype)

        return fill


FillLike: TypeAlias = str | float | tuple[float, ...] | np.ndarray | Fill | Callable | None

_FILLS: dict[str, Fill] = {
    "blur": Blur(),
    "mean": Mean(),
    "grey": Grey(),
    "black": Extreme(),
    "white": Extreme(largest=True),
    "uniform": Uniform(),
    "gaussian": Gaussian(),
    "telea": Inpaint("telea"),
    "navier_stokes": Inpaint("navier_stokes"),
}


def register(name: str, fill: Fill) -> None:
    """Let `perturb` find a fill by name.

    Raises:
        ValueError: a name that is taken.
    """
    if name in _FILLS:
        raise ValueError(f"there is a fill {name!r} already")
    _FILLS[name] = fill


def names() -> list[str]:
    """Names of fills."""
    return list(_FILLS)


def get(fill: FillLike, *, neighbours: bool = True, channel_axis: int | None = -1) -> Fill:
    """A fill by name; of a number, of numbers for each channel, or of an array; of a function (x, keep) -> filled x.

    Args:
        neighbours: None means "blur" with neighbours, and 0 for features, which have none.

    Raises:
        ValueError: an unknown name. TypeError: something else.
    """
    if fill is None:
        fill = "blur" if neighbours else 0.0
    if isinstance(fill, Fill):
        return fill
    if isinstance(fill, str):
        if fill not in _FILLS:
            raise ValueError(f"unknown fill. Expected one of {names()}, a number or a function. Received: {fill!r}")
        return _FILLS[fill]
    if callable(fill):
        return _Own(fill, channel_axis)
    if np.asarray(fill).dtype.kind not in "fiu":
        raise TypeError(f"fill expects a name, numbers or a function (x, keep). Received: {fill!r}")
    return Constant(fill)

"""Relevance -> colours."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from typing import Literal

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from numpy.typing import ArrayLike

from lrp_tf.heatmap.smoothing import Smooth, sigma_of, smooth

Reduce = Literal["sum", "mean", "absmax"]
Show = Literal["signed", "abs"]
Scale = float | str | None

RELEVANCE_CMAP = "seismic"
MAGNITUDE_CMAP = "magnitude"
# Odd, so that zero has the middle colour, which is white in seismic.
COLOURS = 511
# Bright, for overlays.
FOR, AGAINST, EITHER = (255, 30, 30), (40, 90, 255), (224, 0, 255)


def _lrp() -> Colormap:
    colours = matplotlib.colormaps["seismic"].resampled(COLOURS)(np.arange(COLOURS))
    colours[:, :3] *= 0.85
    return ListedColormap(colours, name="lrp")


def _vivid(*ends: tuple[int, int, int]) -> Colormap:
    """From medium grey to bright colours, so that faint relevance neither brightens nor tints a photograph below."""
    grey = np.full(3, 128.0)
    rise = np.sqrt(np.linspace(0.0, 1.0, COLOURS // len(ends) + 1))[1:, None]
    sides = [grey + (np.array(end) - grey) * rise for end in ends]
    table = np.concatenate([sides[0][::-1], [grey], sides[1]] if len(sides) == 2 else sides)
    return ListedColormap(table / 255.0, name="vivid")


# Not in matplotlib's registry, which belongs to the whole process.
OURS: dict[str, Colormap] = {
    "lrp": _lrp(),
    "coldnhot": LinearSegmentedColormap.from_list("coldnhot", ["#0ff", "#00f", "#000", "#f00", "#ff0"], N=COLOURS),
    "vivid": _vivid(AGAINST, FOR),
    "magnitude": LinearSegmentedColormap.from_list("magnitude", ["#fff", "#d79be0", "#9c27b0", "#3b0a52"], N=COLOURS),
    "vivid_magnitude": _vivid(EITHER),
}

PALETTES = ("seismic", "bwr", "RdBu_r", "coolwarm", *OURS, "rainbow", "jet", "hot", "gray")
"""Palettes that are common for relevance; every other name of matplotlib works too."""

PLAIN = {"signed": RELEVANCE_CMAP, "abs": MAGNITUDE_CMAP}
VIVID = {"signed": "vivid", "abs": "vivid_magnitude"}  # over photographs
DIVERGING = {"seismic", "bwr", "RdBu", "coolwarm", "lrp", "coldnhot", "vivid", "PiYG", "PRGn", "BrBG", "PuOr", "RdGy"}
DIVERGING |= {"RdYlBu", "RdYlGn", "Spectral", "berlin", "managua", "vanimo"}


def reduce_channels(relevance: ArrayLike, reduce: Reduce = "sum") -> np.ndarray:
    """Relevance of the pixels of one sample.

        pixels = lrp_tf.heatmap.reduce_channels(R[0])

    Args:
        relevance: [H, W, C] or [H, W], any real dtype.
        reduce: over the channels: "sum" (keeps ΣR), "mean", or "absmax", the entry of largest |R| with its sign.

    Returns:
        float64 [H, W], a new array.

    Raises:
        ValueError: another rank (with a batch axis, for example), no entries, NaN or Inf, an unknown `reduce`.
    """
    values = np.asarray(relevance, dtype=np.float64)
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(
            f"Expected the relevance of one sample, [H, W] or [H, W, C]. Received: shape {np.shape(relevance)}. "
            "Remedy: pass R[0] for the first sample of a batch, heatmap.signal for [T], heatmap.table for [F]."
        )
    require_finite(values, "relevance")
    if reduce not in ("sum", "mean", "absmax"):
        raise ValueError(f'Expected reduce="sum", "mean" or "absmax". Received: {reduce!r}')
    if values.ndim == 2:
        return values.copy()
    if reduce == "absmax":
        largest = np.abs(values).argmax(axis=-1, keepdims=True)
        return np.take_along_axis(values, largest, axis=-1)[..., 0]
    total = summed(values)
    return total if reduce == "sum" else total / values.shape[-1]


def summed(values: np.ndarray) -> np.ndarray:
    """The sum over the last axis. NumPy's own takes five times as long over a few channels."""
    if not 0 < values.shape[-1] < 8:
        return values.sum(axis=-1)
    total = values[..., 0].copy()
    for channel in range(1, values.shape[-1]):  # NumPy's order
        total += values[..., channel]
    return total


def to_rgb(
    relevance: ArrayLike,
    *,
    scale: Scale = None,
    cmap: str | Colormap | None = None,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
    show: Show = "signed",
    smooth: Smooth = None,
    stride: float | None = None,
) -> np.ndarray:
    """Relevance as a picture.

        picture = lrp_tf.heatmap.to_rgb(R[0], scale="99%")

    Args:
        relevance: one sample, [H, W] or [H, W, C].
        scale: the |R| at the ends of the colour map. None: the largest of this map; "99%": the value that 99 % of its
            entries other than zero do not exceed. Larger values are clipped.
        cmap: one of `PALETTES`, any other name of a matplotlib colour map, or a Colormap; None: "seismic", and
            "magnitude" for show="abs".
        reduce: how channels become one value, see `reduce_channels`.
        gamma: colours show sign(v)·|v|^gamma of v = R / scale; below 1 it brings out faint relevance.
        symmetric: the map spans -scale..scale, so that zero has its middle colour. False: it spans the smallest to
            the largest value, and zero has no fixed colour.
        show: "abs" draws |R| of each entry, taken before channels and neighbours are summed, so that opposite signs
            do not cancel. The map then spans 0..scale, with zero at the lower end.
        smooth: standard deviation, in pixels of the relevance map, of a Gaussian that the map is drawn through; "auto"
            is half of `stride`. None or 0: none.
        stride: of the model's first convolution, for smooth="auto"; see `lrp_tf.gallery.first_stride`.

    Returns:
        uint8 [H, W, 3], RGB. Equal values, zeros for instance, are all of the middle colour.

    Raises:
        ValueError: see `reduce_channels`; scale, gamma, smooth or stride out of range, scale with symmetric=False,
            unknown cmap or show, smooth="auto" without stride, a cmap with two sides for show="abs".
        TypeError: cmap is neither a name nor a Colormap.
    """
    paint = Paint(scale, cmap, reduce, gamma, symmetric, show, smooth, stride)
    values = paint.values(relevance)
    return colour(values, paint.ends(values), paint.palette(), gamma)


@dataclasses.dataclass(frozen=True)
class Paint:
    """How relevance is drawn. The attributes are the arguments of `to_rgb`."""

    scale: Scale = None
    cmap: str | Colormap | None = None
    reduce: Reduce = "sum"
    gamma: float = 1.0
    symmetric: bool = True
    show: Show = "signed"
    smooth: Smooth = None
    stride: float | None = None

    def values(self, relevance: ArrayLike) -> np.ndarray:
        """The values that are drawn for one sample, in the geometry of the relevance: float64 [H, W].

        Raises:
            ValueError: see `to_rgb`.
        """
        if self.show not in ("signed", "abs"):
            raise ValueError(f'Expected show="signed" or "abs". Received: {self.show!r}')
        relevance = np.abs(np.asarray(relevance, np.float64)) if self.show == "abs" else relevance
        return smooth(reduce_channels(relevance, self.reduce), sigma_of(self.smooth, self.stride))

    def ends(self, values: np.ndarray) -> tuple[float, float]:
        """The values at the two ends of the colour map."""
        low, high = limits(values, self.scale, self.symmetric)
        return (0.0, high) if self.show == "abs" and self.symmetric else (low, high)

    def palette(self, *, over: bool = False) -> str | Colormap:
        """The colour map.

        Args:
            over: over a photograph, whose light and dark parts would hide pale and dark colours.

        Raises:
            ValueError: a colour map with two sides for show="abs".
        """
        if self.cmap is None:
            return (VIVID if over else PLAIN)[self.show]
        name = self.cmap if isinstance(self.cmap, str) else getattr(self.cmap, "name", "")
        if self.show == "abs" and name.removesuffix("_r") in DIVERGING:
            raise ValueError(
                f'Expected a cmap that begins at zero, with show="abs". Received: {name!r}, which has zero in its '
                'middle. Remedy: no cmap, or "magnitude", "Reds", "viridis" and the like'
            )
        return self.cmap


def require_finite(values: np.ndarray, what: str) -> None:
    """Raises ValueError, naming `what`, if there is NaN or Inf."""
    finite = np.isfinite(values)
    if not finite.all():
        raise ValueError(f"Expected finite {what}. Received: {values.size - int(finite.sum())} NaN or Inf")


def colormap(cmap: str | Colormap) -> Colormap:
    """The colour map of that name, ours first, with `COLOURS` entries.

    Raises:
        ValueError: unknown name.
        TypeError: neither a name nor a Colormap.
    """
    if isinstance(cmap, str):
        names = [*OURS, *matplotlib.colormaps]
        if cmap not in names:
            close = difflib.get_close_matches(cmap, names)
            raise ValueError(
                f"Expected cmap one of {', '.join(map(repr, PALETTES))}, or the name of any matplotlib colour map. "
                f"Received: {cmap!r}" + (f". Did you mean {' or '.join(map(repr, close))}?" if close else "")
            )
        cmap = OURS[cmap] if cmap in OURS else matplotlib.colormaps[cmap]
    if not isinstance(cmap, Colormap):
        raise TypeError(f"Expected cmap as a name or a matplotlib Colormap. Received: {type(cmap).__name__}")
    # A new object each time: a Colormap fills its table at first use, which is not safe among threads.
    return cmap.resampled(COLOURS)


@functools.lru_cache(maxsize=64)
def _named_table(cmap: str) -> np.ndarray:
    return _table(cmap)


def _table(cmap: str | Colormap) -> np.ndarray:
    """The colours as uint32 [COLOURS]: the bytes are R, G, B, A in memory."""
    return np.rint(colormap(cmap)(np.arange(COLOURS)) * 255.0).astype(np.uint8).view(np.uint32)[:, 0]


def quantile_of(scale: str) -> float:
    """A quantile such as "99%" as a number, 0.99.

    Raises:
        ValueError: not a percentage above 0 and up to 100.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", scale)
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise ValueError(f'Expected scale > 0, None, or a quantile of |R| from 0% to 100%, "99%". Received: {scale!r}')
    return share


def limits(values: np.ndarray, scale: Scale, symmetric: bool = True) -> tuple[float, float]:
    """The values at the two ends of the colour map.

    Raises:
        ValueError: scale neither positive and finite nor a quantile, or together with symmetric=False.
    """
    quantile = None
    if isinstance(scale, str):
        quantile = quantile_of(scale)
    elif scale is not None and not 0 < scale < np.inf:
        raise ValueError(f'Expected scale > 0, None, or a quantile as "99%". Received: scale={scale!r}')
    if symmetric:
        sizes = np.abs(values)
        if quantile is not None:
            # Zeros do not count: if most of a map is empty, every quantile would be 0.
            sizes = sizes[sizes > 0]
            scale = np.quantile(sizes, quantile) if sizes.size else None
        scale = float(scale or sizes.max(initial=0.0) or 1.0)
        return -scale, scale
    if scale is not None:
        raise ValueError(
            f"Expected scale=None with symmetric=False, where colours span the smallest to the largest value. "
            f"Received: scale={scale!r}. Remedy: symmetric=True"
        )
    return float(values.min()), float(values.max())


def strength(values: np.ndarray, ends: tuple[float, float], gamma: float) -> np.ndarray:
    """Values on the unit scale, -1..1, after gamma: how strong their colours are. A new array.

    Raises:
        ValueError: gamma not positive.
    """
    if not 0 < gamma < np.inf:
        raise ValueError(f"Expected gamma > 0. Received: gamma={gamma!r}")
    with np.errstate(over="ignore"):  # overflows for a tiny scale, and is clipped
        unit = np.asarray(values / (max(np.abs(ends)) or 1.0))
    np.clip(unit, -1.0, 1.0, out=unit)
    return unit if gamma == 1 else np.copysign(np.abs(unit) ** gamma, unit)


def colour(values: np.ndarray, ends: tuple[float, float], cmap: str | Colormap, gamma: float) -> np.ndarray:
    """Values [...] -> uint8 [..., 3], with the two ends of the colour map at the two values `ends`."""
    return colour_of(strength(values, ends, gamma), ends, cmap, gamma)


def colour_of(shown: np.ndarray, ends: tuple[float, float], cmap: str | Colormap, gamma: float) -> np.ndarray:
    """`colour` of values whose `strength` is known."""
    table = _named_table(cmap) if isinstance(cmap, str) else _table(cmap)
    low, high = strength(np.array(ends), ends, gamma)
    if low == high:
        entries = np.full(shown.shape, COLOURS // 2)
    else:
        place = shown - low
        place /= high - low
        place *= COLOURS - 1
        entries = np.rint(place, out=place).astype(np.int16)
    # Looked up four bytes at a time, which takes a tenth of the time of rows of three.
    pixels = table[entries.ravel()].view(np.uint8).reshape(1, -1, 4)
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB).reshape(*shown.shape, 3)

"""Relevance -> colours."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap

Reduce = Literal["sum", "mean", "absmax"]

RELEVANCE_CMAP = "seismic"
# An odd number of colours has one in the middle, on which zero falls; seismic's is white.
COLOURS = 511


def _lrp() -> Colormap:
    colours = matplotlib.colormaps["seismic"].resampled(COLOURS)(np.arange(COLOURS))
    colours[:, :3] *= 0.85
    return ListedColormap(colours, name="lrp")


# Kept here and not in matplotlib's registry, which belongs to the whole process.
OURS: dict[str, Colormap] = {
    "lrp": _lrp(),
    "coldnhot": LinearSegmentedColormap.from_list("coldnhot", ["#0ff", "#00f", "#000", "#f00", "#ff0"], N=COLOURS),
}

PALETTES = ("seismic", "bwr", "RdBu_r", "coolwarm", *OURS, "rainbow", "jet", "hot", "gray")
"""Palettes that are usual for relevance; every other name of matplotlib works too."""


def reduce_channels(relevance: Any, reduce: Reduce = "sum") -> np.ndarray:
    """Relevance of the pixels of one sample.

    Args:
        relevance: [H, W, C] or [H, W], any real dtype.
        reduce: over the channels: "sum" (keeps ΣR), "mean", or "absmax", the entry of largest |R| with its sign.

    Returns:
        float64 [H, W], a new array.

    Raises:
        ValueError: another rank (a batch axis, say), no entries, NaN or Inf, an unknown `reduce`.
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
    return values.sum(axis=-1) if reduce == "sum" else values.mean(axis=-1)


def to_rgb(
    relevance: Any,
    *,
    scale: float | None = None,
    cmap: str | Colormap = RELEVANCE_CMAP,
    reduce: Reduce = "sum",
    gamma: float = 1.0,
    symmetric: bool = True,
) -> np.ndarray:
    """Relevance as a picture.

    Args:
        relevance: one sample, [H, W] or [H, W, C].
        scale: the |R| at the ends of the colour map; None takes the largest of this map. Larger values are clipped.
        cmap: one of `PALETTES`, any other name of a matplotlib colour map, or a Colormap.
        reduce: how channels become one value, see `reduce_channels`.
        gamma: colours show sign(v)·|v|^gamma of v = R / scale; below 1 it brings out faint relevance.
        symmetric: the map spans -scale..scale, so that zero has its middle colour. False: it spans the smallest to
            the largest value, and zero has no fixed colour.

    Returns:
        uint8 [H, W, 3], RGB. Equal values, zeros for instance, are all of the middle colour.

    Raises:
        ValueError: see `reduce_channels`; scale or gamma not positive, scale with symmetric=False, unknown cmap.
        TypeError: cmap is neither a name nor a Colormap.
    """
    values = reduce_channels(relevance, reduce)
    return colour(values, limits(values, scale, symmetric), cmap, gamma)


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
    # Always a new object: a Colormap fills its table at first use, and threads may share this one.
    return cmap.resampled(COLOURS)


def limits(values: np.ndarray, scale: float | None, symmetric: bool = True) -> tuple[float, float]:
    """The values at the two ends of the colour map.

    Raises:
        ValueError: scale not positive and finite, or together with symmetric=False.
    """
    if scale is not None and not 0 < scale < np.inf:
        raise ValueError(f"Expected scale > 0 or None. Received: scale={scale!r}")
    if symmetric:
        scale = float(scale or np.abs(values).max() or 1.0)
        return -scale, scale
    if scale is not None:
        raise ValueError(
            f"Expected scale=None with symmetric=False, where colours span the smallest to the largest value. "
            f"Received: scale={scale!r}. Remedy: symmetric=True"
        )
    return float(values.min()), float(values.max())


def strength(values: np.ndarray, ends: tuple[float, float], gamma: float) -> np.ndarray:
    """Values on the unit scale, -1..1, after gamma: how strongly they show.

    Raises:
        ValueError: gamma not positive.
    """
    if not 0 < gamma < np.inf:
        raise ValueError(f"Expected gamma > 0. Received: gamma={gamma!r}")
    with np.errstate(over="ignore"):  # a tiny scale: clipped below
        unit = np.clip(values / (max(np.abs(ends)) or 1.0), -1.0, 1.0)
    return unit if gamma == 1 else np.copysign(np.abs(unit) ** gamma, unit)


def colour(values: np.ndarray, ends: tuple[float, float], cmap: str | Colormap, gamma: float) -> np.ndarray:
    """Values [...] -> uint8 [..., 3], with the two ends of the colour map at the two values `ends`."""
    table = np.rint(colormap(cmap)(np.arange(COLOURS))[:, :3] * 255.0).astype(np.uint8)
    shown = strength(values, ends, gamma)
    low, high = strength(np.array(ends), ends, gamma)
    if low == high:
        return table[np.full(values.shape, COLOURS // 2)]
    return table[np.rint((shown - low) / (high - low) * (COLOURS - 1)).astype(np.int16)]

"""Perturbation as pictures: curves with bands, what is flipped at each step, and the flipped samples themselves.

    from lrp_tf.evaluate import plots

matplotlib is imported with this module, which `lrp_tf.evaluate` does not import.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrp_tf import heatmap
from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate.curves import Curve, Of, Perturbation
from lrp_tf.evaluate.perturbation import Step
from lrp_tf.evaluate.protocol import Array
from lrp_tf.heatmap.files import require_format, write_figure
from lrp_tf.heatmap.texts import TEXT_STYLE

Band = Literal["error", "quartiles"] | None
# A sample [H, W, C] -> what `heatmap.image_to_rgb` takes: undoes a preprocessing, for instance.
AsImage = Callable[[np.ndarray], np.ndarray]

_NAMES = {"morf": "most relevant first", "lerf": "least relevant first", "random": "random order"}
_COLOURS = {"morf": "#c0392b", "lerf": "#1f4e79", "random": "#7f8c8d"}
_OTHERS = ("#e67e22", "#16a085", "#8e44ad", "#2c3e50", "#b7950b", "#d35400")
_DPI = 120


def curves(
    path: str | os.PathLike, found: Curve | Mapping[str, Curve], *, of: Of | None = None, band: Band = "error",
    title: str = "",
) -> Path:  # fmt: skip
    """Save the mean curve of all samples by the share of flipped regions, with a band.

    Args:
        path: file to write, see `heatmap.save`.
        found: a curve; a `Perturbation`, whose area between "lerf" and "morf" is shaded; or curves under names of
            your own, such as explainers.
        of: see `Curve.values`.
        band: "error": the mean and its standard error; "quartiles": the median and the quartiles of the samples; None.
        title: text above.

    Returns:
        `path`.

    Raises:
        ValueError: nothing to draw, an unknown band, `of` or format; see `Curve.values`.
    """
    path = require_format(path)
    named = {found.order: found} if isinstance(found, Curve) else dict(found)
    if not named:
        raise ValueError("expected a curve. Received: none")
    drawing = Figure(figsize=(6, 4), dpi=_DPI, facecolor="white", layout="constrained")
    axes = drawing.subplots()
    if isinstance(found, Perturbation) and {"morf", "lerf"} <= set(found):
        low, high = (_middle(found[order].values(of), band) for order in ("morf", "lerf"))
        area = f"area between them: {found.srg(of).mean():.3f}"
        axes.fill_between(found["morf"].fraction, low, high, color="0.92", linewidth=0, label=area)
    _draw(axes, named, of, band)
    counts = sorted({len(curve) for curve in named.values()})
    n = " to ".join(map(str, counts))
    words = {"error": f"mean of n = {n}, ± its standard error", "quartiles": f"median and quartiles of n = {n}"}
    axes.set_title(
        "\n".join(filter(None, [title, words.get(band or "", f"mean of n = {n}")])), fontsize=9, **TEXT_STYLE
    )
    axes.legend(fontsize=8, frameon=False)
    return write_figure(path, drawing)


def flips(path: str | os.PathLike, curve: Curve, *, title: str = "") -> Path:
    """Save how many regions are flipped at each step.

    Raises:
        ValueError: an unknown format.
    """
    path = require_format(path)
    drawing = Figure(figsize=(6, 3), dpi=_DPI, facecolor="white", layout="constrained")
    axes = drawing.subplots()
    new = np.diff(curve.flips)
    axes.bar(np.arange(1, len(new) + 1), new, color=_COLOURS["lerf"], width=0.8)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("regions flipped", fontsize=9)
    axes.set_title(
        title or f"{curve.flips[-1]} of {curve.regions} regions in {len(new)} steps", fontsize=9, **TEXT_STYLE
    )
    _plain(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return write_figure(path, drawing)


def strip(
    path: str | os.PathLike, steps: Iterable[Step], *, sample: int = 0, pictures: int = 8,
    image: AsImage | None = None, channel_axis: int | None = -1, title: str = "",
) -> Path:  # fmt: skip
    """Save one sample from whole to flipped, in a row.

        plots.strip("flipped.png", evaluate.perturb_steps(x, relevance))

    Args:
        path: file to write, see `heatmap.save`.
        steps: from `perturb_steps`. sample: which of the batch.
        pictures: at most so many of the steps, evenly spaced, the first and the last among them.
        image: makes a picture of a sample [H, W, C]; None: the range of the whole sample becomes 0..1.
        channel_axis: of the samples, as for `perturb_steps`.
        title: text above.

    Returns:
        `path`.

    Raises:
        ValueError: samples that are no pictures, no such sample, no steps, fewer than two pictures.
    """
    if not is_whole(pictures) or pictures < 2:
        whole = "" if is_whole(pictures) else ", a whole number"
        raise ValueError(f"pictures expects at least 2{whole}. Received: {pictures!r}")
    every = _one(steps, sample)
    chosen = np.unique(np.rint(np.linspace(0, len(every) - 1, pictures)).astype(int))
    shown = _pictures([every[k][2] for k in chosen], every[0][2], image, channel_axis)
    labels = [f"{every[k][1]:.0%} flipped" if every[k][1] else "whole" for k in chosen]
    return heatmap.grid(path, [shown], labels=labels, titles=[title] if title else None, tile_inches=1.6)


def panel(
    path: str | os.PathLike, steps: Iterable[Step], relevance: Array, found: Curve | Perturbation, *, sample: int = 0,
    share: float = 0.2, of: Of | None = None, image: AsImage | None = None, channel_axis: int | None = -1,
    title: str = "",
) -> Path:  # fmt: skip
    """Save picture, map, flipped picture and curve of one sample, two by two.

        steps = evaluate.perturb_steps(x, relevance)
        found = evaluate.perturb(predict, x, relevance, target, order=["morf", "lerf"])
        plots.panel("panel.png", steps, relevance, found)

    Args:
        path, steps, sample, image, channel_axis, title: see `strip`.
        relevance: of the batch. found: its curves.
        share: the flipped picture is that of the step that has flipped nearest to this share of its regions.
        of: see `Curve.values`.

    Returns:
        `path`.

    Raises:
        ValueError: see `strip` and `Curve.values`.
    """
    path = require_format(path)
    every = _one(steps, sample)
    named = {found.order: found} if isinstance(found, Curve) else dict(found)
    curve = next(iter(named.values()))
    nearest = min(range(len(every)), key=lambda k: abs(every[k][0] / curve.regions - share))
    whole, flipped = _pictures([every[0][2], every[nearest][2]], every[0][2], image, channel_axis)
    values = np.asarray(relevance)[sample]
    if values.ndim == 3 and channel_axis is not None:
        values = np.moveaxis(values, channel_axis - 1 if channel_axis > 0 else channel_axis, -1)
    drawing = Figure(figsize=(7, 6.6), dpi=_DPI, facecolor="white", layout="constrained")
    places = drawing.subplots(2, 2)
    flipped_share = every[nearest][0] / curve.regions
    titles = ("picture", "relevance", f"{flipped_share:.0%} of the regions flipped")
    for axes, pixels, words in zip(places.flat, (whole, heatmap.to_rgb(values), flipped), titles, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(words, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    alone = {name: _row(curve, sample) for name, curve in named.items()}
    places[1, 1].axvline(flipped_share, color="0.8", linewidth=1)
    _draw(places[1, 1], alone, of, None)
    places[1, 1].legend(fontsize=8, frameon=False)
    places[1, 1].set_box_aspect(1)
    if title:
        drawing.suptitle(title, fontsize=10, **TEXT_STYLE)
    return write_figure(path, drawing)


def _draw(axes: Axes, named: dict[str, Curve], of: Of | None, band: Band) -> None:
    if band not in ("error", "quartiles", None):
        raise ValueError(f'band expects "error", "quartiles" or None. Received: {band!r}')
    if of is None and len({curve.probabilities is None for curve in named.values()}) > 1:
        raise ValueError(
            "expected curves of one kind. Received: of some the probabilities, of others the scores alone. Remedy: "
            'of="scores"'
        )
    others = iter(_OTHERS * len(named))
    for name, curve in named.items():
        values, colour = curve.values(of), _COLOURS.get(name) or next(others)
        low, high = _band(values, band)
        axes.fill_between(curve.fraction, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(curve.fraction, _middle(values, band), color=colour, linewidth=1.6, label=_NAMES.get(name, name))
    known = any(curve.probabilities is not None for curve in named.values()) and of != "scores"
    axes.set_xlabel("share of regions flipped", fontsize=9)
    axes.set_ylabel("probability of the target" if known else "score of the target", fontsize=9)
    axes.set_xlim(0, max(curve.fraction[-1] for curve in named.values()))
    if known:
        axes.set_ylim(0, None)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _middle(values: np.ndarray, band: Band) -> np.ndarray:
    return np.median(values, axis=0) if band == "quartiles" else values.mean(axis=0)


def _band(values: np.ndarray, band: Band) -> tuple[np.ndarray, np.ndarray]:
    if band == "quartiles":
        low, high = np.quantile(values, [0.25, 0.75], axis=0)
        return low, high
    error = values.std(axis=0, ddof=1) / len(values) ** 0.5 if band and len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0) - error, values.mean(axis=0) + error


def _row(curve: Curve, sample: int) -> Curve:
    """The curve of one sample."""
    known = None if curve.probabilities is None else curve.probabilities[[sample]]
    return Curve(curve.order, curve.scores[[sample]], known, curve.flips, curve.regions)


def _one(steps: Iterable[Step], sample: int) -> list[tuple[int, float, np.ndarray]]:
    """(regions flipped, share of positions flipped, the sample) of each step."""
    found = []
    for step in steps:
        if not 0 <= sample < len(step.x):
            raise ValueError(f"sample expects 0 to {len(step.x) - 1}. Received: {sample}")
        found.append((step.flips, 1 - step.keep[sample].mean(), step.x[sample]))
    if not found:
        raise ValueError("steps expects an iterator of perturb_steps that has not been read. Received: no steps")
    return found


def _pictures(
    samples: list[np.ndarray], whole: np.ndarray, image: AsImage | None, channel_axis: int | None
) -> list[np.ndarray]:
    """RGB pictures of samples; all in the range of the whole one."""
    if whole.ndim != (2 if channel_axis is None else 3):
        raise ValueError(f"expected pictures, [B, H, W, C]. Received: samples of shape {whole.shape}")
    if channel_axis is not None:
        axis = channel_axis - 1 if channel_axis > 0 else channel_axis
        samples, whole = [np.moveaxis(sample, axis, -1) for sample in samples], np.moveaxis(whole, axis, -1)
    low, high = float(whole.min()), float(whole.max())
    made = image or (lambda sample: np.clip((sample - low) / ((high - low) or 1.0), 0, 1))
    return [heatmap.image_to_rgb(made(sample)) for sample in samples]

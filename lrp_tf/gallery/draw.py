"""The pictures of one photograph, and what became of its score in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrp_tf import composites, heatmap
from lrp_tf.atomic import atomic
from lrp_tf.explainer import Explainer
from lrp_tf.files.images import Fit
from lrp_tf.gallery.stream import Photograph
from lrp_tf.heatmap.look import TILE, Look


def first_stride(explainer: Explainer) -> int:
    """The largest stride of the convolutions that touch the input; 1 if none has one. For `smooth="auto"`."""
    graph = explainer.graph
    strides = [getattr(step.op, "strides", 1) for step in composites.first().select(graph)]
    return max((int(np.max(stride)) for stride in strides), default=1)


def numbered(count: int) -> list[str]:
    """What tells the files of `count` targets apart, between their name and suffix."""
    return [f".{i + 1}" for i in range(count)] if count > 1 else [""]


def suffixes(look: Look, count: int, save_relevance: bool) -> list[str]:
    """What follows the name of a photograph in the names of its files, for `count` targets."""
    numbers = numbered(count)
    found = [f".{look.format}"] if "side-by-side" in look.styles else []
    for style in ("overlay", "heatmap"):
        if style in look.styles:
            found += [f".{style}{number}.{look.format}" for number in numbers]
    return [*found, ".npy"] if save_relevance else found


def save_array(base: Path, relevance: np.ndarray) -> None:
    """Write relevance [k, H, W, C] as an array; of a single target [H, W, C]."""
    array = relevance[0] if len(relevance) == 1 else relevance
    atomic(Path(f"{base}.npy"), lambda path: np.save(path, array))


def draw(
    base: Path,
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    photograph: Photograph,
    *,
    look: Look,
    fit: Fit,
    run: float | None = None,
) -> None:
    """Write the pictures of one photograph.

    Args:
        base: the path of the pictures without suffix, see `suffixes`.
        maps: what `Paint.values` makes of the relevance of each target, [h, w] in the geometry of the model's input.
        titles: one for each map.
        fit: brings maps to the geometry of the photograph.
        run: the |R| of full colour if `look.scale` is "run".

    Raises:
        OSError: the folder cannot be written.
        ValueError: see `heatmap.save`, `Photograph.pixels`.
    """
    if "side-by-side" in look.styles:
        shown = [fit.restore(m, photograph.shown.shape[:2]) for m in maps]
        _side_by_side(base, shown, titles, look, photograph.shown, run)
    full = [] if set(look.styles) <= {"side-by-side"} else [fit.restore(m, photograph.size) for m in maps]
    for style in ("overlay", "heatmap"):
        if style not in look.styles:
            continue
        image = photograph.pixels() if style == "overlay" else None
        for m, scale, number in zip(full, look.scales(full, run), numbered(len(maps)), strict=True):
            heatmap.save(
                f"{base}.{style}{number}.{look.format}",
                m,
                image=image,
                style=style,
                scale=scale,
                gamma=look.gamma,
                show=look.show,
                cmap=look.cmap,
                colorbar=look.colorbar,
                dpi=look.dpi,
            )


def _side_by_side(
    base: Path, maps: list[np.ndarray], titles: Sequence[str], look: Look, shown: np.ndarray, run: float | None
) -> None:
    sheet([(maps, ["", *titles])], shown, Path(f"{base}.{look.format}"), look=look, run=run)


def sheet(
    rows: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]],
    shown: np.ndarray,
    path: Path,
    *,
    look: Look,
    run: float | None = None,
) -> None:
    """Write rows of maps, each beside the photograph.

    Args:
        rows: maps [H, W], as drawn and in the geometry of the photograph, and texts: one above the photograph, and one
            above each map.
        shown: the photograph, uint8 [H, W, 3].
        run: the |R| of full colour if `look.scale` is "run".
    """
    paint, more = look.paint(1), ", smoothed" if look.smooth else ""
    pictures, texts, bars = [], [], []
    for maps, (head, *titles) in rows:
        scales = look.scales(maps, run)
        paints = [dataclasses.replace(paint, scale=scale, smooth=None) for scale in scales]
        drawn = [heatmap.to_rgb(m, **dataclasses.asdict(p)) for m, p in zip(maps, paints, strict=True)]
        pictures.append([shown, *drawn])
        bars += [None, *(heatmap.Bar(p.ends(m), p.palette(), look.gamma) for m, p in zip(maps, paints, strict=True))]
        full = [f"{text}\nfull colour: |R| = {scale:.3g}{more}" for text, scale in zip(titles, scales, strict=True)]
        texts.append([head, *full])
    shown_bars = bars if look.colorbar else None
    heatmap.grid(path, pictures, titles=texts, tile_inches=TILE, bars=shown_bars, dpi=look.dpi)


def where_it_went(
    start: float, arrived: float, bias: float, stabilizer: float, other: float, *, at: str = "the pixels"
) -> str:
    """What became of a score, in words: "0 % of the score arrives at the pixels, biases absorb 99 %".

    Args:
        start, arrived, bias, stabilizer, other: the first five entries of `Conservation` for one sample and target.
        at: what the model's input is.
    """
    if not start or not np.isfinite([start, arrived, bias, stabilizer, other]).all():
        return f"relevance of {arrived:.3g} arrives at {at}"
    words = [f"{_share(arrived / start, ' of the score')} arrives at {at}"]
    takers = {"biases": bias, "stabilizers": stabilizer, "other mechanisms": other}
    for name, taken in takers.items():
        share = taken / start
        if abs(share) >= 0.005:
            words.append(f"{name} {'absorb' if share > 0 else 'add'} {_share(abs(share))}")
    return ", ".join(words)


def _share(share: float, of: str = "") -> str:
    if abs(share) >= 10:
        return f"{share:.3g} times the score"
    digits = 1 if 0.0005 <= abs(share) < 0.0995 else 0
    return f"{100 * share:.{digits}f} %".replace("-0 %", "0 %") + of

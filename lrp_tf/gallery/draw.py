"""How the relevance of one photograph is drawn, with what people must know to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lrp_tf import composites, heatmap
from lrp_tf.explainer import Explainer
from lrp_tf.files.images import Fit
from lrp_tf.heatmap.look import TILE, Look


def first_stride(explainer: Explainer) -> int:
    """The largest stride of the convolutions that touch the input; 1 if none has one. For `smooth="auto"`."""
    graph = explainer.graph
    strides = [getattr(step.op, "strides", 1) for step in composites.first().select(graph)]
    return max((int(np.max(stride)) for stride in strides), default=1)


def draw(
    base: Path,
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    look: Look,
    fit: Fit,
    size: tuple[int, int],
    shown: np.ndarray,
    whole: Callable[[], np.ndarray],
    run: float | None = None,
) -> None:
    """Write the pictures of one photograph, named `base` and more.

    Args:
        maps: what `Paint.values` makes of the relevance of each target, in the geometry of the model's input.
        titles: one for each.
        fit: brings maps to the geometry of the photograph.
        size: (height, width) of the photograph.
        shown: the photograph as drawn beside its heatmaps, uint8 [H, W, 3].
        whole: gives all its pixels, for overlays.
        run: the |R| of full colour if `look.scale` is "run".
    """
    if "side-by-side" in look.styles:
        _side_by_side(base, [fit.restore(m, shown.shape[:2]) for m in maps], titles, look, shown, run)
    colours = {"gamma": look.gamma, "show": look.show, "cmap": look.cmap, "colorbar": look.colorbar, "dpi": look.dpi}
    full = [] if set(look.styles) <= {"side-by-side"} else [fit.restore(m, size) for m in maps]
    for style in ("overlay", "heatmap"):
        if style not in look.styles:
            continue
        image = whole() if style == "overlay" else None
        for k, (m, scale) in enumerate(zip(full, look.scales(full, run), strict=True)):
            number = f".{k + 1}" if len(maps) > 1 else ""
            path = f"{base}.{style}{number}.{look.format}"
            heatmap.save(path, m, image=image, style=style, scale=scale, **colours)


def _side_by_side(
    base: Path, maps: list[np.ndarray], titles: Sequence[str], look: Look, shown: np.ndarray, run: float | None
) -> None:
    paint, scales = look.paint(1), look.scales(maps, run)
    paints = [dataclasses.replace(paint, scale=scale, smooth=None) for scale in scales]
    drawn = [heatmap.to_rgb(m, **dataclasses.asdict(p)) for m, p in zip(maps, paints, strict=True)]
    bars = [None, *(heatmap.Bar(p.ends(m), p.palette(), look.gamma) for m, p in zip(maps, paints, strict=True))]
    more = ", smoothed" if look.smooth else ""
    titles = [f"{title}\nfull colour: |R| = {scale:.3g}{more}" for title, scale in zip(titles, scales, strict=True)]
    heatmap.grid(
        Path(f"{base}.{look.format}"),
        [[shown, *drawn]],
        titles=[["", *titles]],
        tile_inches=TILE,
        bars=bars if look.colorbar else None,
        dpi=look.dpi,
    )


def where_it_went(start: float, arrived: float, bias: float, stabilizer: float, other: float) -> str:
    """What became of a score, in words: "0 % of the score arrives at the pixels, biases absorb 99 %".

    Args:
        start, ...: as `lrp_tf.explainer.Conservation` has them, of one sample and target.
    """
    if not start or not np.isfinite([start, arrived, bias, stabilizer, other]).all():
        return f"relevance of {arrived:.3g} arrives at the pixels"
    words = [f"{_share(arrived / start, ' of the score')} arrives at the pixels"]
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

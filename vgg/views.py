"""Findings -> pictures: the frame beside its heatmap, in colours that keep their meaning from frame to frame."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from explaining import Explaining, Finding, Shot
from filming import padded
from PIL import Image, ImageDraw, ImageFont

from lrp_tf import heatmap
from lrp_tf.heatmap.colours import limits

STYLES = ("side-by-side", "overlay")
SETTLE = 1.0  # seconds in which the scale follows most of a change
RISING = 4  # times as fast where relevance grows, since colours that are clipped show nothing
SHORTEST, TALLEST = 240, 480  # pixels of a frame, if nothing else is asked for
_GAP, _DARK, _LIGHT = 4, 24, 236


class Scale:
    """The |R| of full colour of each frame.

    Args:
        chosen: a number; "99%", the quantile of |R|, which follows the film slowly, so that colours do not flicker;
            "frame" or "frame:99%", the largest |R| of each frame by itself, or that quantile.

    Raises:
        ValueError: anything else.
    """

    def __init__(self, chosen: float | str = "99%", settle: float = SETTLE) -> None:
        self.chosen, self.settle = chosen, settle
        self._log: float | None = None
        self._time = 0.0
        self._each = isinstance(chosen, str) and chosen.startswith("frame")
        self._quantile: float | str | None = chosen
        if isinstance(chosen, str) and self._each:
            self._quantile = chosen.removeprefix("frame").removeprefix(":") or None
        limits(np.zeros((1, 1)), self._quantile)  # refuses what it does not know

    def __call__(self, values: np.ndarray, now: float) -> float:
        """The scale of the map [h, w] of a frame at a time in seconds; times grow."""
        if not isinstance(self.chosen, str):
            return float(self.chosen)
        if not values.any():  # nothing to see, and nothing to follow
            return 1.0 if self._log is None or self._each else float(np.exp(self._log))
        own = limits(values, self._quantile)[1]
        if self._each:
            return own
        # Sizes of relevance differ by factors: their logarithm is followed, at the same pace at any rate of frames.
        before = np.log(own) if self._log is None else self._log
        passed = max(now - self._time, 0.0) * (RISING if np.log(own) > before else 1)
        self._log, self._time = before - np.expm1(-passed / self.settle) * (np.log(own) - before), now
        return float(np.exp(self._log))


class Rate:
    """Frames per second, averaged over the last seconds."""

    def __init__(self, settle: float = 2.0) -> None:
        self.settle, self.value = settle, 0.0
        self._last: float | None = None

    def __call__(self, count: int, now: float | None = None) -> float:
        """Count frames that are done; returns the rate."""
        now = time.perf_counter() if now is None else now
        if self._last is not None and now > self._last:
            passed = now - self._last
            pace = 1.0 if not self.value else -np.expm1(-passed / self.settle)
            self.value += pace * (count / passed - self.value)
        self._last = now
        return self.value


class Caption(NamedTuple):
    """Below a panel: a text on the left, shortened where it is too long, and one on the right."""

    left: str
    right: str = ""


@dataclasses.dataclass(frozen=True)
class View:
    """A frame and its heatmap, uint8 [H, W, 3] each, with a caption each."""

    panels: Sequence[np.ndarray]
    captions: Sequence[Caption]
    encoded: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def picture(self, layout: str = "row") -> np.ndarray:
        """uint8, even sides: the panels beside one another ("row") or below one another ("column")."""
        return self._row if layout == "row" else self._column

    @functools.cached_property
    def _captioned(self) -> list[np.ndarray]:
        strips = (strip(c, p.shape[1], p.shape[0]) for p, c in zip(self.panels, self.captions, strict=True))
        return [np.concatenate([panel, below]) for panel, below in zip(self.panels, strips, strict=True)]

    @functools.cached_property
    def _row(self) -> np.ndarray:
        first, second = self._captioned
        gap = np.full((len(first), _GAP, 3), _DARK, np.uint8)
        return padded(np.concatenate([first, gap, second], axis=1))

    @functools.cached_property
    def _column(self) -> np.ndarray:
        return padded(np.concatenate(self._captioned))

    def jpeg(self, layout: str) -> bytes:
        """The picture as JPEG."""
        if layout not in self.encoded:
            pixels = cv2.cvtColor(self.picture(layout), cv2.COLOR_RGB2BGR)
            self.encoded[layout] = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        return self.encoded[layout]


def view(shot: Shot, finding: Finding, scale: float, rate: float, explaining: Explaining, style: str) -> View:
    """The view of a frame.

    Args:
        scale: the |R| of full colour.
        rate: frames per second, drawn in.
    """
    shown = shot.shown
    values = explaining.fit.restore(finding.values, shown.shape[:2])
    paint = dataclasses.replace(explaining.paint, scale=scale, smooth=None, stride=None)
    drawn = vars(paint)
    second = heatmap.overlay(shown, values, **drawn) if style == "overlay" else heatmap.to_rgb(values, **drawn)
    top, target = finding.best[0], finding.target
    why = f"why {explaining.name(target) if target == top else titled(explaining, finding, target)}"
    why = f"absurd: {finding.warning}" if finding.warning else why
    speed = f"{rate:.1f} frames/s" if rate else ""
    captions = [Caption(titled(explaining, finding, top), speed), Caption(why, f"full colour {scale:.2g}")]
    return View([shown, second], captions)


def titled(explaining: Explaining, finding: Finding, index: int) -> str:
    """A class with its probability, or its score where the model gives none."""
    chance = finding.chance(index)
    score = f"{finding.logits[index]:.2f}" if chance is None else f"{100 * chance:.0f} %"
    return f"{explaining.name(index)} {score}"


def shown_size(size: tuple[int, ...], height: int | None) -> tuple[int, int]:
    """(H, W) of a frame in the film: `height`, else the source's own within bounds; proportions stay."""
    rows, columns = size
    height = height or min(max(rows, SHORTEST), TALLEST)
    return height, max(1, round(columns * height / rows))


@functools.lru_cache(maxsize=8)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    # Matplotlib brings a font with the letters of most languages.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), pixels)


def strip(caption: Caption, width: int, height: int) -> np.ndarray:
    """A caption as a picture of that width, uint8 [h, width, 3], for a panel of that height."""
    pixels = int(np.clip(height // 18, 11, 40))
    font, rows, edge = _font(pixels), 2 * (pixels * 9 // 10), pixels // 2
    picture = Image.new("RGB", (width, rows), (_DARK,) * 3)
    pen = ImageDraw.Draw(picture)
    right = font.getlength(caption.right)
    room = width - 2 * edge - (right + edge if right else 0)
    left = caption.left
    while left and font.getlength(left) > room:
        left = left.removesuffix("…")[:-1].rstrip() + "…" if len(left) > 1 else ""
    pen.text((edge, rows // 2), left, fill=(_LIGHT,) * 3, font=font, anchor="lm")
    pen.text((width - edge, rows // 2), caption.right, fill=(_LIGHT,) * 3, font=font, anchor="rm")
    return np.asarray(picture)

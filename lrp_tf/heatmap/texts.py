"""Texts of the caller, unchanged: "$" is a dollar sign, and a character that the font lacks becomes "?"."""

from __future__ import annotations

import functools
import textwrap
from typing import TypedDict

from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg


class TextStyle(TypedDict):
    """The arguments of matplotlib that every text is drawn with."""

    parse_math: bool
    usetex: bool
    color: str


TEXT_STYLE: TextStyle = {"parse_math": False, "usetex": False, "color": "black"}  # "$" starts no mathematics


@functools.lru_cache(maxsize=32)
def _characters(font: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font).get_charmap())


def _fonts() -> list[str]:
    """The fonts that matplotlib uses at present: the first of each family that is installed, or the default."""
    found: list[str] = []
    for family in font_manager.FontProperties().get_family():
        try:
            found.append(font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False))
        except ValueError:
            continue
    return found or [font_manager.findfont(font_manager.FontProperties())]


def drawable(text: object) -> str:
    """The text with "?" in place of what the font lacks, so that matplotlib does not warn. Line breaks stay."""
    known = frozenset[int]().union(*map(_characters, _fonts()))
    lines = "\n".join(str(text).expandtabs(4).splitlines())
    return "".join(c if c == "\n" or ord(c) in known else "?" for c in lines)


def width(text: str, size: float) -> float:
    """Inches that the widest line takes at that font size."""
    renderer, font = RendererAgg(1, 1, 72), font_manager.FontProperties(size=size)
    return max(renderer.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")) / 72


def wrapped(text: object, inches: float, size: float) -> str:
    """The text with line breaks such that no line is wider than `inches`, see `drawable`."""
    lines = []
    for line in drawable(text).split("\n"):
        taken = width(line, size)
        # Letters differ in width, hence a tenth less.
        letters = len(line) if taken <= inches else max(1, int(0.9 * len(line) * inches / taken))
        lines += textwrap.wrap(line, letters) if taken > inches else [line]
    return "\n".join(lines)

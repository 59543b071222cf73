"""Texts of the caller, unchanged: "$" is a dollar sign, and a character that the font lacks becomes "?".

The fonts are those that matplotlib uses at present, DejaVu Sans by default, which comes with it. Pillow measures and
draws the letters of pictures; in figures matplotlib does.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import textwrap
import unicodedata
from typing import TypedDict

import numpy as np
from matplotlib import font_manager, rcParams
from PIL import Image, ImageDraw, ImageFont, features


class TextStyle(TypedDict):
    """The arguments of matplotlib that every text is drawn with."""

    parse_math: bool
    usetex: bool
    color: str


TEXT_STYLE: TextStyle = {"parse_math": False, "usetex": False, "color": "black"}  # "$" starts no mathematics
POINTS = 72  # in an inch
ASCENT, DESCENT = 0.93, 0.24  # of DejaVu Sans, shares of the font size
PITCH = 1.28  # from one line to the next
_MEASURED = 100  # pixels per inch at which widths are measured; letters are spaced by whole pixels


@functools.lru_cache(maxsize=32)
def _characters(font: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font).get_charmap())


def _fonts() -> tuple[str, ...]:
    """The fonts that matplotlib uses at present: the first of each family that is installed, or the default."""
    lists = [rcParams["font.serif"], rcParams["font.sans-serif"], rcParams["font.cursive"]]
    lists += [rcParams["font.fantasy"], rcParams["font.monospace"]]
    return _found(tuple(rcParams["font.family"]), tuple(map(tuple, lists)))


@functools.lru_cache(maxsize=32)
def _found(families: tuple[str, ...], listed: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """The files of the fonts; `listed` are what families such as "serif" stand for."""
    found: list[str] = []
    for family in families:
        try:
            found.append(font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False))
        except ValueError:
            continue
    return tuple(found) or (font_manager.findfont(font_manager.FontProperties()),)


def drawable(text: object) -> str:
    """The text with "?" in place of what the font lacks, so that matplotlib does not warn. Line breaks stay."""
    known = [_characters(font) for font in _fonts()]
    lines = "\n".join(str(text).expandtabs(4).splitlines())
    return "".join(c if c == "\n" or any(ord(c) in font for font in known) else "?" for c in lines)


def width(text: str, size: float) -> float:
    """Inches that the widest line takes at that font size."""
    return max(_length(line, size * _MEASURED / POINTS) for line in text.split("\n")) / _MEASURED


def wrapped(text: object, inches: float, size: float) -> str:
    """The text with line breaks such that no line is wider than `inches`, see `drawable`."""
    lines = []
    for line in drawable(text).split("\n"):
        taken = width(line, size)
        # Letters differ in width, hence a tenth less.
        lines += [line] if taken <= inches else _balanced(line, max(1, int(0.9 * len(line) * inches / taken)))
    return "\n".join(lines)


def _balanced(line: str, letters: int) -> list[str]:
    """As few lines as it takes with that many letters in a line, of about the same length."""
    line = line.replace(" %", "\N{NO-BREAK SPACE}%")  # a number and its unit stay together
    lines = textwrap.wrap(line, letters)
    for fewer in range(-(-len(line) // max(len(lines), 1)), letters, 4):
        if len(narrower := textwrap.wrap(line, fewer)) == len(lines):
            lines = narrower
            break
    return [part.replace("\N{NO-BREAK SPACE}%", " %") for part in lines]


# --- letters -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Letters:
    """Drawn lines: `ink` uint8 [h, w], 255 where a letter is; `middle`, the row of the middle of the first line."""

    ink: np.ndarray
    middle: int

    @property
    def width(self) -> int:
        return self.ink.shape[1]

    def turned(self) -> Letters:
        """To be read from below."""
        return Letters(np.rot90(self.ink), self.middle)


def written(text: str, size: float, dpi: float) -> Letters:
    """Lines of `drawable` text, each centred, at a font size in points."""
    pixels = size * dpi / POINTS
    lines = text.split("\n") if text else []
    lengths = [_length(line, pixels) for line in lines]
    pitch, ascent = round(PITCH * pixels), round(ASCENT * pixels)
    height = ascent + round(DESCENT * pixels) + pitch * (len(lines) - 1) if lines else 0
    image = Image.new("L", (int(np.ceil(max(lengths, default=0))), height))
    pen = ImageDraw.Draw(image)
    for i, (line, length) in enumerate(zip(lines, lengths, strict=True)):
        x = float((image.width - int(length)) // 2)
        for run, font in _runs(line, pixels):
            pen.text((x, ascent + i * pitch), run, fill=255, font=font, anchor="ls")
            x += font.getlength(run)
    # A digit is 0.73 of the font size high.
    return Letters(np.asarray(image), ascent - round(0.73 * pixels / 2))


def _length(line: str, pixels: float) -> float:
    """Pixels that a line takes at a font size in pixels."""
    return sum(font.getlength(run) for run, font in _runs(line, pixels))


def _runs(line: str, pixels: float) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The line in runs of characters of one font: the first that has them."""
    # Basic layout gives sharper letters; scripts that join or run from the right need the other one.
    layout = ImageFont.Layout.BASIC if all(map(_simple, line)) or not _shapes() else ImageFont.Layout.RAQM
    fonts = _fonts()
    if len(fonts) == 1:
        return [(line, _font(fonts[0], pixels, layout))]

    def font_of(character: str) -> str:
        return next((font for font in fonts if ord(character) in _characters(font)), fonts[0])

    return [("".join(run), _font(name, pixels, layout)) for name, run in itertools.groupby(line, font_of)]


def _simple(character: str) -> bool:
    return character < "\u0300" or (
        unicodedata.bidirectional(character) not in ("R", "AL", "AN") and not unicodedata.combining(character)
    )


@functools.cache
def _shapes() -> bool:
    return bool(features.check("raqm"))


@functools.lru_cache(maxsize=64)
def _font(path: str, pixels: float, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, pixels, layout_engine=layout)

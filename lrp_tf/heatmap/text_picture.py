"""Texts in the colours of their relevance as pixels, with wrapped lines."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

import numpy as np

from lrp_tf.heatmap.layout import Bar, number
from lrp_tf.heatmap.texts import ASCENT, DESCENT, POINTS, Letters, drawable, width, wrapped, written
from lrp_tf.heatmap.words import SPACE, Word

SIZE, SMALL, HEAD = 12.0, 9.0, 10.0  # points
MARGIN, PAD, GAP = 14.0, 2.5, 3.5  # points: around the sheet, inside a box, between words
PITCH = 1.7  # from one line of words to the next, in font sizes
BAR_WIDTH, BAR_HEIGHT = 140.0, 9.0  # points


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """One text of a picture: its words, their colours uint8 [W, 3], texts above and below, the colours' meaning."""

    words: Sequence[Word]
    colours: np.ndarray
    bar: Bar
    head: str
    note: str


@dataclasses.dataclass(frozen=True)
class _Box:
    """A word, or a part of one that is longer than a line, in pixels from the upper left corner of the text."""

    letters: Letters
    colour: np.ndarray
    left: int
    line: int
    width: int
    special: bool


def drawn(paragraphs: Sequence[Paragraph], inches: float, dpi: float) -> np.ndarray:
    """uint8 [H, W, 3], one paragraph below the other."""
    sheets = [_Sheet(paragraph, inches, dpi).pixels() for paragraph in paragraphs]
    return np.concatenate(sheets)


class _Sheet:
    def __init__(self, paragraph: Paragraph, inches: float, dpi: float) -> None:
        self.paragraph, self.inches, self.dpi = paragraph, inches, dpi
        self.width = round(inches * dpi)
        self.margin = self.points(MARGIN)

    def points(self, points: float) -> int:
        return max(round(points * self.dpi / POINTS), 1)

    def pixels(self) -> np.ndarray:
        paragraph, margin = self.paragraph, self.margin
        head, note = self.lines(paragraph.head, HEAD), self.lines(paragraph.note, SMALL)
        boxes, count = self.boxes()
        pitch = self.points(PITCH * SIZE)
        first = margin + sum(line.ink.shape[0] for line in head) + self.points(GAP)
        legend = first + count * pitch + self.points(GAP)
        below = legend + self.points(2 * SMALL)
        height = below + sum(line.ink.shape[0] for line in note) + margin // 2
        canvas = np.full((height, self.width, 3), 255, np.uint8)
        for lines, top in ((head, margin), (note, below)):
            for line in lines:
                _print(canvas, line, margin, top, 0)
                top += line.ink.shape[0]
        for box in boxes:
            self.box(canvas, box, first + box.line * pitch)
        self.legend(canvas, legend)
        return canvas

    def lines(self, text: str, size: float) -> list[Letters]:
        """The lines of a text that is as wide as the sheet."""
        lines = wrapped(text, self.inches - 2 * MARGIN / POINTS, size).split("\n") if text else []
        return [written(line or " ", size, self.dpi) for line in lines]

    def boxes(self) -> tuple[list[_Box], int]:
        """The words in lines, and how many lines they take. A text that is read from the right begins there."""
        space, gap, pad = self.width - 2 * self.margin, self.points(GAP), self.points(PAD)
        found: list[_Box] = []
        across, line = 0, 0
        for word, colour in zip(self.paragraph.words, self.paragraph.colours, strict=True):
            size = SMALL if word.special else SIZE
            apart = gap if word.space else 1
            for i, part in enumerate(self.parts(drawable(word.text) or SPACE, size, space - 2 * pad)):
                letters = written(part, size, self.dpi)
                wide = letters.width + 2 * pad
                start = across + (apart if i == 0 else 0) if across else 0
                if start + wide > space and across:
                    start, line = 0, line + 1
                found.append(_Box(letters, colour, start, line, wide, word.special))
                across = start + wide
            if word.breaks:
                across, line = 0, line + 1
        if _from_the_right(self.paragraph.words):
            found = [dataclasses.replace(box, left=space - box.left - box.width) for box in found]
        return found, (found[-1].line if found else 0) + 1

    def parts(self, text: str, size: float, space: int) -> list[str]:
        """The text in parts that are no wider than a line."""
        parts = [""]
        for character in text.replace("\n", " "):
            longer = parts[-1] + character
            if parts[-1] and len(longer) * size > 12 and width(longer, size) * self.dpi > space:
                parts.append(character)
            else:
                parts[-1] = longer
        return parts

    def box(self, canvas: np.ndarray, box: _Box, top: int) -> None:
        left, tall, pad = self.margin + box.left, self.points((ASCENT + DESCENT) * SIZE) + self.points(PAD), 0
        space = canvas[top : top + tall, left : left + box.width]
        space[:] = box.colour
        if box.special:
            dash = np.arange(max(space.shape[:2])) // self.points(2) % 2 == 0
            space[0, dash[: space.shape[1]]] = space[-1, dash[: space.shape[1]]] = 110
            space[dash[: space.shape[0]], 0] = space[dash[: space.shape[0]], -1] = 110
        pad = (tall - box.letters.ink.shape[0]) // 2
        _print(canvas, box.letters, left + self.points(PAD), top + pad, 0 if dark_letters(box.colour) else 255)

    def legend(self, canvas: np.ndarray, top: int) -> None:
        """The colours between the relevance of their ends."""
        bar = self.paragraph.bar
        low, high = (number(end) for end in bar.ends)
        before, behind = (f"against {low}", f"{high} for") if bar.ends[0] < 0 else (low, high)
        wide, tall, gap = self.points(BAR_WIDTH), self.points(BAR_HEIGHT), self.points(GAP)
        left = written(before, SMALL, self.dpi)
        _print(canvas, left, self.margin, top, 0)
        x = self.margin + left.width + gap
        colours = bar.of(np.linspace(*bar.ends, wide))
        y = top + max(left.middle - tall // 2, 0)
        canvas[y : y + tall, x : x + wide] = 178
        canvas[y + 1 : y + tall - 1, x + 1 : x + wide - 1] = colours[1:-1]
        _print(canvas, written(behind, SMALL, self.dpi), x + wide + gap, top, 0)


def dark_letters(colour: np.ndarray) -> bool:
    """Whether black stands out more than white on a colour: its relative luminance (WCAG) is above 0.179."""
    share = np.asarray(colour, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return bool(linear @ (0.2126, 0.7152, 0.0722) > 0.179)


def _from_the_right(words: Sequence[Word]) -> bool:
    """Whether the first letter that has a direction is read from the right, as browsers decide it."""
    for word in words:
        for character in "" if word.special else word.text:
            if (direction := unicodedata.bidirectional(character)) in ("L", "R", "AL"):
                return direction != "L"
    return False


def _print(canvas: np.ndarray, letters: Letters, left: int, top: int, ink: int) -> None:
    """Letters in black (0) or white (255); what lies outside is cut off."""
    space = canvas[top:, left:][: letters.ink.shape[0], : letters.ink.shape[1]]
    opacity = letters.ink[: space.shape[0], : space.shape[1], None].astype(np.float32) / 255
    space[:] = np.rint(space * (1 - opacity) + ink * opacity)

"""A layout as pixels, drawn with NumPy, OpenCV and Pillow's letters: many times faster than a matplotlib figure."""

from __future__ import annotations

import cv2
import numpy as np

from lrp_tf.heatmap.files import DPI, require_dpi
from lrp_tf.heatmap.layout import LABEL, Box, Layout, Picture, PlacedBar, Text
from lrp_tf.heatmap.photographs import scaled
from lrp_tf.heatmap.texts import POINTS, Letters, written

FRAME = 178  # grey
LINE, TICK, PAD = 0.8, 3, 2  # points, as matplotlib has them: lines are wide, ticks long, numbers away from ticks


def composed(layout: Layout, dpi: float = DPI) -> np.ndarray:
    """The pixels of a layout, uint8 [H, W, 3], RGB.

    Raises:
        ValueError: dpi out of range.
    """
    canvas = _Canvas(layout, require_dpi(dpi))
    for picture in layout.pictures:
        canvas.picture(picture)
    for bar in layout.bars:
        canvas.bar(bar)
    for text in layout.texts:
        canvas.text(text)
    return canvas.pixels


class _Canvas:
    """A white sheet that is drawn on.

    Attributes:
        pixels: uint8 [H, W, 3].
    """

    def __init__(self, layout: Layout, dpi: float) -> None:
        self.dpi, self.sharper = dpi, dpi / DPI
        # The small summand makes up for rounding: 0.29 * 100 is less than 29.
        height, width = (max(int((side + 1e-6) * self.sharper), 1) for side in (layout.height, layout.width))
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self.line = max(self.points(LINE), 1)

    def points(self, points: float) -> int:
        """Points -> whole pixels."""
        return round(points * self.dpi / POINTS)

    def picture(self, picture: Picture) -> None:
        """A picture, its frame and its label."""
        top, left, height, width = self.filled(picture.box, picture.pixels)
        label = written(picture.label, LABEL, self.dpi)
        self.letters(label, left + width / 2 - label.width / 2, top + height + self.points(PAD))

    def bar(self, placed: PlacedBar) -> None:
        """A colour bar with its numbers."""
        colours = placed.bar.colours()
        top, left, height, width = self.filled(
            placed.box, colours.transpose(1, 0, 2) if placed.lying else colours[::-1], cv2.INTER_LINEAR
        )
        tick, line = self.points(TICK), self.line
        away = self.points(TICK + PAD) + line
        widest = 0
        for share, text in placed.bar.marks().items():
            number = written(text, LABEL, self.dpi)
            if placed.lying:
                x = left + round(share * (width - 1))
                self.pixels[top + height : top + height + tick + line, x : x + line] = 0
                # The next bar is near, so the numbers at the ends stay within the width of this one.
                before = 0.0 if share == 0 else 1.0 if share == 1 else 0.5
                self.letters(number, left + share * width - before * number.width, top + height + away)
                continue
            y = top + round((1 - share) * (height - 1))
            self.pixels[y : y + line, left + width : left + width + tick + line] = 0
            self.letters(number, left + width + away, y - number.middle)
            widest = max(widest, number.width)
        if not placed.lying:
            word = written("relevance", LABEL, self.dpi).turned()
            across = left + width + away + widest + self.points(PAD)
            self.letters(word, across, top + height / 2 - word.ink.shape[0] / 2)

    def text(self, text: Text) -> None:
        """Lines that are centred."""
        letters = written(text.lines, text.size, self.dpi)
        top = text.down * self.sharper - (letters.ink.shape[0] if text.edge == "bottom" else 0)
        self.letters(letters, text.across * self.sharper - letters.width / 2, top)

    def filled(self, box: Box, pixels: np.ndarray, growing: int = cv2.INTER_NEAREST) -> tuple[int, int, int, int]:
        """Draw pixels in a box and a frame around it; gives its (top, left, height, width) in pixels."""
        height, width = (max(round(side * self.sharper), 1) for side in (box.height, box.width))
        top, left, line = round(box.top * self.sharper), round(box.left * self.sharper), self.line
        self.pixels[max(top - line, 0) : top + height + line, max(left - line, 0) : left + width + line] = FRAME
        space = self.pixels[top : top + height, left : left + width]
        space[:] = scaled(pixels, (height, width), growing)[: space.shape[0], : space.shape[1]]
        return top, left, height, width

    def letters(self, letters: Letters, left: float, top: float) -> None:
        """Print letters in black; what lies outside of the sheet is cut off."""
        x, y = round(left), round(top)
        height, width = letters.ink.shape
        rows, columns = slice(max(y, 0), max(y + height, 0)), slice(max(x, 0), max(x + width, 0))
        space = self.pixels[rows, columns]
        ink = letters.ink[max(-y, 0) :, max(-x, 0) :][: space.shape[0], : space.shape[1]]
        np.minimum(space, 255 - ink[..., None], out=space)

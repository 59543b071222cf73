"""Where everything lies on a sheet: pictures in rows, their texts and colour bars. Lengths are hundredths of an inch.

All of them are whole, so that pictures are not resampled twice. `composed` draws a layout as pixels, `sheets` as a
matplotlib figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import colour
from lrp_tf.heatmap.files import DPI
from lrp_tf.heatmap.photographs import laid_over
from lrp_tf.heatmap.texts import drawable, wrapped

GAP = 10  # between pictures, and around them
TITLE, LABEL, HEAD = 9, 8, 11  # font sizes
NARROWEST = 1 / 8  # A picture of 1 x 2000 is drawn as 1 x 8; otherwise it would be invisible.
BAR = 100  # width of a colour bar with its numbers
SHORTEST_BAR = 80
BAR_BELOW = 32  # height of a colour bar below its picture, with its numbers
NARROWEST_SHEET = 200  # for the title of a tall picture


@dataclasses.dataclass(frozen=True)
class Bar:
    """A colour bar: the values at its ends, what `colour` needs, and the opacity if a photograph lies below."""

    ends: tuple[float, float]
    cmap: str | Colormap
    gamma: float
    alpha: float | None = None

    def colours(self) -> np.ndarray:
        """uint8 [256, 1, 3], from the lower end to the upper; over medium grey, if a photograph lies below."""
        values = np.linspace(*self.ends, 256)[:, None]
        if self.alpha is None:
            return colour(values, self.ends, self.cmap, self.gamma)
        return laid_over(np.full((256, 1, 3), 128, np.uint8), values, self.ends, self.cmap, self.gamma, self.alpha)

    def of(self, values: np.ndarray) -> np.ndarray:
        """The colours of values [...], uint8 [..., 3]; not over a photograph."""
        return colour(values, self.ends, self.cmap, self.gamma)

    def marks(self) -> dict[float, str]:
        """Its numbers: share of its length -> text, for the ends, and for zero if it lies between them."""
        low, high = self.ends
        marks = {0.0: low, 1.0: high} if low != high else {0.5: low}
        if low < 0 < high:
            marks[-low / (high - low)] = 0.0
        return {place: number(value) for place, value in marks.items()}


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle, from the upper left corner of the sheet."""

    left: int
    top: int
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Text:
    """Lines that are centred at `across`, with their upper or lower edge at `down`."""

    lines: str
    size: float
    across: float
    down: float
    edge: Literal["top", "bottom"]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture uint8 [h, w, 3] in its frame, with a label below."""

    pixels: np.ndarray
    box: Box
    label: str


@dataclasses.dataclass(frozen=True)
class PlacedBar:
    """A colour bar, upright with its numbers and the word "relevance" to the right, or lying with its numbers below."""

    bar: Bar
    box: Box
    lying: bool


@dataclasses.dataclass(frozen=True)
class Layout:
    """A sheet: its size, and what lies on it."""

    width: int
    height: int
    pictures: list[Picture]
    texts: list[Text]
    bars: list[PlacedBar]


def arrange(
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    titles: Sequence[str | Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    suptitle: str = "",
    tile_inches: float = 2.0,
    bar: Bar | None = None,
    bars: Sequence[Bar | None] | None = None,
    bar_row: int = 0,
    one_scale: bool = False,
) -> Layout:
    """The layout of `grid`, with `bar` beside the row `bar_row`; `one_scale`: a pixel is equally large in all pictures.

    Raises:
        ValueError: see `grid`.
    """
    pictures = [picture for row in rows for picture in row]
    columns = max((len(row) for row in rows), default=0)
    _check(pictures, len(rows), titles, tile_inches)
    tile = max(1, round(tile_inches * DPI))
    sizes = _sizes(pictures, tile, one_scale)
    cell_height, cell_width = (max(side) for side in zip(*sizes, strict=True))
    if bar:
        cell_height = max(cell_height, SHORTEST_BAR)
    inside = max(columns * (cell_width + GAP), min(tile, NARROWEST_SHEET) + GAP) + GAP  # without the colour bar

    parted = [[text] if isinstance(text, str) else list(text) for text in titles or []]
    parted = [[wrapped(text, inside / len(row) / DPI, TITLE) for text in row] for row in parted]
    named = [wrapped(text, (cell_width + GAP) / DPI, LABEL) for text in labels or []]
    suptitle = wrapped(suptitle, inside / DPI, HEAD)
    above = 19 * max((_lines(text) for row in parted for text in row), default=0)
    below = 9 + 15 * max(map(_lines, named)) if named else 0
    below += BAR_BELOW if bars else 0
    head = 15 + 20 * _lines(suptitle) if suptitle else 5

    row_height = cell_height + above + below + 12
    made = Layout(inside + (BAR if bar else 0), len(rows) * row_height + head, [], [], [])
    next_size, next_label, next_bar = iter(sizes), iter(named), iter(bars or [])
    for r, row in enumerate(rows):
        top = head + r * row_height + above
        made.texts.extend(_shared(parted[r] if parted else [], inside, top - 4))
        start = (inside - len(row) * (cell_width + GAP) + GAP) // 2
        for c, picture in enumerate(row):
            tall, wide = next(next_size)
            left, down = start + c * (cell_width + GAP) + (cell_width - wide) // 2, top + (cell_height - tall) // 2
            label, below_it = next(next_label, ""), next(next_bar, None)
            if picture is None:
                continue
            if below_it:
                place = Box(left, top + cell_height + below - BAR_BELOW + 8, wide, 9)
                made.bars.append(PlacedBar(below_it, place, lying=True))
            made.pictures.append(Picture(np.asarray(picture), Box(left, down, wide, tall), label))
    if bar:
        # A little shorter than the cell: the numbers at its ends extend beyond it.
        top = head + bar_row * row_height + above
        made.bars.append(PlacedBar(bar, Box(inside, top + 4, 12, cell_height - 8), lying=False))
    if suptitle:
        made.texts.append(Text(suptitle, HEAD, made.width / 2, 8, "top"))
    return made


def _shared(titles: Sequence[str], width: int, bottom: int) -> Iterator[Text]:
    """Titles that share a width, each centred in its part."""
    for i, lines in enumerate(titles):
        if lines.strip():
            yield Text(lines, TITLE, (i + 0.5) / len(titles) * width, bottom, "bottom")


def number(value: float) -> str:
    """Three digits, and a minus as wide as a plus."""
    return drawable(f"{value:.3g}".replace("-", "−"))


def _check(pictures: list[np.ndarray | None], rows: int, titles: Sequence[object] | None, tile_inches: float) -> None:
    """Raise ValueError for what `grid` refuses, but for pictures that are none."""
    if not any(picture is not None for picture in pictures):
        raise ValueError("Expected at least one picture. Received: none")
    if titles and len(titles) != rows:
        raise ValueError(f"Expected one title, or list of titles, per row. Received: {len(titles)} for {rows} rows")
    if not tile_inches > 0:
        raise ValueError(f"Expected tile_inches > 0. Received: {tile_inches!r}")


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _sizes(pictures: list[np.ndarray | None], tile: int, one_scale: bool) -> list[tuple[int, int]]:
    """(height, width) of each picture on the sheet; (0, 0) for a gap."""
    longest = max(_longest(picture) for picture in pictures if picture is not None) if one_scale else None
    return [(0, 0) if picture is None else _size(picture, tile, longest) for picture in pictures]


def _longest(picture: ArrayLike) -> int:
    """The longer side of a picture, in its pixels."""
    return max(np.shape(picture)[:2], default=1)


def _size(picture: ArrayLike, tile: int, longest: int | None = None) -> tuple[int, int]:
    """(height, width) of the picture on the sheet, on which `longest` pixels, its own longer side, become a tile."""
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(
            f"Expected pictures uint8 [H, W, 3]. Received: {pixels.dtype} {pixels.shape}. "
            "Remedy: to_rgb(R[0]) for relevance, image_to_rgb(x[0]) for images."
        )
    longest = longest or _longest(pixels)
    height, width = (max(round(side / longest * tile), round(NARROWEST * tile), 1) for side in pixels.shape[:2])
    return height, width

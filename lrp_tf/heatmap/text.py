"""Texts in the colours of their relevance: a page of HTML, or a picture."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from lrp_tf.atomic import atomic
from lrp_tf.heatmap import markup
from lrp_tf.heatmap.colours import Paint, Scale, Show, limits
from lrp_tf.heatmap.files import DPI, PIXELS, require_dpi, write_pixels
from lrp_tf.heatmap.layout import Bar
from lrp_tf.heatmap.text_picture import Paragraph, dark_letters, drawn
from lrp_tf.heatmap.words import Markers, Word, is_padding, markers_of, words

_STOPS = 20
_SHORT = 50  # characters


@dataclasses.dataclass(frozen=True)
class Entry:
    """One text of a page.

    Attributes:
        words: what is drawn, padding left out.
        colours: uint8 [W, 3], the colour of each word.
        bar: the colours and the relevance that they stand for.
        title: may be empty. facts: names and what they are, such as ("target", "positive").
        note: a line below.
    """

    words: tuple[Word, ...]
    colours: np.ndarray
    bar: Bar
    title: str
    facts: tuple[tuple[str, str], ...]
    note: str

    def paragraph(self) -> Paragraph:
        """What a picture shows of it."""
        # No line ends inside a short one.
        told = (f"{name}: {value}" for name, value in self.facts)
        head = "    ".join(one.replace(" ", "\u00a0") if len(one) < _SHORT else one for one in told)
        lines = [line for line in (self.title, head) if line]
        return Paragraph(self.words, self.colours, self.bar, "\n".join(lines), self.note)

    def put(self, parent: Element) -> None:
        """Add it to a page."""
        section = markup.add(parent, "section")
        if self.title:
            markup.add(section, "h2", self.title)
        if self.facts:
            markup.facts(section, self.facts)
        paper = markup.add(section, "div", class_="paper", dir="auto")
        last: Element | None = None
        for word, colour in zip(self.words, self.colours, strict=True):
            if last is not None and word.space:
                last.tail = " "
            style = f"background:#{bytes(colour).hex()};color:#{'000' if dark_letters(colour) else 'fff'}"
            kind = "w s" if word.special else "w"
            last = markup.add(paper, "span", word.text, class_=kind, style=style, title=_shares(word))
            if word.breaks:
                last = markup.add(paper, "br")
        self._legend(section)
        if self.note:
            markup.add(section, "p", self.note, class_="note")

    def _legend(self, section: Element) -> None:
        low, high = self.bar.ends
        legend = markup.add(section, "p", f"{'against ' if low < 0 else ''}{signed(low)}", class_="legend")
        stops = self.bar.of(np.linspace(low, high, _STOPS + 1))
        colours = ",".join(f"#{bytes(stop).hex()}" for stop in stops)
        bar = markup.add(legend, "span", class_="bar", style=f"background:linear-gradient(90deg,{colours})")
        bar.tail = f"{signed(high)}{' for' if low < 0 else ''}"


class Page(str):
    """A page of HTML, as a str that can also be drawn as a picture. In a notebook it shows itself.

    Attributes:
        entries: the texts on it.
    """

    entries: tuple[Entry, ...]

    def __new__(cls, entries: Sequence[Entry], title: str = "Relevance") -> Page:
        main = markup.root()
        for entry in entries:
            entry.put(main)
        page = super().__new__(cls, markup.document(title, main))
        page.entries = tuple(entries)
        return page

    def __getnewargs__(self) -> tuple:
        return (self.entries,)

    def _repr_html_(self) -> str:
        main = markup.root()
        for entry in self.entries:
            entry.put(main)
        return markup.fragment(main)

    def pixels(self, *, width: float = 8.0, dpi: float = DPI) -> np.ndarray:
        """The texts as a picture, uint8 [H, W, 3]; `width` in inches. A character that the font lacks becomes "?".

        Raises:
            ValueError: width or dpi out of range.
        """
        if not 1 <= width <= 100:
            raise ValueError(f"Expected a width from 1 to 100 inches. Received: {width!r}")
        return drawn([entry.paragraph() for entry in self.entries], width, require_dpi(dpi))

    def save(self, path: str | os.PathLike, *, width: float = 8.0, dpi: float = DPI) -> Path:
        """Write the page (.html) or the picture (.png, .jpg, .webp, ...); it appears whole or not at all.

        Raises:
            ValueError: another suffix; width or dpi out of range. OSError: the folder cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() in (".html", ".htm"):
            return atomic(path, lambda temporary: temporary.write_bytes(self.encode("utf-8")))
        if path.suffix.lower() not in PIXELS:
            raise ValueError(f"Expected a file name ending in .html, {', '.join(PIXELS)}. Received: {str(path)!r}")
        return write_pixels(path, self.pixels(width=width, dpi=dpi))


def text(
    tokens: Sequence[str] | Sequence[Sequence[str]],
    relevance: ArrayLike | Sequence[ArrayLike],
    *,
    title: str | Sequence[str] = "",
    prediction: object = None,
    target: object = None,
    score: object = None,
    contrast: object = None,
    note: str | Sequence[str] = "",
    markers: Markers = "auto",
    special: Collection[str] | None = None,
    scale: Scale = None,
    cmap: str | Colormap | None = None,
    gamma: float = 1.0,
    show: Show = "signed",
) -> Page:
    """A text, or several, in the colours of their relevance: white for none, red for the target, blue against it.

        heatmap.text(["un", "##usual", "film"], R[0], target="positive", score=2.1).save("why.html")

    Tokens become words (`words`), whose relevance is the sum of that of their tokens; the page tells both where the
    mouse rests. Special tokens have a dashed frame. Padding without relevance is left out.

    Args:
        tokens: of one text, or a list for each of several texts.
        relevance: [T], or [T, D], which is summed over D; or one of these for each text.
        title, prediction, target, score, contrast, note: what is written above and below; for several texts a list
            with one for each, or one for all. None and "" leave it out.
        markers, special: see `words`.
        scale: the |R| of full colour. None: the largest of the text's words; a number; "99%", a quantile of them;
            "page", the largest of all texts. Special tokens do not count, they often have more than all words.
        cmap, gamma, show: see `to_rgb`; "abs" sums the |R| of a word's tokens.

    Raises:
        ValueError: not as many values as tokens, NaN or Inf, lists of different lengths, no texts; see `words` and
            `to_rgb`, too.
        TypeError: tokens that are no texts.
    """
    if isinstance(tokens, (str, bytes)):
        raise TypeError(f"Expected tokens as a list of texts. Received: {tokens!r}. Remedy: tokens.split()")
    several = len(tokens) > 0 and isinstance(tokens[0], (list, tuple, np.ndarray))
    texts: list[Any] = list(tokens) if several else [tokens]
    values: Any = relevance if several else [relevance]
    if not texts or len(values) != len(texts):
        raise ValueError(f"Expected the relevance of each of {len(texts)} texts. Received: {len(values)}")
    found = _words(texts, values, markers, special)
    if scale == "page":
        scale = max(limits(_counted(one, show), None)[1] for one in found)
    paint = Paint(scale, cmap, "sum", gamma, show=show)
    named = {"prediction": prediction, "target": target, "rather than": contrast, "score": score}
    spread = {name: _spread(name, value, len(texts), several) for name, value in named.items()}
    titles, notes = (_spread(n, v, len(texts), several) for n, v in (("title", title), ("note", note)))
    return Page(
        [
            _entry(one, paint, str(titles[i]), {name: each[i] for name, each in spread.items()}, str(notes[i]))
            for i, one in enumerate(found)
        ]
    )


def _words(
    texts: Sequence[Sequence[str]], values: Sequence[ArrayLike], markers: Markers, special: Collection[str] | None
) -> list[list[Word]]:
    """The words of each text, without padding that has no relevance."""
    found = []
    # A short text may have no marker in it; then it is read as the others are.
    usual = markers_of(token for one in texts for token in one) if markers == "auto" else None
    for one, relevance in zip(texts, values, strict=True):
        own = (markers_of(one) or usual) if markers == "auto" else markers
        made = words(one, relevance, markers=own, special=special)
        found.append([word for word in made if not _left_out(word)] or made[:1])
    return found


def _spread(name: str, value: object, count: int, several: bool) -> list:
    """One for each text."""
    if not several or isinstance(value, str) or not isinstance(value, (list, tuple, np.ndarray)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"Expected {name} for each of {count} texts, or one for all. Received: {len(value)}")
    return list(value)


def _entry(found: list[Word], paint: Paint, title: str, named: dict[str, object], note: str) -> Entry:
    values = _values(found, paint.show)
    paint.values(np.zeros((1, 1)))  # raises what is wrong with `show`
    ends = paint.ends(_counted(found, paint.show))
    bar = Bar(ends, paint.palette(), paint.gamma)
    facts = [(name, _fact(value)) for name, value in named.items() if value is not None and str(value)]
    total, apart = (math.fsum(w.relevance for w in found if w.special >= only) for only in (False, True))
    if any(word.special for word in found):
        facts.append(("relevance", f"{signed(total)}, special tokens {signed(apart)} of it"))
    else:
        facts.append(("relevance", signed(total)))
    return Entry(tuple(found), bar.of(values), bar, title, tuple(facts), note)


def _left_out(word: Word) -> bool:
    return word.special and is_padding(word.tokens[0]) and word.relevance == 0


def _values(found: Sequence[Word], show: str) -> np.ndarray:
    """What is drawn of each word: the sum of its tokens' relevance, or of its size, where signs must not cancel."""
    return np.array([math.fsum(map(abs, w.shares)) if show == "abs" else w.relevance for w in found])


def _counted(found: Sequence[Word], show: str) -> np.ndarray:
    """What colours are scaled by: the words, or all where these have no relevance."""
    values = _values([word for word in found if not word.special], show)
    return values if np.any(values) else _values(found, show)


def _fact(value: object) -> str:
    if isinstance(value, (int, str, np.integer)):
        return str(value)
    return signed(float(value)) if isinstance(value, (float, np.floating)) or np.ndim(value) == 0 else str(value)  # type: ignore[arg-type]


def _shares(word: Word) -> str:
    """What the page tells where the mouse rests."""
    if len(word.tokens) == 1:
        return f"{word.tokens[0]}: {signed(word.relevance)}"
    parts = ", ".join(f"{token} {signed(share)}" for token, share in zip(word.tokens, word.shares, strict=True))
    return f"{word.text}: {signed(word.relevance)} = {parts}"


def signed(value: float) -> str:
    """Three digits and a sign; 0 has none."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"

"""Tokens -> words, by the markers that tokenizers leave in their tokens. Sums of relevance are conserved."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lrp_tf.heatmap.colours import require_finite

Markers = Literal["auto", "##", "▁", "Ġ"] | None
MARKERS = ("##", "▁", "Ġ")
"""Of WordPiece: the token continues a word. Of SentencePiece and byte-level BPE: a space lies ahead of the token."""

_NAMES = "pad|bos|eos|cls|sep|start_of_turn|end_of_turn"
# The last alternative is the empty text, Keras' padding.
_SPECIAL = re.compile(
    rf"\[(?:{_NAMES.upper()}|unused\d+)\]|</?s>|<(?:{_NAMES}|extra_id_\d+|unused\d+)>|<[|｜][^<>]+[|｜]>|"
)
_PADDING = frozenset(["[PAD]", "<pad>", "<|pad|>", ""])
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NEWLINES = re.compile(r"(?:Ġ|▁)*(?:Ċ|č|\n|\r|<0x0[AaDd]>)+")
RETURN, SPACE = "↵", "␣"  # what line breaks and bare spaces are shown as


@dataclasses.dataclass(frozen=True)
class Word:
    """What is drawn as one: the tokens between two spaces, or a special token.

    Attributes:
        text: as a reader sees it, without markers. "↵" for line breaks.
        relevance: the sum of `shares`.
        tokens: as the tokenizer gave them.
        shares: the relevance of each token.
        special: a special token, such as [CLS].
        space: a space lies ahead of the word.
    """

    text: str
    relevance: float
    tokens: tuple[str, ...]
    shares: tuple[float, ...]
    special: bool = False
    space: bool = True

    @property
    def breaks(self) -> bool:
        """Whether a line ends behind the word."""
        return self.text.endswith(RETURN)


def is_special(token: str, special: Collection[str] | None = None) -> bool:
    """Whether a token is a special one: one of `special`, or, for None, one that common tokenizers have."""
    return bool(_SPECIAL.fullmatch(token)) if special is None else token in special


def is_padding(token: str) -> bool:
    """Whether a token is known to be padding."""
    return token in _PADDING


def markers_of(tokens: Iterable[object]) -> Literal["##", "▁", "Ġ"] | None:
    """The markers in tokens or in a vocabulary; None if there are none."""
    found: Literal["##"] | None = None
    for token in map(_text, tokens):
        if token.startswith(("Ġ", "Ċ")):
            return "Ġ"
        if token.startswith("▁"):
            return "▁"
        if token.startswith("##") and len(token) > 2:
            found = "##"
    return found


def words(
    tokens: Sequence[str], relevance: ArrayLike, *, markers: Markers = "auto", special: Collection[str] | None = None
) -> list[Word]:
    """The words that tokens make up, each with the sum of the relevance of its tokens.

        [(w.text, w.relevance) for w in heatmap.words(["un", "##usual"], [0.25, 0.5])]   # [("unusual", 0.75)]

    Args:
        tokens: of one text, as the tokenizer gave them.
        relevance: [T], or [T, ...], which is summed over the rest.
        markers: "##" (WordPiece), "▁" (SentencePiece), "Ġ" (byte-level BPE: tokens are decoded); "auto" looks which
            the tokens have; None: every token is a word.
        special: the special tokens, which stay apart; None: [CLS], </s>, <|endoftext|> and the like.

    Raises:
        ValueError: not as many values as tokens, NaN or Inf, no tokens, unknown markers.
        TypeError: a token is no text.
    """
    names = [_text(token) for token in tokens]
    values = _summed(relevance, len(names))
    if markers == "auto":
        markers = markers_of(names)
    if markers not in (None, *MARKERS):
        raise ValueError(f'Expected markers="auto", "##", "▁", "Ġ" or None. Received: {markers!r}')
    groups: list[list[int]] = []
    apart = [is_special(name, special) for name in names]
    for i, name in enumerate(names):
        before = i > 0 and not apart[i - 1] and not _NEWLINES.fullmatch(names[i - 1])
        if before and not apart[i] and not _NEWLINES.fullmatch(name) and _continues(name, markers):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [_word([names[i] for i in group], values[group], markers, apart[group[0]]) for group in groups]


def _text(token: object) -> str:
    if isinstance(token, bytes):
        return token.decode("utf-8", "replace")
    if not isinstance(token, str):
        raise TypeError(f"Expected tokens as texts. Received: {token!r}. Remedy: the tokens that the ids stand for")
    return str(token)


def _summed(relevance: ArrayLike, count: int) -> np.ndarray:
    """float64 [T]."""
    values = np.asarray(relevance, dtype=np.float64)
    if not count or values.ndim < 1 or len(values) != count:
        raise ValueError(
            f"Expected the relevance of one text, [T] or [T, ...], a value for each of {count} tokens (at least one). "
            f"Received: shape {values.shape}. Remedy: pass R[0] of a batch, and as many tokens as ids went in."
        )
    require_finite(values, "relevance")
    return values.reshape(count, -1).sum(axis=1)


def _continues(token: str, markers: str | None) -> bool:
    """Whether the token belongs to the word ahead of it."""
    if markers is None:
        return False
    return (token.startswith("##") and len(token) > 2) if markers == "##" else not token.startswith(markers)


def _word(tokens: list[str], values: np.ndarray, markers: str | None, special: bool) -> Word:
    shares = tuple(map(float, values))
    raw, space = "".join(tokens), True
    if special or markers is None:
        text = raw
    elif markers == "##":
        text = "".join(token[2:] if _continues(token, "##") else token for token in tokens)
    else:
        space = raw.startswith(markers)
        text = decoded(raw) if markers == "Ġ" else _from_pieces(raw)
    if not special:
        text = RETURN if text.strip(" ") and not text.strip() else text.strip() or SPACE * max(len(text), 1)
    return Word(text, math.fsum(shares), tuple(tokens), shares, special, space)


def _from_pieces(raw: str) -> str:
    """Tokens of SentencePiece as text: "▁" is a space, <0xE2> a byte of a character."""
    runs = re.split(r"((?:<0x[0-9A-Fa-f]{2}>)+)", raw.replace("▁", " "))
    bytes_of = lambda run: bytes(int(byte, 16) for byte in _BYTE.findall(run))  # noqa: E731
    return "".join(bytes_of(run).decode("utf-8", "replace") if i % 2 else run for i, run in enumerate(runs))


def decoded(raw: str) -> str:
    """Tokens of byte-level BPE as text: each of their characters stands for a byte of UTF-8."""
    table = _bytes_of_characters()
    if not all(character in table for character in raw):
        return raw.replace("Ġ", " ").replace("Ċ", "\n")  # a token that was added as text
    return bytes(table[character] for character in raw).decode("utf-8", "replace")


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}

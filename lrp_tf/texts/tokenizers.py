"""Tokenizers from files and functions, all with one face: text -> ids and tokens, token -> id."""

from __future__ import annotations

import importlib
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.files.errors import ExtraError, LoadError
from lrp_tf.heatmap.words import Markers, is_padding, markers_of

UNKNOWN = ("[UNK]", "<unk>", "<UNK>", "[unk]")


class TextError(ValueError):
    """A text cannot become token ids; the message is the reason."""


class Encoded(NamedTuple):
    """A text as a model reads it.

    Attributes:
        ids: the token numbers.
        tokens: what they stand for, one for each.
        inputs: further inputs of the model by name, such as segments; usually none.
    """

    ids: list[int]
    tokens: list[str]
    inputs: Mapping[str, Sequence] = {}


class Tokenizer:
    """What every tokenizer has. Call it: `tokenizer("a film")` is an `Encoded`.

    Attributes:
        name: as `get_tokenizer` takes it.
        pad: the id of padding.
        markers: how tokens become words, see `heatmap.words`.
    """

    def __init__(self, name: str, encode: Callable[[str], Encoded], tokens: Sequence[str] | None, pad: int = 0) -> None:
        self.name, self.pad, self._encode = name, pad, encode
        self._tokens = None if tokens is None else list(tokens)
        self._ids = {token: i for i, token in reversed(list(enumerate(self._tokens or ())))}
        self.markers: Markers = markers_of(self._tokens) if self._tokens else "auto"

    def __call__(self, text: str) -> Encoded:
        """The ids of a text.

        Raises:
            TextError: the text is empty, or no Unicode; the tokenizer fails, or finds nothing in it.
        """
        if not text.strip():
            raise TextError("the text is empty")
        if not text.isprintable() and any(unicodedata.category(character) == "Cs" for character in text):
            raise TextError("it is not UTF-8")
        try:
            found = self._encode(text)
        except TextError:
            raise
        except Exception as error:  # a function of the user's raises any type
            raise TextError(f"the tokenizer fails: {type(error).__name__}: {error}") from error
        if not found.ids:
            raise TextError("the tokenizer finds no token in it")
        return found

    def token(self, index: int) -> str:
        """The token of an id; the number as text where that is not known."""
        known = self._tokens
        return known[index] if known is not None and 0 <= index < len(known) else str(index)

    def find(self, text: str) -> int:
        """The id of a token, given as the vocabulary has it ("Ġfilm"), or as a text that is one token (" film").

        Raises:
            LoadError: it is not one token.
        """
        if text in self._ids:
            return self._ids[text]
        for marked in (text.replace(" ", "Ġ"), text.replace(" ", "▁"), f"Ġ{text}", f"▁{text}"):
            if marked in self._ids and (text[:1] == " " or marked[1:] == text):
                return self._ids[marked]
        try:
            found = self(text)
        except TextError as error:
            raise LoadError(f"token {text!r}: {error}") from error
        if len(found.ids) == 1 and found.tokens[0] not in UNKNOWN:
            return int(found.ids[0])
        raise LoadError(
            f"token {text!r}: expected the number of a token, a token of the vocabulary, or a text that is one token. "
            f"Received: {', '.join(found.tokens)}"
        )


def get_tokenizer(name: str | os.PathLike | Callable) -> Tokenizer:
    """A tokenizer.

        tokenizer = lrp_tf.texts.get_tokenizer("vocab.txt")
        tokenizer("a film").tokens

    Args:
        name: the path of a Hugging Face tokenizer (.json), of a vocabulary with a token on each line (.txt: WordPiece
            if tokens begin with "##", else words between spaces), or of a SentencePiece model (.model); or a function,
            itself or as `module:function`: text -> ids or (ids, tokens), where ids may be a dict with the name of the
            model's input as key, for a model with several.

    Raises:
        LoadError: no such file or function, or a damaged one. ExtraError: a package is not installed.
    """
    if callable(name):
        return _of_function(getattr(name, "__name__", "function"), name)
    text = os.fspath(name)
    path = Path(text)
    if not path.is_file():
        module, colon, function = text.partition(":")
        if colon and "/" not in module and "\\" not in module:
            return _of_function(text, _imported(module, function, text))
        raise LoadError(f"`tokenizer` {text}: no such file. {_CHOICES}", "tokenizer")
    kinds: dict[str, Callable[[Path], Tokenizer]] = {".json": _hugging_face, ".model": _sentencepiece}
    kind = kinds.get(path.suffix.lower(), _vocabulary)
    try:
        return kind(path)
    except (LoadError, ExtraError):
        raise
    except Exception as error:  # a damaged file surfaces as almost any type
        raise LoadError(f"`tokenizer` {text}: {type(error).__name__}: {error}. {_CHOICES}", "tokenizer") from error


_CHOICES = (
    "Expected a Hugging Face tokenizer (.json), a vocabulary with a token on each line (.txt), a SentencePiece model "
    "(.model), or module:function"
)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExtraError(
            f"This tokenizer needs the package {name}, which is not installed. Remedy: pip install "
            '"lrp_tf[text]", or a function of your own: `tokenizer` module:function',
            "tokenizer",
        ) from error


def _imported(module: str, name: str, text: str) -> Callable:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not search the current folder
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LoadError(f"`tokenizer` {text}: {error}", "tokenizer") from error
    if not callable(function):
        raise LoadError(f"`tokenizer` {text}: expected a function. Received: {function!r}", "tokenizer")
    return function


def _of_function(name: str, function: Callable) -> Tokenizer:
    def encode(text: str) -> Encoded:
        found = function(text)
        ids, tokens = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        more: dict[str, Sequence] = {}
        if isinstance(ids, Mapping):
            more = {str(key): np.asarray(value).ravel().tolist() for key, value in ids.items()}
            first = next((key for key in more if "mask" not in key and "segment" not in key), None)
            if first is None:
                raise TextError(f"the tokenizer gives no ids, only {', '.join(more)}")
            ids = more.pop(first)
            more = {first: ids, **more}
        numbers = np.asarray(ids)
        if numbers.size and (numbers.ndim > 2 or not np.issubdtype(numbers.dtype, np.integer)):
            raise TextError(f"the tokenizer gives {numbers.dtype} of shape {numbers.shape}. Expected integers [T]")
        listed = [int(i) for i in numbers.ravel()]
        named = [str(i) for i in listed] if tokens is None else [_name(token) for token in tokens]
        if len(named) != len(listed):
            raise TextError(f"the tokenizer gives {len(listed)} ids and {len(named)} tokens")
        return Encoded(listed, named, more)

    return Tokenizer(name, encode, None)


def _name(token: object) -> str:
    return token.decode("utf-8", "replace") if isinstance(token, bytes) else str(token)


def _hugging_face(path: Path) -> Tokenizer:
    model = _package("tokenizers").Tokenizer.from_file(str(path))
    padding = model.padding or {}
    model.no_padding()
    model.no_truncation()
    return _of_model(str(path), model, padding.get("pad_id"))


def _of_model(name: str, model: Any, pad: int | None) -> Tokenizer:
    """Of a tokenizer of the package tokenizers."""
    known = model.get_vocab()
    tokens = [""] * (max(known.values(), default=-1) + 1)
    for token, index in known.items():
        tokens[index] = token

    def encode(text: str) -> Encoded:
        found = model.encode(text)
        return Encoded(list(found.ids), list(found.tokens))

    return Tokenizer(name, encode, tokens, _pad(tokens) if pad is None else pad)


def _pad(tokens: Sequence[str]) -> int:
    return next((i for i, token in enumerate(tokens) if is_padding(token)), 0)


def _sentencepiece(path: Path) -> Tokenizer:
    pieces = _package("sentencepiece").SentencePieceProcessor(model_file=str(path))
    tokens = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]

    def encode(text: str) -> Encoded:
        ids = [int(i) for i in pieces.encode(text, out_type=int)]
        return Encoded(ids, [tokens[i] for i in ids])

    return Tokenizer(str(path), encode, tokens, max(pieces.pad_id(), 0))


def _vocabulary(path: Path) -> Tokenizer:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    tokens = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if len(tokens) < 2:
        raise LoadError(f"`tokenizer` {path}: no vocabulary with a token on each line. {_CHOICES}", "tokenizer")
    return _word_piece(str(path), tokens) if markers_of(tokens) == "##" else words_between_spaces(str(path), tokens)


def _word_piece(name: str, tokens: list[str]) -> Tokenizer:
    """BERT's: cased if a token has a capital, [CLS] and [SEP] around the text where the vocabulary has them."""
    package = _package("tokenizers")
    unknown = next((token for token in UNKNOWN if token in tokens), "[UNK]")
    ids = {token: i for i, token in enumerate(tokens)}
    model = package.Tokenizer(package.models.WordPiece(ids, unk_token=unknown))
    cased = any(token != token.lower() for token in tokens if token[:1] not in "[<")
    model.normalizer = package.normalizers.BertNormalizer(lowercase=not cased)
    model.pre_tokenizer = package.pre_tokenizers.BertPreTokenizer()
    if "[CLS]" in ids and "[SEP]" in ids:
        around = (("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        model.post_processor = package.processors.BertProcessing(*around)
    return _of_model(name, model, None)


def words_between_spaces(name: str, tokens: list[str]) -> Tokenizer:
    """Words as they are, else in lower case, else without punctuation around them, else the unknown token."""
    ids = {token: i for i, token in reversed(list(enumerate(tokens)))}
    unknown = next((token for token in UNKNOWN if token in ids), None)

    def find(word: str) -> str:
        bare = word.strip("".join(c for c in word if unicodedata.category(c)[0] in "PS"))
        found = next((form for form in (word, word.lower(), bare, bare.lower()) if form and form in ids), unknown)
        if found is None:
            raise TextError(f"the vocabulary has neither {word!r} nor a token for what is unknown")
        return found

    def encode(text: str) -> Encoded:
        found = [find(word) for word in text.split()]
        return Encoded([ids[token] for token in found], found)

    return Tokenizer(name, encode, tokens, _pad(tokens))


def settings_of(tokenizer: Tokenizer) -> list[object]:
    """What has to be the same when a run is resumed: the name, and size and date of a file."""
    path = Path(tokenizer.name)
    return [tokenizer.name, *((path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ())]

"""Composites from text and from files."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from lrp_tf.composites.composite import Composite, Entry
from lrp_tf.composites.reader import Reader, listed, made, passed, refuse, short, split, tokens_of
from lrp_tf.composites.words import KINDS, options_of


def parse(text: str, name: str | None = None) -> Composite:
    """A composite from its text; `str(composite)` writes it.

        composites.parse("first: flat; Conv2D: gamma 0.25; Dense: epsilon")

    The grammar: entries are separated by ";" or line breaks, and the first that matches wins.

        entry   = matcher ":" handler
        matcher = "all" | "first" | "last" | "first convolution" | "convolutions" | "first half of convolutions"
                | "dense" | "max pooling" | "at" INTEGER | "first" INTEGER | "span" end ".." end | "named" STRING
                | "activation" WORD | class { "," class }
        end     = INTEGER | STRING | matcher | "(" matcher ")"
        class   = a class of keras.layers | STRING with the name "package>Class" that is registered with Keras
        handler = word { value } { WORD "=" value }
        value   = NUMBER | "relative" NUMBER | "true" | "false" | WORD | STRING | "[" NUMBER { "," NUMBER } "]"
        STRING  = characters in "" or in ''; the quote itself is doubled, nothing else has a meaning

    The word of a handler is zero, epsilon, zplus, alphabeta, gamma, flat, wsquare, box, zbox, pass or magnitude for a
    rule (box: bounds of the model's input, carried to the step; zbox: of the step's own), or the class of a flow. A
    value without a name is the rule's main one: `epsilon 0.1`, `alphabeta 2 1`, `gamma 0.25`, `box 0 1`.

    A text with a line that begins with [[ is TOML:

        [[entry]]
        match = "first"
        rule = "gamma"
        gamma = 0.5

    Args:
        text: as above.
        name: of the composite; None: what the TOML says, or "composite".

    Raises:
        ValueError: not the text of a composite. The message names the entry, what was expected and the nearest word.
        TypeError: no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"parse expects the text of a composite, as 'first: flat; all: epsilon'. Received: {text!r}")
    source = "Composite text"
    if re.search(r"^\s*\[\[", text, re.MULTILINE):
        return _from_toml(text, source, name, "composite")
    return Composite(_entries(text, source), name or "composite")


def load(path: str | os.PathLike, name: str | None = None) -> Composite:
    """A composite from a file: TOML if its name ends in .toml, else text; see `parse`.

    Args:
        path: of the file, in UTF-8.
        name: of the composite; None: what the TOML says, or the file's name without ending.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `parse`; the message has the path.
    """
    path = Path(path)
    source = f"Composite file {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: expected text in UTF-8. Received: {error}") from error
    if path.suffix == ".toml":
        return _from_toml(text, source, name, path.stem)
    return Composite(_entries(text, source), name or path.stem)


def _entries(text: str, source: str) -> list[Entry]:
    entries: list[Entry] = []
    for tokens in split(tokens_of(text, source)):
        piece = text[tokens[0].start : tokens[-1].end]
        entries.append(Reader(tokens, piece, f"{source}, entry {len(entries) + 1} ({short(piece)})").entry())
    if not entries:
        refuse(source, "at least one entry, as 'first: flat; all: epsilon'", repr(text))
    return entries


# --- TOML --------------------------------------------------------------------------------------


def _from_toml(text: str, source: str, name: str | None, default: str) -> Composite:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: expected TOML. Received: {error}") from error
    for key in data:
        if key not in ("name", "entry"):
            refuse(source, "the keys name and entry", repr(key), [key], ("name", "entry"))
    tables = data.get("entry")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        refuse(source, 'tables [[entry]], each with match = "..." and rule = "..."', repr(tables))
    title = data.get("name", default)
    if not isinstance(title, str):
        refuse(source, "name to be a string", repr(title))
    entries = [_toml_entry(table, f"{source}, entry {n}") for n, table in enumerate(tables, 1)]
    return Composite(entries, name or title)


def _toml_entry(table: dict[str, object], where: str) -> Entry:
    for key in ("match", "rule"):
        if not isinstance(table.get(key), str):
            refuse(where, f'{key} = "..." in each [[entry]]', repr(table.get(key, table)))
    left, right = (Reader.of(str(table[key]), where) for key in ("match", "rule"))
    match = left.matcher()
    left.finish()
    cls, values = right.call()
    right.finish()
    options = options_of(cls)
    for key, value in table.items():
        if key in ("match", "rule"):
            continue
        if key not in options or key in values:
            expected = "each option once" if key in values else f"options of {table['rule']}: {listed(options)}"
            refuse(where, expected, repr(key), [key], options)
        if isinstance(value, str) and options[key].kind == "stabilizer":
            reader = Reader.of(value, where)
            value = reader.value(options[key])
            reader.finish()
        if not options[key].fits(value):
            refuse(where, f"{key} to be {KINDS[options[key].kind]}", repr(value))
        values[key] = value
    return match, made(where, cls, **passed(values))

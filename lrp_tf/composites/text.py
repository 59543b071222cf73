"""Composites from text and from files."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

from lrp_tf.composites.composite import Composite, Entry
from lrp_tf.composites.presets import Stabilizer
from lrp_tf.composites.reader import Reader, listed, made, passed, refuse, short, split, tokens_of
from lrp_tf.composites.words import (
    FLOW_EPSILON,
    KINDS,
    Option,
    handler_text,
    matcher_text,
    options_of,
    value_text,
)

_KEYS = ("name", "entry", FLOW_EPSILON.name)


def parse(text: str, name: str | None = None) -> Composite:
    """A composite from its text; `str(composite)` writes it.

        composites.parse("first: flat; Conv2D: gamma 0.25; Dense: epsilon")

    The grammar; the first entry that matches wins.

        text    = item { ( ";" | LINE BREAK ) item }
        item    = matcher ":" handler | "flow_epsilon" "=" value
        matcher = "all" | "first" | "last" | "first convolution" | "convolutions" | "first half of convolutions"
                | "first quarter of convolutions"
                | "dense" | "max pooling" | "products" | "quotients" | "contractions" | "at" INTEGER
                | "first" INTEGER | "span" end ".." end | "named" STRING | "activation" WORD | class { "," class }
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
    return _from_text(text, source, name or "composite")


def load(path: str | os.PathLike, name: str | None = None) -> Composite:
    """A composite from a file: TOML if its name ends in .toml, else text; see `parse`.

        explainer = lrp_tf.Explainer(model, composites.load("mine.toml"))

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
    return _from_text(text, source, name or path.stem)


def _from_text(text: str, source: str, name: str) -> Composite:
    entries: list[Entry] = []
    epsilon: Stabilizer | None = None
    for tokens in split(tokens_of(text, source)):
        piece = text[tokens[0].start : tokens[-1].end]
        setting = Reader(tokens, piece, f"{source} ({short(piece)})").setting()
        if setting is None:
            entries.append(Reader(tokens, piece, f"{source}, entry {len(entries) + 1} ({short(piece)})").entry())
        elif epsilon is not None:
            refuse(source, "flow_epsilon once", short(piece))
        else:
            epsilon = setting
    if not entries:
        refuse(source, "at least one entry, as 'first: flat; all: epsilon'", repr(text))
    return made(source, Composite, entries, name, flow_epsilon=epsilon)


# --- TOML --------------------------------------------------------------------------------------


def _from_toml(text: str, source: str, name: str | None, default: str) -> Composite:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: expected TOML. Received: {error}") from error
    for key in data:
        if key not in _KEYS:
            refuse(source, f"the keys {listed(_KEYS)}", repr(key), [key], _KEYS)
    tables = data.get("entry")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        refuse(source, 'tables [[entry]], each with match = "..." and rule = "..."', repr(tables))
    title = data.get("name", default)
    if not isinstance(title, str):
        refuse(source, "name to be a string", repr(title))
    entries = [_toml_entry(table, f"{source}, entry {n}") for n, table in enumerate(tables, 1)]
    epsilon = None
    if FLOW_EPSILON.name in data:
        epsilon = _value(FLOW_EPSILON, data[FLOW_EPSILON.name], source)
    return made(source, Composite, entries, name or title, flow_epsilon=epsilon)


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
        values[key] = _value(options[key], value, where)
    return match, made(where, cls, **passed(values))


def _value(option: Option, value: object, where: str) -> object:
    """The value of a key in TOML, where "relative 0.25" is a string.

    Raises:
        ValueError: it does not fit the option.
    """
    if isinstance(value, str) and option.kind == "stabilizer":
        reader = Reader.of(value, where)
        value = reader.value(option)
        reader.finish()
    if not option.fits(value):
        refuse(where, f"{option.name} to be {KINDS[option.kind]}", repr(value))
    return value


# --- writing TOML ------------------------------------------------------------------------------


def toml(composite: Composite) -> str:
    """A composite as TOML, which `load` reads from a file whose name ends in .toml.

        Path("mine.toml").write_text(composites.toml(composites.get("epsilon_plus")), encoding="utf-8")

    Raises:
        ValueError: a part of it has no words, as a function of one's own or a canonizer.
    """
    written = str(composite)
    lines = [f"name = {_toml_string(composite.name)}"]
    if composite.flow_epsilon is not None:
        value = value_text("stabilizer", composite.flow_epsilon)
        number = isinstance(composite.flow_epsilon, (int, float))
        lines.append(f"{FLOW_EPSILON.name} = {value if number else _toml_string(str(value))}")
    for match, handler in composite.entries:
        left, right = matcher_text(match), handler_text(handler)
        if left is None or right is None:
            refuse("toml", "a composite of matchers, rules and flows that have words", written)
        lines += ["", "[[entry]]", f"match = {_toml_string(left)}", f"rule = {_toml_string(right)}"]
    if composite.canonizers is not None:
        refuse("toml", "a composite without canonizers, which no text can name", written)
    return "\n".join(lines) + "\n"


def _toml_string(text: str) -> str:
    """A basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")

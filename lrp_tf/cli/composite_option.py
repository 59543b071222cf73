"""What --composite takes: a preset's name with options, a text, a .toml file; one or several. Needs no TensorFlow."""

from __future__ import annotations

import argparse
import ast
import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# The modules that define these names need TensorFlow; a test compares both.
PRESETS = (
    *("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"),
    *("epsilon_gamma_box", "epsilon_gamma_wsquare", "tutorial", "attn_lrp", "cp_lrp"),
)
FOR_TRANSFORMERS = ("attn_lrp", "cp_lrp")
WHEN_EMPTY = ("absorb", "magnitude", "uniform")


class NamedPreset(NamedTuple):
    """A preset's name and its options; `str()` writes them as on the command line, in one order."""

    name: str
    options: dict[str, object]

    def __str__(self) -> str:
        listed = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.name}:{listed}" if listed else self.name


class Written(NamedTuple):
    """A composite that is given by its text, or by the path of a .toml file."""

    text: str

    @property
    def is_file(self) -> bool:
        return self.text.endswith(".toml")


def composite(text: str) -> NamedPreset | Written:
    """A preset's name with options, the text of a composite, or the path of a .toml file.

    The first colon is followed by OPTION=VALUE if a preset is named, and by a rule in a text. Text and file are read
    later, since that needs TensorFlow.
    """
    name, colon, rest = text.partition(":")
    if text.endswith(".toml"):
        return Written(text)
    options = re.fullmatch(r"\s*[\w-]+\s*", name) and re.match(r"\s*($|\w+\s*=)", rest)
    if not colon or name.strip() in PRESETS or options:
        return preset(text)
    return Written(text)


def preset(text: str) -> NamedPreset:
    """NAME or NAME:OPTION=VALUE,...: values are numbers, true, false, words, lists as [-1,0,1], or relative(0.25)."""
    name, _, rest = text.partition(":")
    try:
        call = ast.parse(f"preset({rest})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(text)
        options = {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg is not None}
        if len(options) < len(call.keywords):  # **options, or one of them twice
            raise ValueError(text)
        return NamedPreset(name, options)
    except (SyntaxError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            "expected NAME or NAME:OPTION=VALUE,OPTION=VALUE, as in epsilon_gamma_box:gamma=0.5,low=-1,high=1; values "
            f"are numbers, true, false, lists such as [-1,0,1], relative(0.25), or one of {', '.join(WHEN_EMPTY)}. "
            f"Received: {text!r}"
        ) from error


class RelativeFactor(float):
    """The factor of a stabiliser that is relative, `rules.Relative`."""

    def __repr__(self) -> str:
        return f"relative({float(self)!r})"

    __str__ = __repr__


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id.lower() in ("true", "false"):
        return node.id.lower() == "true"
    if isinstance(node, ast.Name) and node.id in WHEN_EMPTY:
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.lower() == "relative":
        (factor,) = node.args
        return RelativeFactor(ast.literal_eval(factor))
    value = ast.literal_eval(node)
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, (bool, int, float)) for number in numbers):
        raise ValueError(value)
    return value


# --- several -----------------------------------------------------------------------------------


def spread(arguments: Sequence[str]) -> list[str]:
    """`--composite A B photos` as `--composite A --composite B photos`.

    argparse would take all that follows for composites, models and images among them.
    """
    found: list[str] = []
    values: int | None = None  # that the option has had; None: another option
    for number, text in enumerate(arguments):
        if text == "--":
            return [*found, *arguments[number:]]
        if text.startswith("-") and text != "-":
            name, given, _ = text.partition("=")
            ours = len(name) > 4 and "--composite".startswith(name)  # argparse takes options that are cut short
            values = int(bool(given)) if ours else None
        elif values == 0:
            values = 1  # whatever it is
        elif values is not None and is_composite(text):
            found.append("--composite")
        else:
            values = None
        found.append(text)
    return found


def is_composite(text: str) -> bool:
    """Whether a text behind a composite is another one, and no model or image."""
    name, colon, _ = text.partition(":")
    if name.strip() in PRESETS or text.endswith(".toml"):
        return True
    if os.path.lexists(text) or text == "-" or text.startswith("@"):
        return False
    if not colon:
        return re.fullmatch(r"[\w-]+", text) is not None  # a preset of the user's own; a file would have a suffix
    return not re.match(r"[A-Za-z]:[\\/]", text) and next(glob.iglob(text), None) is None


def name_of(one: NamedPreset | Written) -> str:
    """A composite as the command line has it."""
    return one.text if isinstance(one, Written) else str(one)


def folders(composites: Sequence[NamedPreset | Written]) -> list[str]:
    """A name for the folder of each composite: its own where file systems allow it, never the same twice."""
    names: list[str] = []
    for one in composites:
        text = name_of(one)
        slug = re.sub("[^A-Za-z0-9_]+", "-", Path(text).stem if getattr(one, "is_file", False) else text).strip("-")
        if not slug or slug != text or len(slug) > 60:
            slug = f"{slug[:60].rstrip('-')}-{hashlib.sha1(os.fsencode(text)).hexdigest()[:8]}".lstrip("-")
        names.append(slug)
    return names

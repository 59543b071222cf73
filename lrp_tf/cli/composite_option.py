"""What --composite takes: a preset's name with options, a text, a .toml file; one or several. Needs no TensorFlow."""

from __future__ import annotations

import argparse
import glob
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from lrp_tf import composite_names
from lrp_tf.composite_names import (
    FOR_TRANSFORMERS,
    PRESETS,
    WHEN_EMPTY,
    NamedPreset,
    RelativeFactor,
    Written,
    name_of,
)

__all__ = ["FOR_TRANSFORMERS", "PRESETS", "WHEN_EMPTY", "NamedPreset", "RelativeFactor", "Written", "composite"]
__all__ += ["folders", "is_composite", "name_of", "preset", "spread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _option(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """`read` as the type of an option: argparse shows the message of no other error."""

    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


composite = _option(composite_names.composite)
preset = _option(composite_names.preset)


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

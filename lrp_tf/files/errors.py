"""Errors that name arguments of the library, in backticks; a command line shows its own options in their place."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType


class OptionError(Exception):
    """An error whose message names arguments of the library.

    Args:
        message: the arguments are in it in backticks: "Remedy: pass `size`".
        option: the argument, or arguments, as they are in the backticks; empty if the message names none.
    """

    def __init__(self, message: str, option: str | Sequence[str] = ()) -> None:
        super().__init__(message)
        self.options = (option,) if isinstance(option, str) else tuple(option)


class LoadError(OptionError, ValueError):
    """A model, its weights, class names, preprocessing or a folder of results is not as expected.

    The message gives the remedy.
    """


class ImageError(OptionError, ValueError):
    """A file is no readable image; the message is the reason, without the name of the file."""


class ExtraError(OptionError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


def optional(module: str, *, extra: str, what: str, remedy: str = "") -> ModuleType:
    """A module that comes with an extra, imported where it is used.

    Args:
        what: what it does, as in "which reads NIfTI files".
        remedy: another one than to install the extra, as in ", or to='folder'".

    Raises:
        ExtraError: it is not installed, or the library that it binds is missing.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise ExtraError(
            f"Expected {module}, {what}. Received: it is not installed ({error}). Remedy: "
            f'pip install "lrp_tf[{extra}]"{remedy}'
        ) from error

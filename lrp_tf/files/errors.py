"""Errors that name arguments of the library, in backticks; a command line shows its own options in their place."""

from __future__ import annotations

from collections.abc import Sequence


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

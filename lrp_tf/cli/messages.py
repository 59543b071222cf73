"""Messages of the library in the words of the command line: arguments become options."""

from __future__ import annotations

from collections.abc import Sequence

from lrp_tf.files.errors import OptionError

# Options that are not the argument's name with dashes.
_OPTIONS = {
    "classes": "--classes FILE",
    "address": "--ray ADDRESS",
    "page": "--gallery",
    "size": "--size HEIGHTxWIDTH",
    "warmup=False": "--no-warmup",
    "weights": "--weights FILE",
}


def with_options(text: str, arguments: Sequence[str]) -> str:
    """`text` with each of `arguments`, which it names in backticks, as the option of the command line."""
    for argument in arguments:
        text = text.replace(f"`{argument}`", _OPTIONS.get(argument, f"--{argument.replace('_', '-')}"))
    return text


def message_of(error: BaseException) -> str:
    """The message of an error, with options in place of arguments if it names some."""
    return with_options(str(error), error.options) if isinstance(error, OptionError) else str(error)

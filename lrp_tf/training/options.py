"""Parsers of the scripts that train, and types of their options; needs no TensorFlow."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Prints errors in one line, without the usage, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an option: a whole number from `low` to `high`."""
    wanted = f"a whole number from {low}" + ("" if high is None else f" to {high}")

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) and (high is None or int(text) <= high)):
            raise argparse.ArgumentTypeError(f"expected {wanted}, received {text!r}")
        return int(text)

    return parse


def number(low: float, high: float, *, open_low: bool = False) -> Callable[[str], float]:
    """The type of an option: a number from `low` to `high`; with `open_low` above `low`."""
    wanted = f"a number {'above' if open_low else 'from'} {low:g} {'up ' if open_low else ''}to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"expected {wanted}, received {text!r}")
        return value

    return parse

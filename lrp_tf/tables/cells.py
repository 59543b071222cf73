"""The text of a CSV file -> its header and the cells of its rows; cells -> numbers."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lrp_tf.arrays.files import ArrayError

_QUOTED = re.compile(r'"[^"]*"')
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WITH_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


class TableError(ArrayError):
    """A file is no readable table; the message is the reason, without the name of the file."""


class Cells(NamedTuple):
    """What a CSV file holds.

    Attributes:
        header: the cells of the first row that is not blank.
        rows: those below it, without blank ones.
        lines: the number of the line in the file that each of `rows` ends on.
        comma: numbers have a decimal comma.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    comma: bool


def read_cells(path: Path) -> Cells:
    """The cells of a CSV file: separated by tabs, semicolons or commas, quoted or not, with or without a BOM.

    Raises:
        TableError: no text, no CSV, or nothing in it. OSError: the file cannot be read.
    """
    text = _decoded(path.read_bytes())
    separator, text = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t")
    found: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                found.append((reader.line_num, cells))
    except csv.Error as error:
        raise TableError(f"no CSV file: line {reader.line_num}: {error}") from error
    if not found:
        raise TableError("it is empty. Expected a header, and a row for each sample")
    (_, header), *rest = found
    rows = [cells for _, cells in rest]
    if rows and len(rows[0]) == len(header) + 1:  # R leaves out the name above the names of rows
        header = ["", *header]
    return Cells(header, rows, [line for line, _ in rest], separator != "," and _has_decimal_commas(rows))


def header_width(path: Path) -> int:
    """The number of cells in the first line of a CSV file; 0 if it cannot be read. Reads no more than its beginning."""
    try:
        with path.open("rb") as file:
            text = _decoded(file.read(1 << 16), errors="ignore")
        separator, text = _separator(text)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        return len(next((row for row in rows if any(map(str.strip, row))), []))
    except (OSError, TableError, csv.Error):
        return 0


def is_number(cell: str) -> bool:
    """Whether a cell holds a number, finite or not, with a decimal point or comma."""
    return bool(_NUMBER.fullmatch(cell) or _WITH_COMMA.fullmatch(cell)) or cell.lower() in ("nan", "inf", "-inf")


def to_numbers(cells: Sequence[str], comma: bool) -> list[float]:
    """The numbers of some cells; NaN in place of what is no finite number.

    Args:
        comma: see `Cells`.
    """
    found = []
    for cell in cells:
        if comma and _WITH_COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")
        number = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        found.append(number if math.isfinite(number) else math.nan)
    return found


def _decoded(content: bytes, errors: str = "strict") -> str:
    """The text: UTF-8, or what a BOM says."""
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise TableError(
            f"it is no UTF-8: byte {content[error.start : error.start + 1]!r} at {error.start}. Remedy: save it as "
            '"CSV UTF-8"'
        ) from error
    if "\0" in text:
        raise TableError("it holds NUL characters, and is no text")
    return text


def _separator(text: str) -> tuple[str, str]:
    """What separates the cells, by the first line, and the text without Excel's line `sep=;`."""
    text = text.lstrip("\r\n")
    first, _, rest = text.partition("\n")
    if stated := re.fullmatch(r'"?sep=([^"\r])"?\r?', first):
        return stated[1], rest
    bare = _QUOTED.sub("", first)
    return next((mark for mark in "\t;," if mark in bare), ","), text


def _has_decimal_commas(rows: Sequence[Sequence[str]]) -> bool:
    """Whether some cell is a number with a comma, and none is one with a point: those would be thousands."""
    commas = any(_WITH_COMMA.fullmatch(cell) for row in rows for cell in row if "," in cell)
    return commas and not any("." in cell and _NUMBER.fullmatch(cell) for row in rows for cell in row)

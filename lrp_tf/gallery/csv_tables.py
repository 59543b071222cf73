"""Tables that hold complete lines at any time, and cells that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lrp_tf.atomic import atomic

Row = tuple[object, ...]


class CsvTable:
    """A CSV file of complete lines at any time: each group of rows is one write. Names need not be UTF-8.

    Args:
        texts: the columns whose values come from the user, and whether they are `TEXT` or `PATH`; see `to_cell`.
    """

    def __init__(self, path: Path, columns: Sequence[str], texts: Mapping[str, str], append: bool = False) -> None:
        self.path, self.columns, self.texts, self.append = path, columns, texts, append and path.exists()

    def __enter__(self) -> CsvTable:
        self.file = open(self.path, "ab" if self.append else "wb", buffering=0)
        if not self.append:
            self.file.write(to_csv([self.columns]).encode())
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows, in one write."""
        kinds = [self.texts.get(name) for name in self.columns]
        cells = [[to_cell(str(v), kind) if kind else v for v, kind in zip(row, kinds, strict=True)] for row in rows]
        self.file.write(to_csv(cells).encode("utf-8", "surrogateescape"))


def to_csv(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


# Spreadsheets read these as the beginning of a formula (OWASP: CSV injection).
_FORMULA = "[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
# Control characters could steer a terminal that shows the table. A backslash that could be one of ours is escaped too.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\\(?=x[0-9a-f]{2})")
TEXT, PATH = "'", "./"  # prefixes of what looks like a formula: OWASP's apostrophe; "./" keeps the meaning of a path
_DANGEROUS = {ahead: re.compile(f"(?:{re.escape(ahead)})*{_FORMULA}") for ahead in (TEXT, PATH)}
_PREFIXED = {ahead: re.compile(f"(?:{re.escape(ahead)})+{_FORMULA}") for ahead in (TEXT, PATH)}
_WRITTEN = re.compile(r"\\x([0-9a-f]{2})")


def to_cell(text: str, ahead: str = TEXT) -> str:
    r"""A name as a table holds it: with the prefix `ahead` if it looks like a formula, ESC as \x1b. See `from_cell`."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return ahead + text if _DANGEROUS[ahead].match(text) else text


def from_cell(cell: str, ahead: str = TEXT) -> str:
    """The name that `to_cell` wrote."""
    cell = cell.removeprefix(ahead) if _PREFIXED[ahead].match(cell) else cell
    return _WRITTEN.sub(lambda match: chr(int(match[1], 16)), cell)


def has_rows(path: Path) -> bool:
    """Whether there is a table with more than its header."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        return bool(file.readline()) and bool(file.readline())


def complete_rows(path: Path, columns: int) -> list[list[str]]:
    """The rows of a table whose last line may have been cut off."""
    rows, whole = _read_csv(path)
    if rows and (not whole or len(rows[-1]) != columns):
        rows.pop()
    return [row for row in rows if len(row) == columns]


def _read_csv(path: Path) -> tuple[list[list[str]], bool]:
    """The lines of a table, and whether the last one was written to its end."""
    content = path.read_bytes()
    text = content.decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline=""))), content.endswith(b"\r\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "surrogateescape")))

"""What a run over many files leaves on disk: names of results, tables that survive a kill, a lock."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock

from lrp_tf.atomic import atomic
from lrp_tf.files.errors import LoadError

LOCK = ".lrp-tf.lock"


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """One run at a time writes into `folder`. The system itself frees the lock of a process that was killed.

    Raises:
        LoadError: another run is writing there.
    """
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise LoadError(
            f"Another run is writing into {folder}. Expected one at a time. Remedy: wait for it, or another `out`",
            "out",
        ) from error
    try:
        yield
    finally:
        # While the lock is held; whoever opened the file meanwhile finds it removed and does not get the lock.
        with contextlib.suppress(OSError):  # Windows removes no open file, there filelock does it
            os.unlink(lock.lock_file)
        lock.release()


class Names:
    """Names for results: after the input, never the same twice, never longer than file systems allow."""

    def __init__(self, suffixes: list[str]) -> None:
        self.suffixes = suffixes
        self.used: set[str] = set()

    def new(self, path: str, relative: str) -> str:
        """A name for the results of the file `path`, from its path `relative` to the folder that was named."""
        stem = os.path.splitext(relative)[0]
        digest = hashlib.sha1(os.fsencode(path)).hexdigest()[:8]
        folder, _, last = stem.rpartition(os.sep)
        prefix = f"{folder}{os.sep}" if folder else ""
        if len(os.fsencode(last)) > 200:
            last = os.fsencode(last)[:180].decode("utf-8", "ignore") + f"-{digest}"
        candidates = [prefix + last, f"{prefix}{last}-{digest}"]
        number = 1
        while True:
            for base in candidates:
                if not self._taken(base):
                    self.take(base)
                    return base
            number += 1
            candidates = [f"{prefix}{last}-{digest}-{number}"]

    def _taken(self, base: str) -> bool:
        return any(self._key(base + suffix) in self.used for suffix in self.suffixes)

    def take(self, base: str) -> None:
        self.used.update(self._key(base + suffix) for suffix in self.suffixes)

    @staticmethod
    def _key(name: str) -> str:
        return name.casefold()  # file systems may not tell A from a


class Table:
    """A CSV file that is whole lines at any time: each group of rows is one write. Names need not be UTF-8.

    Args:
        texts: the columns whose values come from outside, and whether they are `TEXT` or `PATH`; see `to_cell`.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], texts: dict[str, str], append: bool = False) -> None:
        self.path, self.columns, self.texts, self.append = path, columns, texts, append and path.exists()

    def __enter__(self) -> Table:
        self.file = open(self.path, "ab" if self.append else "wb", buffering=0)
        if not self.append:
            self.file.write(to_csv([self.columns]).encode())
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def add(self, rows: list[tuple]) -> None:
        kinds = [self.texts.get(name) for name in self.columns]
        cells = [[to_cell(v, kind) if kind else v for v, kind in zip(row, kinds, strict=True)] for row in rows]
        self.file.write(to_csv(cells).encode("utf-8", "surrogateescape"))


def to_csv(rows: Iterable[Iterable]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


# What a spreadsheet takes for the beginning of a formula (OWASP: CSV injection).
_FORMULA = "[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
# Control characters would steer a terminal that shows the table; a backslash that looks like one of ours is escaped.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\\(?=x[0-9a-f]{2})")
TEXT, PATH = "'", "./"  # what goes ahead of a formula: OWASP's apostrophe, or what leaves a path the same path


def to_cell(text: str, ahead: str = TEXT) -> str:
    r"""A name as a table holds it: `ahead` ahead of what looks like a formula, ESC as \x1b. See `from_cell`."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return ahead + text if re.match(f"(?:{re.escape(ahead)})*{_FORMULA}", text) else text


def from_cell(cell: str, ahead: str = TEXT) -> str:
    """The name that `to_cell` wrote."""
    cell = cell.removeprefix(ahead) if re.match(f"(?:{re.escape(ahead)})+{_FORMULA}", cell) else cell
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), cell)


def has_rows(path: Path) -> bool:
    """Whether there is a table with more than its head."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        return bool(file.readline()) and bool(file.readline())


def complete_rows(path: Path, columns: int) -> list[list[str]]:
    """The rows of a table whose last line may have been cut off."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    with open(path, "rb") as file:
        whole = file.read().endswith(b"\r\n")
    if rows and (not whole or len(rows[-1]) != columns):
        rows.pop()
    return [row for row in rows if len(row) == columns]


def write_text(path: Path, text: str) -> None:
    atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "surrogateescape")))

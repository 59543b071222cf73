"""What a run over many files leaves on disk: names of results, tables that survive a kill."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrp_tf import heatmap


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
    """A CSV file that is whole lines at any time: each group of rows is one write. Names need not be UTF-8."""

    def __init__(self, path: Path, columns: tuple[str, ...], append: bool = False) -> None:
        self.path, self.columns, self.append = path, columns, append and path.exists()

    def __enter__(self) -> Table:
        self.file = open(self.path, "ab" if self.append else "wb", buffering=0)
        if not self.append:
            self.add([self.columns])
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def add(self, rows: list[tuple]) -> None:
        self.file.write(to_csv(rows).encode("utf-8", "surrogateescape"))


def to_csv(rows: Iterable[Iterable]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


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
    heatmap.atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "surrogateescape")))

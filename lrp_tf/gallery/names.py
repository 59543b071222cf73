"""Names for the results of files: like the input, never the same twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


class Names:
    """Names for results: like the input, never the same twice, never longer than file systems allow."""

    def __init__(self, suffixes: Sequence[str]) -> None:
        self.suffixes = suffixes
        self.used: set[str] = set()

    def new(self, path: str, relative: str) -> str:
        """A name for the results of the file `path`, from its path `relative` to the folder that was named."""
        stem = os.path.splitext(relative)[0]
        stem = stem[:-4] if relative.lower().endswith(".nii.gz") else stem
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
        """Mark the name as used."""
        self.used.update(self._key(base + suffix) for suffix in self.suffixes)

    def spare(self, out: Path, paths: Iterable[str]) -> None:
        """Mark the names of files that lie in `out` themselves: no result may replace what is being explained."""
        home = os.path.join(os.path.realpath(out), "")
        real: dict[str, str] = {}  # of a folder; few, while files may be many
        for path in paths:
            folder, name = os.path.split(path)
            if folder not in real:
                real[folder] = os.path.join(os.path.realpath(folder or os.curdir), "")
            if real[folder].startswith(home):
                self.used.add(self._key(real[folder].removeprefix(home) + name))

    @staticmethod
    def _key(name: str) -> str:
        return name.casefold()  # some file systems do not distinguish A from a

"""What a study has finished, on disk: its parts appear whole or not at all, other settings are refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.evaluate import record

PARTS, IMAGES, SHEETS, LOCK = "parts", "images", "sheets", ".study.lock"
KIND = "adversarial study"
VERSION = 1  # of what is kept and how it is judged; a study of another one is not continued
# All that a study writes beside its folders.
FILES = (
    "settings.json", "attacks.csv", "failures.csv", "unreadable.csv", "adversarial.npz", "pairs.csv", "ranking.csv",
    "ranking_by_target.csv", "shifts.csv", "histogram.csv", "ranking.png", "ranking_absolute.png", "study.md",
)  # fmt: skip


class StoreError(ValueError):
    """The folder of a study holds something else, or a study with other settings."""


class Store:
    """The folder of one study, locked until `close`.

    Args:
        folder: made if it does not exist.
        settings: what has to be the same when a study is resumed; of values that JSON knows.
        resume: continue a study that the folder holds.
        overwrite: remove a study that the folder holds.

    Raises:
        StoreError: the folder holds a study, and neither is asked for; other settings; other files; it is a file;
            another process writes to it. OSError: it cannot be made or written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, object],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"out expects a folder. Received: {self.folder}, which is a file")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise StoreError(f"{self.folder} is in use by another process. Remedy: another folder") from error
        try:
            self._begin(json.loads(json.dumps({"kind": KIND, "version": VERSION, **settings})), resume, overwrite)
        except BaseException:
            self.close()
            raise

    def _begin(self, wanted: dict[str, Any], resume: bool, overwrite: bool) -> None:
        earlier = held(self.folder)
        if earlier is not None and overwrite:
            self.clear()
        elif earlier is not None and not resume:
            raise StoreError(
                f"{self.folder} holds a study. Remedy: `resume` to continue it, `overwrite` to remove it, or another "
                "folder"
            )
        elif earlier is not None:
            try:
                record.compare(earlier, wanted, self.folder, "study")
            except ValueError as error:
                raise StoreError(str(error)) from error
        # The settings first: a folder that a kill leaves behind is then known for a study.
        record.write(self.folder / record.SETTINGS, wanted)
        for name in (PARTS, IMAGES):
            (self.folder / name).mkdir(exist_ok=True)
        for path in self.folder.rglob(".tmp-*"):  # what a killed process was writing
            path.unlink()

    def forget(self) -> None:
        """Remove a study that has finished no part: it was asked for what cannot be."""
        if not any((self.folder / PARTS).iterdir()):
            self.clear()

    def clear(self) -> None:
        """Remove all that a study has written here, its settings last, so that an interrupted clear is recognised."""
        for name in (PARTS, IMAGES, SHEETS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in self.folder.glob("histogram_*.png"):
            path.unlink()
        for name in (*FILES[1:], FILES[0]):
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder."""
        with contextlib.suppress(OSError):
            os.unlink(self._lock.lock_file)
        self._lock.release()

    # --- parts ---

    def has(self, part: str) -> bool:
        """Whether a part is finished."""
        return self._rows(part).exists()

    def rows(self, part: str) -> list[dict[str, Any]]:
        """The rows of a finished part."""
        return self._read(self._rows(part))

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """The arrays that were kept for a part."""
        path = self._arrays(part)
        try:
            # Opened here, since NumPy does not close a file that is no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                return dict(found)
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen types for damaged files
            raise StoreError(f"{path} cannot be read: {error}. Remedy: delete it and {self._rows(part)}") from error

    def keep_arrays(self, part: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of a part, which is not finished by that."""
        write_arrays(self._arrays(part), arrays)

    def finish(self, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a part: from now on it is finished."""
        record.write(self._rows(part), list(rows))

    def _rows(self, part: str) -> Path:
        return self.folder / PARTS / f"{part}.json"

    def _arrays(self, part: str) -> Path:
        return self.folder / PARTS / f"{part}.npz"

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}. Remedy: delete it") from error


def held(folder: Path) -> dict[str, Any] | None:
    """The settings of the study that a folder holds, None if it is empty.

    Raises:
        StoreError: it holds other files.
    """
    path = folder / record.SETTINGS
    if not path.exists():
        others = sorted(name for name in os.listdir(folder) if name[0] != ".")
        if others:
            raise StoreError(
                f"out expects a folder of its own. Received: {folder}, which holds {', '.join(others[:5])}"
            )
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Remedy: another folder") from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise StoreError(
            f"out expects a folder of its own. Received: {folder}, which holds the results of something else"
        )
    return found


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file, whole or not at all."""

    def draw(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    atomic(path, draw)

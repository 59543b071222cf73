"""What a comparison has finished, on disk: it survives a kill, and tells settings that differ."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.atomic import atomic

SETTINGS = "settings.json"
_SHORT, _BEFORE = 120, 20  # characters of a setting, and how many of them before what differs


class Failure(NamedTuple):
    """What has no value, and why.

    Attributes:
        sample: its number.
        method: the explainer; "" if the sample itself cannot be explained.
        metric: "" if the explainer failed.
        reason: type and message of the error.
    """

    sample: int
    method: str
    metric: str
    reason: str


def begun(folder: str | os.PathLike, settings: Mapping[str, object], what: str = "comparison") -> Path:
    """A folder of results that a run can be resumed from, with its settings in a file; made if it is not there.

    Args:
        what: the folder holds, for messages.

    Raises:
        ValueError: the folder holds results with other settings, or other files; it is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"resume expects a folder. Received: {folder}, which is a file")
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
    if path.exists():
        compare(read(path), wanted, folder, what)
    elif any(name[0] != "." for name in os.listdir(folder)):
        raise ValueError(f"resume expects a folder of its own. Received: {folder}, which holds other files")
    else:
        write(path, wanted)
    return folder


class Record:
    """A folder with a file of settings and one for each batch, which is renamed into place after each explainer.

    Args:
        folder: made if it is not there; None: nothing is kept.
        settings: what has to be the same when a run is resumed; of values that JSON knows.

    Raises:
        ValueError: the folder holds a comparison with other settings, or other files; it is a file.
    """

    def __init__(self, folder: str | os.PathLike | None, settings: Mapping[str, object]) -> None:
        self.folder = None if folder is None else begun(folder, settings)
        if self.folder is None:
            return
        self.new = not any(self.folder.glob("batch-*.json"))

    def forget(self) -> None:
        """Remove what this run has kept, if no earlier run kept anything: it was asked for what cannot be."""
        if self.folder is not None and self.new:
            for path in (*self.folder.glob("batch-*.json"), self.folder / SETTINGS):
                path.unlink(missing_ok=True)

    def batch(self, number: int, digest: str, size: int) -> RecordedBatch:
        """What is known of a batch.

        Raises:
            ValueError: the samples differ from those of the earlier run.
        """
        path = None if self.folder is None else self.folder / f"batch-{number:06d}.json"
        known: dict[str, Any] = {"digest": digest, "size": size, "methods": {}}
        if path is not None and path.exists():
            earlier = read(path)
            if (earlier["digest"], earlier["size"]) != (digest, size):
                raise ValueError(
                    f"resume: the samples of batch {number} differ from those of the earlier run in {self.folder}. "
                    "Remedy: the same data in the same order, or another folder"
                )
            known = earlier
        return RecordedBatch(path, known)


class RecordedBatch:
    """The finished part of one batch."""

    def __init__(self, path: Path | None, known: dict[str, Any]) -> None:
        self.path, self.known = path, known

    @property
    def target(self) -> np.ndarray | None:
        """The classes that were explained, int64 [B]; None if that is not known yet."""
        found = self.known.get("target")
        return None if found is None else np.asarray(found, np.int64)

    @target.setter
    def target(self, value: np.ndarray) -> None:
        self.known["target"] = value.tolist()

    def of(self, method: str, metrics: Iterable[str]) -> tuple[np.ndarray, list[Failure]] | None:
        """The values [metrics, B] and failures of an explainer, None if it is not finished."""
        found = self.known["methods"].get(method)
        if found is None:
            return None
        # By name: a run may be resumed with its metrics in another order.
        values = np.asarray([found["values"][metric] for metric in metrics], np.float64)
        return values, [Failure(*row) for row in found["failures"]]

    def add(self, method: str, metrics: Iterable[str], values: np.ndarray, failures: list[Failure]) -> None:
        """Keep what an explainer gave, [metrics, B]."""
        named = dict(zip(metrics, values.tolist(), strict=True))
        self.known["methods"][method] = {"values": named, "failures": [list(row) for row in failures]}
        if self.path is not None:
            write(self.path, self.known)


def write(path: Path, content: object) -> None:
    """Write JSON; the file appears whole or not at all."""
    text = json.dumps(content)  # numbers are written so that they are read bit for bit
    atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read(path: Path) -> Any:
    """Read what `write` wrote.

    Raises:
        ValueError: the file holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"resume: {path} cannot be read: {error}. Remedy: another folder") from error


def compare(
    earlier: Mapping[str, object], wanted: Mapping[str, object], folder: Path, what: str = "comparison"
) -> None:
    """Raise ValueError if settings differ, with all that do."""
    names = [name for name in {**earlier, **wanted} if earlier.get(name) != wanted.get(name)]
    if names:
        differ = "; ".join(f"{name}: {_change(earlier.get(name), wanted.get(name))}" for name in names)
        raise ValueError(
            f"resume: {folder} holds a {what} with other settings. They differ in {differ}. Remedy: the same "
            "settings, or another folder"
        )


def _change(earlier: object, wanted: object) -> str:
    """Both values; of dicts what differs, and of long texts from a little before they part."""
    if isinstance(earlier, dict) and isinstance(wanted, dict):
        names = [name for name in {**earlier, **wanted} if earlier.get(name) != wanted.get(name)]
        return ", ".join(f"{name!r} {_change(earlier.get(name), wanted.get(name))}" for name in names)
    texts = [json.dumps(value, ensure_ascii=False) for value in (earlier, wanted)]
    parted = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    first = max(0, parted - _BEFORE) if max(map(len, texts)) > _SHORT else 0
    ends = [text[first:] for text in texts]
    before, now = (f"{'… ' if first else ''}{end[:_SHORT]}{' …' if end[_SHORT:] else ''}" for end in ends)
    return f"{before}, now {now}"

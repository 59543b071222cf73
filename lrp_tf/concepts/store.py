"""The file of a reference: HDF5, of which `docs/reference-samples.md` tells the layout."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.concepts.ranking import Ranking

FORMAT, VERSION = "lrp_tf reference", 1
BY = ("relevance", "activation")
_PARTS = ("score", "sample", "place")


class Unreadable(ValueError):
    """A file that is no reference, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is known of a layer before any sample is seen.

    Attributes:
        channels: how many. positions: sizes of the other axes of its output.
        fields: for each of these axes int32 [size, axes of the input, 2], see `receptive.fields`; empty if the model
            has several inputs, or none of floats.
    """

    name: str
    channels: int
    positions: tuple[int, ...]
    fields: tuple[np.ndarray, ...]


@dataclasses.dataclass
class Head:
    """All of a file but its rankings.

    Attributes:
        settings: what the run was asked for; of values that JSON knows.
        layers: in the order in which they were asked for.
        seen: class -> how many samples it had.
        batches: number -> (id of the first sample, size, digest), of those that have been taken in.
        stamps: number of a batch -> `Batch.stamp`, where it has one.
        failures: (sample, reason).
        total: how many batches the data set has; -1 until its end was seen.
        shard: (i, n).
    """

    settings: dict[str, Any]
    layers: tuple[Layer, ...]
    seen: dict[int, int] = dataclasses.field(default_factory=dict)
    batches: dict[int, tuple[int, int, str]] = dataclasses.field(default_factory=dict)
    stamps: dict[int, str] = dataclasses.field(default_factory=dict)
    failures: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    total: int = -1
    shard: tuple[int, int] = (0, 1)

    @property
    def dtype(self) -> str:
        """Of the scores."""
        return self.settings["dtype"]

    @property
    def compared(self) -> dict[str, Any]:
        """The settings that have to be the same where a run is resumed or merged."""
        return compared(self.settings)


def compared(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the name of the model: Keras counts names up in every process."""
    return {name: value for name, value in settings.items() if name != "model"}


# layer, "relevance" or "activation", class -> ranking
Rankings = Callable[[str, str, int], Ranking]


def write(path: Path, head: Head, rankings: Rankings, files: Sequence[tuple[str, str]] = ()) -> Path:
    """Write a file, whole or not at all. Of the rankings one at a time is held.

    Args:
        files: (path, relative) of each sample, if samples are image files.
    """

    def fill(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            _write_head(file, head)
            _write_files(file, files)
            for number, layer in enumerate(head.layers):
                for by in BY:
                    _write_rankings(file[f"layers/{number}"].create_group(by), head, layer, by, rankings)

    return atomic(path, fill)


def _write_head(file: h5py.File, head: Head) -> None:
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
    file.attrs["settings"] = json.dumps(head.settings)
    file.attrs["total"], file.attrs["shard"] = head.total, np.asarray(head.shard, np.int64)
    classes, numbers = sorted(head.seen), sorted(head.batches)
    file["classes/class"] = np.asarray(classes, np.int64)
    file["classes/samples"] = np.asarray([head.seen[c] for c in classes], np.int64)
    file["batches/number"] = np.asarray(numbers, np.int64)
    file["batches/first"] = np.asarray([head.batches[n][0] for n in numbers], np.int64)
    file["batches/size"] = np.asarray([head.batches[n][1] for n in numbers], np.int64)
    file["batches/digest"] = np.asarray([head.batches[n][2].encode() for n in numbers], "S16")
    if head.stamps:
        file["batches/stamp"] = np.asarray([head.stamps.get(n, "").encode() for n in numbers], "S16")
    failures = sorted(head.failures)
    file["failures/sample"] = np.asarray([sample for sample, _ in failures], np.int64)
    file.create_dataset("failures/reason", data=[reason for _, reason in failures], dtype=h5py.string_dtype())
    for number, layer in enumerate(head.layers):
        group = file.create_group(f"layers/{number}")
        group.attrs["name"], group.attrs["channels"] = layer.name, layer.channels
        group.attrs["positions"] = np.asarray(layer.positions, np.int64)
        for axis, field in enumerate(layer.fields):
            group[f"field/{axis}"] = field


def _write_files(file: h5py.File, files: Sequence[tuple[str, str]]) -> None:
    """Names of files need not be UTF-8, hence bytes; paths begin at the root, for processes in other folders."""
    for column, name in enumerate(("path", "relative") if files else ()):
        names = [os.fsencode(one[column] if column else os.path.abspath(one[column])) for one in files]
        file.create_dataset(f"files/{name}", data=names, dtype=h5py.string_dtype())


def _write_rankings(group: h5py.Group, head: Head, layer: Layer, by: str, rankings: Rankings) -> None:
    classes = sorted(head.seen)
    size = (len(classes), layer.channels, head.settings["n"])
    score, sample, place = (
        group.create_dataset(part, size, dtype)
        for part, dtype in zip(_PARTS, (head.dtype, "int64", "int32"), strict=True)
    )
    for row, label in enumerate(classes):
        found = rankings(layer.name, by, label)
        score[row], sample[row], place[row] = found.score, found.sample, found.place


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        FileNotFoundError: there is none. Unreadable: it is no reference, or one of a later version of lrp_tf.
    """
    received = f"Expected a file that build_reference wrote. Received: {os.fspath(path)!r}"
    if not Path(path).is_file():
        raise FileNotFoundError(f"{received}, no file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Unreadable(f"{received}: {error}") from error
    with file:
        if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
            raise Unreadable(
                f"Expected a {FORMAT}, version {VERSION}. Received: {os.fspath(path)!r}, "
                f"{file.attrs.get('format', 'another HDF5 file')} {file.attrs.get('version', '')}"
            )
        yield file


def head_of(file: h5py.File) -> Head:
    """All of a file but its rankings.

    Raises:
        Unreadable: a part is missing or damaged.
    """
    try:
        return _head_of(file)
    except (KeyError, OSError) as error:
        raise Unreadable(
            f"Expected a file that build_reference wrote. Received: {file.filename!r}, a damaged one: {error}"
        ) from error


def _head_of(file: h5py.File) -> Head:
    layers = tuple(_layer_of(file[f"layers/{number}"]) for number in range(len(file["layers"])))
    parts = (file[f"batches/{name}"][:].tolist() for name in ("number", "first", "size", "digest"))
    for number, by, part in itertools.product(range(len(layers)), BY, _PARTS):
        file[f"layers/{number}/{by}/{part}"]  # raises if the rankings are missing
    stamps = file["batches/stamp"][:].tolist() if "stamp" in file["batches"] else []  # files of earlier versions
    reasons = [reason.decode() for reason in file["failures/reason"][:]]
    return Head(
        settings=json.loads(file.attrs["settings"]),
        layers=layers,
        seen=dict(zip(file["classes/class"][:].tolist(), file["classes/samples"][:].tolist(), strict=True)),
        batches={n: (first, size, digest.decode()) for n, first, size, digest in zip(*parts, strict=True)},
        stamps={n: stamp.decode() for n, stamp in zip(file["batches/number"][:].tolist(), stamps, strict=False)},
        failures=list(zip(file["failures/sample"][:].tolist(), reasons, strict=True)),
        total=int(file.attrs["total"]),
        shard=(int(file.attrs["shard"][0]), int(file.attrs["shard"][1])),
    )


def _layer_of(group: h5py.Group) -> Layer:
    fields = group.get("field", {})
    return Layer(
        group.attrs["name"],
        int(group.attrs["channels"]),
        tuple(int(size) for size in group.attrs["positions"]),
        tuple(fields[str(axis)][:] for axis in range(len(fields))),
    )


def ranking_of(file: h5py.File, head: Head, layer: str, by: str, label: int) -> Ranking:
    """The ranking of one layer and class; an empty one if the file has no sample of the class."""
    number = [one.name for one in head.layers].index(layer)
    if label not in head.seen:
        return Ranking.empty(head.layers[number].channels, head.settings["n"], head.dtype)
    row = sorted(head.seen).index(label)
    return Ranking(*(file[f"layers/{number}/{by}/{part}"][row] for part in _PARTS))


def channel_of(file: h5py.File, number: int, by: str, channel: int, rows: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Scores, samples and places of one channel for some classes, [rows, n] each."""
    group = file[f"layers/{number}/{by}"]
    return tuple(group[part][:, channel][list(rows)] for part in _PARTS)


def files_of(file: h5py.File) -> list[tuple[str, str]]:
    """(path, relative) of each sample; none if samples came from elsewhere than files."""
    if not file_count(file):
        return []
    names = [[os.fsdecode(name) for name in file[f"files/{part}"][:]] for part in ("path", "relative")]
    return list(zip(*names, strict=True))


def file_count(file: h5py.File) -> int:
    """How many names of files there are."""
    return len(file["files/path"]) if "files" in file else 0


def file_of(file: h5py.File, sample: int) -> tuple[str, str]:
    """(path, relative) of a sample."""
    return os.fsdecode(file["files/path"][sample]), os.fsdecode(file["files/relative"][sample])

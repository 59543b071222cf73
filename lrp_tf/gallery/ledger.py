"""What a run over many files leaves on disk: names of results, tables that survive a kill, a lock.

`plan` compares what is asked for with what is there; `Record` adds to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import filelock

from lrp_tf.atomic import atomic
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.csv_tables import (
    PATH,
    TEXT,
    CsvTable,
    Row,
    complete_rows,
    from_cell,
    has_rows,
    to_cell,
    to_csv,
    write_text,
)
from lrp_tf.gallery.lines import groups
from lrp_tf.gallery.names import Names

__all__ = ["COLUMNS", "FAILED", "FAILURES", "LEFTOVERS", "LOCK", "PATH", "RESULTS", "SCALE", "SETTINGS", "SHARD"]
__all__ += ["SHARDS", "TEXT", "TOP", "CsvTable", "Item", "Record", "Row", "RunPlan", "changed", "check", "discard"]
__all__ += ["complete_rows", "finished_of", "from_cell", "has_rows", "items_of", "only_run", "plan", "read_json"]
__all__ += ["read_scale", "shard_names", "shards_in", "to_cell", "to_csv", "why_unwritten", "write_scale", "write_text"]

LOCK = ".lrp-tf.lock"
RESULTS, FAILURES, SETTINGS, SCALE = "results.csv", "failures.csv", "settings.json", "scale.json"
SHARDS, SHARD = "shards", "shard.json"  # the folder of all shards, a file in the folder of each
LEFTOVERS = f".tmp-{'[0-9a-f]' * 16}*"  # of `atomic`, where a process was killed
TOP = 5  # How many of the highest classes the table lists for each image.
COLUMNS = (
    *("file", "result"),
    *(f"top{i}{what}" for i in range(1, TOP + 1) for what in ("", "_name", "_probability", "_logit")),
    *("target", "target_name", "logit", "sum_of_relevance", "bias", "stabilizer", "other", "unexplained"),
    *("probability", "arrived", "largest_relevance", "warning", "contrast", "start"),
)
FAILED = ("file", "reason")  # columns of the table of failures
_TEXTS = {"file": PATH, "result": PATH, "reason": TEXT} | {name: TEXT for name in COLUMNS if name.endswith("_name")}


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Make `folder` and lock it for one run at a time. The operating system frees the lock of a killed process.

    Raises:
        LoadError: it is a file; another run is writing there.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise LoadError(
            f"Expected a folder for the results. Received: {folder}, which is a file or lies below one"
        ) from error
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
        # Removed while the lock is held: a process that opened the file meanwhile does not get the lock.
        with contextlib.suppress(OSError):  # Windows cannot remove an open file; filelock does it there
            os.unlink(lock.lock_file)
        lock.release()


def why_unwritten(error: Exception, describe: Callable[[Exception], str]) -> str:
    """The reason for the table of failures. An error that all other results would meet as well is raised instead.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise error
    return f"no result: {getattr(error, 'strerror', None) or describe(error)}"


# --- the plan ----------------------------------------------------------------------------------


class Item(NamedTuple):
    """A file to explain, and the path of its results below the folder, without suffix."""

    path: str
    base: str


class RunPlan(NamedTuple):
    """What a run has to do.

    Attributes:
        items: the files to explain.
        skipped: how many of the given files an earlier run finished.
        finished: all files that an earlier run finished -> base of their results.
        resumed: the results of that run stay in the table.
        folder: of the tables, where that is not the folder of the pictures; see `gallery.shards`.
    """

    items: list[Item]
    skipped: int
    finished: dict[str, str]
    resumed: bool = False
    folder: Path | None = None

    def digest(self) -> str:
        """Identifies the set of files, finished and not."""
        names = sorted([*(item.path for item in self.items), *self.finished])
        return hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()


def plan(
    out: Path,
    files: Iterable[tuple[str, str]],
    suffixes: Sequence[str],
    settings: Mapping[str, object],
    *,
    resume: bool,
    overwrite: bool,
    kept: Iterable[str] | None = None,
    whole: Callable[[str], bool] = lambda path: True,
) -> RunPlan:
    """Compare what is asked for with what an earlier run left in `out`, and make `out` ready.

    Args:
        files: pairs of a path and the part of it that names the results; a path that comes twice is one item.
        suffixes: of the files that each item will have.
        settings: have to be the same when a run is resumed.
        kept: files that no result may replace, if they lie in `out`; None: those to explain.
        whole: whether all else that belongs to a finished file is there.

    Raises:
        LoadError: results of an earlier run, and neither `resume` nor `overwrite`; other settings than its.
    """
    finished = finished_of(out, out, suffixes, settings, resume=resume, overwrite=overwrite, whole=whole)
    if overwrite:
        discard(shards_in(out))
    sweep(out)
    listed = list(files)
    items = items_of(out, listed, suffixes, kept=kept, finished=finished)
    return RunPlan(items, len({path for path, _ in listed}) - len(items), finished, resume)


def items_of(
    out: Path,
    files: Iterable[tuple[str, str]],
    suffixes: Sequence[str],
    *,
    kept: Iterable[str] | None = None,
    finished: Mapping[str, str] = MappingProxyType({}),
) -> list[Item]:
    """The files with names for their results, each file once, in their order; those that are finished are left out.

    The names depend on nothing but the arguments, and on whether files lie in `out`.

    Args:
        out, files, suffixes, kept: see `plan`.
        finished: file -> base of its results.
    """
    names = Names(suffixes)
    for base in finished.values():
        names.take(base)
    relatives: dict[str, str] = {}
    for path, relative in files:
        relatives.setdefault(path, relative)
    names.spare(out, relatives if kept is None else kept)
    return [Item(path, names.new(path, relative)) for path, relative in relatives.items() if path not in finished]


def sweep(out: Path) -> None:
    """Remove what killed processes were about to write, see `atomic`."""
    for leftover in out.rglob(LEFTOVERS):
        leftover.unlink(missing_ok=True)


def check(out: Path, settings: Mapping[str, object], *, resume: bool, overwrite: bool) -> None:
    """Refuse what `plan` refuses, and write nothing.

    Raises:
        LoadError: as `plan`.
    """
    if not overwrite and (parts := shards_in(out)):
        raise LoadError(
            f"{out} holds {len(parts)} shards of a run, which are no whole. Expected an empty folder. Remedy: merge "
            "them first (lrp-tf merge), another `out`, or `overwrite`",
            ("out", "overwrite"),
        )
    if not (resume or overwrite) and has_rows(out / RESULTS):
        raise LoadError(
            f"{out} holds the results of an earlier run. Expected an empty folder. Remedy: `resume` to finish that "
            "run, `overwrite` to begin anew, or another `out`",
            ("resume", "overwrite", "out"),
        )
    if resume and (out / RESULTS).exists() and (names := changed(out, settings)):
        raise LoadError(
            f"`resume`: {out} was made with other settings: {', '.join(names)}. Expected the same. Remedy: the "
            "earlier settings (settings.json), another `out`, or `overwrite`",
            ("resume", "out", "overwrite"),
        )


def shards_in(out: Path) -> list[Path]:
    """The folders of the tables of shards that write into `out`, see `gallery.shards`."""
    return [path.parent for path in out.glob(f"{SHARDS}/*-of-*/{SHARD}")]


def shard_names(out: Path) -> list[tuple[int, int]]:
    """(number, count) of the shards that have begun to write into `out`, by one listing of a folder."""
    try:
        names = os.listdir(out / SHARDS)
    except OSError:
        return []
    found = [re.fullmatch(r"(\d+)-of-(\d+)", name) for name in names]
    return [(int(one[1]), int(one[2])) for one in found if one]


def discard(folders: Iterable[Path]) -> None:
    """Remove folders of tables of shards.

    Raises:
        LoadError: one of them is running.
    """
    for folder in folders:
        with only_run(folder):
            (folder / SHARD).unlink(missing_ok=True)  # first: what is removed in part is no shard
            for path in folder.glob("*"):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process has begun there
            folder.rmdir()
            folder.parent.rmdir()


def changed(out: Path, settings: Mapping[str, object]) -> list[str]:
    """The names of the settings in which the run in `out` differs."""
    now, before = json.loads(json.dumps(settings)), read_json(out / SETTINGS)  # both as they come from a file
    # An option that the earlier run did not know yet is as good as None.
    return sorted(k for k in {*before, *now} if before.get(k) != now.get(k))


def finished_of(
    out: Path,
    pictures: Path,
    suffixes: Sequence[str],
    settings: Mapping[str, object],
    *,
    resume: bool,
    overwrite: bool,
    whole: Callable[[str], bool] = lambda path: True,
) -> dict[str, str]:
    """file -> base of its results, of the run to resume; rows without their files are removed from its table.

    Args:
        out: folder of the tables. pictures: of all other files. For the others see `plan`.

    Raises:
        LoadError: as `plan`.
    """
    check(out, settings, resume=resume, overwrite=overwrite)
    if not resume or not (out / RESULTS).exists():
        write_text(out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
        return {}
    finished = {group.file: group.base for group in groups(out / RESULTS, len(COLUMNS))}
    for file, base in list(finished.items()):
        if not (whole(file) and all((pictures / (base + suffix)).exists() for suffix in suffixes)):
            del finished[file]
    _keep(out / RESULTS, finished)
    return finished


def _keep(path: Path, files: Mapping[str, str]) -> None:
    """Leave out all rows of the table of results but those of `files`."""

    def draw(temporary: Path) -> None:
        with open(path, "rb") as before, open(temporary, "wb") as after:
            after.write(to_csv([COLUMNS]).encode())
            for group in groups(path, len(COLUMNS)):
                if group.file in files:
                    before.seek(group.begin)
                    after.write(before.read(group.end - group.begin))

    atomic(path, draw)


def read_scale(out: Path, plan: RunPlan) -> float:
    """The scale that the run to resume had.

    Raises:
        LoadError: the file is missing or damaged, or it is the scale of another list of files.
    """
    path = out / SCALE
    before = read_json(path)
    scale = before.get("scale")
    if before.get("files") != plan.digest() or not isinstance(scale, int | float):
        raise LoadError(
            f"`resume`: the scale of the run, {path}, belongs to another list of files or cannot be read; colours of "
            "the two runs would not be comparable. Expected the same files. Remedy: `scale` with the number in that "
            "file, or `overwrite`",
            ("resume", "scale", "overwrite"),
        )
    return float(scale)


def write_scale(out: Path, plan: RunPlan, scale: float) -> None:
    """Keep the scale of a run for those that resume it."""
    write_text(out / SCALE, json.dumps({"scale": scale, "files": plan.digest()}))


def read_json(path: Path) -> dict[str, object]:
    """The object that a file holds; an empty one if it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# --- tables ------------------------------------------------------------------------------------


class Record:
    """The tables of a run: `results.csv` and `failures.csv`. Use it as a context manager.

    Args:
        append: keep the results that are in the folder.
    """

    def __init__(self, out: Path, append: bool) -> None:
        self._results = CsvTable(out / RESULTS, COLUMNS, _TEXTS, append)
        self._failures = CsvTable(out / FAILURES, FAILED, _TEXTS)

    def __enter__(self) -> Record:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._results)
            stack.enter_context(self._failures)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, rows: Sequence[Row]) -> None:
        """Write the rows of one image, see `COLUMNS`."""
        self._results.add(rows)

    def fail(self, path: str, reason: str) -> None:
        """Write that the file has no result."""
        self._failures.add([(path, reason)])

"""What a run over many files leaves on disk: names of results, tables that survive a kill, a lock.

`plan` compares what is asked for with what is there; `Record` adds to it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock

from lrp_tf.atomic import atomic
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.names import Names

LOCK = ".lrp-tf.lock"
RESULTS, FAILURES, SETTINGS, SCALE = "results.csv", "failures.csv", "settings.json", "scale.json"
TOP = 5  # How many of the highest classes the table lists for each image.
COLUMNS = (
    *("file", "result"),
    *(f"top{i}{what}" for i in range(1, TOP + 1) for what in ("", "_name", "_probability", "_logit")),
    *("target", "target_name", "logit", "sum_of_relevance", "bias", "stabilizer", "other", "unexplained"),
    *("probability", "arrived", "largest_relevance", "warning", "contrast", "start"),
)
Row = tuple[object, ...]


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
    finished = _finished(out, suffixes, settings, resume, overwrite, whole)
    for leftover in out.rglob(f".tmp-{'[0-9a-f]' * 16}*"):
        leftover.unlink(missing_ok=True)
    names = Names(suffixes)
    for base in finished.values():
        names.take(base)
    relatives: dict[str, str] = {}
    for path, relative in files:
        relatives.setdefault(path, relative)
    names.spare(out, relatives if kept is None else kept)
    items = [Item(path, names.new(path, relative)) for path, relative in relatives.items() if path not in finished]
    return RunPlan(items, len(relatives) - len(items), finished, resume)


def check(out: Path, settings: Mapping[str, object], *, resume: bool, overwrite: bool) -> None:
    """Refuse what `plan` refuses, and write nothing.

    Raises:
        LoadError: as `plan`.
    """
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


def changed(out: Path, settings: Mapping[str, object]) -> list[str]:
    """The names of the settings in which the run in `out` differs."""
    now, before = json.loads(json.dumps(settings)), _read_json(out / SETTINGS)  # both as they come from a file
    # An option that the earlier run did not know yet is as good as None.
    return sorted(k for k in {*before, *now} if before.get(k) != now.get(k))


def _finished(
    out: Path,
    suffixes: Sequence[str],
    settings: Mapping[str, object],
    resume: bool,
    overwrite: bool,
    whole: Callable[[str], bool],
) -> dict[str, str]:
    """file -> base of its results, of the run to resume; rows without their files are removed from its table."""
    check(out, settings, resume=resume, overwrite=overwrite)
    if not resume or not (out / RESULTS).exists():
        write_text(out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
        return {}
    rows = complete_rows(out / RESULTS, len(COLUMNS))
    # Rows of one file are one write; of one that a full disk cut off, none counts.
    torn = _torn(out / RESULTS, len(COLUMNS))
    rows = [row for row in rows if torn is None or row[0] != torn]
    finished = {from_cell(row[0], PATH): from_cell(row[1], PATH) for row in rows[1:]}
    for file, base in list(finished.items()):
        if not (whole(file) and all((out / (base + suffix)).exists() for suffix in suffixes)):
            del finished[file]
    kept = [row for row in rows[1:] if from_cell(row[0], PATH) in finished]
    write_text(out / RESULTS, to_csv([COLUMNS, *kept]))
    return finished


def read_scale(out: Path, plan: RunPlan) -> float:
    """The scale that the run to resume had.

    Raises:
        LoadError: the file is missing or damaged, or it is the scale of another list of files.
    """
    path = out / SCALE
    before = _read_json(path)
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


def _read_json(path: Path) -> dict[str, object]:
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
        self._failures = CsvTable(out / FAILURES, ("file", "reason"), _TEXTS)

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
_TEXTS = {"file": PATH, "result": PATH, "reason": TEXT} | {name: TEXT for name in COLUMNS if name.endswith("_name")}


def to_cell(text: str, ahead: str = TEXT) -> str:
    r"""A name as a table holds it: with the prefix `ahead` if it looks like a formula, ESC as \x1b. See `from_cell`."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return ahead + text if re.match(f"(?:{re.escape(ahead)})*{_FORMULA}", text) else text


def from_cell(cell: str, ahead: str = TEXT) -> str:
    """The name that `to_cell` wrote."""
    cell = cell.removeprefix(ahead) if re.match(f"(?:{re.escape(ahead)})+{_FORMULA}", cell) else cell
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), cell)


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


def _torn(path: Path, columns: int) -> str | None:
    """The first cell of the line ahead of one that was cut off, if both may be of one file."""
    rows, whole = _read_csv(path)
    if len(rows) < 2 or (whole and len(rows[-1]) == columns):
        return None
    before, cut = rows[-2][0], rows[-1]
    return before if before == cut[0] or (len(cut) == 1 and before.startswith(cut[0])) else None


def _read_csv(path: Path) -> tuple[list[list[str]], bool]:
    """The lines of a table, and whether the last one was written to its end."""
    content = path.read_bytes()
    text = content.decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline=""))), content.endswith(b"\r\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "surrogateescape")))

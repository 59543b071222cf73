"""`merge`: the tables of shards become those of one run, in the order of the list, with the page over all.

Each table is read in its own order and written in that of the list, by places: memory holds 16 bytes for a file and
table, and the names of one shard at a time. All tables appear whole, `results.csv` last, so that a merge that was
killed can be repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from lrp_tf.atomic import atomic
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import layers, ledger, shards
from lrp_tf.gallery.ledger import COLUMNS, FAILURES, RESULTS, SETTINGS, Item, to_csv, write_text
from lrp_tf.gallery.lines import Lines
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.page.results import ABOUT
from lrp_tf.gallery.tiles import kept, place

MERGED = "merged.json"  # beside tables that were merged into another folder
_HELD = 64_000_000  # bytes of all tables that wait in memory
_TABLES = {RESULTS: COLUMNS, FAILURES: ledger.FAILED, layers.TABLE: layers.COLUMNS}


class Merged(NamedTuple):
    """What a merge came to.

        merged = lrp_tf.gallery.merge(["results"])
        print(merged.done, merged.failed)

    Attributes:
        out: folder of the run.
        shards: how many there were; 0: they were merged before.
        done, failed: files with and without a result.
        missing: files of the list that have neither, with `partial`.
        twice: files of which a shard had rows in two places; one of them counts.
        pages: that were written.
    """

    out: Path
    shards: int
    done: int
    failed: int
    missing: int = 0
    twice: int = 0
    pages: int = 0


class _Part:
    """The tables of one shard."""

    def __init__(self, out: Path, folder: Path, ahead: int) -> None:
        self.out, self.folder, self.note = out, folder, shards.note_of(folder)
        numbers = {item.path: number for number, item in enumerate(shards.items_in(folder))}
        self.count = len(numbers)
        found = {name: Lines(folder / name, numbers, len(columns), ahead) for name, columns in _TABLES.items()}
        self.results, self.failures, self.layers = found.values()

    def missing(self) -> int:
        """How many files have neither result nor reason."""
        return sum(not (self.results.has(number) or self.failures.has(number)) for number in range(self.count))


def merge(
    outs: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    *,
    partial: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Merged:
    """Make one run of shards: tables in the order of the list, settings, and the page if one was asked for.

        merged = lrp_tf.gallery.merge(["results"])

    Into the folder that the shards share, it replaces them: their own tables are removed, and the run may be resumed as
    if one process had made it. Into another folder, shards stay as they are, and pictures are linked, or copied where
    the file system cannot do that.

    Args:
        outs: the folders that the shards wrote into.
        out: folder of the run; None: that of all shards, if they share one.
        partial: accept that shards are missing or not finished.
        tell: called with a line for what is taken along nonetheless.

    Raises:
        LoadError: no shards; several of one number; other settings, lists or numbers of shards; shards that are missing
            or not finished, without `partial`; one that runs; results of something else in `out`.
        OSError: a folder cannot be read or written.
    """
    folders = [Path(name) for name in dict.fromkeys(os.path.normpath(os.fspath(folder)) for folder in outs)]
    if out is None and len(folders) != 1:
        raise LoadError("Expected `out`, the folder of the run, for shards of several folders", "out")
    target = folders[0] if out is None else Path(out)
    in_place = len(folders) == 1 and target.resolve() == folders[0].resolve()
    found = [(folder, path) for folder in folders for path in ledger.shards_in(folder)]
    for _, path in found:
        with ledger.only_run(path):
            pass  # none of them runs
    if in_place and found and (target / shards.ENDED).exists():  # killed while it removed what it had merged
        _end(target, found)
        found = []
    if not found:
        return _merged_before(folders, in_place)
    with ledger.only_run(target):
        parts = _checked(found, partial, tell)
        if not in_place:
            _refuse_others(target, parts[0])
        merged = _Merge(target, parts, in_place).write()
        if in_place:
            _end(target, found)
    return merged


def _end(target: Path, found: Sequence[tuple[Path, Path]]) -> None:
    """Remove the tables of shards that are one run now, and what killed ones left."""
    (target / shards.ENDED).touch()  # from here on they are no shards any more
    ledger.discard(path for _, path in found)
    for leftover in target.rglob(ledger.LEFTOVERS):
        leftover.unlink(missing_ok=True)
    (target / shards.ENDED).unlink()


def _merged_before(folders: Sequence[Path], in_place: bool) -> Merged:
    """What a folder without shards holds: a run, to which nothing is to be added."""
    target = folders[0]
    if in_place and (target / RESULTS).exists() and (target / SETTINGS).exists():
        counts = []
        for name in (RESULTS, FAILURES):
            rows = ledger.complete_rows(target / name, len(_TABLES[name]))[1:] if (target / name).exists() else []
            counts.append(len({row[0] for row in rows}))
        return Merged(target, 0, *counts)
    raise LoadError(
        f"Expected folders that shards of a run wrote into. Received: {', '.join(map(str, folders))}, without any. "
        "Remedy: the `out` of a run with `shard`",
        ("out", "shard"),
    )


def _checked(found: Sequence[tuple[Path, Path]], partial: bool, tell: Callable[[str], object]) -> list[_Part]:
    """The shards, by their number.

    Raises:
        LoadError: see `merge`.
    """
    ahead = max(_HELD // (3 * len(found)), 4096)
    notes = {path: shards.note_of(path) for _, path in found}
    notes = dict(sorted(notes.items(), key=lambda pair: (pair[1].shards, pair[1].shard)))
    _require_same(notes)
    numbers: dict[int, Path] = {}
    for path, note in notes.items():
        if note.shard in numbers:
            raise LoadError(
                f"Shard {note.shard}/{note.shards} is there twice: {numbers[note.shard]} and {path}. Expected each "
                "once. Remedy: leave one of the folders out"
            )
        numbers[note.shard] = path
    count = next(iter(notes.values())).shards
    wrong = [f"{number}/{count} (not begun)" for number in range(count) if number not in numbers]
    parts = sorted((_Part(out, path, ahead) for out, path in found), key=lambda part: part.note.shard)
    for part in parts:
        if left := part.missing():
            wrong.append(f"{part.note.shard}/{count} ({left} of {part.count} files left)")
    if not wrong:
        return parts
    shown = ", ".join(wrong[:20]) + (f" and {len(wrong) - 20} more" if len(wrong) > 20 else "")
    if not partial:
        raise LoadError(
            f"Expected all {count} shards, finished. Received: without {shown}. Remedy: run them with `resume`; or "
            "`partial` to leave out what they lack",
            ("resume", "partial"),
        )
    tell(f"left out: {shown}")
    return parts


def _require_same(notes: dict[Path, shards.Note]) -> None:
    """Raise LoadError unless all shards are of one run."""
    first, *others = notes
    ours = notes[first]
    for path in others:
        theirs = notes[path]
        words = {
            "numbers of shards": (ours.shards, theirs.shards),
            "lists of files": ((ours.files, ours.digest), (theirs.files, theirs.digest)),
            "kinds of pictures": (ours.suffixes, theirs.suffixes),
            "kinds of pages": ((ours.tiled, ours.page), (theirs.tiled, theirs.page)),
        }
        differ = [word for word, (one, other) in words.items() if one != other]
        if names := ledger.changed(path, ledger.read_json(first / SETTINGS)):
            differ.append(f"settings: {', '.join(names)}")
        if differ:
            raise LoadError(
                f"{first} and {path} are no shards of one run: they have other {', other '.join(differ)}. Expected "
                "the same. Remedy: run those of one kind anew with `overwrite`, or merge them apart",
                "overwrite",
            )


def _refuse_others(target: Path, part: _Part) -> None:
    """Raise LoadError if a folder holds anything but an earlier merge of these shards."""
    if ledger.shards_in(target):
        raise LoadError(
            f"{target} holds shards of its own. Expected a folder for the run. Remedy: another `out`", "out"
        )
    if not ledger.has_rows(target / RESULTS):
        return
    before = ledger.read_json(target / MERGED)
    sizes = before.get("sizes")
    same = before.get("digest") == part.note.digest and not ledger.changed(
        target, ledger.read_json(part.folder / SETTINGS)
    )
    if not (same and isinstance(sizes, list) and (target / RESULTS).stat().st_size in sizes):
        raise LoadError(
            f"{target} holds results of another run, or a run that went on since it was merged. Expected an empty "
            "folder, or an earlier merge of these shards. Remedy: another `out`",
            "out",
        )


class _Merge:
    """Writes the run.

    Args:
        in_place: pictures lie where they are to lie.
    """

    def __init__(self, target: Path, parts: Sequence[_Part], in_place: bool) -> None:
        self.target, self.parts, self.in_place = target, parts, in_place
        self.note, self.folder = parts[0].note, parts[0].folder

    def write(self) -> Merged:
        if not self.in_place:
            self._place_pictures()
        write_text(self.target / SETTINGS, (self.folder / SETTINGS).read_text(encoding="utf-8"))
        self._table(FAILURES, lambda part, number: b"" if part.results.has(number) else part.failures.of(number))
        if any((part.folder / layers.TABLE).exists() for part in self.parts):
            self._table(layers.TABLE, lambda part, number: part.layers.of(number) if part.results.has(number) else b"")
        self._table(RESULTS, lambda part, number: part.results.of(number))
        pages = len(write_page(self.target)) if self.note.page else 0
        done = sum(part.results.count() for part in self.parts)
        missing = sum(part.missing() for part in self.parts)
        seen = sum(part.count for part in self.parts)
        missing += self.note.files - seen  # of shards that were not begun
        failed = self.note.files - done - missing
        return Merged(
            self.target, len(self.parts), done, failed, missing, sum(part.results.twice for part in self.parts), pages
        )  # fmt: skip

    def _table(self, name: str, rows: Callable[[_Part, int], bytes]) -> None:
        """Write a table whose rows are in the order of the list."""

        def draw(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                file.write(to_csv([_TABLES[name]]).encode())
                for part, number in self._order():
                    file.write(rows(part, number))
                self._noted(name, file)

        atomic(self.target / name, draw)

    def _noted(self, name: str, file: IO[bytes]) -> None:
        """Ahead of the results, note what they will be, so that a later merge knows them for its own."""
        if name != RESULTS or self.in_place:
            return
        before = self.target / RESULTS
        sizes = [file.tell(), *([before.stat().st_size] if before.exists() else [])]
        write_text(self.target / MERGED, json.dumps({"digest": self.note.digest, "sizes": sizes}))

    def _order(self) -> Iterator[tuple[_Part, int]]:
        """(shard, number of a file in it) in the order of the whole list."""
        for number in range(max(part.count for part in self.parts)):
            for part in self.parts:
                if number < part.count:
                    yield part, number

    # --- pictures that lie elsewhere -----------------------------------------------------------

    def _place_pictures(self) -> None:
        for part in self.parts:
            for number, item in enumerate(shards.items_in(part.folder)):
                if part.results.has(number):
                    for name in _files(part, item):
                        _link(part.out / name, self.target / name)
        if self.note.tiled:
            _link(self.parts[0].out / ABOUT, self.target / ABOUT)


def _files(part: _Part, item: Item) -> Iterator[str]:
    """All files of an item, below the folder of its results; the list of its tiles last."""
    yield from (item.base + suffix for suffix in part.note.suffixes)
    if part.note.tiled and (tiles := kept(part.out, item.path)) is not None:
        yield from tiles.below
        yield from (name for names in tiles.maps for name in names)
        yield f"{place(item.path)}.json"


def _link(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, or a copy of it where that cannot be.

    Raises:
        LoadError: there is no such file.
    """
    if not source.exists():
        raise LoadError(
            f"{source} is missing, which a shard wrote. Expected all pictures of finished files. Remedy: that shard "
            "again, with `resume`",
            "resume",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return

    def place_there(temporary: Path) -> None:
        temporary.unlink()
        with contextlib.suppress(OSError):
            os.link(source, temporary)
            return
        shutil.copy2(source, temporary)

    atomic(target, place_there)

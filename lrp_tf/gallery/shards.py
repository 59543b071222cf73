"""One list of files, explained by N processes that know nothing of one another: what belongs to each of them.

Item k of the list belongs to shard k mod N. The names of results are those of the whole list, so all shards write their
pictures into one folder. The tables of each lie in a folder of its own, `shards/3-of-8`, until `merging.merge` makes
one run of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.gallery.ledger import PATH, RESULTS, SHARD, SHARDS, Item, RunPlan, from_cell, to_cell, to_csv, write_text
from lrp_tf.gallery.lines import records

LIST = "list.csv"  # the items of a shard, in their order
ENDED = ".shards-ended"  # shards are one run already, and their own tables are being removed


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 0.

        plan = gallery.plan(files, shard=(3, 8))
        assert plan.folder == lrp_tf.gallery.shards.Shard(3, 8).folder(gallery.out)

    Item k of a list belongs to shard k mod `count`.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def check(self) -> None:
        """Raise LoadError unless 0 <= index < count."""
        if not 0 <= self.index < self.count:
            raise LoadError(
                f"`shard` {self}: expected a number from 0 to {max(self.count - 1, 0)} of {max(self.count, 1)}: shards "
                "are counted from 0",
                "shard",
            )

    def part(self, items: Sequence[Item]) -> list[Item]:
        """The items of this shard."""
        return list(items[self.index :: self.count])

    def folder(self, out: Path) -> Path:
        """Where its tables lie."""
        return out / SHARDS / f"{self.index}-of-{self.count}"


class Note(NamedTuple):
    """What a shard is part of, in `shard.json` beside its tables.

    Attributes:
        shard, shards: its number, and of how many.
        files: in the whole list.
        digest: of the whole list, with the names of the results.
        suffixes: of the files that each item has.
        tiled: there are small pictures for a page. page: which is wanted.
    """

    shard: int
    shards: int
    files: int
    digest: str
    suffixes: list[str]
    tiled: bool
    page: bool


def plan(
    out: Path,
    files: Iterable[tuple[str, str]],
    suffixes: Sequence[str],
    settings: Mapping[str, object],
    shard: Shard,
    *,
    resume: bool,
    overwrite: bool,
    whole: Callable[[str], bool] = lambda path: True,
    tiled: bool = False,
    page: bool = False,
) -> RunPlan:
    """What one shard has to do; the folder of its tables is locked by the caller.

    Args:
        tiled, page: see `Note`.
        Others: see `ledger.plan`.

    Raises:
        LoadError: as `ledger.plan`; the earlier run of this shard had another list of files.
    """
    folder = shard.folder(out)
    items = ledger.items_of(out, files, suffixes)
    note = Note(shard.index, shard.count, len(items), digest_of(items), list(suffixes), tiled, page)
    if resume and ledger.has_rows(folder / RESULTS) and note_of(folder).digest != note.digest:
        raise LoadError(
            f"`resume`: shard {shard} in {folder} had another list of files. Expected the same, since its number tells "
            "which of them are meant. Remedy: the same list, another `out`, or `overwrite`",
            ("resume", "out", "overwrite"),
        )
    for leftover in folder.glob(ledger.LEFTOVERS):  # others in `out` may be a running shard's
        leftover.unlink(missing_ok=True)
    finished = ledger.finished_of(
        folder, out, suffixes, settings, resume=resume, overwrite=overwrite, whole=whole
    )  # fmt: skip
    ours = shard.part(items)
    write(folder, ours, note)
    left = [item for item in ours if item.path not in finished]
    return RunPlan(left, len(ours) - len(left), finished, resume, folder)


def write(folder: Path, items: Iterable[Item], note: Note) -> None:
    """Write what a shard has to do, and what it is part of."""
    cells = ((to_cell(item.path, PATH), to_cell(item.base, PATH)) for item in items)
    write_text(folder / LIST, to_csv([("file", "result"), *cells]))
    write_text(folder / SHARD, json.dumps(note._asdict()))


def check(out: Path, shard: Shard, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else than other shards of the same run; `overwrite` removes it.

    Raises:
        LoadError: the results of a whole run; shards of another number; a shard that is none.
    """
    shard.check()
    begun = ledger.shard_names(out)
    others = [Shard(*one) for one in begun if one[1] != shard.count]
    earlier = ledger.has_rows(out / RESULTS) and (not begun or (out / ENDED).exists())
    if overwrite:
        ledger.discard(one.folder(out) for one in others)
        if earlier:
            for name in (RESULTS, ledger.FAILURES, ledger.SETTINGS, ENDED):
                (out / name).unlink(missing_ok=True)
        return
    if earlier:
        raise LoadError(
            f"{out} holds the results of a whole run, or of shards that were merged. Expected an empty folder, or one "
            "of other shards. Remedy: `resume` without `shard` to finish that run, another `out`, or `overwrite`",
            ("resume", "shard", "out", "overwrite"),
        )
    if others:
        count = others[0].count
        raise LoadError(
            f"{out} holds shards of {count}. Expected the same number. Received: `shard` {shard}. Remedy: "
            f"`shard` {min(shard.index, count - 1)}/{count}, another `out`, or `overwrite`",
            ("shard", "out", "overwrite"),
        )


def note_of(folder: Path) -> Note:
    """What the shard in a folder is part of.

    Raises:
        LoadError: it cannot be read.
    """
    found = ledger.read_json(folder / SHARD)
    try:
        return Note(**found)  # type: ignore[arg-type]
    except TypeError as error:
        raise LoadError(
            f"{folder / SHARD} is damaged, or of another version of lrp_tf. Expected what a shard wrote. Remedy: "
            "`resume` or `overwrite` for that shard",
            ("resume", "overwrite"),
        ) from error


def items_in(folder: Path) -> Iterator[Item]:
    """The items of the shard in a folder, finished or not, in their order."""
    for _, _, row in records(folder / LIST):
        if len(row) == 2:
            yield Item(from_cell(row[0], PATH), from_cell(row[1], PATH))


def digest_of(items: Iterable[Item]) -> str:
    """Identifies a list of files and the names of their results."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(os.fsencode(f"{item.path}\0{item.base}\0"))
    return digest.hexdigest()

"""lrp_tf's code with one promise taken out at a time: the count of farm.py, or lrp_tf itself, has to notice each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import farm_shards

from lrp_tf import atomic
from lrp_tf.gallery import ledger, lines
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.tally import Recording


class Broken(NamedTuple):
    """A promise that is taken out.

    Attributes:
        ways: of working in which it is needed.
        broken: a context in which the code does not keep it.
    """

    ways: tuple[str, ...]
    broken: Callable[[], contextlib.AbstractContextManager[object]]


@contextlib.contextmanager
def _no_lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    yield


def _in_place(path: Path, draw: Callable[[Path], object]) -> Path:
    draw(path)
    return path


def _named_alone(*arguments: object, **options: object) -> list[ledger.Item]:
    """Names that know nothing of the other files: those of two folders agree."""
    files = arguments[1]
    return [ledger.Item(path, relative.removesuffix(".jpg")) for path, relative in files]  # type: ignore[attr-defined]


def _torn_too(path: Path, columns: int) -> Iterator[lines.Group]:
    """A file counts as finished although its last row was cut off."""
    for begin, end, row in lines.records(path):
        if len(row) == columns:
            yield lines.Group(begin, end, row[0], row[1])


_add = Recording.add


def _again(record: Recording, finished: Finished) -> bool:
    record._known.clear()
    return _add(record, finished)


BROKEN = {
    "lock": Broken(("shards",), lambda: mock.patch.object(ledger, "only_run", _no_lock)),
    "rename": Broken(("driver",), lambda: mock.patch.object(atomic, "atomic", _in_place)),
    "torn rows": Broken(("shards",), lambda: mock.patch.object(ledger, "groups", _torn_too)),
    "names": Broken(("shards", "driver"), lambda: mock.patch.object(ledger, "items_of", _named_alone)),
    "each once": Broken(("driver",), lambda: mock.patch.object(Recording, "add", _again)),
    "again": Broken(
        ("shards",), lambda: mock.patch.object(farm_shards.ShardFarm, "lost", farm_shards.ShardFarm.answer)
    ),
}
"""The lock of a folder; pictures that are renamed when they are whole; rows that were cut off are removed; names that
differ; what comes back twice is recorded once; a shard whose worker died is handed out again."""

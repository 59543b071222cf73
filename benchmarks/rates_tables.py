"""The half of rates.py that writes and reads tables: CPU time and memory of names, rows, resuming, merging."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

from rates import Figures

from lrp_tf.atomic import atomic
from lrp_tf.gallery import ledger, merging, shards
from lrp_tf.gallery.ledger import Item, Record, Row

SUFFIXES, SETTINGS = (".heatmap.png",), {"model": "m"}
NAMES = 997  # classes
SHARDS = 100


def tables(rows: int) -> Figures:
    """CPU microseconds of a file, files/s of a core, bytes of peak memory for a file: each part of the bookkeeping."""
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, job in (("plan: names", plan), ("ledger: rows", record), ("resume: plan again", resume)):
            found[f"{what}, {rows:,} files"] = measured(job, folder / "one", rows)
        found["pictures renamed, 5,000 files"] = measured(rename, folder, 5_000)
        split(folder / "many", rows)
        found[f"merge, {SHARDS} shards, {rows:,} files"] = measured(merge, folder / "many", rows)
    return found


def measured(job: Callable[[Path, int], None], folder: Path, count: int) -> dict[str, float]:
    """A job in a process of its own: its memory is what it adds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(job, folder, count, there))
    process.start()
    there.close()
    cpu, wall, memory = here.recv()
    process.join()
    return {"CPU us": 1e6 * cpu / count, "files/s": count / cpu, "by the clock": count / wall, "peak B": memory / count}


def _measure(job: Callable[[Path, int], None], folder: Path, count: int, there: Connection) -> None:
    before = _resident()
    begin = time.perf_counter(), time.process_time()
    job(folder, count)
    wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    there.send((cpu, wall, max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0)))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# --- jobs --------------------------------------------------------------------------------------


def files(count: int) -> Iterator[tuple[str, str]]:
    """Paths and the names that results get."""
    return ((f"photographs/n{i % NAMES:08}/{i:09}.JPEG", f"n{i % NAMES:08}/{i:09}.JPEG") for i in range(count))


def row(item: Item, index: int) -> Row:
    """A row as `lrp-tf explain` writes it."""
    top = [c for k in range(ledger.TOP) for c in ((index + k) % NAMES, f"a class of {NAMES}", "0.123456", "12.34567")]
    shares = ("12.34567", "5.432101", "6.789012", "0.0001234", "0", "1.234567e-07", "0.123456", "0.44", "0.02345678")
    return (item.path, item.base, *top, index % NAMES, f"a class of {NAMES}", *shares, "", "", "12.34567")


def planned(folder: Path, count: int, *, again: bool) -> ledger.RunPlan:
    folder.mkdir(exist_ok=True, parents=True)
    return ledger.plan(folder, files(count), SUFFIXES, SETTINGS, resume=again, overwrite=not again)


def plan(folder: Path, count: int) -> None:
    """Names for the results of a new run."""
    planned(folder, count, again=False)


def record(folder: Path, count: int) -> None:
    """Rows of files that are finished, one by one."""
    write(folder, [Item(path, relative) for path, relative in files(count)])


def resume(folder: Path, count: int) -> None:
    """The plan of a run whose rows are all there, and none of its pictures."""
    planned(folder, count, again=True)


def write(folder: Path, items: Sequence[Item]) -> None:
    """The table of a run."""
    with Record(folder, append=False) as table:
        for index, item in enumerate(items):
            table.add([row(item, index)])


def rename(folder: Path, count: int) -> None:
    """Pictures of one folder that appear whole."""
    place = folder / "pictures"
    place.mkdir(parents=True)
    for index in range(count):
        atomic(place / f"{index}.png", lambda path: path.write_bytes(b"\0" * 30_000))


def split(folder: Path, count: int) -> None:
    """The tables of a run in shards, without pictures."""
    folder.mkdir()
    items = ledger.items_of(folder, files(count), SUFFIXES)
    digest = shards.digest_of(items)
    with (  # each shard would name the whole list for itself
        mock.patch.object(ledger, "items_of", return_value=items),
        mock.patch.object(shards, "digest_of", return_value=digest),
    ):
        for index in range(SHARDS):
            shard = shards.Shard(index, SHARDS)
            shard.folder(folder).mkdir(parents=True)
            plan = shards.plan(folder, (), SUFFIXES, SETTINGS, shard, resume=False, overwrite=False)
            write(shard.folder(folder), plan.items)


def merge(folder: Path, count: int) -> None:
    """One table of all shards."""
    merging.merge([folder])

"""What shards cost beside explaining: naming a list, and merging the tables of shards.

python benchmarks/shards.py names [FILES]
python benchmarks/shards.py merge [FILES [SHARDS]]

Tables are made up; no network runs. Times are those of the processor. Memory is the growth of the largest resident size
of this process.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from lrp_tf.gallery import ledger, merge, shards
from lrp_tf.gallery.shards import Shard

SETTINGS = {"composite": "made up"}


def main() -> None:
    what, *numbers = sys.argv[1:] or ["names"]
    files = int(numbers[0]) if numbers else 1_000_000
    listed = [
        (f"in/{number // 1000:06}/{number:09}.jpg", f"{number // 1000:06}/{number:09}.jpg") for number in range(files)
    ]
    before, began = peak(), time.process_time()
    if what == "names":
        items = ledger.items_of(Path("out"), listed, [".png"])
        seconds = time.process_time() - began
        print(f"{len(items)} names: {1e6 * seconds / files:.1f} us and {(peak() - before) / files:.0f} bytes a file")
        return
    count = int(numbers[1]) if len(numbers) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for index in range(count):
            write(out, listed, Shard(index, count))
        before, began = peak(), time.process_time()
        merged = merge([out])
        seconds = time.process_time() - began
        size = (out / ledger.RESULTS).stat().st_size
        assert (merged.done, merged.missing) == (files, 0)
    print(
        f"{files} rows ({size / files:.0f} bytes each) of {count} shards: {1e6 * seconds / files:.1f} us and "
        f"{max(peak() - before, 0) / files:.0f} bytes of memory a row"
    )


def write(out: Path, listed: list[tuple[str, str]], shard: Shard) -> None:
    """What a shard leaves that finished."""
    plain = listed[shard.index :: shard.count]  # names of the whole list would take all the time here
    folder = shard.folder(out)
    folder.mkdir(parents=True)
    items = [ledger.Item(path, os.path.splitext(relative)[0]) for path, relative in plain]
    note = shards.Note(shard.index, shard.count, len(listed), "made up", [], tiled=False, page=False)
    shards.write(folder, items, note)
    ledger.finished_of(folder, out, [], SETTINGS, resume=False, overwrite=False)
    with ledger.Record(folder, append=False) as record:
        for item in items:
            record.add([(*item, *(f"{number}.123456" for number in range(len(ledger.COLUMNS) - 2)))])


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

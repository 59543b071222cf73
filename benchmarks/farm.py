"""10,000 workers that die, hang, are slow and are started twice: is any image lost, and is any done twice?

    python benchmarks/farm.py                                    # a million images, minutes on one core
    python benchmarks/farm.py --images 20000 --workers 200       # seconds
    python benchmarks/farm.py --images 20000 --workers 200 --broken all

Explaining is a wait in simulated time (simpy); all else is lrp_tf's own code on a real folder: names, plans, shards,
locks, pictures that are renamed, tables, resuming, merging. A worker dies at a random moment: while it explains, with
half a picture written, between picture and row, in the middle of a row. At the end every image is counted. `--broken`
takes one promise out of the code at a time, and the count has to notice.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import farm_broken
from farm_audit import Audit
from farm_driver import DriverFarm
from farm_shards import ShardFarm
from farm_world import Conditions

from lrp_tf.files.errors import LoadError

WAYS = {"shards": ShardFarm, "driver": DriverFarm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Conditions):
        option = "--" + field.name.replace("_", "-")
        help_ = f"{field.metadata['help']}; default: {field.default:,}"
        parser.add_argument(option, type=type(field.default), default=field.default, help=help_)
    parser.add_argument(
        "--way",
        nargs="+",
        choices=WAYS,
        default=list(WAYS),
        help="shards: N processes with a ledger each; driver: one ledger",
    )
    parser.add_argument("--broken", nargs="+", metavar="WHAT", help=f"all, or some of {', '.join(farm_broken.BROKEN)}")
    parser.add_argument("--place", type=Path, help="folder for the results, of a fast disk; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    # Each worker that is inside a shard has a lock and two tables open, as processes of their own have.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    conditions = Conditions(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Conditions)})
    broken = list(farm_broken.BROKEN) if options.broken == ["all"] else options.broken or []
    found, wrong = [], False
    for way in options.way:
        for promise in [None, *(name for name in broken if way in farm_broken.BROKEN[name].ways)]:
            row = run(way, conditions, promise, options.place)
            found.append(row)
            wrong |= row["sound"] == (promise is not None)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.exit("An image was lost or done twice, or a broken protocol was not noticed" if wrong else 0)


def run(way: str, conditions: Conditions, promise: str | None = None, place: Path | None = None) -> dict[str, object]:
    """One simulation, audited and printed."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        broken = farm_broken.BROKEN[promise].broken() if promise else contextlib.nullcontext()
        farm = WAYS[way](Path(folder), conditions)
        refused = ""
        with broken:
            farm.run()
            simulated = time.process_time()
            try:
                farm.merge()
            except LoadError as error:
                refused = str(error)
        audit = None if refused else Audit.of(farm)
    seconds = time.process_time() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    title = f"{way}{f', broken: {promise}' if promise else ''}"
    print(
        f"{title}: {conditions.images:,} images, {conditions.workers:,} workers, {farm.env.now / 3600:.2f} h simulated"
    )
    print("  " + ", ".join(f"{what} {count:,}" for what, count in sorted(farm.count.items())))
    print(f"  {audit or f'REFUSED: {refused}'}")
    print(
        f"  {seconds:.1f} s of CPU time, of them {simulated - begin:.1f} s until merge; {memory:,.0f} MiB at most",
        flush=True,
    )
    return {
        "way": way,
        "broken": promise,
        "sound": audit is not None and audit.sound,
        "refused": refused,
        "audit": audit and dataclasses.asdict(audit),
        "count": dict(farm.count),
        "hours": farm.env.now / 3600,
        "CPU seconds": seconds,
        "conditions": dataclasses.asdict(conditions),
    }


if __name__ == "__main__":
    main()

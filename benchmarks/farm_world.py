"""What the two farms of farm.py have in common: conditions, images, pictures, workers that die."""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simpy

from lrp_tf import atomic
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.ledger import COLUMNS, Item

SUFFIXES = (".png",)
SETTINGS = {"model": "simulated"}
_TARGET = COLUMNS.index("target")
_BEFORE, _BEHIND = ("",) * (_TARGET - 2), ("",) * (len(COLUMNS) - _TARGET - 2)


def _option(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What is simulated. Times are seconds."""

    images: int = _option(1_000_000, "images")
    workers: int = _option(10_000, "workers at a time")
    shards: int = _option(0, "shards or blocks; 0: two for each worker")
    seconds: float = _option(0.4, "seconds of an image on a worker of usual speed")
    start: float = _option(33.0, "seconds of the start of a worker: container, imports, model, first call")
    between_deaths: float = _option(600.0, "mean seconds between two deaths of a worker")
    lease: float = _option(150.0, "seconds after which a shard without an answer is given to another worker")
    slow: float = _option(0.03, "share of workers that are eight times slower")
    hangs: float = _option(0.1, "share of deaths that are none: the worker stands still, and goes on much later")
    drivers: int = _option(3, "deaths of whoever hands out the work")
    unreadable: float = _option(0.001, "share of images that cannot be read")
    poison: float = _option(0.00002, "share of images that kill whoever explains them")
    seed: int = _option(0, "of all that is random")

    @property
    def parts(self) -> int:
        """Shards or blocks."""
        return self.shards or min(2 * self.workers, self.images)


class Killed(BaseException):
    """A process is gone: what it would have done next is not done."""


class World:
    """A simulated clock, images, workers. Kinds of farms say who hands out work and who keeps the tables.

    Args:
        folder: where the results are written.
    """

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        self.out, self.conditions = folder / "out", conditions
        self.env = simpy.Environment()
        self.random = random.Random(conditions.seed)
        self.count: collections.Counter[str] = collections.Counter()
        digits = len(str(conditions.images))
        # Every name comes in three folders: the results of no two may have one name.
        self.files = [
            (f"photos/{i % 3}/{i // 3:0{digits}}.jpg", f"{i // 3:0{digits}}.jpg") for i in range(conditions.images)
        ]
        order = self.random.sample(range(conditions.images), conditions.images)
        unreadable = max(int(conditions.unreadable * conditions.images), 1)
        poison = max(int(conditions.poison * conditions.images), 1)
        self.unreadable = {self.files[i][0] for i in order[:unreadable]}
        self.poison = {self.files[i][0] for i in order[unreadable : unreadable + poison]}
        self.speed = [8.0 if self.random.random() < conditions.slow else 1.0 for _ in range(conditions.workers)]

    # --- one image -----------------------------------------------------------------------------

    def finished(self, item: Item) -> Finished:
        """What explaining an image gives: one row or two, or the reason why there is none."""
        if item.path in self.unreadable:
            return Finished(item, [], "no picture")
        return Finished(item, [self._row(item, target) for target in range(self.targets(item.base))])

    def targets(self, base: str) -> int:
        """How many rows an image has: one or two."""
        return 1 + (zlib.crc32(base.encode()) % 4 == 0)

    def _row(self, item: Item, target: int) -> tuple[object, ...]:
        return (item.path, item.base, *_BEFORE, target, f"class, {target}", *_BEHIND)

    def draw(self, item: Item) -> None:
        """Write the picture of an image as lrp_tf writes one."""
        content = whole(item.path).encode()

        def write(temporary: Path) -> None:
            with open(temporary, "wb", buffering=0) as file:
                file.write(content)

        atomic.atomic(f"{self.out}/{item.base}{SUFFIXES[0]}", write)
        self.count["pictures written"] += 1

    def half_draw(self, item: Item) -> None:
        """Die in the middle of writing a picture: half a file stays where the code writes it."""
        path = self.out / (item.base + SUFFIXES[0])

        def draw(temporary: Path) -> None:
            half = whole(item.path)[: self.random.randrange(len(whole(item.path)))]
            if temporary != path:  # `atomic` clears up behind an exception, which a dead process does not
                temporary = temporary.parent / f".tmp-{secrets.token_hex(8)}{path.suffix}"
            temporary.write_text(half)
            raise Killed

        try:
            atomic.atomic(path, draw)
        except Killed:
            self.count["deaths with half a picture"] += 1

    def tear(self, table: Path, size: int) -> None:
        """Take back a part of what was written beyond `size` bytes: the process died in the middle of that write."""
        written = table.stat().st_size
        os.truncate(table, self.random.randrange(size, written))
        self.count["deaths in the middle of a row"] += 1

    # --- workers -------------------------------------------------------------------------------

    def life(self) -> float:
        """The moment of the next death of a worker."""
        return self.env.now + self.random.expovariate(1 / self.conditions.between_deaths)

    def arrives(self) -> simpy.Event:
        """A worker joins: machines come one after the other, within two starts."""
        return self.env.timeout(self.random.uniform(0, 2 * self.conditions.start))

    def reign(self) -> float:
        """Seconds until whoever hands out the work dies: from the first result on."""
        conditions = self.conditions
        about = conditions.images * conditions.seconds / conditions.workers  # without starts and failures
        return self.random.uniform(conditions.start, 3 * conditions.start + about)

    def takes(self, worker: int) -> float:
        """Seconds of one image."""
        return self.conditions.seconds * self.speed[worker] * self.random.uniform(0.5, 1.5)

    def timeout(self, seconds: float) -> simpy.Event:
        return self.env.timeout(seconds)

    def run(self) -> None:
        """Simulate until all work is done."""
        raise NotImplementedError

    def merge(self) -> None:
        """Make one table of what was recorded."""
        raise NotImplementedError

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table of results, without its header."""
        raise NotImplementedError

    def failures(self) -> Iterator[list[str]]:
        """The cells of the table of failures, without its header."""
        raise NotImplementedError


def whole(path: str) -> str:
    """What the picture of an image holds."""
    return f"picture of {path}, to the end"

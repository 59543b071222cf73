"""One ledger: a driver hands out blocks of images and records what comes back, as lrp_tf.ray does.

Whatever is delivered may come twice: the block of a lost worker is done again from its beginning, and blocks without
an answer are started a second time. Images that kill are found by `lrp_tf.ray.attempts`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import simpy
from farm_world import SETTINGS, SUFFIXES, Conditions, Killed, World

from lrp_tf.gallery import ledger
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.ledger import Item
from lrp_tf.gallery.tally import Listener, Recording
from lrp_tf.ray import attempts

NOTICED = 5.0  # seconds until a death is known


class Block:
    """Some images, of which nothing else is known than what came back."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items, self.missing = items, {item.path for item in items}
        self.begun = math.inf


class DriverFarm(World):
    """See above."""

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        super().__init__(folder, conditions)
        self.driver: Driver | None = None

    def run(self) -> None:
        self.env.process(self._drivers())
        self.env.run()

    def _drivers(self) -> Generator[simpy.Event, None, None]:
        """One after the other, until one has recorded everything."""
        for number in range(self.conditions.drivers + 1):
            last = number == self.conditions.drivers
            self.driver = Driver(self, number > 0, math.inf if last else self.env.now + self.reign())
            yield from self.driver.drive()
            if self.driver.whole:
                return
            yield self.timeout(60)

    def merge(self) -> None:
        """One ledger needs no merge."""

    def rows(self) -> Iterator[list[str]]:
        return cells(self.out / ledger.RESULTS)

    def failures(self) -> Iterator[list[str]]:
        return cells(self.out / ledger.FAILURES)


def cells(path: Path) -> Iterator[list[str]]:
    """The cells of a table, without its header."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        yield from rows


class Driver:
    """One process that hands out and records, until it dies.

    Args:
        resume: another one died before.
        until: the time of its death.
    """

    def __init__(self, farm: DriverFarm, resume: bool, until: float) -> None:
        self.farm, self.resume, self.until = farm, resume, until
        self.queue = simpy.Store(farm.env)
        self.attempts = attempts.Attempts()
        self.over = farm.env.event()
        self.alive, self.whole = True, False

    def drive(self) -> Generator[simpy.Event, None, None]:
        """Plan, hand out, and wait for the end."""
        farm = self.farm
        with contextlib.ExitStack() as stack:
            stack.enter_context(ledger.only_run(farm.out))
            plan = ledger.plan(farm.out, farm.files, SUFFIXES, SETTINGS, resume=self.resume, overwrite=False)
            farm.count["images planned again"] += len(plan.items) if self.resume else 0
            around = contextlib.nullcontext()
            self.record = Recording(farm.out, plan, Listener(), False, around, lambda: None)
            stack.enter_context(self.record)
            size = math.ceil(farm.conditions.images / farm.conditions.parts)
            self.open = {Block(plan.items[i : i + size]) for i in range(0, len(plan.items), size)}
            for block in sorted(self.open, key=lambda block: block.items[0].path):
                self.queue.put(block)
            if self.open:
                for worker in range(farm.conditions.workers):
                    farm.env.process(self._worker(worker))
                farm.env.process(self._lease())
                yield self.over
            self.alive = False
            for _ in range(farm.conditions.workers):
                self.queue.put(None)
        self.whole = not self.open
        farm.count["deaths of the driver"] += not self.whole

    def deliver(self, block: Block, found: Finished) -> None:
        """What a worker found arrives."""
        farm = self.farm
        if not self.alive:
            farm.count["delivered to a dead driver"] += 1
            return
        if farm.env.now >= self.until:
            self._die(found)
            return
        if not self.record.add(found):
            farm.count["delivered again"] += 1
        block.missing.discard(found.item.path)
        if not block.missing and block in self.open:
            self.open.discard(block)
            if not self.open:
                self.over.succeed()

    def _die(self, found: Finished) -> None:
        """In the middle of the row of `found`, before it or behind it."""
        table = self.farm.out / ledger.RESULTS
        size = table.stat().st_size
        if self.farm.random.random() < 0.7:
            self.record.add(found)
            if table.stat().st_size > size and self.farm.random.random() < 0.7:
                self.farm.tear(table, size)
        self.alive = False
        self.over.succeed()

    def _lease(self) -> Generator[simpy.Event, None, None]:
        """Give blocks without an answer to another worker, too."""
        lease = self.farm.conditions.lease
        while self.alive:
            yield self.farm.timeout(lease / 4)
            for block in sorted(self.open, key=lambda block: block.items[0].path):
                if self.farm.env.now - block.begun > lease:
                    block.begun = self.farm.env.now
                    self.farm.count["leases that expired"] += 1
                    self.queue.put(block)

    def _worker(self, number: int) -> Generator[simpy.Event, None, None]:
        """Start, explain, die, start again."""
        farm = self.farm
        yield farm.arrives()
        while self.alive:
            yield farm.timeout(farm.conditions.start)
            death = farm.life()
            while (block := (yield self.queue.get())) is not None:
                if not self.alive:
                    return
                if block not in self.open:
                    continue
                block.begun = farm.env.now
                try:
                    death = yield from self._explain(number, block, death)
                except Killed:
                    farm.count["deaths of workers"] += 1
                    yield farm.timeout(NOTICED)
                    self.queue.put(block)
                    break
            else:
                return

    def _explain(self, number: int, block: Block, death: float) -> Generator[simpy.Event, None, float]:
        """All of a block; the time of the next death."""
        farm, life = self.farm, [death]
        explain = functools.partial(self._each, block, life)
        keys = [item.path for item in block.items]
        found = attempts.guarded(
            block.items, keys, self.attempts, explain, lambda item, reason: Finished(item, [], reason)
        )
        for _ in block.items:
            yield farm.timeout(farm.takes(number))
            if farm.env.now >= max(life[0], block.begun) and farm.random.random() < farm.conditions.hangs:
                farm.count["workers that hung and went on"] += 1
                yield farm.timeout(3 * farm.conditions.lease)
                life[0] = farm.life()
            self.deliver(block, next(found)[1])
        return life[0]

    def _each(self, block: Block, life: list[float], items: Sequence[Item]) -> Iterator[tuple[int, Finished]]:
        """Explain images, as long as the worker lives."""
        for index, item in enumerate(items):
            if item.path in self.farm.poison:
                self.farm.count["deaths by poison"] += 1
                raise Killed
            found = self.farm.finished(item)
            if self.farm.env.now >= life[0]:
                self._die_over(block, found)
            if found.reason is None:
                self.farm.draw(item)
            yield index, found

    def _die_over(self, block: Block, found: Finished) -> None:
        """A worker dies while it explains, in the middle of a picture, before it delivers or behind it."""
        moment = self.farm.random.randrange(4) if found.reason is None else 0
        if moment == 1:
            self.farm.half_draw(found.item)
        elif moment > 1:
            self.farm.draw(found.item)
            if moment == 2:
                self.farm.count["deaths between picture and row"] += 1
            else:
                self.deliver(block, found)
        raise Killed

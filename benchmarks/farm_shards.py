"""N shards with a ledger each: a scheduler starts `lrp-tf explain --shard i/N --resume`, and one merge ends it.

The scheduler knows a shard by its number alone. It hands out a shard again when its worker died, when its lease has
expired though the worker may live, and when it lost its own memory. So several workers may come to one shard: the lock
lets one of them in.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from unittest import mock

import simpy
from farm_world import SETTINGS, SUFFIXES, Conditions, Killed, World

from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger, merging, shards
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.tally import Listener, Recording

AHEAD = 4  # images that are drawn and not yet recorded
TRIES = 3  # deaths by the same image until someone moves it away: a missing file is a failure as others are
NOTICED = 0.5  # share of deaths that the scheduler sees; others are seen when the lease expires


class ShardFarm(World):
    """See above."""

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        super().__init__(folder, conditions)
        self.shards = [shards.Shard(index, conditions.parts) for index in range(conditions.parts)]
        self.queue = simpy.Store(self.env)
        self.done: set[int] = set()  # as the scheduler knows it
        self.begun = [-math.inf] * conditions.parts
        self.inside = 0  # attempts that go on
        self.killed: collections.Counter[str] = collections.Counter()
        self.over = self.env.event()

    def run(self) -> None:
        self.out.mkdir(parents=True)
        for index in range(self.conditions.parts):
            self.queue.put(index)
        for worker in range(self.conditions.workers):
            self.env.process(self._worker(worker))
        self.env.process(self._lease())
        self.env.process(self._deaths_of_the_scheduler())
        with self._named_once():
            self.env.run(self.over)

    @contextlib.contextmanager
    def _named_once(self) -> Iterator[None]:
        """Every process of a real run names the whole list for itself. Here that is done once: all get the same."""
        items = ledger.items_of(self.out, self.files, SUFFIXES)
        digest = shards.digest_of(items)
        with (
            mock.patch.object(ledger, "items_of", return_value=items),
            mock.patch.object(shards, "digest_of", return_value=digest),
        ):
            yield

    def merge(self) -> None:
        merged = merging.merge([self.out])
        self.count["rows in two places, by merge"] += merged.twice

    def rows(self) -> Iterator[list[str]]:
        return cells(self.out / ledger.RESULTS)

    def failures(self) -> Iterator[list[str]]:
        return cells(self.out / ledger.FAILURES)

    # --- the scheduler -------------------------------------------------------------------------

    def _deaths_of_the_scheduler(self) -> Generator[simpy.Event, None, None]:
        """It forgets which shards are done and which are out; workers know nothing of that."""
        for _ in range(self.conditions.drivers):
            yield self.timeout(self.reign())
            self.count["deaths of the scheduler"] += 1
            self.done.clear()
            self.queue.items.clear()
            for index in self.random.sample(range(self.conditions.parts), self.conditions.parts):
                self.queue.put(index)

    def _lease(self) -> Generator[simpy.Event, None, None]:
        """Hand out again what nobody has answered for."""
        lease = self.conditions.lease
        while not self.over.triggered:
            yield self.timeout(lease / 4)
            waiting = set(self.queue.items)
            for index, begun in enumerate(self.begun):
                late = index not in self.done and self.env.now - begun > lease and math.isfinite(begun)
                if late and index not in waiting:
                    self.count["leases that expired"] += 1
                    self.begun[index] = self.env.now
                    self.queue.put(index)

    def answer(self, index: int) -> None:
        """A worker says that a shard is done."""
        self.done.add(index)
        self._end()

    def lost(self, index: int) -> None:
        """A worker died over a shard."""
        self.done.discard(index)
        if self.random.random() < NOTICED:
            self.queue.put(index)

    def _end(self) -> None:
        if len(self.done) == self.conditions.parts and not self.inside and not self.over.triggered:
            self.over.succeed()

    # --- workers -------------------------------------------------------------------------------

    def _worker(self, number: int) -> Generator[simpy.Event, None, None]:
        """Take a shard, explain it, die, start again."""
        yield self.arrives()
        while True:
            index = yield self.queue.get()
            if index in self.done:
                continue
            self.begun[index] = self.env.now
            death = self.life()
            yield self.timeout(self.conditions.start)
            self.inside += 1
            try:
                whole = yield from self._attempt(number, self.shards[index], death)
            except Killed:
                (
                    self.shards[index].folder(self.out) / ledger.LOCK
                ).touch()  # the system frees the lock, and the file stays
                self.count["deaths of workers"] += 1
                self.lost(index)
            else:
                if whole:
                    self.answer(index)
            self.inside -= 1
            self._end()

    def _attempt(self, worker: int, shard: shards.Shard, death: float) -> Generator[simpy.Event, None, bool]:
        """`lrp-tf explain --shard i/N --resume`; whether it ran to its end."""
        folder = shard.folder(self.out)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(ledger.only_run(folder))
            except LoadError:
                self.count["turned away by the lock"] += 1
                return False
            yield self.timeout(0)
            plan = shards.plan(self.out, self.files, SUFFIXES, SETTINGS, shard, resume=True, overwrite=False)
            self.count["shards begun"] += 1
            self.count["shards resumed"] += bool(plan.finished)
            record = stack.enter_context(Recording(folder, plan, Listener(), False, contextlib.nullcontext(), _nothing))
            drawn: collections.deque[Finished] = collections.deque()
            for item in plan.items:
                yield self.timeout(self.takes(worker))
                if self.env.now >= death and self.random.random() < self.conditions.hangs:
                    self.count["workers that hung and went on"] += 1
                    yield self.timeout(3 * self.conditions.lease)
                    death = self.life()
                found = self.finished(item)
                self._may_die(found, drawn, record, folder, death)
                if found.reason is None:
                    self.draw(item)
                drawn.append(found)
                if len(drawn) > AHEAD:
                    record.add(drawn.popleft())
            while drawn:
                record.add(drawn.popleft())
        return True

    def _may_die(
        self, found: Finished, drawn: collections.deque[Finished], record: Recording, folder: Path, death: float
    ) -> None:
        """A worker dies while it explains, in the middle of a picture, ahead of a row, in the middle of a row."""
        path = found.item.path
        if path in self.poison and self.killed[path] < TRIES:
            self.killed[path] += 1
            self.count["deaths by poison"] += 1
            raise Killed
        if self.env.now < death:
            return
        moment = self.random.randrange(4)
        if moment == 1 and found.reason is None:
            self.half_draw(found.item)
        elif moment == 2 and found.reason is None:
            self.draw(found.item)
            self.count["deaths between picture and row"] += 1
        elif moment == 3 and drawn:
            table = folder / ledger.RESULTS
            size = table.stat().st_size
            record.add(drawn.popleft())
            if table.stat().st_size > size:
                self.tear(table, size)
        raise Killed

    def finished(self, item: ledger.Item) -> Finished:
        """See `World`; an image that was moved away is a failure."""
        return Finished(item, [], "no such file") if item.path in self.poison else super().finished(item)


def _nothing() -> None:
    """What follows a shard."""


def cells(path: Path) -> Iterator[list[str]]:
    """The cells of a table, without its header."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        yield from rows

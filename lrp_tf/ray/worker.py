"""What a process of the pool does: blocks of a plan -> pictures or parts on disk, and what became of each image."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.ledger import Item
from lrp_tf.gallery.run import Gallery
from lrp_tf.gallery.stream import Read
from lrp_tf.ray import parts
from lrp_tf.ray.attempts import guarded
from lrp_tf.ray.places import Place, Reader
from lrp_tf.ray.session import ray_module
from lrp_tf.recipe import Recipe
from lrp_tf.threads import limit

Build = Callable[[Read], Gallery]
"""From what reads pixels to a gallery; it is pickled, and called once in each process."""


@dataclasses.dataclass(frozen=True)
class Building:
    """A `Build` from a recipe.

    Attributes:
        recipe: with paths from the root, see `Recipe.absolute`.
        out: likewise.
        more: attributes of the gallery that are no part of the recipe.
    """

    recipe: Recipe
    out: Path
    more: Mapping[str, Any]

    def __call__(self, read: Read) -> Gallery:
        return self.recipe.gallery(self.out, read=read, **self.more)


class Task(NamedTuple):
    """One image of a block: its number in the plan, its item, and where its bytes are; None: in `item.path`."""

    number: int
    item: Item
    place: Place | None


class Told(NamedTuple):
    """What a worker tells the driver of some images of a block.

    Attributes:
        found: (number in the plan, what became of the image) of each.
        part: the file that holds their relevance, under its temporary name; None: there is none.
        restarted: the process is one that replaces a lost one, and this is the first it tells.
        error: ends the run: a model that cannot be loaded, a full disk.
    """

    found: list[tuple[int, Finished]]
    part: str | None = None
    restarted: bool = False
    error: Exception | None = None


class Counts:
    """`Attempts` in another process, for `guarded`.

    Args:
        handle: of the actor.
    """

    def __init__(self, handle: Any) -> None:
        self.handle, self.get = handle, ray_module().get

    def begin(self, keys: Sequence[str]) -> list[int]:
        """See `Attempts.begin`."""
        return self.get(self.handle.begin.remote(list(keys)))

    def alone(self, key: str) -> int:
        """See `Attempts.alone`."""
        return self.get(self.handle.alone.remote(key))

    def end(self, keys: Sequence[str]) -> None:
        """See `Attempts.end`; nobody waits for it."""
        self.handle.end.remote(list(keys))


def prepare(count: int) -> bool:
    """Make a process fit for its neighbours; returns whether it replaces one that was lost.

    Args:
        count: of its threads.
    """
    import tensorflow as tf

    limit(count)
    for gpu in tf.config.list_physical_devices("GPU"):  # several processes may share one
        tf.config.experimental.set_memory_growth(gpu, True)
    return bool(ray_module().get_runtime_context().was_current_actor_reconstructed)


class Worker:
    """Explains blocks; Ray makes one in each process of its pool.

    Args:
        build: makes the gallery.
        attempts: handle of the actor of `Attempts`.
        threads: see `prepare`.
        write_parts: relevance goes to parquet files, one for each block.
    """

    def __init__(self, build: Build, attempts: Any, threads: int, write_parts: bool) -> None:
        self.write_parts = write_parts
        self.error: Exception | None = None
        self.restarted = False
        try:
            self.restarted = prepare(threads)
            self.reader = Reader()
            self.gallery = build(self.reader)
            self.counts = Counts(attempts)
        except Exception as error:  # Ray would start this process again and again
            self.error = error

    def __call__(self, block: dict[str, np.ndarray]) -> Iterator[dict[str, list[bytes]]]:
        """One row, a pickled list of `Task`s -> rows of a pickled `Told`, in an order that a second try repeats."""
        for content in block["tasks"]:
            try:
                if self.error is not None:
                    raise self.error
                for told in self._explained(pickle.loads(content)):
                    yield {"told": [pickle.dumps(told)]}
            except (OSError, ValueError, TypeError, ImportError) as error:
                yield {"told": [pickle.dumps(Told([], error=error))]}

    def _explained(self, tasks: list[Task]) -> Iterator[Told]:
        self.reader.places = {task.item.path: task.place for task in tasks if task.place is not None}
        keys = [str(task.number) for task in tasks]
        found: dict[int, Finished] = {}
        size, told = len(tasks) if self.write_parts else self.gallery.batch, 0
        for index, finished in guarded(tasks, keys, self.counts, self._each, _given_up):
            found[index] = finished
            while told < len(tasks) and all(i in found for i in range(told, min(told + size, len(tasks)))):
                yield self._told([(tasks[i].number, found.pop(i)) for i in range(told, min(told + size, len(tasks)))])
                told += size

    def _each(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Finished]]:
        places = {task.item.path: index for index, task in enumerate(tasks)}
        for finished in self.gallery.explain([task.item for task in tasks], relevance=self.write_parts):
            yield places[finished.item.path], finished

    def _told(self, found: list[tuple[int, Finished]]) -> Told:
        part = None
        if self.write_parts:
            part = parts.write(Path(self.gallery.out), [finished for _, finished in found])
            found = [(number, finished._replace(relevance=None)) for number, finished in found]
        restarted, self.restarted = self.restarted, False
        return Told(found, part, restarted)


def _given_up(task: Task, reason: str) -> Finished:
    return Finished(task.item, [], reason)

"""The driver of a run over a pool of processes: blocks go out, and what became of each image comes back once."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.finished import Finished
from lrp_tf.ray import parts
from lrp_tf.ray.attempts import Attempts
from lrp_tf.ray.session import ray_module, session
from lrp_tf.ray.worker import Build, Task, Told, Worker

_BLOCK_BYTES = 64_000_000  # of relevance in one part
_BLOCK_IMAGES = 512


class Pool(NamedTuple):
    """The processes that explain.

        pool = lrp_tf.ray.Pool(workers=2)

    Attributes:
        workers: how many; None: one for each GPU, or for each CPU without `gpus`.
        gpus: of each, 0.25 if four share one.
        threads: of each, which are the CPUs that it takes.
        address: of a running cluster, "auto" or "host:6379"; None: processes on this machine.
    """

    workers: int | None = None
    gpus: float = 0.0
    threads: int = 1
    address: str | None = None

    def session(self) -> tuple[str | None, int]:
        """The arguments of `session`: of a cluster on this machine, CPUs for all workers and one more."""
        return self.address, max(os.cpu_count() or 1, (self.workers or 1) * self.threads) + 1

    def checked(self) -> Pool:
        """The same.

        Raises:
            ValueError: a number of them, of their threads or of GPUs that cannot be.
        """
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"Expected {name} of at least 1. Received: {value}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != round(self.gpus)):
            raise ValueError(f"Expected gpus_per_worker below 1, or a whole number. Received: {self.gpus}")
        return self


def explained(
    tasks: Sequence[Task],
    build: Build,
    pool: Pool,
    *,
    batch: int,
    out: Path | None = None,
    image_bytes: int = 0,
    lost: Callable[[], object] = lambda: None,
) -> Iterator[Finished]:
    """Explain images in the processes of a pool.

    Args:
        batch: images that a network gets at once.
        out: folder below which relevance is written as parquet files; None: the gallery writes pictures, or nothing.
        image_bytes: of the relevance of one image.
        lost: called for each process that was lost and replaced.

    Yields:
        Each image once, as it is finished. One that no process gave back is a failure.

    Raises:
        ExtraError: Ray is not installed. LoadError: no such cluster, or one that does not have what a worker takes.
        OSError, ValueError, TypeError, ImportError: what a worker met, such as a full disk.
    """
    if not tasks:
        return
    with session(*pool.session()):
        workers = fitting(ray_module(), pool)
        size = block_size(len(tasks), workers, batch, image_bytes)
        blocks = [{"tasks": pickle.dumps(list(tasks[i : i + size]))} for i in range(0, len(tasks), size)]
        waiting = {task.number: task for task in tasks}
        for told in _told(blocks, build, pool, min(workers, len(blocks)), out is not None):
            if told.error is not None:
                raise told.error
            if told.restarted:
                lost()
            if told.part is not None and out is not None:
                parts.commit(out, told.part)
            for number, finished in told.found:
                if waiting.pop(number, None) is not None:
                    yield finished
        for task in waiting.values():
            yield Finished(task.item, [], "no result: no process gave it back")


def _told(blocks: list[dict[str, bytes]], build: Build, pool: Pool, workers: int, write_parts: bool) -> Iterator[Told]:
    """What the workers tell, as they tell it."""
    ray = ray_module()
    attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    dataset = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        Worker,
        fn_constructor_args=(build, attempts, pool.threads, write_parts),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=None,
        num_cpus=pool.threads,
        num_gpus=pool.gpus or None,
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row["told"])
    except ray.exceptions.RayError as error:
        raise LoadError(f"Ray ended the run: {' '.join(str(error).split())[:2000]}") from error
    finally:
        ray.kill(attempts)


def ready() -> None:
    """Find out early whether Ray is there.

    Raises:
        ExtraError: it is not installed.
    """
    ray_module()


def fitting(ray: Any, pool: Pool) -> int:
    """The number of workers.

    Raises:
        LoadError: the cluster does not have the CPUs or GPUs that they take.
    """
    has = ray.cluster_resources()
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    room = math.floor(cpus / pool.threads)
    if pool.gpus:
        room = min(room, math.floor(gpus / pool.gpus + 1e-9))
    if room < (pool.workers or 1):
        raise LoadError(
            f"{pool.workers or 1} worker(s) of {pool.threads} CPU(s) and {pool.gpus:g} GPU(s) each (`workers`, "
            f"`threads`, `gpus_per_worker`) do not fit. Received: a Ray cluster with {cpus:g} CPU(s) and {gpus:g} "
            "GPU(s)",
            ("workers", "threads", "gpus_per_worker"),
        )
    if pool.workers is None and pool.address is None and not pool.gpus:
        return min(room, max((os.cpu_count() or 1) // pool.threads, 1))
    return pool.workers or room


def block_size(count: int, workers: int, batch: int, image_bytes: int = 0) -> int:
    """How many images a worker gets at once: some blocks for each, and not too much to do again when one is lost.

    Args:
        image_bytes: of relevance that is written as one part for each block; 0: it is not.
    """
    most = min(_BLOCK_IMAGES, max(_BLOCK_BYTES // image_bytes, 1)) if image_bytes else 8 * batch
    wanted = math.ceil(count / (8 * workers))
    return min(max(math.ceil(wanted / batch) * batch, batch), max(most, 1))

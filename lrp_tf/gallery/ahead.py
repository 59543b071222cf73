"""Iterators that work ahead of their reader, in threads of their own."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class _End(NamedTuple):
    """The last entry, with what the iterable raised."""

    error: BaseException | None


def ahead(items: Iterable[T], count: int = 1) -> Iterator[T]:
    """The items in their order, computed while earlier ones are worked on.

    Args:
        count: how many items may wait; one more is being computed.

    Raises:
        BaseException: what `items` raises, in its place.
    """
    found: queue.Queue[T | _End] = queue.Queue(count)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                found.put(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            found.put(_End(error))
        else:
            found.put(_End(None))
        finally:
            if isinstance(items, Generator):
                items.close()  # here, so that a thread that it began in its turn has ended when this one has

    worker = threading.Thread(target=work, name="ahead")
    worker.start()
    try:
        while not isinstance(entry := found.get(), _End):
            yield entry
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        while not found.empty():  # A put that waits for room ends; at most one more follows.
            found.get()
        worker.join()


def in_parallel(function: Callable[[T], U], items: Iterable[T], threads: int) -> Generator[U, None, None]:
    """`function` of each item, in their order. As many as there are threads are computed ahead.

    Raises:
        BaseException: what `function` raises, in its place.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="in_parallel")
    pending: collections.deque[Future[U]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

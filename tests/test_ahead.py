"""The iterator that works ahead: order, bounds, errors, and that its thread ends with its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lrp_tf.gallery.ahead import ahead, in_parallel


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def wait_for(condition: object) -> None:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)


def test_items_come_in_order_from_another_thread() -> None:
    seen: list[threading.Thread] = []

    def items() -> Iterator[int | None]:
        for i in range(100):
            seen.append(threading.current_thread())
            yield i or None  # None is an item like any other

    assert list(ahead(items())) == [None, *range(1, 100)]
    assert threading.current_thread() not in seen
    assert not workers()


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_than_asked_for_is_computed_ahead(count: int) -> None:
    made: list[int] = []
    reader = ahead((made.append(i) or i for i in range(1000)), count)
    assert next(reader) == 0
    wait_for(lambda: len(made) == count + 2)
    time.sleep(0.05)
    assert len(made) == count + 2  # the first, those that wait, and one in the hand of the worker
    reader.close()
    assert not workers()
    assert len(made) < count + 5


def test_errors_come_in_their_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("here")

    reader = ahead(items())
    assert next(reader) == 1
    with pytest.raises(ValueError, match="here"):
        next(reader)
    assert not workers()


def test_the_thread_ends_if_the_reader_fails() -> None:
    def read() -> None:
        for item in ahead(iter(range(10**6))):
            if item == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    wait_for(lambda: not workers())
    assert not workers()


def test_one_works_ahead_of_another_and_both_end() -> None:
    def doubled() -> Iterator[int]:
        for item in ahead(iter(range(10**6))):
            yield 2 * item

    reader = ahead(doubled())
    assert [next(reader) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(workers()) == 2
    reader.close()
    assert not workers()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("in_parallel")]


def test_files_read_in_parallel_come_in_order() -> None:
    def slower_at_first(i: int) -> int | None:
        time.sleep(0.002 * (i % 3 == 0))
        return i or None

    assert list(in_parallel(slower_at_first, range(50), 3)) == [None, *range(1, 50)]
    assert list(in_parallel(slower_at_first, [], 3)) == []
    assert not readers()


def test_no_more_is_read_than_there_are_threads_and_the_reader_ends_it() -> None:
    begun: list[int] = []
    reader = in_parallel(begun.append, range(1000), 4)
    next(reader)
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2, 3, 4]
    reader.close()
    assert not readers()
    assert len(begun) == 5


def test_an_error_of_one_file_comes_in_its_place() -> None:
    reader = in_parallel(lambda i: 1 // (2 - i), range(5), 2)
    assert next(reader) == 0
    assert next(reader) == 1
    with pytest.raises(ZeroDivisionError):
        next(reader)
    assert not readers()

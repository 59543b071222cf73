"""The iterator that works ahead: order, bounds, errors, and that its thread ends with its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lrp_tf.gallery.ahead import ahead


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

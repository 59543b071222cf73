"""Images that end the process that explains them: counted outside of it, so that none is tried for ever.

A process that is killed, by the system for want of memory or by a fault in a decoder, tells nothing of why. Ray starts
another one and does its block again. Before a worker begins images it says so here, and again when they are finished;
what was begun and never finished is suspect. Suspects are explained one by one, which leaves no doubt who it is the
next time, and after `TRIES` of them an image is a failure with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

TRIES = 3
"""So many processes may end over an image."""


class Attempts:
    """How often each image was begun and not finished since. It lives in a process of its own.

    attempts = Attempts()
    attempts.begin(["1", "2"])      # [0, 0]; a worker ends here, and the next one asks
    attempts.begin(["1", "2"])      # [1, 1]: explain each alone
    """

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}

    def begin(self, keys: Sequence[str]) -> list[int]:
        """How often each was begun without an end. If that is never for all of them, they count as begun now."""
        counts = [self.begun.get(key, 0) for key in keys]
        if not any(counts):
            self.begun.update(dict.fromkeys(keys, 1))
        return counts

    def alone(self, key: str) -> int:
        """How often it was begun without an end before; it counts as begun now."""
        before = self.begun.get(key, 0)
        self.begun[key] = before + 1
        return before

    def end(self, keys: Iterable[str]) -> None:
        """They are finished, one way or the other."""
        for key in keys:
            self.begun.pop(key, None)


def reason(times: int) -> str:
    """Why an image is not tried again."""
    return (
        f"no result: {times} processes ended while they explained it (killed for want of memory, perhaps, or by a "
        "fault in a decoder)"
    )


def guarded(
    items: Sequence[T],
    keys: Sequence[str],
    attempts: Any,
    explain: Callable[[Sequence[T]], Iterator[tuple[int, Any]]],
    give_up: Callable[[T, str], Any],
) -> Iterator[tuple[int, Any]]:
    """Explain items in a process that may end over one of them.

    Args:
        keys: of each, the same whenever it is tried again.
        attempts: an `Attempts` that outlives this process, with `begin`, `alone` and `end`.
        explain: gives (index, what became of it) for each of some items, in any order.
        give_up: what became of an item that was tried too often, and the reason.

    Yields:
        (index, what became of it) once for each.
    """
    counts = attempts.begin(keys)
    if not any(counts):
        for index, found in explain(items):
            attempts.end([keys[index]])
            yield index, found
        return
    clear = [index for index, count in enumerate(counts) if not count]
    for place, found in explain([items[index] for index in clear]) if clear else ():
        yield clear[place], found
    for index, count in enumerate(counts):
        if not count:
            continue
        before = attempts.alone(keys[index])
        if before >= TRIES:  # it stays counted: its block may be done once more, for another image or another kill
            yield index, give_up(items[index], reason(TRIES))
            continue
        for _, found in explain([items[index]]):
            yield index, found
        attempts.end([keys[index]])

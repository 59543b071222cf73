"""Runs optimisers that know one point at a time side by side, so that what they ask for is computed in batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class _Stopped(BaseException):
    """Ends a task whose run has failed elsewhere."""


class _Worker(Generic[Question, Answer, Result]):
    """A task in a thread of its own, which sleeps whenever it has asked something."""

    def __init__(self, task: Callable[[Callable[[Question], Answer]], Result], number: int, inbox: queue.SimpleQueue):
        self._task, self._number, self._inbox = task, number, inbox
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _ask(self, question: Question) -> Answer:
        self._inbox.put((self._number, "asks", question))
        answer = self._answers.get()
        if answer is _Stopped:
            raise _Stopped
        return answer

    def _work(self) -> None:
        try:
            said: tuple[str, Any] = ("done", self._task(self._ask))
        except _Stopped:
            return
        except BaseException as error:  # is raised again where the run was called
            said = ("failed", error)
        self._inbox.put((self._number, *said))

    def tell(self, answer: Any) -> None:
        self._answers.put(answer)


def run(
    tasks: Sequence[Callable[[Callable[[Question], Answer]], Result]],
    answers: Callable[[list[int], list[Question]], Sequence[Answer]],
    width: int,
) -> list[Result]:
    """The results of tasks, each of which is called with `ask`, a function from one question to its answer.

    At most `width` tasks are under way. Whenever each of them has asked, all questions are answered at once, in the
    order of the tasks, so that every run asks the same batches.

    Args:
        answers: (numbers of the tasks, their questions) -> their answers; runs in the caller's thread.

    Raises:
        BaseException: the first error of a task or of `answers`, after all threads have ended.
    """
    inbox: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
    workers = [_Worker(task, number, inbox) for number, task in enumerate(tasks)]
    results: list[Any] = [None] * len(tasks)
    live: set[int] = set()
    waiting: dict[int, Question] = {}
    upcoming = iter(range(len(tasks)))

    def start() -> None:
        if (number := next(upcoming, None)) is not None:
            live.add(number)
            workers[number].thread.start()

    try:
        for _ in range(width):
            start()
        while live:
            while len(waiting) < len(live):
                number, kind, said = inbox.get()
                if kind == "asks":
                    waiting[number] = said
                    continue
                live.discard(number)
                if kind == "failed":
                    raise said
                results[number] = said
                start()
            if not (order := sorted(waiting)):
                continue
            for number, answer in zip(order, answers(order, [waiting[i] for i in order]), strict=True):
                del waiting[number]
                workers[number].tell(answer)
    finally:
        for number in live:
            workers[number].tell(_Stopped)
        for number in live:
            workers[number].thread.join()
    return results

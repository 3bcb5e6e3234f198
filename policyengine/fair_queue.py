"""A fair queue: one thread does the work of many callers, one item at a time, in turns and within limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, TypeVar

MAX_WORK_PER_CALLER = 16
MAX_WORK = 128
T = TypeVar("T")


def never_gone() -> bool:
    """Return False, for work that always has a waiting caller."""
    return False


class WorkRefusedError(Exception):
    """The error for work that was not started: too much work is waiting, or the caller has disconnected."""


@dataclass(frozen=True, slots=True)
class WaitingWork:
    work: Callable[[], Any]
    is_gone: Callable[[], bool]  # returns whether the caller no longer waits
    done: Future[Any] = field(default_factory=Future)

    @property
    def is_dead(self) -> bool:
        return self.done.cancelled() or self.is_gone()

    def drop(self) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(WorkRefusedError("the client has disconnected"))

    def run(self) -> None:
        if self.is_gone():
            self.drop()
        elif self.done.set_running_or_notify_cancel():
            try:
                found = self.work()
            except BaseException as error:
                self.done.set_exception(error)
            else:
                self.done.set_result(found)


class FairQueue:
    """A queue that serves callers in turn: the caller that has waited longest is next. A caller has at most
    `most_of_caller` waiting items, and all callers together at most `most_in_all`. The queue's thread starts with the
    first item, and does not keep the process alive.
    """

    def __init__(self, name: str, most_of_caller: int = MAX_WORK_PER_CALLER, most_in_all: int = MAX_WORK) -> None:
        self._name, self._most_of_caller, self._most_in_all = name, most_of_caller, most_in_all
        self.reset()

    def reset(self) -> None:
        """Reset the queue in a forked process, which does not have its parent's thread."""
        self._changed = Condition()
        self._waiting: dict[str, deque[WaitingWork]] = {}
        self._many = 0
        self._thread: Thread | None = None

    def submit(
        self, caller: str, work: Callable[[], T], is_gone: Callable[[], bool], *, bounded: bool = True
    ) -> Future[T]:
        """Queue the work. Raises WorkRefusedError if too much work is waiting, unless the work is not `bounded`."""
        one = WaitingWork(work, is_gone)
        with self._changed:
            if bounded:
                self._check_room(caller)
            self._waiting.setdefault(caller, deque()).append(one)
            self._many += 1
            if self._thread is None:
                self._thread = Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return one.done

    def _check_room(self, caller: str) -> None:
        if len(self._waiting.get(caller, ())) >= self._most_of_caller:
            self._sweep(caller)
            if len(self._waiting.get(caller, ())) >= self._most_of_caller:
                raise WorkRefusedError("too many questions from this caller are waiting")
        if self._many >= self._most_in_all:
            for waiting_caller in list(self._waiting):
                self._sweep(waiting_caller)
            if self._many >= self._most_in_all:
                raise WorkRefusedError("too many questions are waiting")

    def _sweep(self, caller: str) -> None:
        """Drop the caller's items whose requester no longer waits."""
        before, alive = self._waiting.get(caller, ()), deque[WaitingWork]()
        for queued in before:
            if queued.is_dead:
                queued.drop()
            else:
                alive.append(queued)
        self._many -= len(before) - len(alive)
        if alive:
            self._waiting[caller] = alive
        else:
            self._waiting.pop(caller, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                one = self._next()
            one.run()
            del one  # frees the last result while the queue is empty

    def _next(self) -> WaitingWork:
        caller = next(iter(self._waiting))
        line = self._waiting.pop(caller)
        one = line.popleft()
        self._many -= 1
        if line:
            self._waiting[caller] = line  # the caller moves behind all others
        return one

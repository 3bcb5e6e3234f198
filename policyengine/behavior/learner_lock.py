"""The lock of a learner, which each decision takes twice and almost always finds free.

`make compiled` compiles this module. The lock is safe only in compiled code, where it is faster than that of the
standard library.
"""

from __future__ import annotations

from threading import Lock
from types import TracebackType
from typing import cast

from policyengine.evaluator import is_compiled


class LearnerLock:
    """A lock that compiled code takes in a few nanoseconds while it is free. It is not reentrant.

    `_users` counts the thread that holds the lock, and those that wait for it. Compiled code is never interrupted
    between two lines that call nothing, so the thread that finds no other user has the lock. The other threads wait for
    the lock `_turn`, which the thread that has finished releases for one of them.
    """

    __slots__ = ("_turn", "_users")

    def __init__(self) -> None:
        self._users = 0
        self._turn = Lock()
        self._turn.acquire()

    def acquire(self) -> None:
        """Take the lock, and wait until it is free."""
        self._users += 1
        if self._users > 1:
            self._wait()

    def release(self) -> None:
        """Give the lock to a thread that waits for it, if there is one."""
        self._users -= 1
        if self._users > 0:
            self._turn.release()

    def _wait(self) -> None:
        """Wait for the turn of this thread. A thread that is interrupted, as by Ctrl-C, does not wait any longer."""
        try:
            self._turn.acquire()
        except BaseException:
            if self._turn.acquire(blocking=False):  # its turn came at the same moment
                self.release()
            else:
                self._users -= 1
            raise

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def make_lock() -> LearnerLock:
    """Return a lock for a learner. Interpreted code may be interrupted between any two lines, so it gets the lock of
    the standard library."""
    return LearnerLock() if is_compiled() else cast(LearnerLock, Lock())

"""The notices that every page of the console shows: how many approvals wait for the person, and what is halted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.engine import Engine
from policyengine.runtime.halts import Halt
from policyengine.stores.base import StoreError

KEPT_SECONDS = 1.0  # seconds after which a number is counted again
MAX_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class ConsoleNotices:
    """`waiting` is the number of approvals that wait for the person; None if it is unknown. `halts` are in effect, and
    `unreadable` names the sources of halts that cannot be read."""

    waiting: int | None = None
    halts: tuple[Halt, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether everything is halted."""
        return any(halt.everything for halt in self.halts)


NO_NOTICES = ConsoleNotices()


class WaitingCounts:
    """Counts the approvals that wait for a person, at most once per second, because the store may be on another
    machine."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._known: OrderedDict[ProvedPerson, tuple[float, int | None]] = OrderedDict()

    def count(self, engine: Engine, person: ProvedPerson) -> int | None:
        """Return the number; None if the policies request no approvals, or if the store does not answer."""
        with self._lock:
            known = self._known.get(person)
        if known is not None and self._clock() - known[0] < KEPT_SECONDS:
            return known[1]
        found = count_waiting(engine, person)
        with self._lock:
            self._known[person] = self._clock(), found
            self._known.move_to_end(person)
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """Discard all numbers, because a person has answered an approval."""
        with self._lock:
            self._known.clear()


def count_waiting(engine: Engine, person: ProvedPerson) -> int | None:
    desk = engine.approvals
    if desk is None:
        return None
    try:
        return len(desk.list(person))
    except StoreError:
        return None


def read_halt_notices(engine: Engine, waiting: int | None) -> ConsoleNotices:
    status = engine.halting.status
    return ConsoleNotices(waiting, status.halts, status.unreadable)

"""Work that waits for somebody else: in threads of its own, few at a time, each waited for by few, and not for long."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock, Thread
from time import monotonic
from typing import Generic, TypeVar

MAX_WAITERS = 16
MAX_WAITERS_IN_PROCESS = 24  # of this process, for whatever: fewer than the threads of any door
T = TypeVar("T")
_waiter_slots = BoundedSemaphore(MAX_WAITERS_IN_PROCESS)


class SingleFlightError(Exception):
    """Nobody has the answer yet: too much is under way, too many wait, or it took too long."""


class SingleFlightTimeoutError(SingleFlightError):
    """It took too long."""


@dataclass
class Flight(Generic[T]):
    """`done` once there is what the work returned or raised."""

    done: Event = field(default_factory=Event)
    result: T | None = None
    error: BaseException | None = None


class SingleFlight(Generic[T]):
    """At most `most` at once; what has the same key is one. Their threads do not keep the process from ending."""

    def __init__(
        self, name: str, most: int = 1, waiting: int = MAX_WAITERS, clock: Callable[[], float] = monotonic
    ) -> None:
        self._name, self._most, self._most_waiting, self._clock = name, most, waiting, clock
        self._lock = Lock()
        self._flights: dict[Hashable, Flight[T]] = {}
        self._waiting = 0

    @property
    def busy(self) -> bool:
        return bool(self._flights)

    def start(self, key: Hashable, work: Callable[[], T]) -> Flight[T]:
        """The one of this key that is under way, or a new one. Raises SingleFlightError where there is no room for
        that."""
        with self._lock:
            found = self._flights.get(key)
            if found is not None:
                return found
            if len(self._flights) >= self._most:
                raise SingleFlightError("too much is asked for already")
            flight = self._flights[key] = Flight()
        try:
            Thread(target=self._fly, args=(key, flight, work), name=f"policyengine {self._name}", daemon=True).start()
        except RuntimeError:  # no more threads; others may wait for it already
            flight.error = SingleFlightError("no thread is left to ask in")
            self._land(key, flight)
        return flight

    def wait(self, flight: Flight[T], until: float) -> T:
        """`until` by the clock. Raises what the work raised; else SingleFlightError."""
        if not flight.done.is_set():
            self._await(flight, until)
        if flight.error is not None:
            raise flight.error
        return flight.result  # type: ignore[return-value]

    def _await(self, flight: Flight[T], until: float) -> None:
        with self._lock:
            if self._waiting >= self._most_waiting or not _waiter_slots.acquire(blocking=False):
                raise SingleFlightError("too many wait already")
            self._waiting += 1
        try:
            if not flight.done.wait(max(0.0, until - self._clock())):
                raise SingleFlightTimeoutError("there was no answer in time")
        finally:
            _waiter_slots.release()
            with self._lock:
                self._waiting -= 1

    def _fly(self, key: Hashable, flight: Flight[T], work: Callable[[], T]) -> None:
        try:
            flight.result = work()
        except BaseException as error:  # told to those who wait, whatever it is
            flight.error = error
        finally:
            self._land(key, flight)

    def _land(self, key: Hashable, flight: Flight[T]) -> None:
        with self._lock:
            del self._flights[key]
        flight.done.set()

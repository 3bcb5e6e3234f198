"""Runs blocking work in background threads: one flight per key, a bounded number of flights and of waiting callers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock, Thread
from time import monotonic
from typing import Generic, TypeVar

MAX_WAITERS = 16
MAX_WAITERS_IN_PROCESS = 24  # maximum number in total; must be less than the threads of every listener
T = TypeVar("T")
_waiter_slots = BoundedSemaphore(MAX_WAITERS_IN_PROCESS)


class SingleFlightError(Exception):
    """The error for work without a result: too many flights or waiting callers, no free thread, or a timeout."""


class SingleFlightTimeoutError(SingleFlightError):
    """The error for a wait that timed out."""


@dataclass
class Flight(Generic[T]):
    """Work in progress; `done` is set once there is a result or an error."""

    done: Event = field(default_factory=Event)
    result: T | None = None
    error: BaseException | None = None


class SingleFlight(Generic[T]):
    """Runs at most `most` flights at a time; callers with the same key share a flight. The threads do not keep the
    process alive.
    """

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
        """Return the flight of this key, or start one. Raises SingleFlightError if there are too many."""
        with self._lock:
            found = self._flights.get(key)
            if found is not None:
                return found
            if len(self._flights) >= self._most:
                raise SingleFlightError("too many requests are in progress")
            flight = self._flights[key] = Flight()
        try:
            Thread(target=self._fly, args=(key, flight, work), name=f"policyengine {self._name}", daemon=True).start()
        except RuntimeError:  # no thread is available; other callers may already wait for the flight
            flight.error = SingleFlightError("no thread is available for the request")
            self._land(key, flight)
        return flight

    def wait(self, flight: Flight[T], until: float) -> T:
        """Wait for a flight until the deadline. Raises the error of the work, or SingleFlightError."""
        if not flight.done.is_set():
            self._await(flight, until)
        if flight.error is not None:
            raise flight.error
        return flight.result  # type: ignore[return-value]

    def _await(self, flight: Flight[T], until: float) -> None:
        with self._lock:
            if self._waiting >= self._most_waiting or not _waiter_slots.acquire(blocking=False):
                raise SingleFlightError("too many callers are waiting")
            self._waiting += 1
        try:
            if not flight.done.wait(max(0.0, until - self._clock())):
                raise SingleFlightTimeoutError("the request timed out")
        finally:
            _waiter_slots.release()
            with self._lock:
                self._waiting -= 1

    def _fly(self, key: Hashable, flight: Flight[T], work: Callable[[], T]) -> None:
        try:
            flight.result = work()
        except BaseException as error:  # raised again in each waiting caller
            flight.error = error
        finally:
            self._land(key, flight)

    def _land(self, key: Hashable, flight: Flight[T]) -> None:
        with self._lock:
            del self._flights[key]
        flight.done.set()

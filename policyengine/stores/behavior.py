"""Learned behavior in a store that processes share: what the store keeps of each caller, and one step on it.

The store keeps the levels and the latest events of each caller, and a row into which a process has folded all earlier
events. Any process can fold the events after the row, and gets what every other process gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from policyengine.runtime.behavior import BehaviorCharge, CallerEvent, CallerHistory
from policyengine.stores.transition import digest_parts

MAX_WAITING_FAILURES: Final = 256  # events of a caller beyond which reported failures are dropped
REPORTABLE_SECONDS: Final = 3_600
REPORT_PLACES: Final = 2**17  # reportable decisions that the store remembers; of two in one place, the later one
LEARNER_SECONDS: Final = 600  # for which a process may be the only one that learns a model


class BehaviorStore(Protocol):
    """Keeps learned behavior that processes share; `commit` adds the events in `Effects.behavior`. Times are
    microseconds since 1970. Each method may raise StoreError."""

    def read(self, key: str, now: int) -> CallerHistory:
        """Return everything that is known of a caller."""
        ...

    def report(self, decision: str, outcome: int | None, now: int) -> str | None:
        """Add an event with this outcome to the caller of a reportable decision, once; without an outcome, only forget
        that the decision is reportable. Return the key of the caller, or None if the decision is not reportable."""
        ...

    def forget(self, key: str) -> bool:
        """Forget a caller. Return whether anything was known of it."""
        ...

    def callers(self, now: int) -> Iterator[CallerHistory]:
        """Yield all callers of which a row was saved."""
        ...

    def latest_version(self, family: str, now: int) -> str | None:
        """Return the key of the most recently active version of a caller; `family` stands for all of its versions."""
        ...

    def add_version(self, family: str, key: str, lasts: int, now: int) -> None:
        """Remember for `lasts` milliseconds that a version was active."""
        ...

    def shared_key(self, proposed: bytes) -> bytes:
        """Return the secret key of all processes: the first one that was proposed."""
        ...

    def model(self, known: int) -> tuple[int, bytes]:
        """Return the number of the model, and the model; no bytes if the number is `known`."""
        ...

    def save_model(self, number: int, model: bytes) -> None:
        """Replace the model, unless there is one with this number or a higher one."""
        ...

    def start_learning(self, number: int, now: int) -> bool:
        """Return whether no other process has started to learn the model with this number in the last
        LEARNER_SECONDS."""
        ...


class StoredCaller(NamedTuple):
    """Holds what a store keeps of a caller: the levels at the time of the last event, and the events after the first
    `base`, which are in the saved row. Another form of this needs other keys and tables, because processes of two
    versions may share a store."""

    at: int = 0
    slow: int = 0
    fast: int = 0
    denied: int = 0
    base: int = 0
    events: tuple[CallerEvent, ...] = ()

    @property
    def number(self) -> int:
        """The number of the last event."""
        return self.base + len(self.events)


class Levels(NamedTuple):
    """The levels `slow` and `fast` with a request, as if it is allowed, and the level `denied` without it. `at` is the
    time of the last event then."""

    at: int
    slow: int
    fast: int
    denied: int
    burst: bool


UNKNOWN_CALLER: Final = StoredCaller()


def raise_levels(state: StoredCaller, charge: BehaviorCharge) -> Levels:
    """Return the levels with the request."""
    at, slow, fast, denied = max(charge.at, state.at), 0, 0, 0
    if state.at >= charge.until:
        at = charge.at
    elif state.at >= charge.since:
        passed = at - state.at
        slow = max(state.slow - passed * charge.falls[0], 0)
        fast = max(state.fast - passed * charge.falls[1], 0)
        denied = max(state.denied - passed * charge.falls[0], 0)
    slow, fast = min(slow + charge.unit, charge.top), min(fast + charge.unit, charge.top)
    burst = slow + denied > charge.ceilings[0] or fast > charge.ceilings[1]
    if burst:
        most, most_fast = charge.caps
        slow, fast, denied = min(slow, most), min(fast, most_fast), min(denied, most)
    return Levels(at, slow, fast, denied, burst)


def is_outdated(state: StoredCaller, levels: Levels, charge: BehaviorCharge) -> bool:
    """Return whether the decision must be made again."""
    return levels.burst != charge.burst or (charge.strict and state.number != charge.number)


def saves_row(state: StoredCaller, charge: BehaviorCharge) -> bool:
    """Return whether the row of the charge is saved: it is based on the saved one and contains more, or it is a start
    for a new caller."""
    is_start = charge.number == state.number == 0
    return bool(charge.row) and charge.base == state.base and (is_start or state.base < charge.number <= state.number)


def add_event(
    state: StoredCaller, levels: Levels, charge: BehaviorCharge, *, admitted: bool, clamped: bool
) -> StoredCaller:
    """Return the caller after the event of a charge."""
    base, events = state.base, state.events
    if saves_row(state, charge):
        base, events = charge.number, events[charge.number - base :]
    at, slow, fast, denied, _ = levels
    outcome = charge.outcome if admitted else charge.refused
    event = CallerEvent(charge.at, slow, fast, denied, outcome, clamped, charge.content)
    if not (admitted and charge.allowed):
        slow, fast, denied = slow - charge.unit, fast - charge.unit, min(denied + charge.unit, charge.top)
    return StoredCaller(at, slow, fast, denied, base, (*events, event))


def add_failure(state: StoredCaller, outcome: int) -> StoredCaller:
    """Return the caller after the report of a failure, which changes no level."""
    event = CallerEvent(state.at, 0, 0, 0, outcome, clamped=False, content=())
    return state._replace(events=(*state.events, event))


def history_after(state: StoredCaller, row: bytes | None, base: int, number: int) -> CallerHistory:
    """Return what a process does not know yet that has the row with `base` events, and the events up to `number`. `row`
    is the saved one."""
    if base != state.base or number > state.number:
        return CallerHistory(state.base, row or b"", state.base + 1, state.events)
    return CallerHistory(base, None, number + 1, state.events[number - base :])


def report_place(decision: str) -> int:
    """Return the place at which a store remembers the caller of a reportable decision."""
    return int(digest_parts(decision)[:8], 16) % REPORT_PLACES

"""Learned behavior in a store that processes share: the stored state of each caller, and the change that one event
makes.

The store keeps the levels and the latest events of each caller, and a row into which a process has folded all earlier
events. Every process that folds the later events into this row gets the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple, Protocol, TypeAlias

from msgspec import Meta, MsgspecError, msgpack

from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.runtime.behavior import BehaviorCharge, CallerEvent, CallerHistory
from policyengine.stores.base import StoreError
from policyengine.stores.transition import digest_parts

MAX_WAITING_FAILURES: Final = 256  # unfolded events of a caller; with more, reported failures are dropped
REPORTABLE_SECONDS: Final = 3_600
REPORT_PLACES: Final = 2**17  # slots for reportable decisions; a later decision replaces an earlier one in its slot
LEARNER_SECONDS: Final = 600  # seconds for which a process that learns a model excludes others
EVENTS_PER_GENERATION: Final = 2**20  # a forgotten caller continues with the first number of its next generation
REQUEST_DAYS: Final = 6  # days for which requests are kept, to search for groups in them
MODEL: Final = "model"  # the document with the latest model
RELEASES: Final = "releases"  # the document with the planned changes
MAX_NUMBER: Final = 2**53 - 1  # above this, numbers in Lua are not exact
MAX_DOCUMENT_NUMBER: Final = MAX_NUMBER
UNREADABLE_NUMBER: Final = MAX_DOCUMENT_NUMBER + 1  # the number of a document whose number cannot be read


class UnreadableBehaviorError(StoreError):
    """The error for a model, or the behavior of a caller, that cannot be used although the store answers. Learned facts
    are then unknown."""


class BehaviorStore(Protocol):
    """Keeps learned behavior that processes share. `Store.commit` adds the events in `Effects.behavior`. Times are
    microseconds since 1970. Each method may raise StoreError."""

    def read(self, key: str, now: int) -> CallerHistory:
        """Return the saved row and the later events of a caller. Raises UnreadableBehaviorError if its state is
        damaged."""
        ...

    def report(self, decision: str, outcome: int | None, now: int) -> str | None:
        """Add an event with this outcome to the caller of a reportable decision, and make the decision unreportable;
        with None, add no event. Return the key of the caller, or None if the decision is not reportable."""
        ...

    def forget(self, key: str) -> bool:
        """Forget a caller, damaged or not. Return whether the store knew the caller. The store keeps the number of the
        caller's events for as long as it would have kept the caller (see `forgotten_caller`)."""
        ...

    def keys(self) -> Iterator[str]:
        """Yield the keys of all callers, including callers without a saved row and forgotten callers."""
        ...

    def callers(self, now: int) -> Iterator[tuple[str, CallerHistory | None]]:
        """Yield the keys of all callers with a saved row and a state, each with its history; None for a caller with a
        damaged state."""
        ...

    def versions(self, family: str, most: int) -> list[str]:
        """Return at most `most` versions of a caller, the most recently active one first; `family` is the key of the
        caller without a version."""
        ...

    def add_version(self, family: str, version: str, lasts: int, now: int) -> None:
        """Remember for `lasts` milliseconds that a version was active."""
        ...

    def known_key(self) -> bytes | None:
        """Return the secret key that all processes use; None, and create nothing, if no process proposed one yet."""
        ...

    def shared_key(self, proposed: bytes) -> bytes:
        """Return the secret key that all processes use, which is the first key that a process proposed."""
        ...

    def document(self, name: str, known: int) -> tuple[int, bytes]:
        """Return the number of a document and its content. The content is empty if the number is `known`; the number is
        0 if there is no document.
        """
        ...

    def save_document(self, name: str, number: int, value: bytes, after: int | None = None) -> bool:
        """Replace a document, unless the stored document has this number or a higher number or, with `after`, a number
        other than `after`. Return whether it was replaced."""
        ...

    def add_requests(self, day: int, part: bytes, now: int) -> None:
        """Keep a part of the requests of a day, for REQUEST_DAYS days."""
        ...

    def requests(self, day: int) -> Iterator[bytes]:
        """Yield the parts of the requests of a day."""
        ...

    def start_learning(self, number: int, now: int) -> bool:
        """Return whether this process may learn the model with this number, because no other process has started to
        learn it in the last LEARNER_SECONDS."""
        ...


StoredNumber: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
StoredLevel: TypeAlias = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]


class StoredCaller(NamedTuple):
    """The stored state of a caller: the levels at the time `at` of the latest event, and the events after the first
    `base`, which the saved row contains. A change of this format needs other keys and tables, because processes of two
    versions may share a store."""

    at: StoredNumber = 0
    slow: StoredLevel = 0
    fast: StoredLevel = 0
    denied: StoredLevel = 0
    base: StoredNumber = 0
    events: tuple[CallerEvent, ...] = ()

    @property
    def number(self) -> int:
        """The number of the last event."""
        return self.base + len(self.events)


class Levels(NamedTuple):
    """The levels of a caller after a request: `slow` and `fast` as if the request were allowed, and `denied` as if it
    were not counted. `at` is the time of the latest event, including the request; `burst` says that a level exceeds its
    ceiling.
    """

    at: int
    slow: int
    fast: int
    denied: int
    burst: bool


UNKNOWN_CALLER: Final = StoredCaller()
STATE_HEAD: Final = 0x90 + len(StoredCaller._fields)  # the first byte of a MessagePack array with all members
STATE_DECODER: Final = msgpack.Decoder(StoredCaller)


def decode_caller(raw: bytes) -> StoredCaller:
    """Decode the stored state of a caller. Raises UnreadableBehaviorError."""
    try:
        state = STATE_DECODER.decode(raw)
    except MsgspecError as error:
        raise damaged_state(error) from None
    if raw[0] != STATE_HEAD:
        raise damaged_state("it has another format")
    return state


def damaged_state(why: object) -> UnreadableBehaviorError:
    return UnreadableBehaviorError(f"the state of a caller is damaged: {why}")


def raise_levels(state: StoredCaller, charge: BehaviorCharge) -> Levels:
    """Return the levels of a caller after the request of a charge, as if the request were allowed."""
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
    """Return whether the decision must be made again, because the burst or, if `strict`, the number of events has
    changed, or because the caller was forgotten."""
    if levels.burst != charge.burst or (charge.strict and state.number != charge.number):
        return True
    return bool(charge.number) and charge.number // EVENTS_PER_GENERATION != state.number // EVENTS_PER_GENERATION


def saves_row(state: StoredCaller, charge: BehaviorCharge) -> bool:
    """Return whether the row of the charge is to be saved: it was computed from the saved row and contains more events,
    or it is the first row of a new caller."""
    is_start = charge.number == state.number == 0
    return bool(charge.row) and charge.base == state.base and (is_start or state.base < charge.number <= state.number)


def add_event(
    state: StoredCaller, levels: Levels, charge: BehaviorCharge, *, admitted: bool, clamped: bool
) -> StoredCaller:
    """Return the stored state of the caller with the event of a charge."""
    base, events = state.base, state.events
    if saves_row(state, charge):
        base, events = charge.number, events[charge.number - base :]
    at, slow, fast, denied, _ = levels
    outcome = charge.outcome if admitted else charge.refused
    event = CallerEvent(charge.at, slow, fast, denied, outcome, clamped, charge.content)
    if not (admitted and charge.allowed):
        slow, fast, denied = slow - charge.unit, fast - charge.unit, min(denied + charge.unit, charge.top)
    return StoredCaller(at, slow, fast, denied, base, (*events, event))


def forgotten_caller(state: StoredCaller) -> StoredCaller:
    """Return the stored state of a caller that is forgotten. Its next event has the first number of the next
    generation, so that no process confuses it with an event of the forgotten caller."""
    return StoredCaller(base=(state.number // EVENTS_PER_GENERATION + 1) * EVENTS_PER_GENERATION)


def forgotten_damaged_caller(now: int) -> StoredCaller:
    """Return the stored state of a caller that is forgotten without knowing the number of its events. Its generation is
    the time in seconds, which is later than the generation of any caller that was forgotten at most once a second."""
    return StoredCaller(base=now // MICROSECONDS_PER_SECOND * EVENTS_PER_GENERATION)


def add_failure(state: StoredCaller, outcome: int) -> StoredCaller:
    """Return the stored state of the caller with a reported failure, which changes no level."""
    event = CallerEvent(state.at, 0, 0, 0, outcome, clamped=False, content=())
    return state._replace(events=(*state.events, event))


def history_after(state: StoredCaller, row: bytes | None, base: int, number: int) -> CallerHistory:
    """Return the answer for a process that knows the row with `base` events and the events up to `number`: only the
    later events or, if the saved row has changed, the saved `row` and all events after it."""
    if base != state.base or number > state.number:
        return CallerHistory(state.base, row or b"", state.base + 1, state.events)
    return CallerHistory(base, None, number + 1, state.events[number - base :])


def report_place(decision: str) -> int:
    """Return the slot in which a store remembers the caller of a reportable decision."""
    return int(digest_parts(decision)[:8], 16) % REPORT_PLACES

"""Describes the change of a caller's learned behavior in the step that commits a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from policyengine.runtime.limits import LimitState


class LocalBehavior(Protocol):
    """The behavior of a caller that only this process knows. The memory store calls both methods inside its step, so
    that no other request of the caller is decided between them.
    """

    def is_current(self) -> bool:
        """Return whether the request still has the learned facts with which it was decided."""
        ...

    def settle(self, decision: str, standings: tuple[LimitState, ...]) -> None:
        """Learn from the decision with this key. `standings` are the states of its limits after the step: whether they
        admit it, and whether a clamp reduced a rate."""
        ...


class CallerEvent(NamedTuple):
    """An event of a caller at the time `at`, in milliseconds, with the levels `slow` and `fast` as if the request were
    allowed, and the level `denied` before the request. `content` comes from the process that decided; stores do not
    interpret it."""

    at: int
    slow: int
    fast: int
    denied: int
    outcome: int
    clamped: bool
    content: tuple[int, ...]


class CallerHistory(NamedTuple):
    """The answer of a shared store about a caller: the saved row, which contains the first `base` events of the caller
    (`row` is None if the process has this row already), and later events, numbered from `first`."""

    base: int
    row: bytes | None
    first: int
    events: tuple[CallerEvent, ...]

    @property
    def number(self) -> int:
        """The number of the last event."""
        return self.first + len(self.events) - 1


class BehaviorCharge(Struct):
    """One event of a caller, for a store that processes share.

    A caller has three leaky levels. An allowed request raises `slow` and `fast` by `unit`, and any other request raises
    `denied`; each level is at most `top`. Since the latest event, the levels have fallen in each millisecond by `falls`
    (the first for `slow` and `denied`, the second for `fast`). Levels are empty if the latest event is earlier than
    `since`, or not earlier than `until` because the clock was wrong. The request is a burst if it would raise the sum
    of `slow` and `denied` above the first of the `ceilings`, or `fast` above the second. After a burst, `slow` and
    `denied` are each at most the first of the `caps`, and `fast` at most the second. If the result differs from
    `burst`, with which the request was decided, or if the charge is `strict` and the number of events is not `number`,
    the commit changes nothing and returns None.

    Otherwise the event gets the next number. Its outcome is `outcome`, or `refused` if a limit does not admit the
    request. If the charge is `allowed` and all limits admit the request, any process can find the caller of the
    decision for an hour. The process knows the row with the first `base` events, and the events up to `number`. If it
    has folded these events into a new row, `row` is saved and replaces the events. The store keeps a caller until
    `lasts` milliseconds have passed without an event. `history` is the answer of the store. If the store does not
    answer, `unanswered` is set, and the commit returns None. The same holds if the stored state of the caller is
    damaged; then `damaged` is set, too.
    """

    key: str
    at: int
    unit: int
    top: int
    falls: tuple[int, int]
    ceilings: tuple[int, int]
    since: int
    until: int
    burst: bool
    strict: bool
    outcome: int
    refused: int
    content: tuple[int, ...]
    base: int
    number: int
    row: bytes
    lasts: int
    allowed: bool
    caps: tuple[int, int]
    history: CallerHistory | None = None
    unanswered: bool = False
    damaged: bool = False

    def is_current(self) -> bool:
        """Raise TypeError: a memory store is not shared by processes."""
        raise TypeError("a memory store is not shared by processes")

    def settle(self, decision: str, standings: tuple[LimitState, ...]) -> None:
        """Raise TypeError, as `is_current` does."""
        self.is_current()


CallerCharge: TypeAlias = LocalBehavior | BehaviorCharge

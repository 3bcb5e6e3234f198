"""Describes what a decision changes of the learned behavior of its caller, in the step that commits the decision."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

from msgspec import Struct


class LocalBehavior(Protocol):
    """The behavior of a caller that only this process knows. The memory store calls both methods inside its step, so
    that no other request of the caller is decided between them.
    """

    def is_current(self) -> bool:
        """Return whether the request still has the learned facts with which it was decided."""
        ...

    def settle(self, *, admitted: bool, clamped: bool) -> None:
        """Learn from the decision. `admitted` is whether all limits admit it, `clamped` whether a clamp acted."""
        ...


class CallerEvent(NamedTuple):
    """An event of a caller, of the time `at` in milliseconds, with the levels `slow` and `fast` as if the request was
    allowed, and the level `denied` before it. `content` is what the process that decided adds; stores do not interpret
    it."""

    at: int
    slow: int
    fast: int
    denied: int
    outcome: int
    clamped: bool
    content: tuple[int, ...]


class CallerHistory(NamedTuple):
    """The answer of a shared store about a caller: the latest saved row, which contains the first `base` events of the
    caller (`row` is None if the process has it already), and later events, numbered from `first`."""

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

    There are three leaky levels: an allowed request raises `slow` and `fast` by `unit`, any other request raises
    `denied`; each is at most `top`. Since the last event they fell by `falls` in each millisecond (`slow` and `denied`
    equally). Levels are empty if the last event is from before `since`, or from `until` or later: then the clock was
    wrong. The request is a burst if it would raise `slow` and `denied` together above the first of the `ceilings`, or
    `fast` above the second; after a burst, `slow` and `denied` are at most the first of the `caps`, and `fast` at most
    the second. If this differs from `burst`, with which the request was decided, or if `strict` and there are events
    after `number`, the commit changes nothing and returns None.

    Otherwise the event gets the next number. Its outcome is `outcome`, or `refused` if a limit does not admit the
    request. If `allowed`, and all limits admit it, the request is allowed, and any process can find the caller of the
    decision for an hour. The process knows the row that contains the first `base` events, and the events up to
    `number`. If it has folded them into a new row, `row` is saved in place of the events. The store keeps all this
    until `lasts` milliseconds passed without an event. `history` is the answer of the store. If the store does not
    answer, `unanswered` is set, and the commit returns None.
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


CallerCharge: TypeAlias = LocalBehavior | BehaviorCharge

"""Counts of decisions: outcomes and limits over time, in slots of equal width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.runtime.decision import Decision, Gate, Outcome, Principal, PrincipalTuple, RateState

# Each width is a multiple of the previous one, so slots can be merged into wider ones.
SLOT_WIDTHS_US = tuple(
    int(seconds * MICROSECONDS_PER_SECOND)
    for seconds in (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 21_600, 86_400, 604_800)
)
MAX_SLOTS = 240  # default maximum of slots in a chart
MAX_REQUESTED_SLOTS = 10_000


class TooManySlotsError(Exception):
    """The error for traffic that needs more slots than a chart can show."""


@dataclass(slots=True)
class LimitCounts:
    """The counts of one limit: requests to which it applied, that passed, and that it throttled. `remaining` of `limit`
    is the lowest capacity that any caller had left.
    """

    asked: int = 0
    admitted: int = 0
    throttled: int = 0
    remaining: int | None = None
    limit: int = -1
    last: int = -1  # the last decision counted, because a limit with several bounds is counted once

    def take(self, other: LimitCounts) -> None:
        self.asked += other.asked
        self.admitted += other.admitted
        self.throttled += other.throttled
        if other.remaining is not None:
            self.left(other.remaining, other.limit)

    def left(self, remaining: int, limit: int) -> None:
        if self.remaining is None or remaining * self.limit < self.remaining * limit:
            self.remaining, self.limit = remaining, limit


@dataclass(slots=True)
class TimeSlot:
    """The counts of one slot of time."""

    allow: int = 0
    confirm: int = 0
    throttle: int = 0
    deny: int = 0
    rules: dict[str, LimitCounts] = field(default_factory=dict)

    @property
    def events(self) -> int:
        return self.allow + self.confirm + self.throttle + self.deny

    def take(self, other: TimeSlot) -> None:
        self.allow += other.allow
        self.confirm += other.confirm
        self.throttle += other.throttle
        self.deny += other.deny
        for rule, line in other.rules.items():
            self.rules.setdefault(rule, LimitCounts()).take(line)


def sum_slots(slots: Iterable[TimeSlot]) -> TimeSlot:
    found = TimeSlot()
    for slot in slots:
        found.take(slot)
    return found


class Series:
    """Slots from `start` on (microseconds since 1970; None: from the first request). Without a `width`, the slots begin
    narrow and widen with the traffic.
    """

    def __init__(self, start: int | None = None, width: int | None = None) -> None:
        self.start, self.fixed = start, width is not None
        self.width = width or SLOT_WIDTHS_US[0]
        self.slots: list[TimeSlot] = []
        self.throttled: Counter[PrincipalTuple | Principal] = Counter()
        self.failures = 0
        self.events = 0
        self.latest = 0
        self._slot = TimeSlot()
        self._edge = -1

    def count(self, at: int, decision: Decision) -> None:
        if at >= self._edge:
            self._move(at)
        slot, number = self._slot, self.events
        self.events = number + 1
        outcome = decision.answer.outcome
        passed = outcome is Outcome.ALLOW
        for standing in decision.standings:
            if isinstance(standing, RateState):
                rule, limit, remaining = standing.rule, standing.limit, standing.remaining
            else:
                limited, state = standing
                rule, limit, remaining = limited.name, state.limit, state.remaining
            line = slot.rules.get(rule)
            if line is None:
                line = slot.rules[rule] = LimitCounts()
            if line.last != number:
                line.last = number
                line.asked += 1
                line.admitted += passed
            if line.remaining is None or limit != line.limit or remaining < line.remaining:
                line.left(remaining, limit)
        if passed:
            slot.allow += 1
        else:
            self._stopped(decision, outcome, slot)

    def _stopped(self, decision: Decision, outcome: Outcome, slot: TimeSlot) -> None:
        if outcome is Outcome.THROTTLE:
            slot.throttle += 1
            self.throttled[decision.asker] += 1
            for rule in {one.rule for one in decision.reasons if one.outcome is Outcome.THROTTLE}:
                slot.rules.setdefault(str(rule), LimitCounts()).throttled += 1
        elif outcome is Outcome.CONFIRM:
            slot.confirm += 1
        else:
            slot.deny += 1
            self.failures += decision.gate is Gate.FAILURE

    # ── Time ──────────────────────────────────────────────────────────────────────────────────

    def _move(self, at: int) -> None:
        """Move to the slot of that time. Raises TooManySlotsError."""
        if self.start is None:
            self.start = at - at % MICROSECONDS_PER_SECOND
        while (at - self.start) // self.width >= (MAX_REQUESTED_SLOTS if self.fixed else MAX_SLOTS):
            self._widen()
        place = (at - self.start) // self.width
        while len(self.slots) <= place:
            self.slots.append(TimeSlot())
        self._slot = self.slots[place]
        self._edge = self.start + (place + 1) * self.width

    def _widen(self) -> None:
        if self.fixed:
            raise TooManySlotsError
        wider = next((width for width in SLOT_WIDTHS_US if width > self.width), self.width * 2)
        times = wider // self.width
        self.slots = [sum_slots(self.slots[first : first + times]) for first in range(0, len(self.slots), times)]
        self.width = wider

    @property
    def total(self) -> TimeSlot:
        return sum_slots(self.slots)

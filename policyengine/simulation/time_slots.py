"""Counts of decisions: outcomes and limits over time, in slots of equal width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from policyengine.behavior.events import Caller
from policyengine.behavior.state import CallerSnapshot
from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.runtime.decision import Decision, Gate, Outcome, Principal, PrincipalTuple, RateState

# Each width is a multiple of the previous one, so slots can be merged into wider ones.
SLOT_WIDTHS_US = tuple(
    int(seconds * MICROSECONDS_PER_SECOND)
    for seconds in (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 21_600, 86_400, 604_800)
)
MAX_SLOTS = 240  # default maximum slots in a chart
MAX_REQUESTED_SLOTS = 10_000
MAX_LEARNED_CALLERS = 1_000  # maximum callers whose learned behavior is counted separately


class TooManySlotsError(Exception):
    """The error for traffic that needs more slots than a chart can show."""


@dataclass(slots=True)
class LimitCounts:
    """The counts of one limit: requests to which it applied, requests that it admitted, and requests that it throttled.
    `remaining` of `limit` is the lowest remaining capacity, relative to the limit, that any caller had.
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
class OutcomeCounts:
    """The numbers of decisions by outcome."""

    allow: int = 0
    confirm: int = 0
    throttle: int = 0
    deny: int = 0

    @property
    def events(self) -> int:
        return self.allow + self.confirm + self.throttle + self.deny

    def take_outcomes(self, other: OutcomeCounts) -> None:
        self.allow += other.allow
        self.confirm += other.confirm
        self.throttle += other.throttle
        self.deny += other.deny


@dataclass(slots=True)
class CallerCounts(OutcomeCounts):
    """The decisions about a caller, its alarms, whether it was ready, its latest trust in thousandths, and the lowest
    and highest paces of its rates, relative to the paces of their rules."""

    bursts: int = 0
    new_endpoints: int = 0
    new_shapes: int = 0
    ready: bool = False
    trust: int | None = None
    slowest: float = 1.0
    fastest: float = 1.0

    @property
    def alarms(self) -> int:
        return self.bursts + self.new_endpoints + self.new_shapes

    @property
    def pace(self) -> float:
        """The lowest pace if any pace was lower than that of its rule, otherwise the highest pace."""
        return self.slowest if self.slowest < 1 else self.fastest

    def take(self, other: CallerCounts) -> None:
        """Add the counts of a later period."""
        self.take_outcomes(other)
        self.bursts += other.bursts
        self.new_endpoints += other.new_endpoints
        self.new_shapes += other.new_shapes
        self.ready |= other.ready
        self.trust = self.trust if other.trust is None else other.trust
        self.slowest, self.fastest = min(self.slowest, other.slowest), max(self.fastest, other.fastest)

    def count(self, decision: Decision, reading: CallerSnapshot, paces: Iterable[float]) -> None:
        facts = reading.facts
        outcome = str(decision.answer.outcome)
        setattr(self, outcome, getattr(self, outcome) + 1)
        if facts.ready:
            self.ready = True
            self.bursts += facts.burst
            self.new_shapes += facts.has_new_shape
            self.new_endpoints += facts.is_new and not facts.has_new_shape
        self.trust = facts.trust
        for pace in paces:
            if pace < self.slowest:
                self.slowest = pace
            elif pace > self.fastest:
                self.fastest = pace


@dataclass(slots=True)
class TimeSlot(OutcomeCounts):
    """The counts of one slot of time. `learned` has the counts of callers with learned behavior, in the order of their
    first requests, and `other` the counts of all callers beyond MAX_LEARNED_CALLERS."""

    rules: dict[str, LimitCounts] = field(default_factory=dict)
    learned: dict[Caller, CallerCounts] = field(default_factory=dict)
    other: CallerCounts | None = None

    def take(self, other: TimeSlot) -> None:
        self.take_outcomes(other)
        for rule, line in other.rules.items():
            self.rules.setdefault(rule, LimitCounts()).take(line)
        for caller, counts in other.learned.items():
            self.learned.setdefault(caller, CallerCounts()).take(counts)
        if other.other is not None:
            self.other = self.other or CallerCounts()
            self.other.take(other.other)


def sum_slots(slots: Iterable[TimeSlot]) -> TimeSlot:
    found = TimeSlot()
    for slot in slots:
        found.take(slot)
    return found


class Series:
    """Slots from `start` on (microseconds since 1970; None: from the first request). Without a `width`, the slots are
    narrow at first, and become wider when the traffic needs more slots.
    """

    def __init__(self, start: int | None = None, width: int | None = None) -> None:
        self.start, self.fixed = start, width is not None
        self.width = width or SLOT_WIDTHS_US[0]
        self.slots: list[TimeSlot] = []
        self.throttled: Counter[PrincipalTuple | Principal] = Counter()
        self.classes: dict[Caller, str] = {}  # the callers with learned behavior
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
            self._count_stopped(decision, outcome, slot)

    def count_learned(self, decision: Decision, reading: CallerSnapshot, paces: Iterable[float]) -> None:
        """Count the learned behavior that the last counted decision read, and the current paces of its rates."""
        slot, caller = self._slot, reading.caller
        found = slot.learned.get(caller)
        if found is None:
            if caller in self.classes or len(self.classes) < MAX_LEARNED_CALLERS:
                self.classes[caller] = reading.group
                found = slot.learned[caller] = CallerCounts()
            else:
                found = slot.other = slot.other or CallerCounts()
        found.count(decision, reading, paces)

    def _count_stopped(self, decision: Decision, outcome: Outcome, slot: TimeSlot) -> None:
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

"""The result of a simulation as one value, the source of all charts and of the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from policyengine import kernel as k
from policyengine.clock import MICROSECOND
from policyengine.runtime.decision import Principal, PrincipalTuple
from policyengine.simulation.microseconds import format_timestamp
from policyengine.simulation.time_slots import LimitCounts, Series, TimeSlot
from policyengine.spec.limits import format_pace
from policyengine.time_formats import format_duration

MAX_CALLERS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class SimulatedLimit:
    """One rate or budget of the policy; `words` is its text."""

    kind: str
    name: str
    words: str
    at: str

    @classmethod
    def of(cls, limit: k.Rate | k.Budget) -> SimulatedLimit:
        if isinstance(limit, k.Budget):
            return cls("budget", limit.name, ", ".join(one.words for one in limit.quotas), limit.span.at)
        words = [] if limit.pace is None else [format_pace(limit.pace)]
        if limit.at_once is not None:
            words.append(f"at most {limit.at_once.most} at once")
        return cls("rate", limit.name, ", ".join(words), limit.span.at)


@dataclass(frozen=True, slots=True)
class ThrottledCaller:
    """A throttled caller and its number of throttled requests."""

    caller: Principal
    times: int

    @property
    def words(self) -> str:
        found = [f"agent {self.caller.agent}"] if self.caller.agent is not None else []
        found += [f"user {self.caller.user}"] if self.caller.user is not None else []
        return " for ".join(found) or "unknown caller"

    def to_dict(self) -> dict[str, Any]:
        caller = self.caller
        return {"agent": caller.agent, "issuer": caller.issuer, "user": caller.user, "throttled": self.times}


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The result of a simulation. `words` describes the traffic for people, `about` as data."""

    revision: str
    words: tuple[str, ...]
    about: dict[str, Any]
    limits: tuple[SimulatedLimit, ...]
    series: Series

    @property
    def slots(self) -> list[TimeSlot]:
        return self.series.slots

    @property
    def total(self) -> TimeSlot:
        return self.series.total

    @property
    def start(self) -> int:
        return self.series.start or 0

    @property
    def every(self) -> str:
        return format_duration(self.series.width * MICROSECOND)

    @property
    def title(self) -> str:
        total = self.total
        return f"{total.events:,} request{'' if total.events == 1 else 's'}: " + ", ".join(
            f"{count:,} {name}" for name, count in outcome_counts(total) if count
        )

    def lines(self, limit: SimulatedLimit) -> list[LimitCounts]:
        """Return the counts of one limit, one for each slot."""
        return [slot.rules.get(limit.name) or LimitCounts() for slot in self.slots]

    @property
    def callers(self) -> tuple[ThrottledCaller, ...]:
        """The callers that were throttled most."""
        return tuple(
            ThrottledCaller(to_principal(who), times)
            for who, times in self.series.throttled.most_common(MAX_CALLERS_SHOWN)
        )

    @property
    def notes(self) -> Iterator[str]:
        """Notes on results that a reader could misunderstand."""
        if not self.limits:
            yield "the policy has no rates and no budgets"
        elif not any(one.name in self.total.rules for one in self.limits):
            yield "no rate and no budget applies to any of these requests"
        if self.series.failures:
            yield f"{self.series.failures:,} decisions failed internally and were denied"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that `docs/simulate.md` describes."""
        total = self.total
        return {
            "revision": self.revision,
            "played": self.about,
            "start": format_timestamp(self.start),
            "every_ms": self.series.width // 1_000 or self.series.width / 1_000,
            "events": total.events,
            "failures": self.series.failures,
            "outcomes": _outcome_data(total),
            "limits": [
                {"rule": one.name, "kind": one.kind, "words": one.words, "at": one.at,
                 **_limit_data(total.rules.get(one.name) or LimitCounts())}
                for one in self.limits
            ],
            "callers": [one.to_dict() for one in self.callers],
            "series": [self._slot(place, slot) for place, slot in enumerate(self.slots)],
        }  # fmt: skip

    def _slot(self, place: int, slot: TimeSlot) -> dict[str, Any]:
        return {
            "at": format_timestamp(self.start + place * self.series.width),
            **_outcome_data(slot),
            "limits": {name: _limit_data(line) for name, line in slot.rules.items()},
        }


def outcome_counts(slot: TimeSlot) -> Sequence[tuple[str, int]]:
    """Return the outcomes of a slot with their names in charts."""
    return (
        ("admitted", slot.allow),
        ("throttled", slot.throttle),
        ("to confirm", slot.confirm),
        ("denied", slot.deny),
    )


def to_principal(who: PrincipalTuple | Principal) -> Principal:
    if isinstance(who, Principal):
        return who
    agent, issuer, user = who
    return Principal(agent, issuer, user)


def _outcome_data(slot: TimeSlot) -> dict[str, int]:
    return {"allow": slot.allow, "confirm": slot.confirm, "throttle": slot.throttle, "deny": slot.deny}


def _limit_data(line: LimitCounts) -> dict[str, Any]:
    return {
        "asked": line.asked,
        "admitted": line.admitted,
        "throttled": line.throttled,
        "remaining": line.remaining,
        "limit": line.limit if line.remaining is not None else None,
    }

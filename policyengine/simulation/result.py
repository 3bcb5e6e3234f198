"""The result of a simulation as one value, the source of all charts and of the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from policyengine import kernel as k
from policyengine.behavior.events import Caller
from policyengine.clock import MICROSECOND
from policyengine.runtime.decision import Principal, PrincipalTuple
from policyengine.simulation.microseconds import format_timestamp
from policyengine.simulation.time_slots import CallerCounts, LimitCounts, OutcomeCounts, Series, TimeSlot
from policyengine.spec.limits import format_pace
from policyengine.time_formats import format_duration

MAX_CALLERS_SHOWN = 10
MAX_LEARNED_SHOWN = 6


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
class SimulatedCaller:
    """A caller with its class and its learned behavior, in total and in each slot; None for a slot without a
    request."""

    caller: Caller
    group: str
    total: CallerCounts
    slots: list[CallerCounts | None]

    @property
    def words(self) -> str:
        caller = self.caller
        found = [f"caller {caller.agent}"]
        found += [f"instance {caller.instance}"] if caller.instance else []
        found += [f"version {caller.version}"] if caller.version else []
        return ", ".join([*found, self.group or "without a class"])

    @property
    def fastest(self) -> float:
        return self.total.fastest

    def trusts(self) -> list[int]:
        return [one.trust for one in self.slots if one is not None and one.trust is not None]

    def to_dict(self, start: int, width: int) -> dict[str, Any]:
        caller = self.caller
        return {
            "agent": caller.agent, "issuer": caller.issuer or None,
            **({"instance": caller.instance} if caller.instance else {}),
            **({"version": caller.version} if caller.version else {}),
            "class": self.group or None, **_learned_data(self.total),
            "series": [
                {"at": format_timestamp(start + place * width), **_learned_data(slot)}
                for place, slot in enumerate(self.slots) if slot is not None
            ],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The result of a simulation. `words` describes the traffic as text, and `about` describes it as data. `learning`
    says whether behavior was learned; None if the policies read no learned facts."""

    revision: str
    words: tuple[str, ...]
    about: dict[str, Any]
    limits: tuple[SimulatedLimit, ...]
    series: Series
    learning: bool | None = None

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
        """Return the counts of one limit in each slot."""
        return [slot.rules.get(limit.name) or LimitCounts() for slot in self.slots]

    @property
    def callers(self) -> tuple[ThrottledCaller, ...]:
        """The callers that were throttled most."""
        return tuple(
            ThrottledCaller(to_principal(who), times)
            for who, times in self.series.throttled.most_common(MAX_CALLERS_SHOWN)
        )

    @property
    def learned_total(self) -> CallerCounts:
        """The learned behavior of all callers together; its trust and its paces have no meaning."""
        found = CallerCounts()
        for slot in self.slots:
            for counts in (*slot.learned.values(), *([slot.other] if slot.other else [])):
                found.take(counts)
        return found

    @property
    def ready_callers(self) -> int:
        return len({caller for slot in self.slots for caller, counts in slot.learned.items() if counts.ready})

    @property
    def learned(self) -> tuple[SimulatedCaller, ...]:
        """The callers to show: the callers with the most alarms first, then those that were stopped most often, then
        the busiest."""
        slots = self.slots
        total = self.total.learned

        def rank(caller: Caller) -> tuple[int, int, int]:
            counts = total[caller]
            return -counts.alarms, counts.allow - counts.events, -counts.events

        shown = sorted(total, key=rank)[:MAX_LEARNED_SHOWN]
        return tuple(
            SimulatedCaller(one, self.series.classes[one], total[one], [slot.learned.get(one) for slot in slots])
            for one in shown
        )

    @property
    def notes(self) -> Iterator[str]:
        """Notes on results that a reader could misunderstand."""
        if not self.limits:
            yield "the policy has no rates and no budgets"
        elif not any(one.name in self.total.rules for one in self.limits):
            yield "no rate and no budget applies to any of these requests"
        if self.learning is False:
            yield "the policies read learned facts, which are neutral here: `--learn` learns them from the traffic"
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
            **({"learned": self._learned()} if self.learning else {}),
            "series": [self._slot(place, slot) for place, slot in enumerate(self.slots)],
        }  # fmt: skip

    def _learned(self) -> dict[str, Any]:
        total = self.learned_total
        return {
            "callers": len(self.series.classes), "ready": self.ready_callers, "bursts": total.bursts,
            "new_endpoints": total.new_endpoints,
            "new_shapes": total.new_shapes,
            "shown": [one.to_dict(self.start, self.series.width) for one in self.learned],
        }  # fmt: skip

    def _slot(self, place: int, slot: TimeSlot) -> dict[str, Any]:
        return {
            "at": format_timestamp(self.start + place * self.series.width),
            **_outcome_data(slot),
            "limits": {name: _limit_data(line) for name, line in slot.rules.items()},
        }


def outcome_counts(slot: OutcomeCounts) -> Sequence[tuple[str, int]]:
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


def _outcome_data(slot: OutcomeCounts) -> dict[str, int]:
    return {"allow": slot.allow, "confirm": slot.confirm, "throttle": slot.throttle, "deny": slot.deny}


def _learned_data(counts: CallerCounts) -> dict[str, Any]:
    return {
        **_outcome_data(counts), "bursts": counts.bursts, "new_endpoints": counts.new_endpoints,
        "new_shapes": counts.new_shapes, "ready": counts.ready,
        "trust": None if counts.trust is None else counts.trust / 1_000, "slowest": counts.slowest,
        "fastest": counts.fastest,
    }  # fmt: skip


def _limit_data(line: LimitCounts) -> dict[str, Any]:
    return {
        "asked": line.asked,
        "admitted": line.admitted,
        "throttled": line.throttled,
        "remaining": line.remaining,
        "limit": line.limit if line.remaining is not None else None,
    }

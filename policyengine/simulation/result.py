"""What was played and what came of it, as one value: every drawing and the JSON are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from policyengine import kernel as k
from policyengine.runtime.decision import Asker, Principal
from policyengine.runtime.format_values import duration
from policyengine.simulation.series import Line, Series, Slot
from policyengine.simulation.time_units import MICROSECOND, stamp
from policyengine.spec.limits import pace_words

MOST_CALLERS = 10


@dataclass(frozen=True, slots=True)
class Limit:
    """One rate or budget of the policy: `words` is what it says."""

    kind: str
    name: str
    words: str
    at: str

    @classmethod
    def of(cls, limit: k.Rate | k.Budget) -> Limit:
        if isinstance(limit, k.Budget):
            return cls("budget", limit.name, ", ".join(one.words for one in limit.quotas), limit.span.at)
        words = [] if limit.pace is None else [pace_words(limit.pace)]
        if limit.at_once is not None:
            words.append(f"at most {limit.at_once.most} at once")
        return cls("rate", limit.name, ", ".join(words), limit.span.at)


@dataclass(frozen=True, slots=True)
class Throttled:
    """A caller that was throttled, and how often."""

    caller: Principal
    times: int

    @property
    def words(self) -> str:
        found = [f"agent {self.caller.agent}"] if self.caller.agent is not None else []
        found += [f"user {self.caller.user}"] if self.caller.user is not None else []
        return " for ".join(found) or "nobody known"

    def to_dict(self) -> dict[str, Any]:
        caller = self.caller
        return {"agent": caller.agent, "issuer": caller.issuer, "user": caller.user, "throttled": self.times}


@dataclass(frozen=True, slots=True)
class Played:
    """`words` say what was played; `about` the same as data."""

    revision: str
    words: tuple[str, ...]
    about: dict[str, Any]
    limits: tuple[Limit, ...]
    series: Series

    @property
    def slots(self) -> list[Slot]:
        return self.series.slots

    @property
    def total(self) -> Slot:
        return self.series.total

    @property
    def start(self) -> int:
        return self.series.start or 0

    @property
    def every(self) -> str:
        return duration(self.series.width * MICROSECOND)

    @property
    def title(self) -> str:
        total = self.total
        return f"{total.events:,} request{'' if total.events == 1 else 's'}: " + ", ".join(
            f"{count:,} {name}" for name, count in outcomes(total) if count
        )

    def lines(self, limit: Limit) -> list[Line]:
        """Of one limit, slot by slot."""
        return [slot.rules.get(limit.name) or Line() for slot in self.slots]

    @property
    def callers(self) -> tuple[Throttled, ...]:
        """Who was throttled most."""
        return tuple(Throttled(principal(who), times) for who, times in self.series.throttled.most_common(MOST_CALLERS))

    @property
    def notes(self) -> Iterator[str]:
        """What a reader would otherwise take for something else."""
        if not self.limits:
            yield "the policy has no rates and no budgets"
        elif not any(one.name in self.total.rules for one in self.limits):
            yield "no rate and no budget applies to any of these requests"
        if self.series.failures:
            yield f"{self.series.failures:,} decisions failed inside and were denied"

    def to_dict(self) -> dict[str, Any]:
        """As `docs/simulate.md` has it."""
        total = self.total
        return {
            "revision": self.revision,
            "played": self.about,
            "start": stamp(self.start),
            "every_ms": self.series.width // 1_000 or self.series.width / 1_000,
            "events": total.events,
            "failures": self.series.failures,
            "outcomes": _outcomes(total),
            "limits": [
                {"rule": one.name, "kind": one.kind, "words": one.words, "at": one.at,
                 **_line(total.rules.get(one.name) or Line())}
                for one in self.limits
            ],
            "callers": [one.to_dict() for one in self.callers],
            "series": [self._slot(place, slot) for place, slot in enumerate(self.slots)],
        }  # fmt: skip

    def _slot(self, place: int, slot: Slot) -> dict[str, Any]:
        return {
            "at": stamp(self.start + place * self.series.width),
            **_outcomes(slot),
            "limits": {name: _line(line) for name, line in slot.rules.items()},
        }


def outcomes(slot: Slot) -> Sequence[tuple[str, int]]:
    """In the words of a chart."""
    return (
        ("admitted", slot.allow),
        ("throttled", slot.throttle),
        ("to confirm", slot.confirm),
        ("denied", slot.deny),
    )


def principal(who: Asker | Principal) -> Principal:
    if isinstance(who, Principal):
        return who
    agent, issuer, user = who
    return Principal(agent, issuer, user)


def _outcomes(slot: Slot) -> dict[str, int]:
    return {"allow": slot.allow, "confirm": slot.confirm, "throttle": slot.throttle, "deny": slot.deny}


def _line(line: Line) -> dict[str, Any]:
    return {
        "asked": line.asked,
        "admitted": line.admitted,
        "throttled": line.throttled,
        "remaining": line.remaining,
        "limit": line.limit if line.remaining is not None else None,
    }

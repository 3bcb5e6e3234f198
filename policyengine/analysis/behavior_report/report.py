"""The result of a report as one value, the source of the text, the page and the JSON."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from policyengine.analysis.behavior_report.group_report import GroupReport
from policyengine.analysis.behavior_report.payloads import PayloadReport
from policyengine.analysis.behavior_report.tallies import (
    LEVEL_BOUNDS,
    CallerTally,
    ClassTally,
    ConditionTally,
    DayTally,
    EndpointTally,
    caller_data,
)
from policyengine.behavior.conditions import LearnedCondition
from policyengine.behavior.events import Caller
from policyengine.behavior.fold import MARGIN_UNIT, is_ready
from policyengine.behavior.model import ClassModel
from policyengine.behavior.state import DAY
from policyengine.clock import from_epoch_microseconds
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from policyengine.analysis.behavior_report.collect import BehaviorReporter

ROWS: Final = 10  # maximum rows in the lists of callers and endpoints
TRUST_STEPS: Final = 10
MICROSECONDS_PER_DAY: Final = DAY * 1_000
EndpointCount: TypeAlias = tuple[str, EndpointTally]


@dataclass(frozen=True, slots=True)
class CallerRank:
    """A caller in a list, with its counts, the hits of conditions other than `raise`, and its trust in thousandths. The
    trust is None if the caller is not ready.
    """

    caller: Caller
    tally: CallerTally
    hits: int
    trust: int | None

    def to_dict(self) -> dict[str, Any]:
        tally = self.tally
        return {
            **caller_data(self.caller), "class": tally.group, "requests": tally.requests, "hits": self.hits,
            "bursts": tally.bursts, "new_endpoints": tally.new_endpoints, "new_shapes": tally.new_shapes,
            "trust": None if self.trust is None else self.trust / 1_000,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConditionReport:
    """A condition, the number of callers that it would have hit, and the callers that it would have hit most often."""

    condition: LearnedCondition
    tally: ConditionTally
    callers: int
    most: tuple[tuple[Caller, int], ...]

    def to_dict(self) -> dict[str, Any]:
        one, tally = self.condition, self.tally
        return {
            "at": one.at, "rule": one.rule, "kind": one.kind, "words": one.words,
            "requests": tally.requests, "allowed": tally.allowed, "callers": self.callers, "days": len(tally.days),
            "caller_days": tally.caller_days, "unknown": tally.unknown,
            **({"clamped_after": tally.within} if one.lasts is not None else {}),
            "most": [{**caller_data(caller), "requests": count} for caller, count in self.most],
            "examples": [
                {"id": each.id, "at": format_microseconds(each.at), **caller_data(each.caller),
                 "endpoint": each.endpoint or None, "facts": facts_data(each.facts)}
                for each in tally.examples
            ],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClassReport:
    """A class of callers: the numbers of known and of ready callers, its tally, its model, the declared number of
    caller-days per false alarm, and the number of ready callers by tenths of trust.
    """

    issuer: str
    name: str
    callers: int
    ready: int
    tally: ClassTally
    model: ClassModel
    burst_days: int
    trust: tuple[int, ...]

    @property
    def observed(self) -> float | None:
        """The share of caller-days with an alarm; None without a caller-day."""
        return self.tally.bursts / self.tally.days if self.tally.days else None

    @property
    def declared(self) -> float:
        return 1 / self.burst_days

    def to_dict(self) -> dict[str, Any]:
        tally, model = self.tally, self.model
        levels = zip((*LEVEL_BOUNDS, None), tally.levels, strict=True)
        return {
            "issuer": self.issuer or None, "class": self.name, "callers": self.callers, "ready": self.ready,
            "ready_caller_days": tally.ready_days, "caller_days": tally.days, "with_burst": tally.bursts,
            "observed": self.observed, "declared": self.declared,
            "margins": {"slow": margin(model.margin_slow), "fast": margin(model.margin_fast),
                        "caller_days": model.days, "reach_declared": model.declared},
            "levels": [{"up_to": bound, "caller_days": count} for bound, count in levels],
            "trust": [{"from": place / TRUST_STEPS, "callers": count} for place, count in enumerate(self.trust)],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class BehaviorReport:
    """The result of reading logs. `unknown` counts the decisions that were left out because their class is unknown
    without policies. Times are microseconds since 1970; `days` are in order."""

    logs: tuple[str, ...]
    revision: str | None
    decisions: int
    learned_only: int
    left_out: int
    unknown: int
    late: int
    skipped: dict[str, tuple[int, str]]
    callers: int
    first: int | None
    last: int | None
    conditions: tuple[ConditionReport, ...]
    classes: tuple[ClassReport, ...]
    days: tuple[tuple[int, DayTally], ...]
    flagged: tuple[CallerRank, ...]
    least_trusted: tuple[CallerRank, ...]
    endpoints: tuple[EndpointCount, ...]
    shapes: tuple[EndpointCount, ...]
    payloads: PayloadReport | None = None
    groups: GroupReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that `docs/behavior.md` describes."""
        return {
            "logs": list(self.logs), "revision": self.revision,
            "decisions": self.decisions, "learned_only": self.learned_only, "left_out": self.left_out,
            "unknown": self.unknown, "late": self.late,
            "skipped": {file: count for file, (count, _) in self.skipped.items()},
            "callers": self.callers,
            "first": None if self.first is None else format_microseconds(self.first),
            "last": None if self.last is None else format_microseconds(self.last),
            "conditions": [one.to_dict() for one in self.conditions],
            "classes": [one.to_dict() for one in self.classes],
            "days": [
                {"day": format_day(day), "decisions": tally.decisions, "callers": tally.callers, "ready": tally.ready,
                 "bursts": tally.bursts, "new_endpoints": tally.new_endpoints, "new_shapes": tally.new_shapes}
                for day, tally in self.days
            ],
            "flagged": [one.to_dict() for one in self.flagged],
            "least_trusted": [one.to_dict() for one in self.least_trusted],
            "new_endpoints": [endpoint_data(*one) for one in self.endpoints],
            "new_shapes": [endpoint_data(*one) for one in self.shapes],
            **({} if self.payloads is None else {"payloads": self.payloads.to_dict()}),
            **({} if self.groups is None else {"groups": self.groups.to_dict()}),
        }  # fmt: skip


def make_report(source: BehaviorReporter) -> BehaviorReport:
    """Return the report of a reporter that has read its logs."""
    rows, model = source.state.rows, source.state.model
    ready: dict[Caller, int] = {
        caller: known.row.trust // 1_000
        for caller, known in rows.items()
        if model.class_of((caller.issuer, known.group)).is_ready
        and is_ready(known.row, source.settings_of(known.group))
    }
    trust: dict[tuple[str, str], list[int]] = {}
    known: dict[tuple[str, str], int] = {}
    for caller, found in rows.items():
        name = caller.issuer, found.group
        known[name] = known.get(name, 0) + 1
        if caller in ready:
            steps = trust.setdefault(name, [0] * TRUST_STEPS)
            steps[min(ready[caller] * TRUST_STEPS // 1_000, TRUST_STEPS - 1)] += 1
    classes = tuple(
        ClassReport(
            *name, known.get(name, 0), sum(trust.get(name, ())), source.classes.get(name, ClassTally()),
            model.class_of(name), source.settings_of(name[1]).burst_days, tuple(trust.get(name, [0] * TRUST_STEPS)),
        )
        for name in sorted(known.keys() | source.classes.keys())
    )  # fmt: skip
    engine = source.engine
    return BehaviorReport(
        tuple(map(str, source.logs)), None if engine is None else engine.revision, source.decisions,
        source.learned_only, source.left_out, source.unknown, source.late, source.skipped,
        len(source.callers) + source.forgotten_callers, source.first, source.last, tuple(condition_reports(source)),
        classes, tuple(sorted(source.days.items())), tuple(flagged_callers(source, ready)),
        tuple(least_trusted(source, ready)),
        most_requested(source.endpoints), most_requested(source.shapes),
        None if source.payloads is None else source.payloads.report(),
        None if source.groups is None else source.groups.report(),
    )  # fmt: skip


def most_requested(tallies: dict[str, EndpointTally]) -> tuple[EndpointCount, ...]:
    return tuple(sorted(tallies.items(), key=lambda one: (-one[1].requests, one[0]))[:ROWS])


def endpoint_data(name: str, tally: EndpointTally) -> dict[str, Any]:
    return {
        "endpoint": name or None, "requests": tally.requests, "first": format_microseconds(tally.first),
        "last": format_microseconds(tally.last), **caller_data(tally.caller),
    }  # fmt: skip


def condition_reports(source: BehaviorReporter) -> Iterator[ConditionReport]:
    for number, (condition, tally) in enumerate(zip(source.conditions, source.condition_tallies, strict=True)):
        hit = [(caller, one.hits[number]) for caller, one in source.callers.items() if number in one.hits]
        most = heapq.nsmallest(ROWS, hit, key=lambda one: (-one[1], one[0]))
        yield ConditionReport(condition, tally, tally.callers + len(hit), tuple(most))


def flagged_callers(source: BehaviorReporter, trust: dict[Caller, int]) -> Iterator[CallerRank]:
    """Yield the callers with the most alarms."""
    alarming = [(caller, tally) for caller, tally in source.callers.items() if tally.alarms]
    for caller, tally in heapq.nsmallest(ROWS, alarming, key=lambda one: (-one[1].alarms, one[0])):
        yield CallerRank(caller, tally, harmful_hits(source, tally), trust.get(caller))


def least_trusted(source: BehaviorReporter, trust: dict[Caller, int]) -> Iterator[CallerRank]:
    """Yield the ready callers with the least trust."""
    counted = [(caller, number) for caller, number in trust.items() if caller in source.callers]
    for caller, number in heapq.nsmallest(ROWS, counted, key=lambda one: (one[1], one[0])):
        tally = source.callers[caller]
        yield CallerRank(caller, tally, harmful_hits(source, tally), number)


def harmful_hits(source: BehaviorReporter, tally: CallerTally) -> int:
    return sum(count for number, count in tally.hits.items() if source.conditions[number].kind != "raise")


def margin(value: int) -> float | None:
    return round(value / MARGIN_UNIT, 3) if value else None


def facts_data(facts: dict[str, object]) -> dict[str, object]:
    """Return learned facts as JSON: shares as numbers, and a group as it is."""
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in facts.items()}


def format_microseconds(at: int) -> str:
    return format_rfc3339(from_epoch_microseconds(at))


def format_day(day: int) -> str:
    return f"{from_epoch_microseconds(day * MICROSECONDS_PER_DAY):%Y-%m-%d}"


def class_words(issuer: str, name: str, several: Sequence[ClassReport]) -> str:
    """Return the name of a class, with its issuer if another class has the same name."""
    shown = name or "without a profile or an agent block"
    return f"{shown}, {issuer}" if sum(one.name == name for one in several) > 1 and issuer else shown

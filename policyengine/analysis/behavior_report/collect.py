"""Folds logs as an engine learns from decisions, and counts what the conditions of policies would have hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from policyengine.analysis.behavior_report.groups import GroupWatch
from policyengine.analysis.behavior_report.ordered_log import OrderedLog
from policyengine.analysis.behavior_report.payloads import PayloadWatch
from policyengine.analysis.behavior_report.recorded_facts import recorded_facts
from policyengine.analysis.behavior_report.report import BehaviorReport, make_report
from policyengine.analysis.behavior_report.tallies import (
    MAX_EXAMPLES,
    CallerTally,
    ClassTally,
    ConditionTally,
    DayTally,
    EndpointTally,
    ExampleDecision,
)
from policyengine.audit import DecisionRecord
from policyengine.behavior.conditions import ConditionEvaluator
from policyengine.behavior.events import BehaviorEvent, Caller, Tagger
from policyengine.behavior.fold import MARGIN_UNIT, CallerFacts, ProfileSettings, highest_usual, is_ready
from policyengine.behavior.log_events import FailureReport, LogEventReader, question_of
from policyengine.behavior.model import ClassName
from policyengine.behavior.reader import NO_SETTINGS, BehaviorReader
from policyengine.behavior.row import BehaviorRow
from policyengine.behavior.state import DAY, MAX_CALLERS, BehaviorState
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.compiler.endpoint_patterns import EndpointPatterns
from policyengine.engine import Engine
from policyengine.runtime.decision import Outcome
from policyengine.runtime.values import Unknown

MAX_DAYS: Final = 4_000  # maximum number of days that are counted separately
MAX_ENDPOINTS: Final = 10_000
ALARM_LEVEL: Final = 2.0  # the level of a day with an alarm: above the last of LEVEL_BOUNDS
MILLISECOND: Final = 1_000  # microseconds


class BehaviorReporter:
    """Reads logs once. Without an engine, callers and classes are those that the log names, and there are no
    conditions. Only decisions from `since` on (microseconds since 1970) are counted; earlier decisions are only learned
    from. With `payloads`, odd payloads are found, too. With `groups`, groups of callers that move as one are found,
    too. Raises LockstepError with `groups` if numpy is not installed.
    """

    def __init__(
        self, engine: Engine | None, logs: Sequence[Path], since: int | None = None, most_callers: int = MAX_CALLERS,
        *, payloads: bool = False, groups: bool = False,
    ) -> None:  # fmt: skip
        self.engine, self.logs, self.since = engine, logs, since
        self._most = most_callers
        self.state = BehaviorState(Tagger(b"report"), most=most_callers)
        self._evaluator = None if engine is None else ConditionEvaluator(engine.kernel)
        self._reader = None if engine is None else reader_of(engine, self.state)
        self._events = LogEventReader(self._reader)
        self.conditions = () if self._evaluator is None else self._evaluator.conditions
        self.condition_tallies = [ConditionTally() for _ in self.conditions]
        self.classes: dict[ClassName, ClassTally] = {}
        self.days: dict[int, DayTally] = {}
        self.callers: dict[Caller, CallerTally] = {}
        self.endpoints: dict[str, EndpointTally] = {}
        self.shapes: dict[str, EndpointTally] = {}
        self.payloads = PayloadWatch(self.state.tagger) if payloads else None
        self.groups = GroupWatch(self.state.tagger) if groups else None
        self.forgotten_callers = 0
        self.decisions = self.learned_only = self.left_out = self.late = self.unknown = 0
        self.first: int | None = None
        self.last: int | None = None
        self.skipped: dict[str, tuple[int, str]] = {}

    def report(self, progress: Callable[[int], None] = lambda _: None) -> BehaviorReport:
        """Read the logs and return the report. Raises OSError."""
        log = OrderedLog(self.logs, progress)
        latest = 0
        for entry in log.read():
            found = self._events.read(entry)
            if isinstance(found, FailureReport):
                self.state.fold_failure(found.caller)
            elif isinstance(entry, DecisionRecord) and found is not None and found.event.at >= 0:
                latest = max(latest, found.event.at)
                self._count(entry, found.event._replace(at=latest))
            else:
                self.left_out += isinstance(entry, DecisionRecord)
        for caller, tally in self.callers.items():
            self._end_day(caller, tally)
        if latest:
            self.state.learn(latest, self.settings_of)  # as `behavior learn` does, so that both report the same margins
        self.skipped, self.late, self.unknown = log.skipped, log.late, self._events.unknown
        return make_report(self)

    def settings_of(self, group: str) -> ProfileSettings:
        return NO_SETTINGS if self._reader is None else self._reader.classes.settings_of(group)

    # ── Counting ──────────────────────────────────────────────────────────────────────────────

    def _count(self, record: DecisionRecord, event: BehaviorEvent) -> None:
        reading = self.state.fold(event, self.settings_of)
        at, request = event.at * MILLISECOND, question_of(record)
        is_counted = self.since is None or at >= self.since
        if self.payloads is not None and request is not None:
            self.payloads.read(event, record.id, request.facts, counts=is_counted)
        if self.groups is not None:
            self._watch_group(self.groups, event, counts=is_counted)
        if not is_counted:
            self.learned_only += 1
            return
        self.decisions += 1
        self.first, self.last = at if self.first is None else self.first, at
        tally, day = self._tally_of(event.caller, event.group), self._day(event.at // DAY)
        if tally.day != event.at // DAY:
            self._end_day(event.caller, tally)
            tally.begin_day(event.at // DAY)
            day.callers += 1
        tally.requests += 1
        day.decisions += 1
        if reading.ready:
            if not tally.is_ready:
                tally.is_ready = True
                day.ready += 1
            self._count_alarms(event, reading, tally, day)
        if self.engine is not None and self._evaluator is not None and request is not None:
            facts = reading.to_facts()
            all_facts = partial(recorded_facts, self.engine.kernel, record, facts)
            for number, value in self._evaluator.evaluate(request.endpoint, facts, all_facts):
                if value is not False:
                    self._count_hit(number, value is True, record, event, tally, facts)
                self._count_clamped(number, value, event, tally)

    def _watch_group(self, groups: GroupWatch, event: BehaviorEvent, *, counts: bool) -> None:
        """Note when the caller becomes ready by its own runs, and count the decision if `counts` is true."""
        known = self.state.rows[event.caller]
        if not groups.is_ready(event.caller) and is_ready(known.row, self.settings_of(known.group)):
            groups.set_ready(event.caller, event.at)
        if counts:
            groups.read(event)

    def _count_alarms(self, event: BehaviorEvent, reading: CallerFacts, tally: CallerTally, day: DayTally) -> None:
        burst = reading.burst
        model = self.state.model.class_of((event.caller.issuer, event.group))
        tally.bursts += burst
        day.bursts += burst
        tally.has_burst |= burst
        if model.has_margins:
            tally.has_margins = True
            row = self.state.rows[event.caller].row
            tally.level = max(tally.level, level_share(row, model.margin_slow, model.margin_fast))
        if reading.has_new_shape:
            tally.new_shapes += 1
            day.new_shapes += 1
            count_endpoint(self.shapes, event)
        elif reading.is_new:
            tally.new_endpoints += 1
            day.new_endpoints += 1
            count_endpoint(self.endpoints, event)

    def _count_hit(
        self, number: int, sure: bool, record: DecisionRecord, event: BehaviorEvent, tally: CallerTally,
        facts: dict[str, object],
    ) -> None:  # fmt: skip
        found = self.condition_tallies[number]
        if not sure:
            found.unknown += 1
            return
        found.requests += 1
        found.allowed += record.outcome is Outcome.ALLOW
        if len(found.days) < MAX_DAYS:
            found.days.add(event.at // DAY)
        if not tally.day_hits >> number & 1:
            tally.day_hits |= 1 << number
            found.caller_days += 1
            if len(found.examples) < MAX_EXAMPLES:
                example = ExampleDecision(record.id, event.at * MILLISECOND, event.caller, event.endpoint, facts)
                found.examples.append(example)
        tally.hits[number] += 1

    def _count_clamped(self, number: int, value: object, event: BehaviorEvent, tally: CallerTally) -> None:
        """Count a request of the caller that arrives while a clamp still acts, although its condition is no longer
        true.
        """
        lasts = self.conditions[number].lasts
        if lasts is None:
            return
        if value is True:
            tally.clamped_until[number] = event.at + int(lasts.total_seconds() * 1_000)
        elif not isinstance(value, Unknown) and event.at < tally.clamped_until.get(number, 0):
            self.condition_tallies[number].within += 1

    def _tally_of(self, caller: Caller, group: str) -> CallerTally:
        found = self.callers.get(caller)
        if found is None:
            if len(self.callers) >= self._most:
                oldest = next(iter(self.callers))
                self._forget(oldest, self.callers.pop(oldest))
            found = self.callers[caller] = CallerTally(group)
        found.group = group
        return found

    def _forget(self, caller: Caller, tally: CallerTally) -> None:
        self._end_day(caller, tally)
        self.forgotten_callers += 1
        for number in tally.hits:
            self.condition_tallies[number].callers += 1

    def _end_day(self, caller: Caller, tally: CallerTally) -> None:
        """Count the day of a caller in its class."""
        if tally.day < 0:
            return
        found = self.classes.setdefault((caller.issuer, tally.group), ClassTally())
        found.ready_days += tally.is_ready
        if tally.has_margins:
            found.days += 1
            found.bursts += tally.has_burst
            found.add_level(ALARM_LEVEL if tally.has_burst else min(tally.level, 1.0))

    def _day(self, day: int) -> DayTally:
        found = self.days.get(day)
        if found is None:
            if len(self.days) >= MAX_DAYS:
                del self.days[next(iter(self.days))]
            found = self.days[day] = DayTally()
        return found


def count_endpoint(tallies: dict[str, EndpointTally], event: BehaviorEvent) -> None:
    """Count a request to an endpoint. Endpoints beyond the first MAX_ENDPOINTS are left out."""
    known = tallies.get(event.endpoint)
    if known is None and len(tallies) < MAX_ENDPOINTS:
        known = tallies[event.endpoint] = EndpointTally(event.caller, event.at * MILLISECOND)
    if known is not None:
        known.requests += 1
        known.last, known.caller = event.at * MILLISECOND, event.caller


def reader_of(engine: Engine, state: BehaviorState) -> BehaviorReader:
    """Return a reader that finds the caller, the class and the endpoint of requests as the engine does."""
    decider = engine.decider
    program = decider.compiled.evaluator.program
    return BehaviorReader(engine.kernel, EndpointPatterns(decider.tree), program, BehaviorTracker(state), logs=False)


def level_share(row: BehaviorRow, margin_slow: int, margin_fast: int) -> float:
    """Return the highest level of the day as a share of the level that raises an alarm."""
    slow = row.top_slow * MARGIN_UNIT / max(highest_usual(row.base_slow, row.ceiling_slow, margin_slow), 1)
    fast = row.top_fast * MARGIN_UNIT / max(highest_usual(row.base_fast, row.ceiling_fast, margin_fast), 1)
    return max(slow, fast)

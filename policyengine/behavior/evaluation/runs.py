"""Scores the runs of the test traffic. As on a server, rows continue to learn from this traffic; the model remains the
model of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from policyengine.behavior.evaluation.facts import FACTS, RunMoment
from policyengine.behavior.evaluation.traffic import Traffic
from policyengine.behavior.events import BehaviorEvent, Caller
from policyengine.behavior.fold import CallerFacts
from policyengine.behavior.log_events import FailureReport
from policyengine.behavior.state import DAY, BehaviorState, SettingsOf

STEP: Final = 64  # a step of a score is at least 1/64 of the score, so that long runs have few steps
RunName: TypeAlias = tuple[str, str, str]  # issuer, agent, run


class ScoredRun:
    """The scores of a run, in the order of the facts. For each fact, `steps` lists the events at which its score rose,
    with the new score, and `alarms` says whether the fact raised an alarm."""

    __slots__ = ("alarms", "best", "days", "events", "fresh", "odd", "steps", "trust")

    def __init__(self, trust: int) -> None:
        self.trust = trust
        self.events = self.fresh = self.odd = 0
        self.best = [0] * len(FACTS)
        self.steps: list[list[tuple[int, int]]] = [[] for _ in FACTS]
        self.alarms = [False] * len(FACTS)
        self.days: set[int] = set()

    def score(self, place: int, value: int) -> None:
        """Record the score of a fact after the latest event."""
        fact, steps = FACTS[place], self.steps[place]
        if fact.uses_last:
            self.best[place] = value
            if value and not steps:
                steps.append((self.events, 0))
        elif value > self.best[place]:
            self.best[place] = value
            if not steps or value > steps[-1][1] + steps[-1][1] // STEP:
                steps.append((self.events, value))

    def first_above(self, place: int, threshold: int) -> int | None:
        """Return the number of the first event at which the score of a fact exceeded a threshold; None if there is
        none."""
        if self.best[place] <= threshold:
            return None
        if FACTS[place].uses_last:
            return self.steps[place][0][0]
        return next((number for number, value in self.steps[place] if value > threshold), self.events)


@dataclass(slots=True)
class CallerDays:
    """The days of ready callers: `burst` says whether a day had a burst, by caller and day, and `groups` is the class
    of each caller."""

    burst: dict[tuple[Caller, int], bool] = field(default_factory=dict)
    groups: dict[Caller, str] = field(default_factory=dict)


@dataclass(slots=True)
class ScoredTraffic:
    """The runs of the test traffic, the days of its callers, and the numbers of all events, of events without a run,
    and of late events."""

    runs: dict[RunName, ScoredRun] = field(default_factory=dict)
    days: CallerDays = field(default_factory=CallerDays)
    events: int = 0
    without_run: int = 0
    late: int = 0


def train(traffic: Iterable[Traffic], state: BehaviorState, settings_of: SettingsOf) -> tuple[int, int]:
    """Fold the training traffic and learn a model from it. Return the number of folded events, and the number of late
    events, which are left out."""
    count = late = latest = 0
    for item in traffic:
        if isinstance(item, FailureReport):
            state.fold_failure(item.caller)
        elif is_late(state, item.event):
            late += 1
        else:
            state.fold(item.event, settings_of)
            count, latest = count + 1, max(latest, item.event.at)
    if count:
        state.learn(latest, settings_of)
    state.learns = False
    return count, late


def is_late(state: BehaviorState, event: BehaviorEvent) -> bool:
    """Return whether an event is more than a day earlier than the latest event of its caller."""
    known = state.rows.get(event.caller)
    return known is not None and event.at < known.row.level_at - DAY


def score_traffic(traffic: Iterable[Traffic], state: BehaviorState, settings_of: SettingsOf) -> ScoredTraffic:
    """Fold the test traffic, and score its runs."""
    found = ScoredTraffic()
    latest: dict[Caller, tuple[ScoredRun, RunMoment]] = {}
    for item in traffic:
        if isinstance(item, FailureReport):
            state.fold_failure(item.caller)
            if item.caller in latest:
                run, moment = latest[item.caller]
                if moment.reading.ready:
                    score_moment(run, moment)
            continue
        event = item.event
        if is_late(state, event):
            found.late += 1
            continue
        found.events += 1
        before = state.rows.get(event.caller)
        trust = 0 if before is None else before.row.trust
        reading = state.fold(event, settings_of)
        note_day(found.days, event, reading)
        if not item.run:
            found.without_run += 1
            continue
        name = event.caller.issuer, event.caller.agent, item.run
        run = found.runs.get(name) or ScoredRun(trust)
        found.runs[name] = run
        run.days.add(event.at // DAY)
        run.events += 1
        run.fresh += reading.ready and reading.is_new and not reading.has_new_shape
        run.odd += reading.ready and reading.has_new_shape
        model = state.model.class_of((event.caller.issuer, event.group))
        moment = RunMoment(reading, state.rows[event.caller].row, model, run.events, run.fresh, run.odd, run.trust)
        latest[event.caller] = run, moment
        if reading.ready:
            score_moment(run, moment)
    return found


def score_moment(run: ScoredRun, moment: RunMoment) -> None:
    for place, fact in enumerate(FACTS):
        run.score(place, fact.value(moment))
        if fact.alarm is not None and fact.alarm(moment):
            run.alarms[place] = True


def note_day(days: CallerDays, event: BehaviorEvent, reading: CallerFacts) -> None:
    if reading.ready:
        key = event.caller, event.at // DAY
        days.burst[key] = days.burst.get(key, False) or reading.burst
        days.groups[event.caller] = event.group


def abusive_days(runs: Mapping[RunName, ScoredRun], abusive: Iterable[RunName]) -> set[tuple[str, str, int]]:
    """Return the days on which agents had these runs, as issuer, agent and day."""
    return {(*name[:2], day) for name in abusive for day in runs[name].days}

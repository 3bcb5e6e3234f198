"""The page of learned behavior: the most recently active callers, and in observe mode the hits of conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from policyengine.behavior.conditions import LearnedCondition
from policyengine.behavior.events import Caller
from policyengine.behavior.fold import is_ready
from policyengine.behavior.reader import BehaviorReader
from policyengine.behavior.state import CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.engine import Engine
from policyengine.engine.condition_watch import ConditionHits
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.time_formats import format_epoch_seconds

MAX_CALLERS_SHOWN = 100
MAX_NAMED = 3  # callers that are named for each condition
MILLION = 1_000_000
MILLISECONDS_PER_SECOND = 1_000


@dataclass(frozen=True, slots=True)
class CallerSummary:
    """A caller, and what is known about it. Trust, novelty and errors are numbers from 0 to 1."""

    caller: Caller
    group: str
    ready: bool
    trust: float
    novelty: float
    errors: float
    last_seen: str


@dataclass(frozen=True, slots=True)
class ConditionSummary:
    """A condition that reads learned facts, and what it would have hit in observe mode. `callers` is the number of
    callers in words, `most` are those with the most requests, and `latest` is the ID of the last decision; None without
    a decision.
    """

    condition: LearnedCondition
    requests: int
    allowed: int
    unknown: int
    days: int
    callers: str
    most: Sequence[tuple[Caller, int]]
    latest: str | None


def reads_behavior(engine: Engine) -> bool:
    """Return whether the policies read learned behavior."""
    return engine.behavior is not None


async def answer_behavior(visit: ConsoleVisit) -> Response:
    engine = visit.console.engine
    tracker, reader = engine.behavior, engine.decider.behavior
    rows: list[CallerSummary] = []
    if isinstance(tracker, BehaviorTracker) and isinstance(reader, BehaviorReader):
        rows = [summarize(tracker, reader, *known) for known in tracker.recent_callers(MAX_CALLERS_SHOWN)]
    facts = {} if tracker is None else tracker.describe()
    watch = None if tracker is None else engine.conditions
    conditions = [] if watch is None else [summarize_condition(hits) for hits in watch.copy_hits()]
    return render_visit(
        visit, "behavior.html.j2", "Behavior", rows=rows, facts=facts, reads=tracker is not None,
        shared=tracker is not None and not isinstance(tracker, BehaviorTracker),
        conditions=conditions, observing=engine.observing is not None,
    )  # fmt: skip


def summarize(tracker: BehaviorTracker, reader: BehaviorReader, caller: Caller, known: CallerRow) -> CallerSummary:
    row, model = known.row, tracker.state.model.class_of((caller.issuer, known.group))
    ready = model.is_ready and is_ready(row, reader.settings_of(known.group))
    levels = (row.trust / MILLION, row.novelty / MILLION, row.errors / MILLION)
    last_seen = format_epoch_seconds(row.level_at // MILLISECONDS_PER_SECOND)
    return CallerSummary(caller, known.group, ready, *levels, last_seen)


def summarize_condition(hits: ConditionHits) -> ConditionSummary:
    callers = f"{len(hits.callers):,}{' or more' * hits.more_callers}"
    latest = hits.latest[-1].id if hits.latest else None
    return ConditionSummary(
        hits.condition, hits.requests, hits.allowed, hits.unknown, hits.days, callers, hits.most(MAX_NAMED), latest
    )

"""The page of learned behavior: the most recently active callers, if the policies read learned facts."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from policyengine.behavior.events import Caller
from policyengine.behavior.fold import is_ready
from policyengine.behavior.reader import BehaviorReader
from policyengine.behavior.state import CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.engine import Engine
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.time_formats import format_epoch_seconds

MAX_CALLERS_SHOWN = 100
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
    return render_visit(
        visit, "behavior.html.j2", "Behavior", rows=rows, facts=facts, reads=tracker is not None,
        shared=tracker is not None and not isinstance(tracker, BehaviorTracker),
    )  # fmt: skip


def summarize(tracker: BehaviorTracker, reader: BehaviorReader, caller: Caller, known: CallerRow) -> CallerSummary:
    row, model = known.row, tracker.state.model.class_of((caller.issuer, known.group))
    ready = model.is_ready and is_ready(row, reader.settings_of(known.group))
    levels = (row.trust / MILLION, row.novelty / MILLION, row.errors / MILLION)
    last_seen = format_epoch_seconds(row.level_at // MILLISECONDS_PER_SECOND)
    return CallerSummary(caller, known.group, ready, *levels, last_seen)

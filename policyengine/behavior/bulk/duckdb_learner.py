"""Learns from logs with DuckDB: the events of each day are sorted by agent, and folded agent by agent."""

from __future__ import annotations

from collections.abc import Iterable

from policyengine.behavior.bulk.day_starts import DayStart, DayStarts
from policyengine.behavior.bulk.event_table import EventTable, too_many_callers
from policyengine.behavior.bulk.line_filter import LineFilter
from policyengine.behavior.bulk.log_lines import LearnedLine
from policyengine.behavior.log_events import FailureReport
from policyengine.behavior.state import MAX_CALLERS, BehaviorState, SettingsOf
from policyengine.gc_pause import gc_paused


def learn_with_duckdb(
    lines: Iterable[LearnedLine], filter: LineFilter, state: BehaviorState, settings_of: SettingsOf
) -> None:
    """Learn as `learn_lines` does, with the same result. Raises BulkError, OSError."""
    with gc_paused(), EventTable.open(state.tagger) as table:
        groups = settings_of("").groups
        days, starts = DayStarts(state, groups), list[DayStart]()
        for position, line in enumerate(lines):
            found = filter.read(position, line)
            if found is None:
                continue
            if not isinstance(found, FailureReport):
                start = days.add(found.at)
                starts += () if start is None else (start,)
            table.add(found, len(starts))
        for count in range(len(starts) + 1):
            if count:
                starts[count - 1].apply(state, settings_of)
            for caller, moments in table.runs(count):
                state.fold_run(caller, moments, settings_of)
            if groups:
                for request in table.requests(count):
                    state.requests.add(*request)
        sort_rows(state, table)
    if state.count > MAX_CALLERS:
        raise too_many_callers()
    if filter.tally.learned:
        state.learn(max(state.model.content.made, filter.tally.latest), settings_of)


def sort_rows(state: BehaviorState, table: EventTable) -> None:
    """Sort the rows of a state by the latest decisions of their callers. Rows of callers without a decision in the
    table stay first."""
    places = table.latest_places()
    state.rows = dict(sorted(state.rows.items(), key=lambda item: places.get(item[0], 0)))

"""Learns rows and a model from the lines of logs, in addition to what a folder already contains, and saves both."""

from __future__ import annotations

from collections.abc import Iterable

from policyengine.behavior.bulk.event_queue import EventQueue
from policyengine.behavior.bulk.line_filter import LineFilter
from policyengine.behavior.bulk.log_lines import LearnedLine
from policyengine.behavior.events import Caller
from policyengine.behavior.folder import BehaviorFolder, SavedRow
from policyengine.behavior.operator_files import remove_requests, request_paths
from policyengine.behavior.recent_file import RecentFile
from policyengine.behavior.recent_requests import packed_days
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import BehaviorState, SettingsOf
from policyengine.gc_pause import gc_paused


def learn_lines(
    lines: Iterable[LearnedLine], filter: LineFilter, state: BehaviorState, settings_of: SettingsOf
) -> None:
    """Fold the lines of logs into a state, in their order, and then learn a model from the whole state.

    Decisions that are not later than the latest decision that the state already contained about their caller are left
    out, so that learning a log a second time changes nothing.
    """
    queue = EventQueue(state, settings_of)
    with gc_paused():
        for position, line in enumerate(lines):
            found = filter.read(position, line)
            if found is not None:
                queue.add(found)
        queue.flush()
    if filter.tally.learned:
        state.learn(max(state.model.content.made, filter.tally.latest), settings_of)


def known_times(state: BehaviorState) -> dict[Caller, int]:
    """Return the times of the latest decisions of the callers of a state."""
    return {caller: found.row.level_at for caller, found in state.rows.items()}


def save_state(folder: BehaviorFolder, state: BehaviorState) -> None:
    """Write the model, the rows and the recent requests, and remove the requests to forget. The process must hold the
    lock of the folder and must have completed these requests. Raises OSError."""
    if state.model.content.serial:
        folder.save_model(state.model)
    rows = (SavedRow(caller, found.group, pack_row(found.row)) for caller, found in state.rows.items())
    folder.save_rows(rows, len(state.rows), state.model.content.serial)
    days = state.requests.days
    if days:
        RecentFile(folder).replace(folder, packed_days(days, {}, {day: days[day].count for day in sorted(days)}))
    remove_requests(folder, [path.name for path in request_paths(folder)])

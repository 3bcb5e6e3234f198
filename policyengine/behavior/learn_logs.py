"""Learns rows and a model from decision logs, in addition to what a folder already contains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policyengine.audit.reader import LogEntry
from policyengine.behavior.folder import BehaviorFolder, SavedRow
from policyengine.behavior.log_events import FailureReport, LogEventReader
from policyengine.behavior.operator_files import remove_requests, request_paths
from policyengine.behavior.recent_file import RecentFile
from policyengine.behavior.recent_requests import packed_days
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import DAY, BehaviorState, SettingsOf


@dataclass(slots=True)
class LogTally:
    """Numbers of decisions: learned, already `known` to the folder, `late` (more than a day earlier than the latest
    decision of their caller), and with a time more than a day in the `future`."""

    learned: int = 0
    known: int = 0
    late: int = 0
    future: int = 0


def learn_entries(
    entries: Iterable[LogEntry], events: LogEventReader, state: BehaviorState, settings_of: SettingsOf, now: int
) -> LogTally:
    """Fold the entries of logs into a state, and then learn a model from the whole state. `now` is in milliseconds
    since 1970.

    Decisions that are not later than the latest decision that the state already contained about their caller are left
    out, so that learning a log a second time changes nothing.
    """
    counts = LogTally()
    known = {caller: found.row.level_at for caller, found in state.rows.items()}
    latest = state.model.content.made
    for entry in entries:
        found = events.read(entry)
        if found is None:
            continue
        if isinstance(found, FailureReport):
            if found.at > known.get(found.caller, -1):
                state.fold_failure(found.caller)
            continue
        event = found.event
        row = state.rows.get(event.caller)
        if event.at > now + DAY:
            counts.future += 1
        elif event.at <= known.get(event.caller, -1):
            counts.known += 1
        elif row is not None and event.at < row.row.level_at - DAY:
            counts.late += 1
        else:
            state.fold(event, settings_of)
            counts.learned += 1
            latest = max(latest, event.at)
    if counts.learned:
        state.learn(latest, settings_of)
    return counts


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

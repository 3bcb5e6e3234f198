"""History in SQL tables; each function runs inside the transaction of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from msgspec import msgpack

from policyengine.runtime.history import (
    ALWAYS,
    MAX_EVENTS_PER_KEY,
    History,
    HistoryRecord,
    OutcomeReport,
    WindowKey,
)
from policyengine.stores.history_rows import (
    NEVER,
    SLACK_MICROSECONDS,
    AwaitedEvent,
    EventRow,
    StoredHistory,
    encode_record_facts,
    encode_report,
    history_key,
    outcome_deadline,
    watch_key,
)
from policyengine.stores.sql.session import Pending, RowLock, SqlCursor, SqlSession, all_rows, upsert

TABLES = """
CREATE TABLE IF NOT EXISTS begun (watch TEXT PRIMARY KEY, after INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS line (
  key TEXT PRIMARY KEY, watch TEXT NOT NULL, version INTEGER NOT NULL, within INTEGER NOT NULL,
  complete_after INTEGER NOT NULL, last INTEGER NOT NULL, many INTEGER NOT NULL, until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS line_until ON line (until);
CREATE TABLE IF NOT EXISTS event (
  key TEXT, serial INTEGER, at INTEGER NOT NULL, decision TEXT NOT NULL, facts TEXT NOT NULL, reported TEXT NOT NULL,
  PRIMARY KEY (key, serial)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS awaited (
  decision TEXT PRIMARY KEY, lines BLOB NOT NULL, until INTEGER NOT NULL, reported INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS awaited_until ON awaited (until);
"""


OLDEST_EVENTS = 64  # events to read at once when some may have left the window
INSERT_BEGUN = "INSERT INTO begun VALUES (?, ?) ON CONFLICT (watch) DO NOTHING"
UPSERT_AWAITED = upsert("awaited", ("decision",), ("lines", "until", "reported"))
UPSERT_LINE = upsert("line", ("key",), ("watch", "version", "within", "complete_after", "last", "many", "until"))
SELECT_OLDEST = f"SELECT serial, at FROM event WHERE key = ? ORDER BY serial LIMIT {OLDEST_EVENTS} OFFSET ?"
SELECT_AWAITED = "SELECT lines, until, reported FROM awaited WHERE decision = ?"
Relied: TypeAlias = Sequence[tuple[SqlCursor, int]]


class EventPlace(NamedTuple):
    """Where an event of a record is added: the name of its line, the line, and the oldest events of the line."""

    name: str
    record: HistoryRecord
    line: SqlCursor
    oldest: SqlCursor


def begin(asked: SqlSession, watches: Iterable[str], now: int) -> None:
    asked.executemany(INSERT_BEGUN, [(watch_key(one), now - 1) for one in watches])


def end(asked: SqlSession, watches: Iterable[str]) -> None:
    asked.executemany("DELETE FROM begun WHERE watch = ?", [(watch_key(one),) for one in watches])


def fetch(asked: SqlSession, keys: Sequence[WindowKey]) -> Callable[[int], tuple[dict[WindowKey, History], set[str]]]:
    """Select the histories of keys. Calling the result with a time returns the histories, and the watches that have not
    begun or whose beginning was lost."""
    begun = {watch: asked.execute("SELECT after FROM begun WHERE watch = ?", (watch_key(watch),)) for watch, _ in keys}
    lines, events = {}, {}
    for key in keys:
        name = history_key(key)
        lines[key] = asked.execute("SELECT complete_after, version FROM line WHERE key = ?", (name,))
        select = "SELECT at, serial, decision, facts, reported FROM event WHERE key = ? ORDER BY serial"
        events[key] = asked.execute(select, (name,))

    def read(now: int) -> tuple[dict[WindowKey, History], set[str]]:
        after = {watch: cursor.fetchone() for watch, cursor in begun.items()}
        found = {key: _read_line(lines[key], events[key], (after[key[0]] or (NEVER,))[0], now) for key in lines}
        return found, {watch for watch, row in after.items() if row is None}

    return read


def _read_line(found: SqlCursor, events: SqlCursor, begun: int, now: int) -> History:
    line = found.fetchone()
    if line is None:
        return StoredHistory((), begun, now, 0)
    return StoredHistory([EventRow(*row) for row in events.fetchall()], max(line[0], begun), now, line[1])


def select_relied(asked: SqlSession, relied: Iterable[tuple[WindowKey, int]]) -> Relied:
    """Select the versions of histories, each with the version on which the decision relies."""
    version = "SELECT version FROM line WHERE key = ?"
    return [(asked.execute(version, (history_key(key),)), was) for key, was in relied]


def are_unchanged(relied: Relied) -> bool:
    return all((found.fetchone() or (0,))[0] == was for found, was in relied)


def find_places(asked: SqlSession, records: Sequence[HistoryRecord]) -> list[EventPlace]:
    """Select the line and its oldest events for each record, to add an event to it."""
    found = []
    for record in records:
        name = history_key((record.watch, record.key))
        line = asked.execute("SELECT within, complete_after, many FROM line WHERE key = ?", (name,))
        found.append(EventPlace(name, record, line, asked.execute(SELECT_OLDEST, (name, 0))))
    return found


def remember(asked: SqlSession, places: Sequence[EventPlace], decision: str, now: int, serial: Pending | None) -> None:
    """Add an event at each place; `serial` reads the number of this change."""
    if serial is None:
        return
    number, awaiting = serial(), list[AwaitedEvent]()
    for place in places:
        _add(asked, place, EventRow(now, number, decision, encode_record_facts(place.record), ""))
        if place.record.awaits:
            awaiting.append((place.name, number, place.record.outputs))
    if awaiting:
        until = outcome_deadline([place.record for place in places], now)
        asked.execute(UPSERT_AWAITED, (decision, msgpack.encode(awaiting), until, 0))


def awaited_events(awaited: tuple[bytes, int, int] | None, now: int) -> list[AwaitedEvent] | None:
    """Return the events of a decision whose outcome can be reported; an empty list if it was already reported."""
    if awaited is None or awaited[1] <= now:
        return None
    return [] if awaited[2] else msgpack.decode(awaited[0], type=list[AwaitedEvent])


def report(
    asked: SqlSession, decision: str, report: OutcomeReport, events: Sequence[AwaitedEvent], version: Pending
) -> None:
    """Save the outcome of a decision in its events; `version` reads the number of this change."""
    asked.execute("UPDATE awaited SET reported = 1 WHERE decision = ?", (decision,))
    told = "UPDATE event SET reported = ? WHERE key = ? AND serial = ? AND decision = ?"
    outcome = [(name, asked.execute(told, (encode_report(report, outputs), name, serial, decision)))
               for name, serial, outputs in events]  # fmt: skip
    number = version()
    for name, updated in outcome:
        if updated.rowcount:
            asked.execute("UPDATE line SET version = ? WHERE key = ?", (number, name))


def forget(asked: SqlSession, now: int, most: int, lock: RowLock = all_rows) -> None:
    """Delete about `most` events of expired lines, and record that these histories are incomplete. `lock` locks lines,
    and returns those that no other process uses."""
    old = asked.execute("SELECT key FROM line WHERE until <= ? LIMIT ?", (now, most)).fetchall()
    select = "SELECT watch, last, many FROM line WHERE key = ? AND until <= ?"
    lines = [(name, asked.execute(select, (name, now))) for name in lock([name for (name,) in old], str)]
    for name, line in lines:
        row = line.fetchone()
        if row is None:
            continue
        watch, last, many = row
        most -= many
        asked.execute("DELETE FROM event WHERE key = ?", (name,))
        asked.execute("DELETE FROM line WHERE key = ?", (name,))
        asked.execute("UPDATE begun SET after = ? WHERE watch = ? AND after < ?", (last, watch, last))
        if most <= 0:
            return


def _add(asked: SqlSession, place: EventPlace, row: EventRow) -> None:
    record, name = place.record, place.name
    within, complete_after, many = place.line.fetchone() or (0, ALWAYS, 0)
    within = max(within, record.within)
    if record.latest:
        asked.execute("DELETE FROM event WHERE key = ?", (name,))
        many = 0
    asked.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", (name, row.serial, row.at, *row[2:]))
    gone, last = (0, ALWAYS) if record.latest else _shorten(asked, place, row, many + 1, row.at - within)
    kept = (name, watch_key(record.watch), row.serial, within, max(complete_after, last), row.at, many + 1 - gone)
    asked.execute(UPSERT_LINE, (*kept, row.at + within + SLACK_MICROSECONDS))


def _shorten(asked: SqlSession, place: EventPlace, row: EventRow, many: int, before: int) -> tuple[int, int]:
    """Delete events that have left the longest window, and the oldest events beyond the maximum number; return how many
    were deleted and the time of the last deleted event.
    """
    gone, last, serial = 0, ALWAYS, 0
    page = place.oldest.fetchall()
    while page:
        for one, at in page:
            if at > before and many - gone <= MAX_EVENTS_PER_KEY:
                page = []
                break
            gone, last, serial = gone + 1, at, one
        else:
            page = asked.execute(SELECT_OLDEST, (place.name, gone)).fetchall()
    if gone:
        asked.execute("DELETE FROM event WHERE key = ? AND serial <= ?", (place.name, serial))
    return gone, last

"""History in SQLite tables; each function runs inside the transaction of a step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from msgspec import msgpack

from policyengine.runtime.history import (
    ALWAYS,
    MAX_EVENTS_PER_KEY,
    HistoryRecord,
    OutcomeReport,
    ReportStatus,
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
CREATE TABLE IF NOT EXISTS changes (one INTEGER PRIMARY KEY CHECK (one = 1), serial INTEGER NOT NULL);
INSERT OR IGNORE INTO changes VALUES (1, 0);
"""


def begin(asked: sqlite3.Connection, watches: Iterable[str], now: int) -> None:
    asked.executemany("INSERT OR IGNORE INTO begun VALUES (?, ?)", [(watch_key(one), now - 1) for one in watches])


def end(asked: sqlite3.Connection, watches: Iterable[str]) -> None:
    asked.executemany("DELETE FROM begun WHERE watch = ?", [(watch_key(one),) for one in watches])


def missing_watches(asked: sqlite3.Connection, watches: Iterable[str]) -> list[str]:
    """Return the watches that have not begun, or whose beginning was lost."""
    known = "SELECT 1 FROM begun WHERE watch = ?"
    return [one for one in watches if asked.execute(known, (watch_key(one),)).fetchone() is None]


def fetch(asked: sqlite3.Connection, key: WindowKey, now: int) -> StoredHistory:
    name = history_key(key)
    begun = asked.execute("SELECT after FROM begun WHERE watch = ?", (watch_key(key[0]),)).fetchone() or (NEVER,)
    line = asked.execute("SELECT complete_after, version FROM line WHERE key = ?", (name,)).fetchone()
    if line is None:
        return StoredHistory((), begun[0], now, 0)
    rows = asked.execute(
        "SELECT at, serial, decision, facts, reported FROM event WHERE key = ? ORDER BY serial", (name,)
    ).fetchall()
    return StoredHistory([EventRow(*row) for row in rows], max(line[0], begun[0]), now, line[1])


def are_unchanged(asked: sqlite3.Connection, relied: Iterable[tuple[WindowKey, int]]) -> bool:
    """Return whether these histories still have these versions."""
    version = "SELECT version FROM line WHERE key = ?"
    return all((asked.execute(version, (history_key(key),)).fetchone() or (0,))[0] == was for key, was in relied)


def remember(asked: sqlite3.Connection, records: Sequence[HistoryRecord], decision: str, now: int) -> None:
    if not records:
        return
    serial, awaiting = _next_change_number(asked, now), list[AwaitedEvent]()
    for record in records:
        name = history_key((record.watch, record.key))
        _add(asked, record, EventRow(now, serial, decision, encode_record_facts(record), ""), name)
        if record.awaits:
            awaiting.append((name, serial, record.outputs))
    if awaiting:
        row = (decision, msgpack.encode(awaiting), outcome_deadline(records, now))
        asked.execute("INSERT OR REPLACE INTO awaited VALUES (?, ?, ?, 0)", row)


def report(asked: sqlite3.Connection, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
    row = asked.execute("SELECT lines, until, reported FROM awaited WHERE decision = ?", (decision,)).fetchone()
    if row is None or row[1] <= now:
        return None
    if row[2]:
        return "again"
    asked.execute("UPDATE awaited SET reported = 1 WHERE decision = ?", (decision,))
    version = _next_change_number(asked, now)
    for name, serial, outputs in msgpack.decode(row[0], type=list[AwaitedEvent]):
        told = "UPDATE event SET reported = ? WHERE key = ? AND serial = ? AND decision = ?"
        if asked.execute(told, (encode_report(report, outputs), name, serial, decision)).rowcount:
            asked.execute("UPDATE line SET version = ? WHERE key = ?", (version, name))
    return "first"


def forget(asked: sqlite3.Connection, now: int, most: int) -> None:
    """Delete about `most` events of expired lines, and record that these histories are incomplete."""
    old = asked.execute("SELECT key, watch, last, many FROM line WHERE until <= ? LIMIT ?", (now, most)).fetchall()
    for name, watch, last, many in old:
        most -= many
        asked.execute("DELETE FROM event WHERE key = ?", (name,))
        asked.execute("DELETE FROM line WHERE key = ?", (name,))
        asked.execute("UPDATE begun SET after = max(after, ?) WHERE watch = ?", (last, watch))
        if most <= 0:
            return


def _next_change_number(asked: sqlite3.Connection, now: int) -> int:
    """Return the number of this change, which is higher than all earlier numbers, even if data were lost."""
    (serial,) = asked.execute("UPDATE changes SET serial = max(serial + 1, ?) RETURNING serial", (now,)).fetchone()
    return int(serial)


def _add(asked: sqlite3.Connection, record: HistoryRecord, row: EventRow, name: str) -> None:
    line = asked.execute("SELECT within, complete_after, many FROM line WHERE key = ?", (name,)).fetchone()
    within, complete_after, many = line or (0, ALWAYS, 0)
    within = max(within, record.within)
    if record.latest:
        asked.execute("DELETE FROM event WHERE key = ?", (name,))
        many = 0
    asked.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", (name, row.serial, row.at, *row[2:]))
    gone, last = (0, ALWAYS) if record.latest else _shorten(asked, name, many + 1, row.at - within)
    kept = (name, watch_key(record.watch), row.serial, within, max(complete_after, last), row.at, many + 1 - gone)
    asked.execute(
        "INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*kept, row.at + within + SLACK_MICROSECONDS)
    )


def _shorten(asked: sqlite3.Connection, name: str, many: int, before: int) -> tuple[int, int]:
    """Delete events that have left the longest window, and the oldest events beyond the maximum number; return how many
    were deleted and the time of the last deleted event.
    """
    gone, last, serial = 0, ALWAYS, 0
    for one, at in asked.execute("SELECT serial, at FROM event WHERE key = ? ORDER BY serial", (name,)):
        if at > before and many - gone <= MAX_EVENTS_PER_KEY:
            break
        gone, last, serial = gone + 1, at, one
    if gone:
        asked.execute("DELETE FROM event WHERE key = ? AND serial <= ?", (name, serial))
    return gone, last

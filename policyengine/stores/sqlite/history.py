"""History in tables of SQLite: what happens to it inside of the transaction of a step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from msgspec import msgpack

from policyengine.runtime.history import ALWAYS, MOST_EVENTS, Record, Report, Reported, WindowKey
from policyengine.stores.history_rows import (
    NEVER,
    SLACK,
    Awaiting,
    Recorded,
    Row,
    awaited_until,
    facts_of,
    line_of,
    told_of,
    watch_of,
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
    asked.executemany("INSERT OR IGNORE INTO begun VALUES (?, ?)", [(watch_of(one), now - 1) for one in watches])


def end(asked: sqlite3.Connection, watches: Iterable[str]) -> None:
    asked.executemany("DELETE FROM begun WHERE watch = ?", [(watch_of(one),) for one in watches])


def lost(asked: sqlite3.Connection, watches: Iterable[str]) -> list[str]:
    """Those that were not begun, or of which nobody remembers it."""
    known = "SELECT 1 FROM begun WHERE watch = ?"
    return [one for one in watches if asked.execute(known, (watch_of(one),)).fetchone() is None]


def fetch(asked: sqlite3.Connection, key: WindowKey, now: int) -> Recorded:
    name = line_of(key)
    begun = asked.execute("SELECT after FROM begun WHERE watch = ?", (watch_of(key[0]),)).fetchone() or (NEVER,)
    line = asked.execute("SELECT complete_after, version FROM line WHERE key = ?", (name,)).fetchone()
    if line is None:
        return Recorded((), begun[0], now, 0)
    rows = asked.execute(
        "SELECT at, serial, decision, facts, reported FROM event WHERE key = ? ORDER BY serial", (name,)
    ).fetchall()
    return Recorded([Row(*row) for row in rows], max(line[0], begun[0]), now, line[1])


def are(asked: sqlite3.Connection, relied: Iterable[tuple[WindowKey, int]]) -> bool:
    """Whether these histories are of these versions still."""
    version = "SELECT version FROM line WHERE key = ?"
    return all((asked.execute(version, (line_of(key),)).fetchone() or (0,))[0] == was for key, was in relied)


def remember(asked: sqlite3.Connection, records: Sequence[Record], decision: str, now: int) -> None:
    if not records:
        return
    serial, awaiting = _changed(asked, now), list[Awaiting]()
    for record in records:
        name = line_of((record.watch, record.key))
        _add(asked, record, Row(now, serial, decision, facts_of(record), ""), name)
        if record.awaits:
            awaiting.append((name, serial, record.outputs))
    if awaiting:
        row = (decision, msgpack.encode(awaiting), awaited_until(records, now))
        asked.execute("INSERT OR REPLACE INTO awaited VALUES (?, ?, ?, 0)", row)


def report(asked: sqlite3.Connection, decision: str, report: Report, now: int) -> Reported | None:
    row = asked.execute("SELECT lines, until, reported FROM awaited WHERE decision = ?", (decision,)).fetchone()
    if row is None or row[1] <= now:
        return None
    if row[2]:
        return "again"
    asked.execute("UPDATE awaited SET reported = 1 WHERE decision = ?", (decision,))
    version = _changed(asked, now)
    for name, serial, outputs in msgpack.decode(row[0], type=list[Awaiting]):
        told = "UPDATE event SET reported = ? WHERE key = ? AND serial = ? AND decision = ?"
        if asked.execute(told, (told_of(report, outputs), name, serial, decision)).rowcount:
            asked.execute("UPDATE line SET version = ? WHERE key = ?", (version, name))
    return "first"


def forget(asked: sqlite3.Connection, now: int, most: int) -> None:
    """Lines that nobody asks for any more, of about `most` events: that there was something is not forgotten."""
    old = asked.execute("SELECT key, watch, last, many FROM line WHERE until <= ? LIMIT ?", (now, most)).fetchall()
    for name, watch, last, many in old:
        most -= many
        asked.execute("DELETE FROM event WHERE key = ?", (name,))
        asked.execute("DELETE FROM line WHERE key = ?", (name,))
        asked.execute("UPDATE begun SET after = max(after, ?) WHERE watch = ?", (last, watch))
        if most <= 0:
            return


def _changed(asked: sqlite3.Connection, now: int) -> int:
    """The number of this change: above all that were given before, and whatever is lost, above those of the past."""
    (serial,) = asked.execute("UPDATE changes SET serial = max(serial + 1, ?) RETURNING serial", (now,)).fetchone()
    return int(serial)


def _add(asked: sqlite3.Connection, record: Record, row: Row, name: str) -> None:
    line = asked.execute("SELECT within, complete_after, many FROM line WHERE key = ?", (name,)).fetchone()
    within, complete_after, many = line or (0, ALWAYS, 0)
    within = max(within, record.within)
    if record.latest:
        asked.execute("DELETE FROM event WHERE key = ?", (name,))
        many = 0
    asked.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", (name, row.serial, row.at, *row[2:]))
    gone, last = (0, ALWAYS) if record.latest else _shorten(asked, name, many + 1, row.at - within)
    kept = (name, watch_of(record.watch), row.serial, within, max(complete_after, last), row.at, many + 1 - gone)
    asked.execute("INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*kept, row.at + within + SLACK))


def _shorten(asked: sqlite3.Connection, name: str, many: int, before: int) -> tuple[int, int]:
    """Without what left the longest window, and without the oldest of too many: how many went, and when the last of
    them was."""
    gone, last, serial = 0, ALWAYS, 0
    for one, at in asked.execute("SELECT serial, at FROM event WHERE key = ? ORDER BY serial", (name,)):
        if at > before and many - gone <= MOST_EVENTS:
            break
        gone, last, serial = gone + 1, at, one
    if gone:
        asked.execute("DELETE FROM event WHERE key = ? AND serial <= ?", (name, serial))
    return gone, last

"""Learned behavior in SQLite tables, which are created at the first use."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from msgspec import msgpack

from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.runtime.behavior import BehaviorCharge, CallerHistory
from policyengine.stores.behavior import (
    LEARNER_SECONDS,
    MAX_DOCUMENT_NUMBER,
    MAX_WAITING_FAILURES,
    REPORTABLE_SECONDS,
    REQUEST_DAYS,
    UNKNOWN_CALLER,
    UNREADABLE_NUMBER,
    Levels,
    StoredCaller,
    UnreadableBehaviorError,
    add_event,
    add_failure,
    decode_caller,
    forgotten_caller,
    forgotten_damaged_caller,
    history_after,
    is_outdated,
    raise_levels,
    report_place,
    saves_row,
)
from policyengine.stores.clock_skew import system_time

TABLES = (
    "CREATE TABLE IF NOT EXISTS caller (key TEXT PRIMARY KEY, state BLOB NOT NULL, until INTEGER NOT NULL) "
    "WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS caller_until ON caller (until)",
    "CREATE TABLE IF NOT EXISTS caller_row (key TEXT PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS reportable (place INTEGER PRIMARY KEY, decision TEXT NOT NULL, key TEXT NOT NULL, "
    "until INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS behavior (name TEXT PRIMARY KEY, number INTEGER NOT NULL, value BLOB NOT NULL) "
    "WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS active_version (family TEXT NOT NULL, version TEXT NOT NULL, at INTEGER NOT NULL, "
    "until INTEGER NOT NULL, PRIMARY KEY (family, version)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS active_version_until ON active_version (until)",
    "CREATE TABLE IF NOT EXISTS recent_requests (id INTEGER PRIMARY KEY, day INTEGER NOT NULL, part BLOB NOT NULL, "
    "until INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS recent_requests_day ON recent_requests (day)",
)
LAST_TABLE = "recent_requests"
INSERT_DOCUMENT = (
    "INSERT INTO behavior VALUES (:name, :number, :value) ON CONFLICT DO UPDATE SET number = excluded.number, "
    "value = excluded.value WHERE number < excluded.number AND number = coalesce(:after, number)"
)
INSERT_VERSION = (
    "INSERT OR REPLACE INTO active_version VALUES (:family, :version, max(:now, coalesce((SELECT max(at) + 1 "
    "FROM active_version WHERE family = :family AND version <> :version), 0)), :until)"
)
START_LEARNING = (
    "INSERT INTO behavior VALUES ('learner', ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number, "
    "value = excluded.value WHERE number <= ? OR value <> excluded.value"
)
SELECT_KEY = "SELECT value FROM behavior WHERE name = 'key'"
CALLERS_AT_ONCE = 256
SECONDS_PER_DAY = 86_400
Loaded = TypeVar("Loaded")


class SqliteBehavior:
    """Learned behavior in a SQLite file. `step` runs one transaction, for reading or writing; `clock` returns the
    store's time in a transaction."""

    def __init__(
        self,
        step: Callable[[bool], AbstractContextManager[sqlite3.Connection]],
        clock: Callable[[sqlite3.Connection, int], int],
    ) -> None:
        self._step, self._clock = step, clock

    def read(self, key: str, now: int) -> CallerHistory:
        with self._step(False) as asked:
            return load_history(asked, key)

    def report(self, decision: str, outcome: int | None, now: int) -> str | None:
        with self._step(True) as asked:
            now, place = self._clock(asked, now), report_place(decision)
            row = asked.execute(
                "DELETE FROM reportable WHERE place = ? AND decision = ? AND until > ? RETURNING key",
                (place, decision, now),
            ).fetchone()
            if row is None:
                return None
            with suppress(UnreadableBehaviorError):
                state = load_caller(asked, row[0])
                if outcome is not None and 0 < len(state.events) < MAX_WAITING_FAILURES:
                    encoded = msgpack.encode(add_failure(state, outcome))
                    asked.execute("UPDATE caller SET state = ? WHERE key = ?", (encoded, row[0]))
            return str(row[0])

    def forget(self, key: str) -> bool:
        with self._step(True) as asked:
            asked.execute("DELETE FROM caller_row WHERE key = ?", (key,))
            try:
                state = load_caller(asked, key)
                forgotten = forgotten_caller(state) if state.events else None
            except UnreadableBehaviorError:
                forgotten = forgotten_damaged_caller(system_time())
            if forgotten is not None:
                asked.execute("UPDATE caller SET state = ? WHERE key = ?", (msgpack.encode(forgotten), key))
            return forgotten is not None

    def versions(self, family: str, most: int) -> list[str]:
        latest = "SELECT version FROM active_version WHERE family = ? ORDER BY at DESC LIMIT ?"
        with self._step(False) as asked:
            return [version for (version,) in asked.execute(latest, (family, most)).fetchall()]

    def add_version(self, family: str, version: str, lasts: int, now: int) -> None:
        with self._step(True) as asked:
            now = self._clock(asked, now)
            asked.execute("DELETE FROM active_version WHERE until <= ?", (now,))
            row = {"family": family, "version": version, "now": now, "until": now + lasts * 1_000}
            asked.execute(INSERT_VERSION, row)

    def keys(self) -> Iterator[str]:
        for page, _ in self._pages("caller", lambda asked, keys: None):
            yield from page

    def callers(self, now: int) -> Iterator[tuple[str, CallerHistory | None]]:
        table = "(SELECT key FROM caller_row JOIN caller USING (key))"
        for page, histories in self._pages(table, lambda asked, keys: [try_load(asked, key) for key in keys]):
            yield from zip(page, histories, strict=True)

    def _pages(
        self, table: str, load: Callable[[sqlite3.Connection, list[str]], Loaded]
    ) -> Iterator[tuple[list[str], Loaded]]:
        """Yield the keys of a table in pages, each with what `load` returns in the transaction that read the page."""
        after, page = "", f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT ?"
        while True:
            with self._step(False) as asked:
                keys = [key for (key,) in asked.execute(page, (after, CALLERS_AT_ONCE)).fetchall()]
                loaded = load(asked, keys)
            yield keys, loaded
            if len(keys) < CALLERS_AT_ONCE:
                return
            after = keys[-1]

    def known_key(self) -> bytes | None:
        with self._step(False) as asked:
            if not has_table(asked, "behavior"):
                return None
            row = asked.execute(SELECT_KEY).fetchone()
            return None if row is None else bytes(row[0])

    def shared_key(self, proposed: bytes) -> bytes:
        with self._step(False) as asked:
            row = asked.execute(SELECT_KEY).fetchone() if has_table(asked, LAST_TABLE) else None
            if row is not None:
                return bytes(row[0])
        with self._step(True) as asked:
            for table in TABLES:
                asked.execute(table)
            asked.execute("INSERT OR IGNORE INTO behavior VALUES ('key', 0, ?)", (proposed,))
            (key,) = asked.execute(SELECT_KEY).fetchone()
            return bytes(key)

    def document(self, name: str, known: int) -> tuple[int, bytes]:
        with self._step(False) as asked:
            row = asked.execute("SELECT number FROM behavior WHERE name = ?", (name,)).fetchone()
            number = 0 if row is None else document_number(row[0])
            if number in (0, known):
                return number, b""
            (value,) = asked.execute("SELECT value FROM behavior WHERE name = ?", (name,)).fetchone()
            return number, value if isinstance(value, bytes) else b""

    def save_document(self, name: str, number: int, value: bytes, after: int | None = None) -> bool:
        row = {"name": name, "number": number, "value": value, "after": after}
        with self._step(True) as asked:
            return asked.execute(INSERT_DOCUMENT, row).rowcount > 0

    def add_requests(self, day: int, part: bytes, now: int) -> None:
        with self._step(True) as asked:
            now = self._clock(asked, now)
            asked.execute("DELETE FROM recent_requests WHERE until <= ?", (now,))
            until = now + REQUEST_DAYS * SECONDS_PER_DAY * MICROSECONDS_PER_SECOND
            asked.execute("INSERT INTO recent_requests (day, part, until) VALUES (?, ?, ?)", (day, part, until))

    def requests(self, day: int) -> Iterator[bytes]:
        following, last = "SELECT id, part FROM recent_requests WHERE day = ? AND id > ? ORDER BY id LIMIT 1", 0
        while True:
            with self._step(False) as asked:
                row = asked.execute(following, (day, last)).fetchone()
            if row is None:
                return
            last = row[0]
            yield row[1] if isinstance(row[1], bytes) else b""

    def start_learning(self, number: int, now: int) -> bool:
        with self._step(True) as asked:
            now = self._clock(asked, now)
            earlier = now - LEARNER_SECONDS * MICROSECONDS_PER_SECOND
            return asked.execute(START_LEARNING, (now, str(number), earlier)).rowcount > 0


def has_table(asked: sqlite3.Connection, name: str) -> bool:
    return asked.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def document_number(value: object) -> int:
    """Return the number of a stored document, which another program may have written."""
    return value if isinstance(value, int) and 0 <= value <= MAX_DOCUMENT_NUMBER else UNREADABLE_NUMBER


# ── One step ──────────────────────────────────────────────────────────────────────────────────


def load_caller(asked: sqlite3.Connection, key: str) -> StoredCaller:
    """Load the state of a caller. Raises UnreadableBehaviorError."""
    row = asked.execute("SELECT CAST(state AS BLOB) FROM caller WHERE key = ?", (key,)).fetchone()
    return UNKNOWN_CALLER if row is None else decode_caller(row[0])


def load_row(asked: sqlite3.Connection, key: str) -> bytes | None:
    row = asked.execute("SELECT CAST(row AS BLOB) FROM caller_row WHERE key = ?", (key,)).fetchone()
    return None if row is None else bytes(row[0])


def load_history(asked: sqlite3.Connection, key: str) -> CallerHistory:
    """Load what is known of a caller. Raises UnreadableBehaviorError."""
    return history_after(load_caller(asked, key), load_row(asked, key), -1, 0)


def try_load(asked: sqlite3.Connection, key: str) -> CallerHistory | None:
    """Load what is known of a caller; None if its state is damaged."""
    try:
        return load_history(asked, key)
    except UnreadableBehaviorError:
        return None


def prepare_event(asked: sqlite3.Connection, charge: BehaviorCharge) -> tuple[StoredCaller, Levels] | None:
    """Return the stored caller, and the levels with the request; None if the decision must be made again."""
    try:
        state = load_caller(asked, charge.key)
    except UnreadableBehaviorError:
        charge.unanswered = charge.damaged = True
        return None
    levels = raise_levels(state, charge)
    if is_outdated(state, levels, charge):
        charge.history = answer_charge(asked, charge, state, charge.base)
        return None
    return state, levels


def save_event(
    asked: sqlite3.Connection,
    charge: BehaviorCharge,
    prepared: tuple[StoredCaller, Levels],
    decision: str,
    now: int,
    *,
    admitted: bool,
    clamped: bool,
) -> None:
    known, base = prepared[0], charge.base
    if saves_row(known, charge):
        base = charge.number
        asked.execute("INSERT OR REPLACE INTO caller_row VALUES (?, ?)", (charge.key, charge.row))
    state = add_event(*prepared, charge, admitted=admitted, clamped=clamped)
    until = now + charge.lasts * 1_000
    asked.execute("INSERT OR REPLACE INTO caller VALUES (?, ?, ?)", (charge.key, msgpack.encode(state), until))
    if charge.allowed and admitted:
        row = report_place(decision), decision, charge.key, now + REPORTABLE_SECONDS * MICROSECONDS_PER_SECOND
        asked.execute("INSERT OR REPLACE INTO reportable VALUES (?, ?, ?, ?)", row)
    charge.history = answer_charge(asked, charge, state, base)


def answer_charge(asked: sqlite3.Connection, charge: BehaviorCharge, state: StoredCaller, base: int) -> CallerHistory:
    """Return the events, and the row if it has changed, that the process of the charge does not know yet."""
    history = history_after(state, None, base, charge.number)
    return history if history.row is None else history._replace(row=load_row(asked, charge.key) or b"")


def forget_callers(asked: sqlite3.Connection, now: int, most: int) -> None:
    """Delete at most `most` callers whose time has expired, with their rows."""
    old = "SELECT key FROM caller WHERE until <= ? LIMIT ?"
    asked.execute(f"DELETE FROM caller_row WHERE key IN ({old})", (now, most))
    asked.execute(f"DELETE FROM caller WHERE key IN ({old})", (now, most))

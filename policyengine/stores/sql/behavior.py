"""Learned behavior in SQL tables, which are created at the first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from policyengine.stores.sql.session import (
    RowLock,
    SqlCursor,
    SqlSession,
    SqlTransactions,
    all_rows,
    delete_some,
    upsert,
)

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
    "INSERT INTO behavior VALUES (:name, :number, :value) ON CONFLICT (name) DO UPDATE SET number = excluded.number, "
    "value = excluded.value WHERE behavior.number < excluded.number "
    "AND behavior.number = coalesce(CAST(:after AS BIGINT), behavior.number)"
)
LATEST_OF_OTHERS = "SELECT max(at) FROM active_version WHERE family = ? AND version <> ?"
START_LEARNING = (
    "INSERT INTO behavior VALUES ('learner', ?, ?) ON CONFLICT (name) DO UPDATE SET number = excluded.number, "
    "value = excluded.value WHERE behavior.number <= ? OR behavior.value <> excluded.value"
)
SELECT_KEY = "SELECT value FROM behavior WHERE name = 'key'"
SELECT_DOCUMENT = "SELECT number, CASE WHEN number = ? THEN NULL ELSE value END FROM behavior WHERE name = ?"
UPSERT_CALLER = upsert("caller", ("key",), ("state", "until"))
UPSERT_ROW = upsert("caller_row", ("key",), ("row",))
UPSERT_REPORTABLE = upsert("reportable", ("place",), ("decision", "key", "until"))
UPSERT_VERSION = upsert("active_version", ("family", "version"), ("at", "until"))
CALLERS_AT_ONCE = 256
SECONDS_PER_DAY = 86_400
Loaded = TypeVar("Loaded")


class SqlBehavior:
    """Learned behavior in SQL tables. `has_table` returns whether the database has a table."""

    def __init__(self, transactions: SqlTransactions, has_table: Callable[[SqlSession, str], bool]) -> None:
        self._transactions, self._has_table = transactions, has_table
        self._step = transactions.step

    def read(self, key: str, now: int) -> CallerHistory:
        with self._step(False) as asked:
            return select_history(asked, key)()

    def report(self, decision: str, outcome: int | None, now: int) -> str | None:
        place = report_place(decision)
        reportable = "FROM reportable WHERE place = ? AND decision = ?"
        with self._step(True) as asked:
            clock = self._transactions.clock(asked, now, moves=True)
            found = asked.execute(f"SELECT key, until {reportable}", (place, decision))
            now = clock()
            key, until = found.fetchone() or ("", 0)
            if until <= now:
                return None
            self._transactions.lock(asked, (caller_lock(key),))
            ended = asked.execute(f"DELETE {reportable}", (place, decision))
            caller = select_caller(asked, key)
            if ended.rowcount == 0:
                return None
            with suppress(UnreadableBehaviorError):
                state = read_caller(caller)
                if outcome is not None and 0 < len(state.events) < MAX_WAITING_FAILURES:
                    encoded = msgpack.encode(add_failure(state, outcome))
                    asked.execute("UPDATE caller SET state = ? WHERE key = ?", (encoded, key))
            return str(key)

    def forget(self, key: str) -> bool:
        with self._step(True, (caller_lock(key),)) as asked:
            caller = select_caller(asked, key)
            asked.execute("DELETE FROM caller_row WHERE key = ?", (key,))
            try:
                state = read_caller(caller)
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
        ended = delete_some("active_version", "family, version", "until <= ?")
        with self._step(True, (f"versions {family}",)) as asked:
            clock = self._transactions.clock(asked, now, moves=True)
            latest = asked.execute(LATEST_OF_OTHERS, (family, version))
            now = clock()
            (last,) = latest.fetchone()
            asked.execute(ended, (now, CALLERS_AT_ONCE))
            asked.execute(UPSERT_VERSION, (family, version, max(now, (last or -1) + 1), now + lasts * 1_000))

    def keys(self) -> Iterator[str]:
        for page, _ in self._pages("caller", lambda asked, keys: None):
            yield from page

    def callers(self, now: int) -> Iterator[tuple[str, CallerHistory | None]]:
        table = "(SELECT key FROM caller_row JOIN caller USING (key)) AS saved"
        for page, histories in self._pages(table, load_histories):
            yield from zip(page, histories, strict=True)

    def _pages(self, table: str, load: Callable[[SqlSession, list[str]], Loaded]) -> Iterator[tuple[list[str], Loaded]]:
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
            if not self._has_table(asked, "behavior"):
                return None
            row = asked.execute(SELECT_KEY).fetchone()
            return None if row is None else bytes(row[0])

    def shared_key(self, proposed: bytes) -> bytes:
        with self._step(False) as asked:
            row = asked.execute(SELECT_KEY).fetchone() if self._has_table(asked, LAST_TABLE) else None
            if row is not None:
                return bytes(row[0])
        with self._step(True) as asked:
            if not self._has_table(asked, LAST_TABLE):
                for table in TABLES:
                    asked.execute(table)
            asked.execute("INSERT INTO behavior VALUES ('key', 0, ?) ON CONFLICT (name) DO NOTHING", (proposed,))
            (key,) = asked.execute(SELECT_KEY).fetchone()
            return bytes(key)

    def document(self, name: str, known: int) -> tuple[int, bytes]:
        with self._step(False) as asked:
            stored, value = asked.execute(SELECT_DOCUMENT, (known, name)).fetchone() or (0, None)
        number = document_number(stored)
        return number, b"" if number in (0, known) or not isinstance(value, bytes) else value

    def save_document(self, name: str, number: int, value: bytes, after: int | None = None) -> bool:
        row = {"name": name, "number": number, "value": value, "after": after}
        with self._step(True) as asked:
            return asked.execute(INSERT_DOCUMENT, row).rowcount > 0

    def add_requests(self, day: int, part: bytes, now: int) -> None:
        with self._step(True) as asked:
            now = self._transactions.clock(asked, now, moves=True)()
            asked.execute(delete_some("recent_requests", "id", "until <= ?"), (now, CALLERS_AT_ONCE))
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
            now = self._transactions.clock(asked, now, moves=True)()
            earlier = now - LEARNER_SECONDS * MICROSECONDS_PER_SECOND
            return asked.execute(START_LEARNING, (now, str(number).encode(), earlier)).rowcount > 0


def document_number(value: object) -> int:
    """Return the number of a stored document, which another program may have written."""
    return value if isinstance(value, int) and 0 <= value <= MAX_DOCUMENT_NUMBER else UNREADABLE_NUMBER


# ── One step ──────────────────────────────────────────────────────────────────────────────────


def caller_lock(key: str) -> str:
    return f"caller {key}"


def select_caller(asked: SqlSession, key: str) -> SqlCursor:
    return asked.execute("SELECT CAST(state AS BLOB) FROM caller WHERE key = ?", (key,))


def read_caller(found: SqlCursor) -> StoredCaller:
    """Read the state of a caller. Raises UnreadableBehaviorError."""
    row = found.fetchone()
    return UNKNOWN_CALLER if row is None else decode_caller(row[0])


def select_row(asked: SqlSession, key: str) -> SqlCursor:
    return asked.execute("SELECT CAST(row AS BLOB) FROM caller_row WHERE key = ?", (key,))


def read_row(found: SqlCursor) -> bytes | None:
    row = found.fetchone()
    return None if row is None else bytes(row[0])


def select_history(asked: SqlSession, key: str) -> Callable[[], CallerHistory]:
    """Select the row and the events of a caller. Calling the result reads them, and raises UnreadableBehaviorError."""
    caller, row = select_caller(asked, key), select_row(asked, key)
    return lambda: history_after(read_caller(caller), read_row(row), -1, 0)


def load_histories(asked: SqlSession, keys: Sequence[str]) -> list[CallerHistory | None]:
    """Load the histories of callers; None for a caller with a damaged state."""
    return [try_read(read) for read in [select_history(asked, key) for key in keys]]


def try_read(read: Callable[[], CallerHistory]) -> CallerHistory | None:
    try:
        return read()
    except UnreadableBehaviorError:
        return None


def prepare_event(asked: SqlSession, charge: BehaviorCharge, found: SqlCursor) -> tuple[StoredCaller, Levels] | None:
    """Return the stored caller, and the levels with the request; None if the decision must be made again."""
    try:
        state = read_caller(found)
    except UnreadableBehaviorError:
        charge.unanswered = charge.damaged = True
        return None
    levels = raise_levels(state, charge)
    if is_outdated(state, levels, charge):
        charge.history = answer_charge(asked, charge, state, charge.base)
        return None
    return state, levels


def save_event(
    asked: SqlSession,
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
        asked.execute(UPSERT_ROW, (charge.key, charge.row))
    state = add_event(*prepared, charge, admitted=admitted, clamped=clamped)
    until = now + charge.lasts * 1_000
    asked.execute(UPSERT_CALLER, (charge.key, msgpack.encode(state), until))
    if charge.allowed and admitted:
        row = report_place(decision), decision, charge.key, now + REPORTABLE_SECONDS * MICROSECONDS_PER_SECOND
        asked.execute(UPSERT_REPORTABLE, row)
    charge.history = answer_charge(asked, charge, state, base)


def answer_charge(asked: SqlSession, charge: BehaviorCharge, state: StoredCaller, base: int) -> CallerHistory:
    """Return the events, and the row if it has changed, that the process of the charge does not know yet."""
    history = history_after(state, None, base, charge.number)
    return history if history.row is None else history._replace(row=read_row(select_row(asked, charge.key)) or b"")


def forget_callers(asked: SqlSession, now: int, most: int, lock: RowLock = all_rows) -> None:
    """Delete at most `most` callers whose time has expired, with their rows; `lock` locks callers, and returns those
    that no other process uses."""
    old = asked.execute("SELECT key FROM caller WHERE until <= ? LIMIT ?", (now, most)).fetchall()
    for key in lock([key for (key,) in old], caller_lock):
        rows = "DELETE FROM caller_row WHERE key = ? AND EXISTS (SELECT 1 FROM caller WHERE key = ? AND until <= ?)"
        asked.execute(rows, (key, key, now))
        asked.execute("DELETE FROM caller WHERE key = ? AND until <= ?", (key, now))

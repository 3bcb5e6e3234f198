"""The store in a SQLite file, shared by processes of one machine; it survives restarts and `kill -9`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import random
from threading import local
from time import monotonic, sleep
from typing import Any

from msgspec import msgpack

from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.runtime.behavior import BehaviorCharge
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import CommitRequest, StoreError, WriteRefusedError
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.sqlite import approvals, behavior, credential_marks, history
from policyengine.stores.sqlite.approvals import SqliteApprovals
from policyengine.stores.sqlite.behavior import SqliteBehavior
from policyengine.stores.sqlite.credential_marks import SqliteMarks
from policyengine.stores.sqlite.file import SqliteFile
from policyengine.stores.sqlite.halts import TABLES as HALT_TABLES
from policyengine.stores.sqlite.halts import SqliteHalts
from policyengine.stores.sqlite.idempotency import TABLE, SqliteIdempotencyKeys
from policyengine.stores.sqlite.state import (
    give_back,
    load_state,
    prepaid_tokens,
    read_clock,
    save_allow,
    save_receipts,
    save_updates,
    spent_approvals,
)
from policyengine.stores.transition import apply_charges, receipt_name

PROBE = 8_192  # bytes; more than a page, so that the file must be able to grow
WRITE_REFUSAL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)
PATIENCE = 1.0  # maximum seconds that a process waits for other writers
BEGIN_TO_WRITE = ("BEGIN IMMEDIATE",)
BEGIN_TO_READ = ("BEGIN", "SELECT now FROM clock")  # only the SELECT can be blocked by a lock
STEPS_BETWEEN_EVICTIONS = 256  # commits of a process between two deletions
EVICTION_BATCH_SIZE = 1_024  # maximum rows to delete, so that no caller waits long
SCHEMA_VERSION = 3  # version 1 had no history, and version 2 no receipts
TABLES = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value BLOB NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS state_until ON state (until);
CREATE TABLE IF NOT EXISTS spent (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipt (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, name TEXT NOT NULL, tokens INTEGER NOT NULL, until INTEGER NOT NULL,
  UNIQUE (key, name)
);
CREATE INDEX IF NOT EXISTS receipt_until ON receipt (until);
CREATE TABLE IF NOT EXISTS made (decision TEXT PRIMARY KEY, value BLOB NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS made_until ON made (until);
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), now INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (1, 0);
"""
PROBE_TABLE = "CREATE TABLE IF NOT EXISTS probe (process INTEGER PRIMARY KEY, room BLOB NOT NULL);\n"
EXPIRING_TABLES = (("state", "key"), ("receipt", "id"), ("made", "decision"), ("awaited", "decision"))


class AutoCloseConnection(sqlite3.Connection):
    """A connection that is closed when it is no longer referenced, but only in the process that opened it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.process = os.getpid()
        super().__init__(*given, **options)

    def __del__(self) -> None:
        if self.process == os.getpid():
            with suppress(sqlite3.Error):
                self.close()


class SqliteStore:
    """A store in a SQLite file. Each step is one transaction. Committed steps survive a crash of the process; the last
    steps before a power failure may be lost. The store's clock is the latest time that a process gave it. If the file
    is removed or replaced, the store stops using it, because other processes would count in another file. Raises
    StoreError if the file cannot be used."""

    def __init__(self, path: Path | str, *, patience: float = PATIENCE, max_skew: int = MAX_SKEW_MICROSECONDS) -> None:
        self.path, self._patience = str(path), patience
        self.skew = ClockSkew(max_skew)
        self._own = local()
        self._commits, self._latest, self._claims = 0, 0, SqliteIdempotencyKeys()
        self._begun: set[str] = set()
        self._file = SqliteFile.of(self.path)
        self.ping()

    def ping(self) -> None:
        """Check that the database answers. Raises StoreError."""
        with self._step(writes=False) as asked:
            asked.execute("SELECT now FROM clock").fetchone()

    def probe(self) -> None:
        """Write with a new connection, which checks that the file can be opened for writing and has room. Raises
        StoreError."""
        self._file.check()
        self._file.check_mode()
        with self._failing(), closing(self._opened()) as connection:
            self._patiently(connection, BEGIN_TO_WRITE)
            connection.execute("INSERT OR REPLACE INTO probe VALUES (?, zeroblob(?))", (os.getpid(), PROBE))
            connection.execute("COMMIT")
            connection.execute("DELETE FROM probe WHERE process = ?", (os.getpid(),))

    def about(self) -> str:
        """Return the version of SQLite."""
        return f"SQLite {sqlite3.sqlite_version}"

    def time(self, now: int) -> int:
        """Measure the skew and return the store's time (microseconds). Raises StoreError."""
        with self._step(writes=False) as asked:
            return self._looked(asked, now)

    @property
    def marks(self) -> SqliteMarks:
        return SqliteMarks(self._step, self._connection, self._looked_by_seconds)

    @property
    def approvals(self) -> SqliteApprovals:
        return SqliteApprovals(self._step, self._looked_for_approvals)

    @property
    def behavior(self) -> SqliteBehavior:
        return SqliteBehavior(self._step, self._looked)

    @property
    def halts(self) -> SqliteHalts:
        return SqliteHalts(self._step)

    def check(self, now: int) -> None:
        self.time(now)
        self.skew.check()

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        names = list(approvals)
        if not names:
            return frozenset()
        with self._step(writes=False) as asked:
            return frozenset(spent_approvals(asked, names))

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        with self._step(writes=not peek) as asking:
            return self._commit(asking, CommitRequest(effects, decision, peek), now)

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[ChargeResult | None]:
        """Commit several decisions in one transaction."""
        with self._step(writes=not all(one.peek for one in asked)) as asking:
            return [self._commit(asking, one, now) for one in asked]

    def _commit(self, asking: sqlite3.Connection, asked: CommitRequest, now: int) -> ChargeResult | None:
        effects, decision, peek = asked
        charges = [one.charge for one in effects.limits]
        now = read_clock(asking, now, moves=False) if peek else self._moved(asking, now)
        if spent_approvals(asking, effects.spends) or (not peek and not history.are_unchanged(asking, effects.relied)):
            return None
        if effects.claim is not None and not self._claims.holds(asking, effects.claim):
            return None
        charge = effects.behavior if isinstance(effects.behavior, BehaviorCharge) and not peek else None
        event = None if charge is None else behavior.prepare_event(asking, charge)
        if charge is not None and event is None:
            return None
        name = receipt_name(effects.confirms)
        paid = [prepaid_tokens(asking, one, name, now) if name else 0 for one in charges]
        found = apply_charges(effects, [load_state(asking, one) for one in charges], paid, now, decision)
        if not peek:
            save_updates(asking, found.kept)
            save_receipts(asking, found.receipts, name)
            if found.settled.admitted or effects.denied:
                history.remember(asking, effects.records, decision, now)
            if found.settled.admitted and not effects.denied and not effects.opens:
                save_allow(asking, effects, charges, decision, now)
            self._forget_sometimes(asking, now)
        if charge is not None and event is not None:
            outcome = {"admitted": found.settled.admitted, "clamped": found.settled.clamped}
            behavior.save_event(asking, charge, event, decision, now, **outcome)
            if self._commits % STEPS_BETWEEN_EVICTIONS == 0:
                behavior.forget_callers(asking, now, EVICTION_BATCH_SIZE)
        if effects.claim is not None:
            self._claims.keep(asking, effects.claim, found.settled, now)
        return found.settled

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        with self._step() as asked:
            now = read_clock(asked, now, moves=False)
            row = asked.execute("SELECT value FROM made WHERE decision = ? AND until > ?", (decision, now)).fetchone()
            if row is None:
                return None
            held = msgpack.decode(row[0])
            for key, is_place in held:
                give_back(asked, key, is_place, decision, refund)
            asked.execute("UPDATE made SET value = ? WHERE decision = ?", (msgpack.encode(()), decision))
            return "first" if held else "again"

    def begin(self, watches: Iterable[str], now: int) -> None:
        names = list(watches)
        self._begun.update(names)
        with self._step() as asked:
            history.begin(asked, names, self._moved(asked, now))

    def end(self, watches: Iterable[str]) -> None:
        names = list(watches)
        self._begun.difference_update(names)
        with self._step() as asked:
            history.end(asked, names)

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        wanted = list(keys)
        with self._step(writes=False) as asked:
            read = self._looked(asked, now)
            found = {key: history.fetch(asked, key, read) for key in wanted}
            lost = self._begun.intersection(history.missing_watches(asked, {watch for watch, _ in wanted}))
        if not lost:
            return found
        # The file was replaced, and the beginnings of watches were lost. Record events from now on.
        self.begin(lost, read)
        return self.fetch(wanted, now)

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        with self._step() as asked:
            return history.report(asked, decision, report, self._moved(asked, now))

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        with self._step() as asked:
            return self._claims.claim(asked, claim, self._moved(asked, now))

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        with self._step() as asked:
            self._claims.release(asked, claim)

    def close(self) -> None:
        """Close the connection of this thread."""
        mine, self._own.connection = getattr(self._own, "connection", None), None
        if mine is not None and self._own.process == os.getpid():
            mine.close()

    # ── Time ──────────────────────────────────────────────────────────────────────────────────

    def _moved(self, asked: sqlite3.Connection, now: int) -> int:
        """Advance the store's clock, which never runs backwards, and return its time in microseconds."""
        return self._measured(now, read_clock(asked, max(self._latest, now), moves=True))

    def _looked(self, asked: sqlite3.Connection, now: int) -> int:
        """Return the store's time for a read, in microseconds, without advancing its clock."""
        return self._measured(now, read_clock(asked, max(self._latest, now), moves=False))

    def _looked_by_seconds(self, asked: sqlite3.Connection, now: int, moves: bool) -> None:
        self._measured(
            now * MICROSECONDS_PER_SECOND,
            read_clock(asked, max(self._latest, now * MICROSECONDS_PER_SECOND), moves=moves),
            MICROSECONDS_PER_SECOND,
        )

    def _looked_for_approvals(self, asked: sqlite3.Connection, now: int, moves: bool) -> None:
        self._measured(now, read_clock(asked, max(self._latest, now), moves=moves))

    def _measured(self, now: int, found: int, error: int = 0) -> int:
        self.skew.between(now, found, now + error)
        self._latest = max(self._latest, found)
        return found

    # ── Connections ───────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _step(self, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """Run a transaction, completely or not at all. A writer takes the lock at the beginning, so that it does not
        fail later.
        """
        with self._failing():
            connection = self._entered(BEGIN_TO_WRITE if writes else BEGIN_TO_READ)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = (
                WriteRefusedError if getattr(error, "sqlite_errorcode", 0) & 0xFF in WRITE_REFUSAL_CODES else StoreError
            )
            raise kind(f"`{self.path}`: {error}") from error

    def _entered(self, words: Sequence[str]) -> sqlite3.Connection:
        connection = self._connection()
        self._patiently(connection, words)
        return connection

    def _patiently(self, connection: sqlite3.Connection, words: Sequence[str]) -> None:
        """Run the statements; while the file is locked, retry at random intervals for a limited time. SQLite's own
        retries are not used, because their growing intervals would let later callers overtake earlier ones.
        """
        until = monotonic() + self._patience
        while True:
            try:
                for word in words:
                    connection.execute(word)
                return
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > until:
                    raise
            sleep(random() / 1_000)

    def _connection(self) -> sqlite3.Connection:
        """Return the connection of this thread in this process. Raises StoreError."""
        self._file.check()
        mine: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if mine is not None and self._own.process == os.getpid():
            return mine
        self._own.inherited = mine  # closing the connection would release locks of the parent
        self._own.connection, self._own.process = self._opened(), os.getpid()
        return self._own.connection  # type: ignore[no-any-return]

    def _opened(self) -> sqlite3.Connection:
        # Each thread has its own connection. After a thread has ended, another thread may release its connection, which
        # closes it.
        connection = sqlite3.connect(
            self._file.uri,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
            factory=AutoCloseConnection,
            uri=self._file.id is not None,
        )
        self._patiently(connection, ("PRAGMA journal_mode = WAL",))  # SQLite does not wait for the lock of a new file
        connection.execute("PRAGMA synchronous = NORMAL")
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout > SCHEMA_VERSION:
            raise StoreError(f"`{self.path}`: it was written by a newer version of policyengine")
        if layout < SCHEMA_VERSION:
            connection.executescript(
                f"BEGIN IMMEDIATE; {TABLES}{history.TABLES}PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        connection.executescript(TABLE + credential_marks.TABLES + HALT_TABLES + approvals.TABLES + PROBE_TABLE)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    def _forget_sometimes(self, asked: sqlite3.Connection, now: int) -> None:
        self._commits += 1
        if self._commits % STEPS_BETWEEN_EVICTIONS == 0:
            for table, key in EXPIRING_TABLES:
                old = f"SELECT {key} FROM {table} WHERE until <= ? LIMIT {EVICTION_BATCH_SIZE}"
                asked.execute(f"DELETE FROM {table} WHERE {key} IN ({old})", (now,))
            history.forget(asked, now, EVICTION_BATCH_SIZE)

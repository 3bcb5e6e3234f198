"""Idempotency keys in a SQL table."""

from __future__ import annotations

from policyengine.runtime.idempotency import (
    GATEWAY_DIGITS,
    KEEP_MICROSECONDS,
    LEASE_MICROSECONDS,
    MAX_KEYS_PER_GATEWAY,
    IdempotencyClaim,
    IdempotencyRecord,
)
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.idempotency import EvictionLog, decode_charge_result, encode_charge_result
from policyengine.stores.sql.session import Pending, SqlCursor, SqlSession, delete_some, upsert

EVICTION_BATCH_SIZE = 1_024  # maximum rows to delete, so that no caller waits long
CALLS_BETWEEN_EVICTIONS = 1_024  # claims of a process between two checks for too many keys

TABLES = """
CREATE TABLE IF NOT EXISTS once (
    name TEXT PRIMARY KEY, until INTEGER NOT NULL, digest TEXT NOT NULL, token TEXT NOT NULL, draft BLOB, settled BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS once_until ON once (until);
"""
UPSERT = upsert("once", ("name",), ("until", "digest", "token", "draft", "settled"))


class SqlIdempotencyKeys:
    """Idempotency keys in a SQL table. Each call runs inside a transaction."""

    def __init__(self, most: int = MAX_KEYS_PER_GATEWAY) -> None:
        self._most = most
        self._claims = 0
        self.evicted = EvictionLog()

    def claim(self, asked: SqlSession, claim: IdempotencyClaim, clock: Pending) -> IdempotencyRecord | None:
        """Return None if the caller now has the key, otherwise its record."""
        row = asked.execute("SELECT until, digest, token, draft, settled FROM once WHERE name = ?", (claim.name,))
        now = clock()
        until, digest, token, draft, settled = row.fetchone() or (0, "", "", None, None)
        if until > now and (draft is not None or token != claim.token) and not claim.may_replace(draft):
            return IdempotencyRecord(digest, draft, None if settled is None else decode_charge_result(settled))
        self._put(asked, claim, now + LEASE_MICROSECONDS)
        self._forget(asked, now)
        return None

    def select_own(self, asked: SqlSession, claim: IdempotencyClaim) -> SqlCursor:
        """Select a row if the caller still has the claim."""
        mine = "SELECT 1 FROM once WHERE name = ? AND token = ? AND draft IS NULL"
        return asked.execute(mine, (claim.name, claim.token))

    def keep(self, asked: SqlSession, claim: IdempotencyClaim, settled: ChargeResult, now: int) -> None:
        self._put(asked, claim, now + KEEP_MICROSECONDS, claim.draft, encode_charge_result(settled))

    def release(self, asked: SqlSession, claim: IdempotencyClaim) -> None:
        mine = "DELETE FROM once WHERE name = ? AND token = ? AND draft IS NULL"
        asked.execute(mine, (claim.name, claim.token))

    def _put(
        self,
        asked: SqlSession,
        claim: IdempotencyClaim,
        until: int,
        draft: bytes | None = None,
        settled: bytes | None = None,
    ) -> None:
        row = (claim.name, until, claim.digest, claim.token, draft, settled)
        asked.execute(UPSERT, row)

    def _forget(self, asked: SqlSession, now: int) -> None:
        """Delete expired keys, and the oldest keys of gateways that have too many."""
        self._claims += 1
        if self._claims % CALLS_BETWEEN_EVICTIONS and self._claims % self._most:
            return
        asked.execute(delete_some("once", "name", "until <= ?"), (now, EVICTION_BATCH_SIZE))
        gateway = f"substr(name, 1, {GATEWAY_DIGITS})"
        many = f"SELECT {gateway} AS gateway, count(*) FROM once GROUP BY {gateway} HAVING count(*) > ?"
        oldest = delete_some("once", "name", f"{gateway} = ? AND until > ?", "until")
        for name, held in asked.execute(many, (self._most,)).fetchall():
            evicted = asked.execute(oldest, (name, now, held - self._most))
            self.evicted.tell(evicted.rowcount)

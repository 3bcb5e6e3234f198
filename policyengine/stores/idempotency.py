"""Keys by which gateways ask once, in the memory of a process and in a file of SQLite."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from threading import Lock

from msgspec import msgpack

from policyengine.log_throttle import LogThrottle
from policyengine.runtime.idempotency_key import (
    GATEWAY_DIGITS,
    KEEP_MICROSECONDS,
    LEASE_MICROSECONDS,
    MAX_KEYS_PER_GATEWAY,
    IdempotencyClaim,
    IdempotencyRecord,
)
from policyengine.runtime.limits import ChargeResult, LimitState

EVICTION_BATCH_SIZE = 1_024  # rows: nobody waits long for it
CALLS_BETWEEN_EVICTIONS = 1_024  # claims of a process between two looks whether a file holds too many
_LOG = logging.getLogger("policyengine")


class EvictionLog:
    """Tells the operator of answers that were forgotten before their time, now and then."""

    def __init__(self) -> None:
        self.keys = 0  # since the beginning
        self._lock, self._throttle = Lock(), LogThrottle.every()

    def tell(self, many: int) -> None:
        if not many:
            return
        with self._lock:
            self.keys += many
        if (unsaid := self._throttle.admit(events=many)) is None:
            return
        _LOG.warning(
            "%d answers were forgotten within %d s of being given, as more keys came than are kept: who asks again by "
            "one of those is decided, and pays, a second time",
            unsaid,
            KEEP_MICROSECONDS // 1_000_000,
        )


# ── Memory ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class IdempotencyEntry:
    until: int
    digest: str
    token: str
    draft: bytes | None = None
    settled: ChargeResult | None = None


class MemoryIdempotencyKeys:
    """By gateway, oldest first, `most` of each; whoever calls holds the lock of the store. A clock that never runs back
    keeps them in order."""

    def __init__(self, most: int = MAX_KEYS_PER_GATEWAY) -> None:
        self._kept: dict[str, dict[str, IdempotencyEntry]] = {}
        self._most = most
        self.evicted = EvictionLog()

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        """None: it is the caller's now."""
        one = self._found(claim)
        if one is not None and one.until > now and (one.draft is not None or one.token != claim.token):
            return IdempotencyRecord(one.digest, one.draft, one.settled)
        self._put(claim, IdempotencyEntry(now + LEASE_MICROSECONDS, claim.digest, claim.token), now)
        return None

    def holds(self, claim: IdempotencyClaim) -> bool:
        one = self._found(claim)
        return one is not None and one.draft is None and one.token == claim.token

    def keep(self, claim: IdempotencyClaim, settled: ChargeResult, now: int) -> None:
        self._put(
            claim, IdempotencyEntry(now + KEEP_MICROSECONDS, claim.digest, claim.token, claim.draft, settled), now
        )

    def release(self, claim: IdempotencyClaim) -> None:
        if self.holds(claim):
            del self._kept[claim.gateway][claim.name]

    def _found(self, claim: IdempotencyClaim) -> IdempotencyEntry | None:
        return self._kept.get(claim.gateway, {}).get(claim.name)

    def _put(self, claim: IdempotencyClaim, kept: IdempotencyEntry, now: int) -> None:
        """At the end. One that leaves makes room for one that comes, so nobody waits for many."""
        of_gateway = self._kept.setdefault(claim.gateway, {})
        of_gateway.pop(claim.name, None)
        of_gateway[claim.name] = kept
        evicted = 0
        while len(of_gateway) > self._most or next(iter(of_gateway.values())).until <= now:
            evicted += of_gateway.pop(next(iter(of_gateway))).until > now
        self.evicted.tell(evicted)


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────

TABLE = """
CREATE TABLE IF NOT EXISTS once (
    name TEXT PRIMARY KEY, until INTEGER NOT NULL, digest TEXT NOT NULL, token TEXT NOT NULL, draft BLOB, settled BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS once_until ON once (until);
"""


class SqliteIdempotencyKeys:
    """In a table of its own. Each call is inside of a transaction."""

    def __init__(self, most: int = MAX_KEYS_PER_GATEWAY) -> None:
        self._most = most
        self._claims = 0
        self.evicted = EvictionLog()

    def claim(self, asked: sqlite3.Connection, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        """None: it is the caller's now."""
        row = asked.execute("SELECT until, digest, token, draft, settled FROM once WHERE name = ?", (claim.name,))
        until, digest, token, draft, settled = row.fetchone() or (0, "", "", None, None)
        if until > now and (draft is not None or token != claim.token):
            return IdempotencyRecord(digest, draft, None if settled is None else decode_charge_result(settled))
        self._put(asked, claim, now + LEASE_MICROSECONDS)
        self._forget(asked, now)
        return None

    def holds(self, asked: sqlite3.Connection, claim: IdempotencyClaim) -> bool:
        mine = "SELECT 1 FROM once WHERE name = ? AND token = ? AND draft IS NULL"
        return asked.execute(mine, (claim.name, claim.token)).fetchone() is not None

    def keep(self, asked: sqlite3.Connection, claim: IdempotencyClaim, settled: ChargeResult, now: int) -> None:
        self._put(asked, claim, now + KEEP_MICROSECONDS, claim.draft, encode_charge_result(settled))

    def release(self, asked: sqlite3.Connection, claim: IdempotencyClaim) -> None:
        mine = "DELETE FROM once WHERE name = ? AND token = ? AND draft IS NULL"
        asked.execute(mine, (claim.name, claim.token))

    def _put(
        self,
        asked: sqlite3.Connection,
        claim: IdempotencyClaim,
        until: int,
        draft: bytes | None = None,
        settled: bytes | None = None,
    ) -> None:
        row = (claim.name, until, claim.digest, claim.token, draft, settled)
        asked.execute("INSERT OR REPLACE INTO once VALUES (?, ?, ?, ?, ?, ?)", row)

    def _forget(self, asked: sqlite3.Connection, now: int) -> None:
        """What counts no more; and what is too much, the oldest first."""
        self._claims += 1
        if self._claims % CALLS_BETWEEN_EVICTIONS and self._claims % self._most:
            return
        old = "SELECT name FROM once WHERE until <= ? LIMIT ?"
        asked.execute(f"DELETE FROM once WHERE name IN ({old})", (now, EVICTION_BATCH_SIZE))
        many = "SELECT substr(name, 1, ?) AS gateway, count(*) FROM once GROUP BY gateway HAVING count(*) > ?"
        oldest = "SELECT name FROM once WHERE substr(name, 1, ?) = ? AND until > ? ORDER BY until LIMIT ?"
        for gateway, held in asked.execute(many, (GATEWAY_DIGITS, self._most)).fetchall():
            given = GATEWAY_DIGITS, gateway, now, held - self._most
            self.evicted.tell(asked.execute(f"DELETE FROM once WHERE name IN ({oldest})", given).rowcount)


def encode_charge_result(settled: ChargeResult) -> bytes:
    return msgpack.encode((settled.now, settled.standings))


def decode_charge_result(raw: bytes) -> ChargeResult:
    now, standings = msgpack.decode(raw)
    return ChargeResult(tuple(LimitState(*one) for one in standings), now)

"""Limits, approvals and receipts in SQL tables; each function runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import BudgetCharge, BudgetEntry, Charge, ConcurrencyCharge, RateCharge, TokenBucket
from policyengine.stores.sql.session import SqlCursor, SqlSession, upsert
from policyengine.stores.transition import MAX_RECEIPTS_PER_RATE, Receipt, StateUpdate, charge_digest, reportable_until

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
"""
UPSERT_STATE = upsert("state", ("key",), ("value", "until"))
UPSERT_MADE = upsert("made", ("decision",), ("value", "until"))
UPSERT_SPENT = upsert("spent", ("id",), ())


def select_spent(asked: SqlSession, approvals: Sequence[str]) -> list[SqlCursor]:
    """Select a row for each spent approval."""
    return [asked.execute("SELECT id FROM spent WHERE id = ?", (one,)) for one in approvals]


def select_prepaid(asked: SqlSession, charge: Charge, name: str) -> SqlCursor | None:
    """Select the tokens of the charge that earlier confirms of this name already paid."""
    if not name or not isinstance(charge, RateCharge):
        return None
    known = "SELECT tokens, until FROM receipt WHERE key = ? AND name = ?"
    return asked.execute(known, (charge_digest(charge), name))


def read_prepaid(found: SqlCursor | None, now: int) -> int:
    tokens, until = (None if found is None else found.fetchone()) or (0, 0)
    return int(tokens) if until > now else 0


def save_receipts(asked: SqlSession, receipts: Sequence[Receipt], name: str) -> None:
    """Save receipts; beyond MAX_RECEIPTS_PER_RATE for one key, delete the oldest."""
    newest = "SELECT id FROM receipt WHERE key = ? ORDER BY id DESC LIMIT ?"
    for receipt in receipts:
        key = charge_digest(receipt.charge)
        asked.execute("DELETE FROM receipt WHERE key = ? AND name = ?", (key, name))
        if receipt.tokens:
            row = (key, name, receipt.tokens, receipt.until)
            asked.execute("INSERT INTO receipt (key, name, tokens, until) VALUES (?, ?, ?, ?)", row)
            beyond = f"DELETE FROM receipt WHERE key = ? AND id NOT IN ({newest})"
            asked.execute(beyond, (key, key, MAX_RECEIPTS_PER_RATE))


def select_states(asked: SqlSession, keys: Iterable[str]) -> dict[str, SqlCursor]:
    """Select the states of charges by their digests."""
    select = "SELECT value FROM state WHERE key = ?"
    return {key: asked.execute(select, (key,)) for key in dict.fromkeys(keys)}


def read_states(selected: dict[str, SqlCursor]) -> dict[str, bytes | None]:
    rows = ((key, cursor.fetchone()) for key, cursor in selected.items())
    return {key: None if row is None else row[0] for key, row in rows}


def decode_state(value: bytes | None, charge: Charge) -> Any:
    if value is None:
        return None
    found = msgpack.decode(value)
    match charge:
        case RateCharge():
            level, at, drain, latches = found
            return TokenBucket(level, at, drain, tuple(latches))
        case BudgetCharge():
            return tuple(BudgetEntry(*one) for one in found)
        case ConcurrencyCharge():
            return tuple((name, until) for name, until in found)
        case _:
            assert_never(charge)


def save_updates(asked: SqlSession, kept: Sequence[StateUpdate], states: dict[str, bytes | None]) -> None:
    """Save the states after a step, and replace them in `states`."""
    for update in kept:
        key = charge_digest(update.charge)
        states[key] = msgpack.encode(update.state)
        asked.execute(UPSERT_STATE, (key, states[key], update.until))


def save_allow(asked: SqlSession, effects: Effects, charges: Sequence[Charge], decision: str, now: int) -> None:
    """Save the spent approvals of an allow, and the charges whose outcome can be reported."""
    asked.executemany(UPSERT_SPENT, [(one,) for one in effects.spends])
    until, lasts = reportable_until(charges, now)
    if lasts:
        held = msgpack.encode([(charge_digest(one), isinstance(one, ConcurrencyCharge)) for one in lasts])
        asked.execute(UPSERT_MADE, (decision, held, until))


def give_back(asked: SqlSession, held: Sequence[tuple[str, bool]], decision: str, refund: bool) -> None:
    """Free the places of a decision and, with `refund`, remove its entries from budgets."""
    select = "SELECT value, until FROM state WHERE key = ?"
    found = [(key, is_place, asked.execute(select, (key,))) for key, is_place in held if is_place or refund]
    for key, is_place, cursor in found:
        row = cursor.fetchone()
        if row is not None:
            left = [one for one in msgpack.decode(row[0]) if one[0 if is_place else 3] != decision]
            asked.execute(UPSERT_STATE, (key, msgpack.encode(left), row[1]))

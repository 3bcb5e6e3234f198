"""Limits, approvals and receipts in SQLite tables; each function runs inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, assert_never

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import BudgetCharge, BudgetEntry, Charge, ConcurrencyCharge, RateCharge, TokenBucket
from policyengine.stores.transition import MAX_RECEIPTS_PER_RATE, Receipt, StateUpdate, charge_digest, reportable_until


def read_clock(asked: sqlite3.Connection, now: int, *, moves: bool) -> int:
    (latest,) = asked.execute("SELECT now FROM clock").fetchone()
    if moves and now > latest:
        asked.execute("UPDATE clock SET now = ?", (now,))
    return max(int(latest), now)


def spent_approvals(asked: sqlite3.Connection, approvals: Sequence[str]) -> list[str]:
    return [one for one in approvals if asked.execute("SELECT 1 FROM spent WHERE id = ?", (one,)).fetchone()]


def prepaid_tokens(asked: sqlite3.Connection, charge: Charge, name: str, now: int) -> int:
    """Return the tokens of the charge that earlier confirms of this name already paid."""
    if not isinstance(charge, RateCharge):
        return 0
    known = "SELECT tokens FROM receipt WHERE key = ? AND name = ? AND until > ?"
    (tokens,) = asked.execute(known, (charge_digest(charge), name, now)).fetchone() or (0,)
    return int(tokens)


def save_receipts(asked: sqlite3.Connection, receipts: Sequence[Receipt], name: str) -> None:
    """Save receipts; beyond MAX_RECEIPTS_PER_RATE for one key, delete the oldest."""
    for receipt in receipts:
        key = charge_digest(receipt.charge)
        asked.execute("DELETE FROM receipt WHERE key = ? AND name = ?", (key, name))
        if receipt.tokens:
            row = (key, name, receipt.tokens, receipt.until)
            asked.execute("INSERT INTO receipt (key, name, tokens, until) VALUES (?, ?, ?, ?)", row)
            (many,) = asked.execute("SELECT count(*) FROM receipt WHERE key = ?", (key,)).fetchone()
            oldest = "SELECT id FROM receipt WHERE key = ? ORDER BY id LIMIT ?"
            asked.execute(f"DELETE FROM receipt WHERE id IN ({oldest})", (key, max(0, many - MAX_RECEIPTS_PER_RATE)))


def load_state(asked: sqlite3.Connection, charge: Charge) -> Any:
    row = asked.execute("SELECT value FROM state WHERE key = ?", (charge_digest(charge),)).fetchone()
    return None if row is None else decode_state(row[0], charge)


def decode_state(value: bytes, charge: Charge) -> Any:
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


def save_updates(asked: sqlite3.Connection, kept: Sequence[StateUpdate]) -> None:
    for update in kept:
        save_state(asked, charge_digest(update.charge), update.state, update.until)


def save_state(asked: sqlite3.Connection, key: str, state: Any, until: int) -> None:
    asked.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (key, msgpack.encode(state), until))


def save_allow(asked: sqlite3.Connection, effects: Effects, charges: Sequence[Charge], decision: str, now: int) -> None:
    """Save the spent approvals of an allow, and the charges whose outcome can be reported."""
    asked.executemany("INSERT OR IGNORE INTO spent VALUES (?)", [(one,) for one in effects.spends])
    until, lasts = reportable_until(charges, now)
    if lasts:
        held = msgpack.encode([(charge_digest(one), isinstance(one, ConcurrencyCharge)) for one in lasts])
        asked.execute("INSERT OR REPLACE INTO made VALUES (?, ?, ?)", (decision, held, until))


def give_back(asked: sqlite3.Connection, key: str, held: bool, decision: str, refund: bool) -> None:
    row = asked.execute("SELECT value, until FROM state WHERE key = ?", (key,)).fetchone()
    if row is None or not (held or refund):
        return
    left = [one for one in msgpack.decode(row[0]) if one[0 if held else 3] != decision]
    save_state(asked, key, left, row[1])

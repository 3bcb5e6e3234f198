"""The steps of a store that keeps its state in SQL tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain

from msgspec import msgpack

from policyengine.runtime.behavior import BehaviorCharge
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import CommitRequest
from policyengine.stores.clock_skew import ClockSkew
from policyengine.stores.history_rows import history_key
from policyengine.stores.sql import behavior, history
from policyengine.stores.sql.approvals import SqlApprovals
from policyengine.stores.sql.behavior import SqlBehavior
from policyengine.stores.sql.credential_marks import SqlMarks
from policyengine.stores.sql.halts import SqlHalts
from policyengine.stores.sql.idempotency import SqlIdempotencyKeys
from policyengine.stores.sql.session import Pending, RowLock, SqlSession, all_rows, delete_some
from policyengine.stores.sql.state import (
    decode_state,
    give_back,
    read_prepaid,
    read_states,
    save_allow,
    save_receipts,
    save_updates,
    select_prepaid,
    select_spent,
    select_states,
)
from policyengine.stores.transition import apply_charges, charge_digest, receipt_name

STEPS_BETWEEN_EVICTIONS = 256  # commits of a process between two deletions
EVICTION_BATCH_SIZE = 1_024  # maximum rows to delete, so that no caller waits long
EXPIRING_TABLES = (("state", "key"), ("receipt", "id"), ("made", "decision"), ("awaited", "decision"))


class SqlStore(ABC):
    """A store in SQL tables. A subclass opens the database, and runs its transactions."""

    def __init__(self, skew: ClockSkew, revocations: Callable[[], int] | None) -> None:
        self.skew, self._latest, self._commits = skew, 0, 0
        self._claims, self._begun = SqlIdempotencyKeys(), set[str]()
        self.marks, self.approvals, self.halts = SqlMarks(self, revocations), SqlApprovals(self), SqlHalts(self)
        self.behavior = SqlBehavior(self, self.has_table)

    @abstractmethod
    def step(self, writes: bool = True, locks: Iterable[str] = ()) -> AbstractContextManager[SqlSession]:
        """Run a transaction. Raises StoreError."""

    @abstractmethod
    def lock(self, session: SqlSession, locks: Iterable[str]) -> None:
        """Lock further names in a transaction."""

    @abstractmethod
    def has_table(self, session: SqlSession, name: str) -> bool:
        """Return whether the database has a table."""

    @abstractmethod
    def change_number(self, session: SqlSession, clock: Pending) -> Pending:
        """Number a change of histories."""

    @abstractmethod
    def clock(self, session: SqlSession, now: int, *, moves: bool, error: int = 0, measures: bool = True) -> Pending:
        """Read the store's clock, and with `moves` advance it."""

    @abstractmethod
    def ping(self) -> None:
        """Check that the database answers. Raises StoreError."""

    def time(self, now: int) -> int:
        """Measure the skew and return the store's time (microseconds). Raises StoreError."""
        with self.step(writes=False) as asked:
            return self.clock(asked, now, moves=False)()

    def check(self, now: int) -> None:
        self.time(now)
        self.skew.check()

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        names = list(approvals)
        if not names:
            return frozenset()
        with self.step(writes=False) as asked:
            spent = select_spent(asked, names)
            return frozenset(name for name, found in zip(names, spent, strict=True) if found.fetchone())

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        [result] = self._commit_all([CommitRequest(effects, decision, peek)], now)
        return result

    def _commit_all(self, asked: Sequence[CommitRequest], now: int) -> list[ChargeResult | None]:
        """Commit decisions in one transaction."""
        writes = not all(one.peek for one in asked)
        with self.step(writes, commit_locks(asked) if writes else ()) as asking:
            clock = self.clock(asking, now, moves=writes, measures=writes)
            keys = [[charge_digest(limit.charge) for limit in one.effects.limits] for one in asked]
            states = SqlStates(asking, chain.from_iterable(keys))
            results = [
                self._commit(asking, one, states, of_one, clock) for one, of_one in zip(asked, keys, strict=True)
            ]
            self._commits += len(asked) if writes else 0
            if writes and self._commits % STEPS_BETWEEN_EVICTIONS < len(asked):
                self._forget_later(
                    asking, clock(), any(isinstance(one.effects.behavior, BehaviorCharge) for one in asked)
                )
        return results

    def _commit(
        self, asking: SqlSession, asked: CommitRequest, states: SqlStates, keys: Sequence[str], clock: Pending
    ) -> ChargeResult | None:
        effects, decision, peek = asked
        charges, name = [one.charge for one in effects.limits], receipt_name(effects.confirms)
        spent = select_spent(asking, effects.spends)
        relied = history.select_relied(asking, () if peek else effects.relied)
        claimed = None if effects.claim is None else self._claims.select_own(asking, effects.claim)
        charge = effects.behavior if isinstance(effects.behavior, BehaviorCharge) and not peek else None
        caller = None if charge is None else behavior.select_caller(asking, charge.key)
        prepaid = [select_prepaid(asking, one, name) for one in charges]
        places = history.find_places(asking, () if peek else effects.records)
        number = self.change_number(asking, clock) if places else None
        # Every answer is read below, so that the statements above take one round trip.
        now = clock()
        if any(found.fetchone() for found in spent) or not history.are_unchanged(relied):
            return None
        if claimed is not None and claimed.fetchone() is None:
            return None
        event = None
        if charge is not None and caller is not None:
            event = behavior.prepare_event(asking, charge, caller)
            if event is None:
                return None
        paid = [read_prepaid(found, now) for found in prepaid]
        before = [decode_state(states.raw[key], one) for key, one in zip(keys, charges, strict=True)]
        found = apply_charges(effects, before, paid, now, decision)
        if not peek:
            save_updates(asking, found.kept, states.raw)
            save_receipts(asking, found.receipts, name)
            if found.settled.admitted or effects.denied:
                history.remember(asking, places, decision, now, number)
            if found.settled.admitted and not effects.denied and not effects.opens:
                save_allow(asking, effects, charges, decision, now)
        if charge is not None and event is not None:
            outcome = {"admitted": found.settled.admitted, "clamped": found.settled.clamped}
            behavior.save_event(asking, charge, event, decision, now, **outcome)
        if effects.claim is not None:
            self._claims.keep(asking, effects.claim, found.settled, now)
        return found.settled

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        with self.step(True, (f"made {decision}",)) as asked:
            clock = self.clock(asked, now, moves=False, measures=False)
            made = asked.execute("SELECT value, until FROM made WHERE decision = ?", (decision,))
            now = clock()
            value, until = made.fetchone() or (b"", 0)
            if until <= now:
                return None
            held = msgpack.decode(value)
            self.lock(asked, [key for key, _ in held])
            give_back(asked, held, decision, refund)
            asked.execute("UPDATE made SET value = ? WHERE decision = ?", (msgpack.encode(()), decision))
            return "first" if held else "again"

    def begin(self, watches: Iterable[str], now: int) -> None:
        names = list(watches)
        self._begun.update(names)
        with self.step(True, ("begun",)) as asked:
            history.begin(asked, names, self.clock(asked, now, moves=True)())

    def end(self, watches: Iterable[str]) -> None:
        names = list(watches)
        self._begun.difference_update(names)
        with self.step(True, ("begun",)) as asked:
            history.end(asked, names)

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        wanted = list(dict.fromkeys(keys))
        with self.step(writes=False) as asked:
            clock = self.clock(asked, now, moves=False)
            histories = history.fetch(asked, wanted)
            read = clock()
            found, missing = histories(read)
        lost = self._begun & missing
        if not lost:
            return found
        # The database was replaced, and the beginnings of watches were lost. Record events from now on.
        self.begin(lost, read)
        return self.fetch(wanted, now)

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        with self.step(True, (f"awaited {decision}",)) as asked:
            clock = self.clock(asked, now, moves=True)
            awaited = asked.execute(history.SELECT_AWAITED, (decision,))
            number = self.change_number(asked, clock)
            events = history.awaited_events(awaited.fetchone(), clock())
            if events:
                self.lock(asked, [name for name, _, _ in events])
                history.report(asked, decision, report, events, number)
            return None if events is None else "first" if events else "again"

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        with self.step(True, (claim_lock(claim),)) as asked:
            clock = self.clock(asked, now, moves=True)
            return self._claims.claim(asked, claim, clock)

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        with self.step(True, (claim_lock(claim),)) as asked:
            self._claims.release(asked, claim)

    def _forget_later(self, asked: SqlSession, now: int, callers: bool) -> None:
        """Delete expired rows, in this transaction or after it; with `callers`, also inactive callers."""
        forget_expired(asked, now, callers=callers)


class SqlStates:
    """The encoded states that one transaction reads and writes, by the digests of their charges."""

    def __init__(self, asked: SqlSession, keys: Iterable[str]) -> None:
        self._selected = select_states(asked, keys)
        self._raw: dict[str, bytes | None] | None = None

    @property
    def raw(self) -> dict[str, bytes | None]:
        if self._raw is None:
            self._raw = read_states(self._selected)
            self._selected = {}  # SQLite writes faster to a table that no open cursor reads
        return self._raw


def commit_locks(asked: Iterable[CommitRequest]) -> Iterator[str]:
    """Yield the names that commits lock: everything that they read and write."""
    for effects, _, _ in asked:
        yield from (charge_digest(one.charge) for one in effects.limits)
        yield from (f"spent {one}" for one in effects.spends)
        yield from (history_key(key) for key, _ in effects.relied)
        yield from (history_key((one.watch, one.key)) for one in effects.records)
        if effects.claim is not None:
            yield claim_lock(effects.claim)
        if isinstance(effects.behavior, BehaviorCharge):
            yield behavior.caller_lock(effects.behavior.key)


def claim_lock(claim: IdempotencyClaim) -> str:
    return f"claim {claim.name}"


def forget_expired(
    asked: SqlSession, now: int, most: int = EVICTION_BATCH_SIZE, lock: RowLock = all_rows, *, callers: bool
) -> None:
    """Delete some rows whose time has expired."""
    for table, key in EXPIRING_TABLES:
        asked.execute(delete_some(table, key, "until <= ?"), (now, most))
    history.forget(asked, now, most, lock)
    if callers:
        behavior.forget_callers(asked, now, most, lock)

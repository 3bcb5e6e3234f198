"""A wrapper around a store that may fail: circuit breakers stop calls to a store that fails, and the rules define how
their limits are then answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Protocol, TypeVar

from policyengine.circuit_breaker import PAUSE_SECONDS
from policyengine.runtime.behavior import BehaviorCharge, CallerHistory
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import (
    History,
    HistoryRecord,
    OutcomeReport,
    ReportStatus,
    UnreadHistories,
    WindowKey,
    merge_reports,
)
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import ChargeResult, LimitState, uncharged_state
from policyengine.stores.base import CommitRequest, CommitResult, Store, StoreError
from policyengine.stores.behavior import BehaviorStore
from policyengine.stores.circuit_breaker import READ, WRITE, StoreBreaker, StoreListener
from policyengine.stores.clock_skew import ClockSkew, ClockSkewError
from policyengine.stores.credential_marks import CredentialMarks
from policyengine.stores.halts import HaltStore
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_approvals import ResilientApprovals

INSPECTION_INTERVAL_SECONDS = 5.0  # seconds between two checks of whether the store keeps writes
MAX_LATE_DENIALS = 10_000  # maximum denied requests to record once the store answers again
LATE_BATCH_SIZE = 16  # maximum denied requests that one caller records while it waits
T = TypeVar("T")


class RemoteStore(Store, Protocol):
    """A store outside this process. If `begin` fails, a later `fetch` begins the watch. `skew` is measured from the
    answers."""

    skew: ClockSkew

    @property
    def behavior(self) -> BehaviorStore:
        """The learned behavior that processes share."""
        ...

    def ping(self) -> None:
        """Check that the store answers. Raises StoreError."""
        ...

    def probe(self) -> None:
        """Write to the store as a decision does, but without changing the data of decisions. Raises StoreError if the
        write fails, and StoreLossError if writes may be lost.
        """
        ...

    def about(self) -> str:
        """Return the kind and version of the store (`Valkey 8.1.1`). Raises StoreError."""
        ...

    def close(self) -> None: ...


class ResilientMarks:
    """Credential marks of a store that may fail. Calls raise StoreError while the store does not answer, or while the
    clocks differ too much, even if only the answer reveals the difference.
    """

    def __init__(
        self,
        marks: CredentialMarks,
        reads: StoreBreaker,
        writes: StoreBreaker,
        agree: Callable[[], None],
        skew: ClockSkew,
    ) -> None:
        self._marks, self._reads, self._writes = marks, reads, writes
        self._agree, self._skew = agree, skew
        self.remote = marks.remote

    @property
    def version(self) -> int:
        with self._reads:
            return self._marks.version

    def once(self, name: str, until: int, now: int) -> bool:
        first = self._ask(lambda: self._marks.once(name, until, now), self._writes)
        if first:
            self._writes.succeeded()
        return first

    def marked(self, name: str, now: int) -> bool:
        return self._ask(lambda: self._marks.marked(name, now), self._reads)

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        with self._writes:
            self._marks.revoke(names, until, now, by_operator=by_operator)

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        return self._ask(lambda: self._marks.revoked(names, now), self._reads)

    def _ask(self, ask: Callable[[], T], breaker: StoreBreaker) -> T:
        self._agree()
        with breaker:
            told = ask()
        self._skew.check()
        return told


class ResilientBehavior:
    """Learned behavior in a store that may fail. Calls raise StoreError while the store does not answer; `read` also
    raises it while the clocks differ too much."""

    def __init__(
        self, behavior: BehaviorStore, reads: StoreBreaker, writes: StoreBreaker, agree: Callable[[], None]
    ) -> None:
        self._behavior, self._reads, self._writes, self._agree = behavior, reads, writes, agree

    def read(self, key: str, now: int) -> CallerHistory:
        self._agree()
        with self._reads:
            return self._behavior.read(key, now)

    def report(self, decision: str, outcome: int | None, now: int) -> str | None:
        with self._writes:
            return self._behavior.report(decision, outcome, now)

    def forget(self, key: str) -> bool:
        with self._writes:
            return self._behavior.forget(key)

    def versions(self, family: str, most: int) -> list[str]:
        with self._reads:
            return self._behavior.versions(family, most)

    def add_version(self, family: str, version: str, lasts: int, now: int) -> None:
        with self._writes:
            self._behavior.add_version(family, version, lasts, now)

    def keys(self) -> Iterator[str]:
        return self._behavior.keys()

    def callers(self, now: int) -> Iterator[tuple[str, CallerHistory | None]]:
        return self._behavior.callers(now)

    def known_key(self) -> bytes | None:
        with self._reads:
            return self._behavior.known_key()

    def shared_key(self, proposed: bytes) -> bytes:
        with self._writes:
            return self._behavior.shared_key(proposed)

    def document(self, name: str, known: int) -> tuple[int, bytes]:
        with self._reads:
            return self._behavior.document(name, known)

    def save_document(self, name: str, number: int, value: bytes, after: int | None = None) -> bool:
        with self._writes:
            return self._behavior.save_document(name, number, value, after)

    def add_requests(self, day: int, part: bytes, now: int) -> None:
        with self._writes:
            self._behavior.add_requests(day, part, now)

    def requests(self, day: int) -> Iterator[bytes]:
        return self._behavior.requests(day)

    def start_learning(self, number: int, now: int) -> bool:
        with self._writes:
            return self._behavior.start_learning(number, now)


class ResilientHalts:
    """Halts in a store that may fail. Calls raise StoreError while the store does not answer; `save` also raises it
    while the clocks differ too much."""

    def __init__(self, halts: HaltStore, reads: StoreBreaker, writes: StoreBreaker, agree: Callable[[], None]) -> None:
        self._halts, self._reads, self._writes, self._agree = halts, reads, writes, agree
        self.is_shared = halts.is_shared

    def load(self, known: int) -> tuple[int, bytes]:
        with self._reads:
            return self._halts.load(known)

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        self._agree()
        with self._writes:
            saved = self._halts.save(number, document, after)
        if saved:
            self._writes.succeeded()
        return saved


class ResilientStore:
    """A store that may be down, slow or full.

    If the store does not answer, each charge is answered as its rule defines: `deny`, `local` (by the counts of this
    process) or `allow`. Without the store, a decision that spends an approval, records history or relies on history is
    denied, because a history that cannot be read is unknown. A decision that changes the learned behavior of its caller
    is made again, with unknown learned facts.

    Reads and writes have separate breakers, because an answered read does not prove that the store accepts writes.
    While decisions or health checks arrive, a probe write tests this from time to time. A store whose clock differs too
    much from the clock of this process counts as a store that does not answer; its time is read again from time to
    time, until both clocks agree.
    """

    def __init__(self, store: RemoteStore, *, clock: Callable[[], float] = monotonic) -> None:
        self._store, self._local = store, MemoryStore()
        self.skew = store.skew
        self.writes = StoreBreaker(clock, WRITE, trial=store.probe)
        self.reads = StoreBreaker(clock, READ, refusals=self.writes)
        self._clock, self._lock, self._looks = clock, Lock(), 0.0
        self._inspecting, self._inspected = Lock(), clock()
        self._late: deque[tuple[tuple[HistoryRecord, ...], str]] = deque(maxlen=MAX_LATE_DENIALS)

    @property
    def failures(self) -> int:
        """The number of calls that the store did not answer."""
        return self.reads.failures + self.writes.failures

    @property
    def failing(self) -> bool:
        """Whether the last conclusive read or write failed."""
        return self.reads.failing or self.writes.failing

    def close(self) -> None:
        """Close the connections of the store."""
        self._store.close()

    def listen(self, tell: StoreListener) -> None:
        """From now on, call `tell` when the store fails and when it works again."""
        self.reads.tell = self.writes.tell = self.skew.tell = tell

    def follow(self, clock: Callable[[], int]) -> None:
        """Compare the store's clock with `clock` (microseconds), now and from now on. If the store does not answer, the
        next call raises the error.
        """
        self.skew.clock = clock
        with suppress(StoreError):
            self._look(clock())

    def about(self) -> str:
        """Return the kind and version of the store. Raises StoreError."""
        return self._store.about()

    def check(self, now: int) -> None:
        """Check with a read and a write that decisions can use the store. Raises StoreError."""
        self._look(now)
        self.inspect(PAUSE_SECONDS)
        self.writes.check()

    def inspect(self, every: float = INSPECTION_INTERVAL_SECONDS, *, waits: bool = True) -> None:
        """Probe writes, and also reads if the last read failed. Do nothing if another caller did so within `every`
        seconds, or is doing so and `waits` is false. Raises StoreError."""
        if self._clock() < self._inspected + every or not self._inspecting.acquire(waits):
            return
        try:
            if self._clock() >= self._inspected + every:
                self._inspect()
        finally:
            self._inspected = self._clock()
            self._inspecting.release()

    def _inspect(self) -> None:
        self.writes.test()
        if self.reads.failing:
            with self.reads:
                self._store.ping()

    def _look(self, now: int) -> None:
        with self.reads:
            self._store.check(now)

    @property
    def marks(self) -> ResilientMarks:
        return ResilientMarks(self._store.marks, self.reads, self.writes, self._agree, self.skew)

    @property
    def approvals(self) -> ResilientApprovals:
        return ResilientApprovals(self._store.approvals, self.reads, self.writes, self._agree, self.skew)

    @property
    def behavior(self) -> ResilientBehavior:
        return ResilientBehavior(self._store.behavior, self.reads, self.writes, self._agree)

    @property
    def halts(self) -> ResilientHalts:
        return ResilientHalts(self._store.halts, self.reads, self.writes, self._agree)

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        names = list(approvals)
        if not names:
            return frozenset()
        with self.reads:
            return self._store.spent_among(names)

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        try:
            self._agree()
            if peek:
                with self.reads:
                    return self._store.commit(effects, decision, now, peek=True)
            told = self._commit(effects, decision, now)
        except StoreError as error:
            return self._without(effects, decision, now, peek, error)
        if self._late:
            self._remember_late(now)
        return told

    def _commit(self, effects: Effects, decision: str, now: int) -> ChargeResult | None:
        """Commit a decision in the store, and return its result. A commit that a limit does not admit does not prove
        that the store accepts writes. Raises StoreError.
        """
        self.inspect(waits=False)
        with self.writes:
            told = self._store.commit(effects, decision, now)
        if told is not None and told.admitted:
            self.writes.succeeded()
        return told

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[ChargeResult | None]:
        told: Sequence[CommitResult]
        try:
            self._agree()
            self.inspect(waits=False)
            with self.writes:
                told = self._store.commit_many(asked, now)
            self._judge_writes(asked, told)
        except StoreError as error:
            told = [error] * len(asked)

        def answered(one: CommitRequest, answer: CommitResult) -> ChargeResult | None:
            if isinstance(answer, StoreError):
                return self._without(one.effects, one.decision, now, one.peek, answer)
            return answer

        return [answered(*pair) for pair in zip(asked, told, strict=True)]

    def _judge_writes(self, asked: Sequence[CommitRequest], told: Sequence[CommitResult]) -> None:
        """Tell the write breaker whether the results of several commits prove that the store accepts or refuses
        writes."""
        failed = next((one for one in told if isinstance(one, StoreError)), None)
        if failed is not None:
            self.writes.failed(failed)
        elif any(
            isinstance(one, ChargeResult) and one.admitted and not of.peek for of, one in zip(asked, told, strict=True)
        ):
            self.writes.succeeded()

    def begin(self, watches: Iterable[str], now: int) -> None:
        """Begin watches; if the store does not answer, the first `fetch` that succeeds begins them."""
        try:
            with self.writes:
                self._store.begin(list(watches), now)
        except StoreError:
            return

    def end(self, watches: Iterable[str]) -> None:
        with self.writes:
            self._store.end(list(watches))

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        """Return the histories of the keys. If they cannot be read, the result is empty, and all histories are
        unknown."""
        try:
            self._agree()
            with self.reads:
                found = self._store.fetch(list(keys), now)
            self.skew.check()
            return found
        except ClockSkewError as error:
            return UnreadHistories(error.reason)
        except StoreError:
            return {}

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        with self.writes:
            return self._store.report(decision, report, now)

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        """Finish a decision's request, in the store and in the counts of this process, and return the common result."""
        here = self._local.finish(decision, now, refund=refund)
        with self.writes:
            return merge_reports(self._store.finish(decision, now, refund=refund), here)

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        with self.writes:
            return self._store.claim(claim, now)

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        with self.writes:
            self._store.release(claim, now)

    def _agree(self) -> None:
        """Raise StoreError while the clocks differ too much. After each pause, one caller measures the difference
        again."""
        if not self.skew.exceeded:
            return
        with self._lock:
            looks = self._clock() >= self._looks
            if looks:
                self._looks = self._clock() + PAUSE_SECONDS
        if looks:
            self._look(self.skew.clock())
        self.skew.check()

    def _without(self, effects: Effects, decision: str, now: int, peek: bool, error: StoreError) -> ChargeResult | None:
        if isinstance(effects.behavior, BehaviorCharge) and not peek:
            effects.behavior.unanswered = True
            return None
        if effects.denied and effects.records and not peek:
            self._late.append((effects.records, decision))
        history = (effects.records or effects.relied) and not effects.denied
        denied = effects.spends or history or any(one.charge.failing == "deny" for one in effects.limits)
        if denied:
            stands = tuple(uncharged_state(None, one.charge, now)._replace(admitted=False) for one in effects.limits)
            return ChargeResult(stands, now, str(error), error.reason)
        local = [one for one in effects.limits if one.charge.failing == "local"]
        counted = Effects(limits=tuple(local), denied=effects.denied, opens=effects.opens, confirms=effects.confirms)
        told = self._local.commit(counted, decision, now, peek=peek)
        answers: Iterator[LimitState] = iter(told.standings if told is not None else ())
        return ChargeResult(
            tuple(
                next(answers) if one.charge.failing == "local" else uncharged_state(None, one.charge, now)
                for one in effects.limits
            ),
            now,
        )

    def _remember_late(self, now: int) -> None:
        """Record denials that happened while the store did not answer, because rules may count them."""
        for _ in range(LATE_BATCH_SIZE):
            try:
                records, decision = self._late.popleft()
            except IndexError:
                return
            try:
                with self.writes:
                    self._store.commit(Effects(denied=True, records=records), decision, now)
            except StoreError:
                self._late.appendleft((records, decision))
                return

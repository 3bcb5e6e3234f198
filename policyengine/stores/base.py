"""The protocol of stores, which keep the limits, approvals, history and idempotency keys that decisions spend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import STORE_UNANSWERED, ChargeResult

if TYPE_CHECKING:
    from policyengine.stores.approvals import ApprovalStore
    from policyengine.stores.behavior import BehaviorStore
    from policyengine.stores.credential_marks import CredentialMarks
    from policyengine.stores.halts import HaltStore


class StoreError(Exception):
    """The error for a failed call to a store; the text says why, and `reason` is the text for callers. If the store did
    not answer, it may have executed the step.
    """

    reason = STORE_UNANSWERED

    def __init__(self, text: str = "", reason: str | None = None) -> None:
        super().__init__(text)
        if reason is not None:
            self.reason = reason


class WriteRefusedError(StoreError):
    """The error for a store that answers but refuses writes."""

    reason = "the store cannot be written to"


class StoreLossError(StoreError):
    """The error for a store that lost writes of decisions, or may lose them."""

    reason = "the store may have lost what was written to it"


class StoreFullError(StoreError):
    """The error for a store that answers but has no room for new keys."""

    reason = "the store is full"


class StoreMissingError(StoreError):
    """The error for a store that does not exist and is not to be created."""


class CommitRequest(NamedTuple):
    """The arguments of `commit` for one of several decisions."""

    effects: Effects
    decision: str
    peek: bool = False


CommitResult: TypeAlias = ChargeResult | StoreError | None  # a StoreError for a failed commit


class Store(Protocol):
    """The state that decisions share. Times are microseconds since 1970; the clock of a store never runs backwards.
    Each method may raise StoreError."""

    @property
    def marks(self) -> CredentialMarks:
        """The marks and revocations of credentials."""
        ...

    @property
    def behavior(self) -> BehaviorStore | None:
        """The learned behavior that processes share; None if only this process uses the store."""
        ...

    @property
    def halts(self) -> HaltStore:
        """The halts of operators."""
        ...

    @property
    def approvals(self) -> ApprovalStore:
        """The approvals that were requested, and their answers."""
        ...

    def check(self, now: int) -> None:
        """Raise StoreError if the store does not answer, or if its clock differs too much from `now`."""
        ...

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        """Return the approvals among these (by id) that an allow has used."""
        ...

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        """Commit all effects of a decision in one step. If a limit does not admit the decision, charge only limits that
        count denials. Return None and change nothing if the state that the decision read has changed, so that the
        decision must be made again. `peek` changes nothing.
        """
        ...

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> Sequence[CommitResult]:
        """Return the result of `commit` for each request, in order, with fewer round trips. Raises StoreError if it is
        unknown which commits took effect."""
        ...

    def begin(self, watches: Iterable[str], now: int) -> None:
        """Start recording the events of these watches (by name), for every engine that shares the store. A watch that
        has already begun does not change. The history of every other watch begins now: its `complete_after` is the
        previous microsecond."""
        ...

    def end(self, watches: Iterable[str]) -> None:
        """Stop recording the events of these watches; a later `begin` starts without their history. If another engine
        still needs one of these watches, its next `fetch` begins that watch again."""
        ...

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        """Return the history of each key, in one step; a key without events has an empty history.

        Events are oldest first, with rising `serial`. Each history has the time at which it was read, by the store's
        clock. If no engine has begun the watch, nothing is known: `complete_after` is later than any time.

        `commit` records the events in `Effects.records` if the request is allowed and all limits admit it, or if
        `Effects.denied`. All records of a commit have the store's time and one `serial`, higher than any before.
        `commit` returns None and changes nothing if a history in `Effects.relied` has another version by then (events
        and reports change the version; a key without events has version 0); `peek` skips that check.

        If a record is `latest`, only the last event of its key is kept, and `complete_after` does not change. Other
        events may be dropped if they are older than the longest `within` of its records, or than the newest
        MAX_EVENTS_PER_KEY of its key; `complete_after` is then the time of the last dropped event.
        """
        ...

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        """Report the outcome of a decision's request: add `status` and `reported_values(report.output, record.outputs)`
        to all of its events whose record `awaits` the outcome. Return "again" and change nothing if the outcome was
        already reported. Return None if no record awaits it, or if the wait has ended."""
        ...

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        """Finish a decision's request: free its concurrency places and, with `refund`, return its budget entries.
        Return "again" and change nothing if the request was already finished. Return None if it holds no place and
        added no entry that still counts."""
        ...

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        """Claim an idempotency key for LEASE_MICROSECONDS. Return None if the caller now has the key: it was unknown,
        or claimed by the same token without a decision, or its lease has ended, or the claim `replaces` its draft.
        Otherwise return its record.

        A `commit` with this claim keeps its draft and the states of its limits for KEEP_MICROSECONDS, in the same step.
        It changes nothing and returns None if the caller has lost the claim. If a gateway has more than
        MAX_KEYS_PER_GATEWAY keys, its oldest keys are evicted, and the eviction is logged.
        """
        ...

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        """Release a claim without a decision, if the caller still has it."""
        ...


def commit_individually(store: Store, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
    """Implement `commit_many` with single commits, for stores that gain nothing from a batch."""

    def answer(one: CommitRequest) -> CommitResult:
        try:
            return store.commit(one.effects, one.decision, now, peek=one.peek)
        except StoreError as error:
            return error

    return [answer(one) for one in asked]

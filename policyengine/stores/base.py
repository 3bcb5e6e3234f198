"""What a store is: it keeps what decisions spend, and answers all that one of them asks in one atomic step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import STORE_UNANSWERED, ChargeResult

if TYPE_CHECKING:
    from policyengine.stores.credential_marks import CredentialMarks


class StoreError(Exception):
    """A store that could not be asked, or did not answer; the text says why. Nothing of the step was done.

    `reason` is what callers are told.
    """

    reason = STORE_UNANSWERED

    def __init__(self, text: str = "", reason: str | None = None) -> None:
        super().__init__(text)
        if reason is not None:
            self.reason = reason


class WriteRefusedError(StoreError):
    """A store that answers, and says that it cannot be written to."""

    reason = "the store cannot be written to"


class StoreLossError(StoreError):
    """A store that lost what decisions wrote, or may lose it."""

    reason = "the store may have lost what was written to it"


class StoreFullError(StoreError):
    """A store that answers, and has no room for anybody new."""

    reason = "the store is full"


class CommitRequest(NamedTuple):
    """What one of several decisions does."""

    effects: Effects
    decision: str
    peek: bool = False


CommitResult: TypeAlias = ChargeResult | StoreError | None  # an error of what could not be done


class Store(Protocol):
    """State that decisions share. Times are microseconds since 1970; a store's own clock never runs back.

    Each method may raise StoreError.
    """

    @property
    def marks(self) -> CredentialMarks:
        """What it remembers of credentials."""
        ...

    def check(self, now: int) -> None:
        """Raises StoreError where it does not answer, or where its clock, which is looked at, is too far from `now`."""
        ...

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        """Which of these approvals an allow has used."""
        ...

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        """All that a decision does, or nothing where a limit does not admit it: then only what counts denials is
        charged. None when another decision was quicker, and this one must be made again. To `peek` changes nothing.
        """
        ...

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> Sequence[CommitResult]:
        """Each as `commit` says, one after another; together, as that is quicker. Raises StoreError where nobody knows
        what was done of all of them."""
        ...

    def begin(self, watches: Iterable[str], now: int) -> None:
        """From now on the events of these watches (by name) are recorded, by every engine that shares the store. Of one
        that was begun before nothing changes; the history of one that was not begins now (`complete_after` is the
        microsecond before)."""
        ...

    def end(self, watches: Iterable[str]) -> None:
        """The events of these watches are not recorded any more: whoever begins one again knows nothing of before. An
        engine that still asks for one, elsewhere, begins it again when it fetches."""
        ...

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        """The history of each key, in one step; one without events too. Events are oldest first and rise by `serial`.
        Each tells the moment of its reading by the store's own clock.
        Of a watch that nobody began nothing is known: its `complete_after` is later than any time.

        `commit` records what `Effects.records` says when, and only when, the request is allowed and admitted by all
        limits, or `Effects.denied`: with the store's own time, and a `serial` above all that were given before, one for
        all records of a commit. It returns None, and does nothing, where a history in `Effects.relied` has another
        version by then (versions change with every event and report; a key without events has 0); to `peek` does not
        ask that. Of a record that is `latest` only the last event of its key is kept, and `complete_after` stays;
        otherwise events may be forgotten that are older than the longest `within` of its records, or than the newest
        MOST_EVENTS of its key: then `complete_after` is the time of the last one that was.
        """
        ...

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        """How a decision's request came out: `status` and `reported_values(report.output, record.outputs)` of all of
        its events whose record `awaits` it. "again" where it was reported before, which changes nothing; None where
        nothing waits for it (any more)."""
        ...

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        """A decision's request is over: places it held are free, and with `refund` what it added to budgets is given
        back. "again" where it was over before, which changes nothing; None where it held and added nothing that still
        counts."""
        ...

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        """None where the name is the caller's now, for LEASE microseconds, and nobody else's: it was not known, or
        claimed by the same token and not decided, or its lease is over. Else what is kept under it.

        A `commit` with that claim keeps its draft and how its limits stood for KEPT microseconds, in the same step; it
        does nothing and returns None where the claim is not the caller's any more. More than MOST_KEPT of a gateway
        push out its oldest; the operator is told.
        """
        ...

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        """Nothing was decided: the name is free, if it is still the caller's and has no answer."""
        ...


def commit_individually(store: Store, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
    """`commit_many` of a store that is asked no quicker for several at once."""

    def answer(one: CommitRequest) -> CommitResult:
        try:
            return store.commit(one.effects, one.decision, now, peek=one.peek)
        except StoreError as error:
            return error

    return [answer(one) for one in asked]

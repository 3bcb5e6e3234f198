"""The approvals of one engine: opened by confirms, answered by people, and used by the decisions that they allow."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import structs

from policyengine.approvals.eligibility import (
    REFUSAL_HINTS,
    ApproverRefusal,
    ProvedPerson,
    find_aliases,
    find_general_refusal,
    find_refusal,
)
from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.links import approval_url
from policyengine.approvals.model import (
    ALL_APPROVALS,
    ApprovalChangeError,
    ApprovalDamagedError,
    ApprovalRequest,
    ApprovalState,
    ApproverAnswer,
    add_vote,
    describe_end,
    read_row,
    refuse,
    to_datetime,
    withdraw,
)
from policyengine.approvals.question_view import UnshowableRequestError, view_question
from policyengine.approvals.settings import MAX_WAITING, ApprovalSettings
from policyengine.audit.redaction import Redaction
from policyengine.clock import MICROSECOND
from policyengine.engine.approval_expiry import ExpiryRecorder
from policyengine.engine.approval_views import POLL_SECONDS
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.decision import ApprovalTicket, Decision, OpenedApproval, Outcome, Remedy
from policyengine.runtime.halts import covers_person
from policyengine.runtime.request import Request
from policyengine.spec.halts import issuer_urls
from policyengine.stores.approvals import MAX_LISTED_ROWS, ApprovalQuota, ApprovalRow
from policyengine.stores.base import StoreError
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from policyengine.engine.decider import Decider
    from policyengine.engine.recorder import DecisionRecorder

MAX_CHANGE_TRIES = 20  # maximum attempts at an answer while other people answer the same approval
ID_BYTES = 24  # random bytes in an id, so that ids cannot be guessed
MAX_REASON_LENGTH = 500
RECORDING_MICROSECONDS = 5_000_000  # after this time, an answer that is not recorded counts as interrupted
RECORDING_PAUSE_SECONDS = 0.05  # between two reads of an approval while another thread or process records its answer
# The events of the states that are put on record, and the states that are reverted if they are not.
EVENT_KINDS = {
    "pending": ApprovalEventKind.OPENED,
    "approved": ApprovalEventKind.APPROVED,
    "denied": ApprovalEventKind.DENIED,
    "expired": ApprovalEventKind.EXPIRED,
    "withdrawn": ApprovalEventKind.WITHDRAWN,
}
REVERTED_STATES = frozenset({"approved", "denied", "expired"})
# An identical request opens another approval. `expired` is the state of a live row only if another process, whose clock
# is ahead, has put the expiry on record.
REPLACED_STATES = frozenset({ApprovalState.WITHDRAWN, ApprovalState.EXPIRED})
STORE_FAILED = "the approval store does not answer"
NO_APPROVAL = "there is no such approval, or it ended long ago"
CHANGED_POLICIES = "the policies have changed since the request, so it must be made again"


class ApprovalNotFoundError(LookupError):
    """The error for an approval that is unknown, or ended so long ago that it was deleted."""

    def __init__(self, message: str = NO_APPROVAL) -> None:
        super().__init__(message)


class ApproverRefusedError(PermissionError):
    """The error for a person who may not answer an approval, with a hint for that person."""

    def __init__(self, refusal: ApproverRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal, self.hint = refusal, REFUSAL_HINTS[refusal]


class TrackedApproval(NamedTuple):
    """An approval and its state."""

    approval: ApprovalRequest
    state: ApprovalState


class ApprovalDesk:
    """Opens approvals, records the answers of people, and finds the approvals that lift a confirm.

    The decision store marks an approval as spent in the same step as the allow that uses it, so an approval is never
    used twice, and a crash between two steps leaves it unused.
    """

    def __init__(self, decider: Decider, recorder: DecisionRecorder, settings: ApprovalSettings) -> None:
        self._decider, self._recorder, self.settings = decider, recorder, settings
        self._throttle = LogThrottle()
        self._expiry = ExpiryRecorder(decider, self._record_expiry)

    # ── For timers and reloads ────────────────────────────────────────────────────────────────

    def record_expiries(self) -> None:
        """Record the approvals that have expired without an answer, also while no process ran, and notify the listener.
        Servers call it about every second."""
        self._expiry.follow(self._decider.now())

    def adopt(self, previous: ApprovalDesk) -> None:
        """Record the expiry of the approvals that a desk of the previous policies knows."""
        self._expiry.adopt(previous._expiry)

    # ── For decisions ─────────────────────────────────────────────────────────────────────────

    def grant(self, request: Request, bindings: Sequence[str], moment: int) -> Request:
        """Return the request with the approvals that people gave for these bindings, unless one of these people is
        halted or was revoked; without such approvals, the request itself. `moment` is in nanoseconds. Raises
        StoreError."""
        now = moment // 1_000
        approvals = [self._settle(row, now) for row in self._decider.store.approvals.bound(bindings, now)]
        granted = tuple(grant for one in approvals if not self._has_void_vote(one) for grant in one.grants(now))
        return replace(request, approvals=(*request.approvals, *granted)) if granted else request

    def open(self, request: Request, decision: Decision, opens: Sequence[OpenedApproval], moment: int) -> Decision:
        """Open the approvals that a confirm needs, and return the decision with a ticket for each. If one cannot be
        opened, its ticket says why; the decision stays a confirm.
        """
        tickets = {one.binding: self._open(request, decision, one, moment) for one in opens}
        return with_tickets(decision, tickets)

    def attach(self, decision: Decision) -> Decision:
        """Return an earlier confirm with tickets for its approvals, if they were opened."""
        bindings = [one.binding for one in decision.remedies if one.binding is not None]
        if decision.outcome is not Outcome.CONFIRM or not bindings:
            return decision
        try:
            rows = self._decider.store.approvals.bound(bindings, self._decider.now())
        except StoreError:
            return decision
        return with_tickets(decision, {row.binding: self._ticket(read_row(row)) for row in rows})

    def holds(self, bindings: Sequence[str], *, requests_approval: bool) -> bool:
        """Return whether an earlier confirm with these bindings still holds: an approval waits for an answer or was
        denied, or no approval was opened and the caller requests none. If the store does not answer, it holds."""
        now = self._decider.now()
        try:
            states = {self._settle(row, now).state(now) for row in self._decider.store.approvals.bound(bindings, now)}
        except StoreError:
            return True
        if not states:
            return not requests_approval
        return not states.isdisjoint((ApprovalState.PENDING, ApprovalState.DENIED))

    def _open(self, request: Request, decision: Decision, opened: OpenedApproval, moment: int) -> ApprovalTicket:
        seen = frozenset(approval.id for approval in request.approvals)
        try:
            view = view_question(request, self._redaction)
            row, is_new = self._add(self._prepare(request, decision, opened, view, moment // 1_000), seen)
        except UnshowableRequestError as error:
            return ApprovalTicket(refused=str(error))
        except QuotaExceededError as error:
            self._throttle.tell(
                logging.WARNING, "approvals", f"an approval was not opened: {error}", event="approval_refused",
                rule=opened.rule,
            )  # fmt: skip
            return ApprovalTicket(refused=str(error))
        except StoreError:  # the circuit breaker logs it
            return ApprovalTicket(refused=STORE_FAILED)
        except Exception:
            self._recorder.failures.add()
            logging.getLogger("policyengine").exception("an approval could not be opened")
            return ApprovalTicket(refused="the approval could not be opened")
        approval = read_row(row)
        if is_new:
            self._record(approval, "pending", until=format_rfc3339(to_datetime(approval.expires)))
            self._expiry.track(approval)
            self._expiry.sweep(moment // 1_000)
        return self._ticket(approval)

    def _prepare(
        self, request: Request, decision: Decision, opened: OpenedApproval, view: dict[str, object], now: int
    ) -> ApprovalRequest:
        within = round(opened.within * 1_000_000)
        return ApprovalRequest(
            secrets.token_hex(ID_BYTES), opened.rule, opened.binding, decision.revision, opened.by, opened.count,
            opened.approvers, opened.summary, endpoint_words(request.endpoint), view, decision.principal, decision.id,
            now, now + self.settings.wait // MICROSECOND, within,
        )  # fmt: skip

    def _add(self, approval: ApprovalRequest, seen: frozenset[str]) -> tuple[ApprovalRow, bool]:
        """Add an approval, and return its row and whether it is new. An identical approval that waits, was denied, or
        was given after the decision was made takes its place. The identical approval is replaced if it was withdrawn or
        has expired, if it has the vote of a person who is halted or was revoked, or if the decision has `seen` it and
        it did not lift the confirm. Raises StoreError and QuotaExceededError.
        """
        now, store, row, replaces = approval.opened, self._decider.store.approvals, approval.to_row(), ""
        for _ in range(MAX_CHANGE_TRIES):
            opening = store.open(row, self._quotas(approval), now, replaces)
            if opening.row is None:
                raise QuotaExceededError(opening.exceeded, approval)
            if opening.row.id == row.id:
                return row, True
            known = read_row(opening.row)
            counts = known.state(now) not in REPLACED_STATES and seen.isdisjoint(known.grant_ids)
            if counts and not self._has_void_vote(known):
                return opening.row, False
            replaces = opening.row.id
        raise StoreError("other processes open the same approval")

    def _quotas(self, approval: ApprovalRequest) -> list[ApprovalQuota]:
        most = self.settings.most_per_approver
        quotas = [
            ApprovalQuota(approval.requester_quota, self.settings.most_per_requester),
            ApprovalQuota(approval.approver_quota, most),
            ApprovalQuota(ALL_APPROVALS, MAX_WAITING),
        ]
        if approval.requester.agent is not None:  # an agent that acts for many users leaves room for other agents
            quotas.append(ApprovalQuota(approval.agent_quota, max(1, most // 2)))
        return quotas

    def _ticket(self, approval: ApprovalRequest) -> ApprovalTicket:
        state = approval.state(self._decider.now())
        status = approval_url(self.settings.url or "", approval.id)
        expires = format_rfc3339(to_datetime(approval.expires))
        reason = None if approval.refusal is None else approval.refusal.reason
        page = approval_url(self.settings.console_url, approval.id)
        return ApprovalTicket(approval.id, state.value, status, expires, POLL_SECONDS, reason=reason, page=page)

    @property
    def _redaction(self) -> Redaction:
        return Redaction() if self._recorder.log is None else self._recorder.log.redaction

    # ── For people ────────────────────────────────────────────────────────────────────────────

    def find(self, id: str) -> TrackedApproval:
        """Return an approval. Raises ApprovalNotFoundError and StoreError."""
        now = self._decider.now()
        self._expiry.sweep(now)
        row = self._decider.store.approvals.find(id, now)
        if row is None:
            raise ApprovalNotFoundError
        self._expiry.note(row, now)
        return self._status(self._settle(row, now), now)

    def _read_rows(self, rows: Iterable[ApprovalRow]) -> Iterator[ApprovalRequest]:
        """Yield the approvals in rows. A damaged row is reported and left out, so that it hides no other approval."""
        for row in rows:
            try:
                yield read_row(row)
            except ApprovalDamagedError as error:
                self._throttle.tell(logging.ERROR, "damaged", str(error), event="approval_damaged")

    def list(self, person: ProvedPerson | None = None) -> list[TrackedApproval]:
        """Return the approvals under the current policies that wait for an answer, newest first; with `person`, only
        those that the person may answer. Raises StoreError."""
        now, revision = self._decider.now(), self._decider.kernel.revision
        self._expiry.sweep(now)
        waiting: list[ApprovalRequest] = []
        for skip in range(0, MAX_WAITING, MAX_LISTED_ROWS):
            rows = self._decider.store.approvals.rows(ALL_APPROVALS, now, skip)
            if not rows:
                break
            pending = [one for one in self._read_rows(rows) if one.state(now) is ApprovalState.PENDING]
            waiting += [one for one in pending if one.revision == revision]
        waiting.sort(key=lambda one: one.opened, reverse=True)
        found = [TrackedApproval(one, ApprovalState.PENDING) for one in waiting]
        return found if person is None else [*self.select_answerable(found, person)]

    def is_current(self, approval: ApprovalRequest) -> bool:
        """Return whether the policies are unchanged since the request; otherwise the approval cannot be used."""
        return approval.revision == self._decider.kernel.revision

    def approve(
        self, id: str, person: ProvedPerson, reason: str | None = None, *, channel: str | None = None
    ) -> TrackedApproval:
        """Record the approval of a person whose credential was verified; `channel` says how the person answered, if not
        with a token. Raises ApprovalNotFoundError, ApproverRefusedError, ApprovalChangeError and
        StoreError, also if the decision log cannot be written and its `on_failure` is to deny; then nothing changes.
        """
        return self._answer(id, person, reason, add_vote, channel)

    def deny(
        self, id: str, person: ProvedPerson, reason: str | None = None, *, channel: str | None = None
    ) -> TrackedApproval:
        """Record the denial of a person whose credential was verified. Raises the same errors as `approve`."""
        return self._answer(id, person, reason, refuse, channel)

    def withdraw(self, id: str) -> TrackedApproval:
        """Withdraw an approval, for its requester. Raises ApprovalNotFoundError, ApprovalChangeError and StoreError."""
        approval, now = self._change(id, withdraw)
        self._record(approval, "withdrawn")  # a withdrawal grants nothing, so it takes effect even without a log line
        return self._status(approval, now)

    def require_person(self, person: ProvedPerson) -> None:
        """Raise ApproverRefusedError if the person may answer no approval at all, because an agent presents the
        credential or it names no user."""
        refusal = find_general_refusal(person)
        if refusal is not None:
            raise ApproverRefusedError(refusal)

    def require_approver(self, approval: ApprovalRequest, person: ProvedPerson) -> None:
        """Raise ApproverRefusedError unless the person may answer the approval."""
        refusal = self.find_refusal(approval, person)
        if refusal is not None:
            raise ApproverRefusedError(refusal)

    def find_refusal(self, approval: ApprovalRequest, person: ProvedPerson) -> ApproverRefusal | None:
        """Return why the person may not answer the approval, by the current entities and policies; None if the person
        may. Raises StoreError."""
        [refusal] = self._find_refusals([approval], person)
        return refusal

    def select_answerable(self, found: Sequence[TrackedApproval], person: ProvedPerson) -> Sequence[TrackedApproval]:
        """Return the approvals that the person may answer; the rows of all are looked up together."""
        refusals = self._find_refusals([one.approval for one in found], person)
        return [one for one, refusal in zip(found, refusals, strict=True) if refusal is None]

    def _find_refusals(
        self, approvals: Sequence[ApprovalRequest], person: ProvedPerson
    ) -> Sequence[ApproverRefusal | None]:
        """Return the same as `find_refusal` for each approval; the rows of all are looked up together. Raises
        StoreError."""
        names = () if person.user is None else (person.user, *person.aliases)
        if names and self._is_halted(names, person.issuer):
            return [ApproverRefusal.HALTED] * len(approvals)
        if approvals and self._are_revoked([(names, person.issuer)]):
            return [ApproverRefusal.REVOKED] * len(approvals)
        issuers, named = self._decider.kernel.issuers, self.settings.issuers
        return self._decider.compiled.entities.read_all(
            lambda entities: [find_refusal(one, person, entities, issuers, named) for one in approvals]
        )

    def _is_halted(self, names: Collection[str], issuer: str | None) -> bool:
        """Return whether a halt covers the answers of the person with these names now."""
        halting = self._decider.halting
        if halting.current is None or (halts := halting.enter(self._decider.nanoseconds())) is None:
            return False
        urls = issuer_urls(self._decider.kernel)
        return any(covers_person(armed.halt, names, issuer, urls) for armed in halts)

    def _are_revoked(self, people: Iterable[tuple[Collection[str], str | None]]) -> bool:
        """Return whether one of these people, each with names and an issuer, was revoked. Raises StoreError."""
        marks = [f"user:{issuer}/{name}" for names, issuer in people if issuer is not None for name in names]
        return bool(marks and self._decider.store.marks.revoked(marks, self._decider.seconds()))

    def _has_void_vote(self, approval: ApprovalRequest) -> bool:
        """Return whether a person who approved is halted now or was revoked. Raises StoreError."""
        if any(self._is_halted(vote.names, vote.issuer) for vote in approval.votes):
            return True
        return self._are_revoked((vote.names, vote.issuer) for vote in approval.votes)

    def _answer(
        self,
        id: str,
        person: ProvedPerson,
        reason: str | None,
        change: Callable[[ApprovalRequest, ApproverAnswer], ApprovalRequest],
        channel: str | None = None,
    ) -> TrackedApproval:
        reason = reason[:MAX_REASON_LENGTH] if reason else None

        def answer(approval: ApprovalRequest, now: int) -> ApprovalRequest:
            self.require_approver(approval, person)
            if not self.is_current(approval):
                raise ApprovalChangeError(CHANGED_POLICIES)
            vote = ApproverAnswer(person.user or "", person.issuer, now, reason, channel, person.aliases)
            return change(approval, vote)

        return self._status(*self._change(id, answer, is_answer=True))

    def _change(
        self, id: str, change: Callable[[ApprovalRequest, int], ApprovalRequest], *, is_answer: bool = False
    ) -> tuple[ApprovalRequest, int]:
        """Change an approval. If another process changes it at the same time, change the approval that results. An
        answer counts once it is on record; an answer that cannot be recorded is reverted.
        """
        store = self._decider.store.approvals
        for _ in range(MAX_CHANGE_TRIES):
            now = self._decider.now()
            before = store.find(id, now)
            if before is None:
                raise ApprovalNotFoundError
            known, stored = self._settle_row(before, now)
            if known.unrecorded:
                sleep(RECORDING_PAUSE_SECONDS)
                continue
            after = structs.replace(self._apply(change, known, now), unrecorded=is_answer)
            row = after.to_row()
            if not store.save(row, stored, now):
                continue
            if not is_answer:
                return after, now
            if self._record_answer(after):
                with suppress(StoreError):  # the log has the answer; the next reader saves that it counts
                    return self._count_answer(after, row, now), now
                return structs.replace(after, unrecorded=False), now
            store.save(before, row, now)
            raise StoreError("the decision log cannot be written", "the answer cannot be recorded")
        raise StoreError("other processes change the same approval")

    def _apply(
        self, change: Callable[[ApprovalRequest, int], ApprovalRequest], approval: ApprovalRequest, now: int
    ) -> ApprovalRequest:
        """Return the changed approval. Raises the errors of `change`, which say so if the approval was used."""
        try:
            return change(approval, now)
        except ApprovalChangeError as error:
            if self.is_current(approval) and self._status(approval, now).state is ApprovalState.SPENT:
                raise ApprovalChangeError(describe_end(ApprovalState.SPENT)) from None
            raise error

    def _settle(self, row: ApprovalRow, now: int) -> ApprovalRequest:
        """Return the approval in a row. If the process that saved the last answer ended before the answer was on
        record, record it. Raises StoreError."""
        return self._settle_row(row, now)[0]

    def _settle_row(self, row: ApprovalRow, now: int) -> tuple[ApprovalRequest, ApprovalRow]:
        """Return the same as `_settle`, and the row that is stored then. It is compared byte for byte with the row in
        the store, so an unchanged row is not encoded again: another version may have written it. Raises StoreError."""
        approval = read_known_row(row)
        answer = approval.last_answer
        if not approval.unrecorded or answer is None or now - answer.at < RECORDING_MICROSECONDS:
            return approval, row
        if not self._record_answer(approval):
            return approval, row
        counted = self._count_answer(approval, row, now)
        return counted, counted.to_row()

    def _count_answer(self, approval: ApprovalRequest, row: ApprovalRow, now: int) -> ApprovalRequest:
        """Save that the last answer is on record, so that it counts. Raises StoreError."""
        counted = structs.replace(approval, unrecorded=False)
        self._decider.store.approvals.save(counted.to_row(), row, now)
        return counted

    def _record_answer(self, approval: ApprovalRequest) -> bool:
        """Record the last answer. Return False if it must be on record and is not."""
        answer = approval.last_answer
        assert answer is not None
        state = "approved" if approval.refusal is None else "denied"
        return self._record(
            structs.replace(approval, unrecorded=False), state, by=answer.by, issuer=answer.issuer,
            reason=answer.reason, channel=answer.channel,
        )  # fmt: skip

    def _status(self, approval: ApprovalRequest, now: int) -> TrackedApproval:
        spent = bool(approval.votes) and bool(self._decider.store.spent_among(approval.grant_ids))
        return TrackedApproval(approval, approval.state(now, spent=spent))

    def _record_expiry(self, approval: ApprovalRequest) -> bool:
        return self._record(approval, "expired", until=format_rfc3339(to_datetime(approval.expires)))

    def _record(self, approval: ApprovalRequest, state: str, **details: object) -> bool:
        who = approval.requester
        written = self._recorder.write_system(
            "approval", approval=approval.id, state=state, rule=approval.rule, endpoint=approval.endpoint,
            decision=approval.decision, agent=who.agent, agent_issuer=who.issuer, user=who.user, **details,
        )  # fmt: skip
        if written or state not in REVERTED_STATES:
            self._notify(approval, state)
        return written

    def _notify(self, approval: ApprovalRequest, state: str) -> None:
        """Pass an event to the listener; a vote is an event only if it is the last vote that the approval needs."""
        listener, kind, now = self.settings.listener, EVENT_KINDS.get(state), self._decider.now()
        if listener is None or kind is None:
            return
        if kind is not ApprovalEventKind.APPROVED or approval.state(now) is ApprovalState.APPROVED:
            at = approval.expires if kind is ApprovalEventKind.EXPIRED else now
            listener.notify(ApprovalEvent(kind, approval, at))


def read_known_row(row: ApprovalRow) -> ApprovalRequest:
    """Return the approval in a row. Raises StoreError if the row is damaged."""
    try:
        return read_row(row)
    except ApprovalDamagedError as error:
        raise StoreError(str(error), "the approval in the store is damaged") from None


class QuotaExceededError(Exception):
    """The error for an approval that is not opened, because too many others are open."""

    def __init__(self, quota: str, approval: ApprovalRequest) -> None:
        match quota:
            case approval.requester_quota:
                whose = "of this requester are open"
            case approval.agent_quota:
                whose = "of this agent wait for the same people"
            case _:
                whose = "wait for the same people"
        super().__init__(f"too many approvals {whose}")


def with_tickets(decision: Decision, tickets: dict[str, ApprovalTicket]) -> Decision:
    """Return the decision with tickets in the remedies that have these bindings."""

    def add(remedy: Remedy) -> Remedy:
        ticket = None if remedy.binding is None else tickets.get(remedy.binding)
        return remedy if ticket is None else structs.replace(remedy, approval=ticket)

    answer = structs.replace(decision.answer, remedies=tuple(map(add, decision.remedies)), written={})
    return structs.replace(decision, answer=answer)


def person_of(facts: Mapping[str, Any], names: Iterable[str] = ()) -> ProvedPerson:
    """Return the person whom verified facts name. `names` are the revocation names of the credential."""

    def named(root: str, member: str) -> str | None:
        found = facts.get(root)
        value = found.get(member) if isinstance(found, dict) else None
        return value if isinstance(value, str) and value else None

    by_agent = any(facts.get(root) is not None for root in ("agent", "chain"))
    user, issuer = named("user", "id"), named("credential", "issuer")
    return ProvedPerson(user, issuer, by_agent, find_aliases(user, issuer, names))

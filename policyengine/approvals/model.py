"""An approval as data: the request, its requester, the people who may answer, and their answers; its states and their
order."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import MsgspecError, Struct, msgpack, structs

from policyengine.clock import from_epoch_nanoseconds
from policyengine.runtime.decision import ApproverSet, Principal
from policyengine.runtime.halts import fold_name
from policyengine.runtime.request import Approval
from policyengine.stores.approvals import ApprovalRow
from policyengine.stores.transition import digest_parts

KEPT_MICROSECONDS = 3_600_000_000  # time for which an ended approval is kept, so that its requester learns how it ended
# How long an unanswered approval is kept until its expiry is on record, so that a server that starts later records it.
KEPT_UNRECORDED_MICROSECONDS = 7 * 86_400_000_000


class ApprovalState(StrEnum):
    """The state of an approval. `pending` becomes `approved`, `denied`, `expired` or `withdrawn`; `approved` becomes
    `spent` or `expired`."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    SPENT = "spent"


class ApproverAnswer(Struct, frozen=True):
    """The answer of one person, proved by a credential of an issuer, at a time in microseconds since 1970. `channel`
    says how the person was asked, if not by a credential of the person: `mcp` if an MCP client asked its user.
    `aliases` are other names of the person at the issuer, by which the person may be revoked or halted."""

    by: str
    issuer: str | None
    at: int
    reason: str | None = None
    channel: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the person at the issuer."""
        return (self.by, *self.aliases)

    def is_by_same_person(self, other: ApproverAnswer) -> bool:
        """Return whether the same person gave both answers: both have one name, under any issuer and in any spelling,
        or two names that one issuer gives to one user."""
        if fold_name(self.by) == fold_name(other.by):
            return True
        return self.issuer == other.issuer and not set(self.names).isdisjoint(other.names)


class ApprovalRequest(Struct, frozen=True):
    """A request that waits, or has waited, for the approval of people. Times are microseconds since 1970.

    `approvers` may answer, and `count` of them must approve before `expires`; an approval then counts for `within`.
    `question` is the request as approvers see it, without secrets. `decision` is the id of the decision that opened the
    approval. `refusal` is the denial, or the withdrawal if `withdrawn`. `expiry_recorded` means that the log has a line
    about the end of its time. `unrecorded` means that the last answer does not count yet, because the log may have no
    line about it.
    """

    id: str
    rule: str
    binding: str
    revision: str
    by: str
    count: int
    approvers: ApproverSet
    summary: str
    endpoint: str
    question: dict[str, Any]
    requester: Principal
    decision: str
    opened: int
    expires: int
    within: int
    votes: tuple[ApproverAnswer, ...] = ()
    refusal: ApproverAnswer | None = None
    withdrawn: bool = False
    expiry_recorded: bool = False
    unrecorded: bool = False

    def fresh_votes(self, now: int) -> tuple[ApproverAnswer, ...]:
        """Return the votes that still count. A vote counts including the end of `within`, as in a decision."""
        return tuple(vote for vote in self.votes if now <= vote.at + self.within)

    def state(self, now: int, *, spent: bool = False) -> ApprovalState:
        """Return the state at a time; `spent` says whether a decision has used the approval."""
        if self.refusal is not None and not self.unrecorded:
            return ApprovalState.WITHDRAWN if self.withdrawn else ApprovalState.DENIED
        if len(self.votes) == self.count and not self.unrecorded:
            if spent:
                return ApprovalState.SPENT
            is_fresh = len(self.fresh_votes(now)) == self.count
            return ApprovalState.APPROVED if is_fresh else ApprovalState.EXPIRED
        # An expiry on record is final, also for a process whose clock is behind that of the process that recorded it.
        is_open = now < self.expires and not self.expiry_recorded
        return ApprovalState.PENDING if is_open else ApprovalState.EXPIRED

    @property
    def ends(self) -> int:
        """The time from which the approval no longer counts, if it is not answered or used before."""
        if self.refusal is None and len(self.votes) == self.count:
            return min(vote.at for vote in self.votes) + self.within + 1
        return self.expires

    @property
    def last_answer(self) -> ApproverAnswer | None:
        """The denial or, without one, the latest vote."""
        return self.refusal or (self.votes[-1] if self.votes else None)

    @property
    def grant_ids(self) -> tuple[str, ...]:
        """The ids under which a decision spends the votes."""
        return tuple(f"{self.id}/{number}" for number in range(len(self.votes)))

    def grants(self, now: int) -> tuple[Approval, ...]:
        """Return the approvals that lift the confirm; empty unless enough people have approved. The clock of the
        process that recorded a vote may be ahead, so the time of a vote is at most `now`.
        """
        if self.state(now) is not ApprovalState.APPROVED:
            return ()
        pairs = zip(self.grant_ids, self.votes, strict=True)
        return tuple(
            Approval(id, vote.by, to_datetime(min(vote.at, now)), self.binding, self.rule, vote.issuer)
            for id, vote in pairs
        )

    def to_row(self) -> ApprovalRow:
        """Return the row that a store keeps."""
        kept = KEPT_UNRECORDED_MICROSECONDS if self.is_unanswered else KEPT_MICROSECONDS
        return ApprovalRow(
            self.id, self.binding, msgpack.encode(self), self.ends, max(self.ends, self.expires) + kept,
            (*self.quota_names, *([UNRECORDED_APPROVALS] if self.is_unanswered else [])),
        )  # fmt: skip

    @property
    def is_unanswered(self) -> bool:
        """Whether people have not answered, or not enough of them, and no expiry is on record."""
        return self.refusal is None and len(self.votes) < self.count and not self.expiry_recorded

    @property
    def quota_names(self) -> tuple[str, ...]:
        """The quotas in which the approval counts while it is live. Until it is approved, and after it was denied or
        withdrawn, it counts in the quota of its requester. While it waits for an answer, it also counts in the quotas
        of its approvers, of its agent for these approvers, and of all approvals. All quotas except the last belong to
        one revision of the policies, because an approval of another revision cannot be answered."""
        if self.refusal is not None:
            return (self.requester_quota,)
        if len(self.votes) == self.count:
            return ()
        return self.requester_quota, self.approver_quota, self.agent_quota, ALL_APPROVALS

    @property
    def requester_quota(self) -> str:
        who = self.requester
        return f"requester:{digest_parts(self.revision, who.agent or '', who.issuer or '', who.user or '')}"

    @property
    def approver_quota(self) -> str:
        of = self.approvers
        members = [part for member in of.members for part in (member.type, member.id)]
        members += [f"from {issuer}" for issuer in of.issuers]
        return f"approver:{digest_parts(self.revision, of.role or '', of.user or '', *members)}"

    @property
    def agent_quota(self) -> str:
        """The quota of the agent for these approvers, whatever users the agent acts for."""
        who = self.requester
        return f"agent:{digest_parts(self.approver_quota, who.agent or '', who.issuer or '')}"


ALL_APPROVALS = "all"
UNRECORDED_APPROVALS = "unrecorded"  # no quota: the unanswered approvals, until their expiry is on record
_DECODER = msgpack.Decoder(ApprovalRequest)


class ApprovalDamagedError(ValueError):
    """The error for a row that contains no approval."""


def read_row(row: ApprovalRow) -> ApprovalRequest:
    """Return the approval in a row. Raises ApprovalDamagedError."""
    try:
        return _DECODER.decode(row.value)
    except MsgspecError as error:
        raise ApprovalDamagedError(f"the approval `{row.id}` in the store is damaged: {error}") from None


def to_datetime(moment: int) -> datetime:
    return from_epoch_nanoseconds(moment * 1_000)


# ── Changes ───────────────────────────────────────────────────────────────────────────────────


class ApprovalChangeError(ValueError):
    """The error for an answer that the state of the approval does not admit; the message is for the person."""


def add_vote(approval: ApprovalRequest, vote: ApproverAnswer) -> ApprovalRequest:
    """Return the approval with the vote of a person. A second vote of the same person, by whichever session and under
    whichever name, replaces the first. Raises ApprovalChangeError unless the approval waits for votes.
    """
    require_pending(approval, vote.at)
    others = tuple(one for one in approval.fresh_votes(vote.at) if not one.is_by_same_person(vote))
    return structs.replace(approval, votes=(*others, vote))


def refuse(approval: ApprovalRequest, answer: ApproverAnswer) -> ApprovalRequest:
    """Return the denied approval. Raises ApprovalChangeError unless the approval waits for votes."""
    require_pending(approval, answer.at)
    return structs.replace(approval, refusal=answer)


def withdraw(approval: ApprovalRequest, now: int) -> ApprovalRequest:
    """Return the approval after its requester withdrew it. Raises ApprovalChangeError unless it waits for votes."""
    require_pending(approval, now)
    return structs.replace(approval, refusal=ApproverAnswer("", None, now), withdrawn=True)


def require_pending(approval: ApprovalRequest, now: int) -> None:
    state = approval.state(now)
    if state is not ApprovalState.PENDING:
        raise ApprovalChangeError(describe_end(state))


def describe_end(state: ApprovalState) -> str:
    """Return why an approval cannot be answered, for the person who tries to."""
    return f"the approval is {state}, and can no longer be answered"

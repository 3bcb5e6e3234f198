"""Decisions, with the same names in Python, in JSON and in reports."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct, field

from policyengine.runtime.behavior import CallerCharge
from policyengine.runtime.history import HistoryRecord, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim
from policyengine.runtime.ids import Stamp, id_of
from policyengine.runtime.limits import LimitCharge, LimitResult, LimitState
from policyengine.typesystem import EntityRef


class Outcome(StrEnum):
    """The outcome of a decision. The strongest outcome wins: deny, throttle, confirm, allow."""

    DENY = "deny"
    THROTTLE = "throttle"
    CONFIRM = "confirm"
    ALLOW = "allow"


class Gate(StrEnum):
    """The gate that stopped a request. `halted` means that an operator halted such requests, and `default` that no
    grant opened the endpoint."""

    MALFORMED_PATH = "malformed_path"
    HALTED = "halted"
    IDENTITY = "identity"
    DEFAULT = "default"
    USER = "user"
    CHAIN = "chain"
    TASK = "task"
    GUARD = "guard"
    RATE = "rate"
    BUDGET = "budget"
    FAILURE = "failure"


# Every decision creates some of these, so they are structs: they cost a tenth of a dataclass and are encoded directly.
# The wire format omits None, but keeps defaults that a factory creates.


class Reason(Struct, frozen=True, omit_defaults=True):
    """One reason why a request is not allowed: the rule, its place in the source (`payments.policy:47`), and a message.

    `outcome` is the outcome of this reason alone: a denied request may also need a confirmation. `code` is the refusal
    code of a credential (`docs/identity.md`).
    """

    gate: Gate
    message: str
    rule: str | None = None
    at: str | None = None
    outcome: Outcome = field(default_factory=lambda: Outcome.DENY)
    code: str | None = None


class ApprovalTicket(Struct, frozen=True, omit_defaults=True):
    """The approval that a confirm opened, for the caller: its `state`, where to request its state (`status`, a URL or a
    path), the time until which a person can decide (`expires`), the seconds to wait between two requests (`poll`),
    after a denial its `reason`, and the URL at which people answer in the console (`page`), if it is known. Without an
    `id`, no approval was opened, and `refused` says why.
    """

    id: str | None = None
    state: str | None = None
    status: str | None = None
    expires: str | None = None
    poll: int | None = None
    refused: str | None = None
    reason: str | None = None
    page: str | None = None


class Remedy(Struct, frozen=True, omit_defaults=True):
    """A change that would change the outcome.

    `approval` names the approvers (`by`), the issuers that must vouch for them (`issuers`, if the rule names some), how
    long an approval lasts (`within`: `15m`), the digest to which it must be bound (`binding`), the parts of the request
    in the digest (`bound`: `body except body.request_id`) and, if the caller requested it, the opened `approval`.
    `scope` lists scopes; the credential needs one of them. `credential`, `attestation`, `task` and `facts` describe the
    `need` in words. `wait` is the time until a rate has room again (`within`).
    """

    kind: str
    rule: str | None = None
    by: str | None = None
    within: str | None = None
    binding: str | None = None
    bound: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    need: str | None = None
    approval: ApprovalTicket | None = None
    issuers: tuple[str, ...] | None = None


class Obligation(Struct, frozen=True, omit_defaults=True):
    """An obligation of the gateway: `kind` and its arguments, and the guard that requires it."""

    kind: str
    arguments: tuple[str, ...]
    rule: str
    at: str
    message: str | None = None


OPERATOR_OBLIGATIONS = ("audit", "notify")  # obligations that hold for every outcome


class UnknownFact(Struct, frozen=True, omit_defaults=True):
    """A fact that could not be used: its path (`user.roles`), and the reason, such as absent, wrong type or pending."""

    fact: str
    why: str


class Principal(Struct, frozen=True, omit_defaults=True, gc=False):
    """The presenting agent, the user, and the chain from the user to the presenter. `cluster` is the group of callers
    that share limits with the agent, and `cluster_size` is its size. An agent in no group is a group of its own;
    if the group is unknown, `cluster` is None."""

    agent: str | None = None
    issuer: str | None = None
    user: str | None = None
    chain: tuple[str, ...] = field(default_factory=lambda: ())
    cluster: str | None = None
    cluster_size: int = 1


class RateState(Struct, frozen=True, omit_defaults=True):
    """The state of a rate or budget after the decision. `limit` is the maximum, `remaining` the remaining capacity, and
    `reset_ms` the milliseconds until the limit is full again. `factor` is the current pace relative to the pace of the
    rule.
    """

    rule: str
    limit: int
    remaining: int
    reset_ms: int
    factor: float

    @staticmethod
    def of(limited: LimitCharge, state: LimitState) -> RateState:
        return RateState(limited.name, state.limit, state.remaining, -(-state.reset // 1_000), state.base)


# ── The answer ────────────────────────────────────────────────────────────────────────────────


class Answer(Struct, frozen=True, eq=False):
    """The answer to a request, independent of the caller. Requests with the same result share one object, so it is
    encoded once: `written` caches encoded forms by format and is not part of the content. `would_be` is the enforced
    outcome in observe mode; None otherwise.
    """

    outcome: Outcome
    gate: Gate | None = None
    reasons: tuple[Reason, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    unknown: tuple[UnknownFact, ...] = ()
    package: str = ""
    revision: str = ""
    written: dict[str, Any] = field(default_factory=dict)
    would_be: Outcome | None = None

    def __eq__(self, other: object) -> bool:
        return self.content == other.content if isinstance(other, Answer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.content)

    @property
    def content(self) -> tuple[object, ...]:
        """The content of the answer."""
        return (
            self.outcome, self.gate, self.reasons, self.remedies, self.obligations, self.unknown, self.package,
            self.revision, self.would_be,
        )  # fmt: skip

    def members_around_id(self) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
        """Return the decision's members before its id, between its id and principal, and after its rates,
        in wire order.
        """
        observed = {} if self.would_be is None else {"would_be": self.would_be}
        return (
            {"outcome": self.outcome, "allowed": self.outcome is Outcome.ALLOW, **observed},
            {
                "revision": self.revision, "package": self.package, "gate": self.gate, "reasons": self.reasons,
                "remedies": self.remedies,
            },
            {"obligations": self.obligations, "unknown": self.unknown},
        )  # fmt: skip


# Agent, issuer and user of a request without a chain; the principal is created from them on access.
PrincipalTuple: TypeAlias = tuple[str | None, str | None, str | None]


class Decision(Struct, frozen=True, eq=False, gc=False):
    """The answer to one request.

    `gate` is the gate that stopped the request (None if allowed; in observe mode the gate that would have stopped it).
    `unknown` holds the facts that were missing or unusable and affected the decision. `id` is a unique ULID, created on
    access. `revision` names the policy (`sha256:…`).
    """

    answer: Answer
    asker: Principal | PrincipalTuple = Principal()
    stamp: Stamp = ""
    standings: tuple[RateState | LimitResult, ...] = ()  # the limits of the decision with their states

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        gate: Gate | None = None,
        reasons: tuple[Reason, ...] = (),
        *,
        remedies: tuple[Remedy, ...] = (),
        obligations: tuple[Obligation, ...] = (),
        rates: tuple[RateState, ...] = (),
        unknown: tuple[UnknownFact, ...] = (),
        principal: Principal | None = None,
        package: str = "",
        revision: str = "",
        id: str = "",
        would_be: Outcome | None = None,
    ) -> Decision:
        """Return a decision with these members."""
        answer = Answer(outcome, gate, reasons, remedies, obligations, unknown, package, revision, would_be=would_be)
        return cls(answer, principal or Principal(), id, rates)

    def with_id(self, stamp: Stamp) -> Decision:
        """Return the same decision under another id."""
        return Decision(self.answer, self.asker, stamp, self.standings)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Decision):
            return NotImplemented
        both = (
            (self.answer, self.principal, self.id, self.rates),
            (other.answer, other.principal, other.id, other.rates),
        )
        return both[0] == both[1]

    def __hash__(self) -> int:
        return hash((self.answer, self.principal, self.id, self.rates))

    @property
    def outcome(self) -> Outcome:
        """The outcome of the request."""
        return self.answer.outcome

    @property
    def would_be(self) -> Outcome | None:
        """The outcome with enforcement; None outside observe mode."""
        return self.answer.would_be

    @property
    def observed(self) -> bool:
        """Whether the request passes only because of observe mode."""
        return self.answer.would_be not in (None, self.answer.outcome)

    @property
    def gate(self) -> Gate | None:
        """The gate that stopped the request; None if allowed."""
        return self.answer.gate

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All reasons against the request, the strongest first; empty if allowed."""
        return self.answer.reasons

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """The remedies that would change the outcome."""
        return self.answer.remedies

    @property
    def obligations(self) -> tuple[Obligation, ...]:
        """The obligations of the gateway."""
        return self.answer.obligations

    @property
    def rates(self) -> tuple[RateState, ...]:
        """The rates and budgets that apply, with their state after the decision."""
        return tuple(one if isinstance(one, RateState) else RateState.of(*one) for one in self.standings)

    @property
    def unknown(self) -> tuple[UnknownFact, ...]:
        """The facts that were missing or unusable and affected the decision."""
        return self.answer.unknown

    @property
    def package(self) -> str:
        """The package of the first policy that was evaluated."""
        return self.answer.package

    @property
    def revision(self) -> str:
        """The revision of the policy that decided, `sha256:…`."""
        return self.answer.revision

    @property
    def principal(self) -> Principal:
        """The presenting agent, the user and the chain between them."""
        asker = self.asker
        if isinstance(asker, Principal):
            return asker
        agent, issuer, user = asker
        if agent is None:
            return Principal(None, issuer, user, () if user is None else (user,))
        return Principal(agent, issuer, user, (agent,) if user is None else (user, agent), agent)

    @property
    def agent_and_user(self) -> tuple[str | None, str | None]:
        """The presenting agent and the user."""
        asker = self.asker
        return (asker.agent, asker.user) if isinstance(asker, Principal) else (asker[0], asker[2])

    @property
    def allowed(self) -> bool:
        """Whether the request may pass, if its obligations are met: True for `allow` only."""
        return self.answer.outcome is Outcome.ALLOW

    @property
    def id(self) -> str:
        """The unique id; the same on every access."""
        return id_of(self.stamp)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as plain data, with the names and order of the wire format."""
        plain: dict[str, Any] = msgspec.json.decode(self.to_json())
        return plain

    def to_json(self) -> bytes:
        """Return the decision in JSON (UTF-8), the response of `/decide`."""
        logged = _logged
        if logged[0] is self:
            return logged[1]
        before, between, after = self.answer.written.get("json") or _encode_json(self.answer)
        rates = _JSON(self.rates) if self.standings else _EMPTY
        return b"".join((before, _JSON(self.id), between, _JSON(self.principal), _RATES, rates, after))

    def to_msgpack(self) -> bytes:
        """Return the decision in MessagePack, the response of `/decide` and the socket."""
        before, between, after = self.answer.written.get("msgpack") or _encode_msgpack(self.answer)
        rates = _MSGPACK(self.rates) if self.standings else _PACKED_EMPTY
        return b"".join((before, _MSGPACK(self.id), between, _MSGPACK(self.principal), _PACKED_RATES, rates, after))


def logged_json(decision: Decision) -> bytes:
    """Return the decision in JSON for the log, and keep the JSON for the response that follows."""
    global _logged
    written = decision.to_json()
    _logged = decision, written
    return written


_logged: tuple[Decision | None, bytes] = None, b""  # the last decision that was logged
_JSON = msgspec.json.Encoder().encode
_MSGPACK = msgspec.msgpack.Encoder().encode
_RATES, _PACKED_RATES = b',"rates":', _MSGPACK("rates")
_EMPTY, _PACKED_EMPTY = _JSON(()), _MSGPACK(())
_MAP, _OWN = 0x80, 3  # a map of up to 15 members; the answer lacks id, principal and rates


def _encode_json(answer: Answer) -> tuple[bytes, bytes, bytes]:
    before, between, after = (_JSON(members)[1:-1] for members in answer.members_around_id())
    found = (b"{" + before + b',"id":', b"," + between + b',"principal":', b"," + after + b"}")
    answer.written["json"] = found
    return found


def _encode_msgpack(answer: Answer) -> tuple[bytes, bytes, bytes]:
    parts = answer.members_around_id()
    before, between, after = (
        b"".join(_MSGPACK(name) + _MSGPACK(value) for name, value in members.items()) for members in parts
    )
    head = bytes([_MAP + _OWN + sum(map(len, parts))])
    found = (head + before + _MSGPACK("id"), between + _MSGPACK("principal"), after)
    answer.written["msgpack"] = found
    return found


class ApproverSet(Struct, frozen=True):
    """The people who may approve one request: holders of a `role`, the `user` of the request, or `members`: these
    entities, and users in one of these entities. Only one of the three is set. One of the `issuers` must vouch for
    them; `issuers` is empty if the policy names no issuers.
    """

    role: str | None = None
    user: str | None = None
    members: tuple[EntityRef, ...] = ()
    issuers: tuple[str, ...] = ()


class OpenedApproval(Struct, frozen=True):
    """An approval that a confirm requests, from `count` people among `approvers`; `by` describes them as the policy
    does, and `summary` is the message for the approver."""

    rule: str
    binding: str
    by: str
    count: int
    within: float
    summary: str
    approvers: ApproverSet


class Effects(Struct):
    """The state changes of a decision, which the store commits in one atomic step or not at all.

    An allow charges all `limits` and spends the approvals `spends` (ids). A confirm, which `opens` approvals, needs
    free capacity in all limits but charges only rates, once for the bindings in `confirms` (the bindings of all
    confirms that apply, approved or not); a later allow does not charge these rates again. If `denied`, rates that
    count denials are charged for every outcome. `records` go into the history. The commit requires that the histories
    in `relied` still have these versions, and that the `claim` to the idempotency key still holds; the decision is
    stored under that key. `excess` is a message to the operator if the decision took too many steps. `behavior` is the
    change of the caller's learned behavior, for every outcome: the only member that is added afterwards.
    """

    spends: tuple[str, ...] = ()
    opens: tuple[OpenedApproval, ...] = ()
    limits: tuple[LimitCharge, ...] = ()
    denied: bool = False
    records: tuple[HistoryRecord, ...] = ()
    relied: tuple[tuple[WindowKey, int], ...] = ()
    claim: IdempotencyClaim | None = None
    confirms: tuple[str, ...] = ()
    excess: str = ""
    behavior: CallerCharge | None = None

    def __bool__(self) -> bool:
        return bool(self.spends or self.limits or self.records or self.claim or self.behavior)

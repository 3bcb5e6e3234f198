"""What a decision is: the same names in Python, in JSON and in reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct, field

from policyengine.runtime.history import HistoryRecord, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim
from policyengine.runtime.ids import Stamp, id_of
from policyengine.runtime.limits import LimitCharge, LimitResult


class Outcome(StrEnum):
    """Stronger outcomes beat weaker ones: deny, throttle, confirm, allow."""

    DENY = "deny"
    THROTTLE = "throttle"
    CONFIRM = "confirm"
    ALLOW = "allow"


class Gate(StrEnum):
    """Where a request was stopped. `default`: nothing opened the door."""

    MALFORMED_PATH = "malformed_path"
    IDENTITY = "identity"
    DEFAULT = "default"
    USER = "user"
    CHAIN = "chain"
    TASK = "task"
    GUARD = "guard"
    RATE = "rate"
    BUDGET = "budget"
    FAILURE = "failure"


# Structs, as some are made for every decision: they cost a tenth of a dataclass, and are written as they are. What is
# None is left out of the wire; a default that a factory makes is not.


class Reason(Struct, frozen=True, omit_defaults=True):
    """Why a request is not allowed: the rule, its place in the source (`payments.policy:47`), and words for the caller.

    `outcome` is what this reason alone would come to: a denied request may also have been in need of a confirmation.
    `code` says how a credential was refused (`docs/identity.md`).
    """

    gate: Gate
    message: str
    rule: str | None = None
    at: str | None = None
    outcome: Outcome = field(default_factory=lambda: Outcome.DENY)
    code: str | None = None


class Remedy(Struct, frozen=True, omit_defaults=True):
    """What would change the answer.

    `approval` names who (`by`), how long one lasts (`within`: `15m`), what it must be bound to (`binding`, a digest)
    and the parts of the request that this is made of (`bound`: `body except body.request_id`); `scope` the credential
    scopes any of which would do; `credential`, `attestation`, `task` and `facts` what is needed, in words; `wait` how
    long until a rate has room again (`within`).
    """

    kind: str
    rule: str | None = None
    by: str | None = None
    within: str | None = None
    binding: str | None = None
    bound: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    need: str | None = None


class Obligation(Struct, frozen=True, omit_defaults=True):
    """What the gateway must do with the answer: `kind` and its arguments, and the guard that asks."""

    kind: str
    arguments: tuple[str, ...]
    rule: str
    at: str
    message: str | None = None


OPERATOR_OBLIGATIONS = ("audit", "notify")  # obligations that stand whatever the outcome


class UnknownFact(Struct, frozen=True, omit_defaults=True):
    """A fact that could not be used, by its path (`user.roles`), and why: absent, of a wrong type, pending …"""

    fact: str
    why: str


class Principal(Struct, frozen=True, omit_defaults=True):
    """Who asked: the presenting agent, the person served, and everybody from that person to the presenter."""

    agent: str | None = None
    issuer: str | None = None
    user: str | None = None
    chain: tuple[str, ...] = field(default_factory=lambda: ())
    cluster: str | None = None


class RateState(Struct, frozen=True, omit_defaults=True):
    """One rate or budget as it stands after the decision: the most at once, what is left of it, and in how many
    milliseconds all of it is back. `factor` is the pace in force beside the one that the rule says."""

    rule: str
    limit: int
    remaining: int
    reset_ms: int
    factor: float

    @staticmethod
    def of(stood: LimitResult) -> RateState:
        """A limit as it stood."""
        how = stood.standing
        return RateState(stood.name, how.limit, how.remaining, -(-how.reset // 1_000), how.base)


# ── The answer ────────────────────────────────────────────────────────────────────────────────


class Answer(Struct, frozen=True, eq=False):
    """What is said to a request, whoever asked: the same object answers all that come to the same end.

    So what of it goes over the wire is written once: `written` holds it by the form, and is no part of what it says.
    `would_be` is what it would have come to, while somebody observes; else None.
    """

    outcome: Outcome
    gate: Gate | None = None
    reasons: tuple[Reason, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    unknown: tuple[UnknownFact, ...] = ()
    package: str = ""
    revision: str = ""
    written: dict[str, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    would_be: Outcome | None = None

    def __eq__(self, other: object) -> bool:
        return self.said == other.said if isinstance(other, Answer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.said)

    @property
    def said(self) -> tuple[object, ...]:
        """All that it says."""
        return (
            self.outcome, self.gate, self.reasons, self.remedies, self.obligations, self.unknown, self.package,
            self.revision, self.would_be,
        )  # fmt: skip

    def around(self) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
        """The members of a decision before its id, between id and principal, and after the rates; in the order of the
        wire."""
        observed = {} if self.would_be is None else {"would_be": self.would_be}
        return (
            {"outcome": self.outcome, "allowed": self.outcome is Outcome.ALLOW, **observed},
            {
                "revision": self.revision, "package": self.package, "gate": self.gate, "reasons": self.reasons,
                "remedies": self.remedies,
            },
            {"obligations": self.obligations, "unknown": self.unknown},
        )  # fmt: skip


# Agent, issuer and user of a request without a chain: what a principal is made of when somebody asks for it.
PrincipalTuple: TypeAlias = tuple[str | None, str | None, str | None]


class Decision(Struct, frozen=True, eq=False, gc=False):
    """The answer to one request.

    `gate` says where it was stopped (None when allowed; when `observed`, where it would have been); `unknown` the facts
    that were missing or unusable where that mattered; `id` is unique, a ULID, written when somebody asks for it;
    `revision` names the policy (`sha256:…`).
    """

    answer: Answer
    asker: Principal | PrincipalTuple = Principal()
    stamp: Stamp = ""
    standings: tuple[Any, ...] = ()  # of its limits: states, or what Stood holds, in words when somebody asks for them

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
        """A decision by its members."""
        answer = Answer(outcome, gate, reasons, remedies, obligations, unknown, package, revision, would_be=would_be)
        return cls(answer, principal or Principal(), id, rates)

    def with_id(self, stamp: Stamp) -> Decision:
        """The same answer under another id."""
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
        """What comes of the request."""
        return self.answer.outcome

    @property
    def would_be(self) -> Outcome | None:
        """What would come of it, were it enforced; None where nobody observes."""
        return self.answer.would_be

    @property
    def observed(self) -> bool:
        """Whether it was let through only because somebody observes."""
        return self.answer.would_be not in (None, self.answer.outcome)

    @property
    def gate(self) -> Gate | None:
        """Where it was stopped; None when allowed."""
        return self.answer.gate

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Everything that is in the way, the strongest first; empty when allowed."""
        return self.answer.reasons

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What would change the answer."""
        return self.answer.remedies

    @property
    def obligations(self) -> tuple[Obligation, ...]:
        """What the gateway must do with the answer."""
        return self.answer.obligations

    @property
    def rates(self) -> tuple[RateState, ...]:
        """The rates and budgets that apply, as they stand after the decision."""
        return tuple(one if isinstance(one, RateState) else RateState.of(LimitResult(*one)) for one in self.standings)

    @property
    def unknown(self) -> tuple[UnknownFact, ...]:
        """The facts that were missing or unusable where that mattered."""
        return self.answer.unknown

    @property
    def package(self) -> str:
        """The package of the first policy that was asked for."""
        return self.answer.package

    @property
    def revision(self) -> str:
        """The policy that decided, `sha256:…`."""
        return self.answer.revision

    @property
    def principal(self) -> Principal:
        """Who asked, for whom, through whom."""
        asker = self.asker
        if isinstance(asker, Principal):
            return asker
        agent, issuer, user = asker
        if agent is None:
            return Principal(None, issuer, user, () if user is None else (user,))
        return Principal(agent, issuer, user, (agent,) if user is None else (user, agent), agent)

    @property
    def allowed(self) -> bool:
        """Whether the request may pass, its obligations met; every outcome but `allow` means no."""
        return self.answer.outcome is Outcome.ALLOW

    @property
    def id(self) -> str:
        """Unique; the same whenever it is asked for."""
        return id_of(self.stamp)

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain data, with the names and order of the wire format."""
        plain: dict[str, Any] = msgspec.json.decode(self.to_json())
        return plain

    def to_json(self) -> bytes:
        """The decision in JSON (UTF-8), as `/decide` answers."""
        before, between, after = self.answer.written.get("json") or _encode_json(self.answer)
        return b"".join((before, _JSON(self.id), between, _JSON(self.principal), _RATES, _JSON(self.rates), after))

    def to_msgpack(self) -> bytes:
        """The decision in MessagePack, as `/decide` and the socket answer."""
        before, between, after = self.answer.written.get("msgpack") or _encode_msgpack(self.answer)
        rates = _PACKED_RATES, _MSGPACK(self.rates)
        return b"".join((before, _MSGPACK(self.id), between, _MSGPACK(self.principal), *rates, after))


_JSON = msgspec.json.Encoder().encode
_MSGPACK = msgspec.msgpack.Encoder().encode
_RATES, _PACKED_RATES = b',"rates":', _MSGPACK("rates")
_MAP, _OWN = 0x80, 3  # a map of fewer than 16 members; those that no answer knows: id, principal and rates


def _encode_json(answer: Answer) -> tuple[bytes, bytes, bytes]:
    before, between, after = (_JSON(members)[1:-1] for members in answer.around())
    found = (b"{" + before + b',"id":', b"," + between + b',"principal":', b"," + after + b"}")
    answer.written["json"] = found
    return found


def _encode_msgpack(answer: Answer) -> tuple[bytes, bytes, bytes]:
    around = answer.around()
    before, between, after = (
        b"".join(_MSGPACK(name) + _MSGPACK(value) for name, value in members.items()) for members in around
    )
    head = bytes([_MAP + _OWN + sum(map(len, around))])
    found = (head + before + _MSGPACK("id"), between + _MSGPACK("principal"), after)
    answer.written["msgpack"] = found
    return found


@dataclass(frozen=True, slots=True)
class OpenedApproval:
    """An approval that a confirm asks for: `summary` is the message as the approver sees it."""

    rule: str
    binding: str
    by: str
    count: int
    within: float | None
    summary: str


@dataclass(frozen=True, slots=True)
class Effects:
    """What a decision does to the world when it is spent, in one atomic step: all of it, or nothing.

    An allow takes of all `limits` and uses up the approvals that it `spends` (ids). A confirm, which `opens` others,
    needs room in all of them and takes of rates only: once for its `confirms`, the bindings of all confirms that apply
    to the request, whether they have their approval or not. What was taken for these no allow takes again. What is
    `denied` is charged whatever it comes to: by rates that count denials.

    `records` are what is remembered of it. All rests on the histories that it `relied` on being of these versions, and
    on the `claim` to the key that it was asked by, under which the decision is kept. `excess` is what the operator is
    told where it took too many steps.
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

    def __bool__(self) -> bool:
        return bool(self.spends or self.limits or self.records or self.claim)

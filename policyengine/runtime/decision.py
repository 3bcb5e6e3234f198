"""What a decision is: the same names in Python, in JSON and in reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


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
    GUARD = "guard"
    RATE = "rate"
    BUDGET = "budget"
    FAILURE = "failure"


def _plain(value: object) -> object:
    match value:
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case StrEnum():
            return str(value)
        case _ if hasattr(value, "__dataclass_fields__"):
            return {f.name: _plain(v) for f in fields(value) if (v := getattr(value, f.name)) is not None}  # type: ignore[arg-type]
        case _:
            return value


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a request is not allowed: the rule, its place in the source (`payments.policy:47`), and words for the caller.

    `outcome` is what this reason alone would come to: a denied request may also have been in need of a confirmation.
    """

    gate: Gate
    message: str
    rule: str | None = None
    at: str | None = None
    outcome: Outcome = Outcome.DENY


@dataclass(frozen=True, slots=True)
class Remedy:
    """What would change the answer.

    `approval` names who (`by`), how long one lasts (`within`: `15m`) and what it must be bound to (`binding`);
    `scope` the credential scopes any of which would do; `credential` and `attestation` what is needed, in words.
    """

    kind: str
    rule: str | None = None
    by: str | None = None
    within: str | None = None
    binding: str | None = None
    scopes: tuple[str, ...] | None = None
    need: str | None = None


@dataclass(frozen=True, slots=True)
class Obligation:
    """What the gateway must do with the answer: `kind` and its arguments, and the guard that asks."""

    kind: str
    arguments: tuple[str, ...]
    rule: str
    at: str
    message: str | None = None


@dataclass(frozen=True, slots=True)
class UnknownFact:
    """A fact that could not be used, by its path (`user.roles`), and why: absent, of a wrong type, pending …"""

    fact: str
    why: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asked: the presenting agent, the person served, and everybody from that person to the presenter."""

    agent: str | None = None
    issuer: str | None = None
    user: str | None = None
    chain: tuple[str, ...] = ()
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class RateState:
    """One rate as it stands after the decision; `reset_ms` in milliseconds."""

    rule: str
    limit: int
    remaining: int
    reset_ms: int
    factor: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request.

    `gate` says where it was stopped (None when allowed); `unknown` the facts that were missing or unusable where that
    mattered; `id` is unique, `revision` names the policy (`sha256:…`).
    """

    outcome: Outcome
    gate: Gate | None = None
    reasons: tuple[Reason, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    rates: tuple[RateState, ...] = ()
    unknown: tuple[UnknownFact, ...] = ()
    principal: Principal = field(default=Principal())
    package: str = ""
    id: str = ""
    revision: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may pass, its obligations met; every outcome but `allow` means no."""
        return self.outcome is Outcome.ALLOW

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain data, with the names and order of the wire format."""
        return {
            "outcome": str(self.outcome),
            "allowed": self.allowed,
            "id": self.id,
            "revision": self.revision,
            "package": self.package,
            "gate": None if self.gate is None else str(self.gate),
            "reasons": _plain(self.reasons),
            "remedies": _plain(self.remedies),
            "principal": _plain(self.principal),
            "rates": _plain(self.rates),
            "obligations": _plain(self.obligations),
            "unknown": _plain(self.unknown),
        }


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
    """What a decision does to the world when it is spent, in one atomic step."""

    spends: tuple[str, ...] = ()  # ids of approvals
    opens: tuple[OpenedApproval, ...] = ()

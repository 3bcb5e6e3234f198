"""The answer to a denied caller: a message for people and models, and data for programs."""

from __future__ import annotations

from datetime import timedelta
from math import ceil
from typing import Any

from policyengine.http.approval_links import ticket_members
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.runtime.decision import ApprovalTicket, Decision, Outcome, Remedy
from policyengine.runtime.values import coerce_duration

OUTCOME_TEXTS = {
    Outcome.DENY: "denied",
    Outcome.CONFIRM: "a person must approve this first",
    Outcome.THROTTLE: "throttled",
    Outcome.ALLOW: "allowed",
}
STATUSES = {Outcome.DENY: 403, Outcome.CONFIRM: 403, Outcome.THROTTLE: 429}


def format_denial(decision: Decision) -> str:
    """Return one line: the outcome, the reasons, and the remedies."""
    reasons = [reason.message for reason in decision.reasons if reason.outcome is decision.outcome]
    helps = [words for remedy in decision.remedies if (words := describe_remedy(remedy))]
    told = f"{OUTCOME_TEXTS[decision.outcome]}: {'; '.join(reasons)}" if reasons else OUTCOME_TEXTS[decision.outcome]
    return f"{told} (would help: {'; '.join(helps)})" if helps else told


def describe_remedy(remedy: Remedy) -> str:
    match remedy.kind:
        case "approval":
            if remedy.approval is not None and remedy.approval.id is not None:
                return describe_ticket(remedy, remedy.approval)
            within = f", valid for {remedy.within}" if remedy.within else ""
            return f"an approval by {remedy.by}{within}, bound to {remedy.binding}"
        case "scope":
            return f"a credential with one of the scopes {', '.join(remedy.scopes or ())}"
        case "wait":
            return f"waiting for {remedy.within}"
        case _:
            return remedy.need or remedy.kind


def describe_ticket(remedy: Remedy, ticket: ApprovalTicket) -> str:
    match ticket.state:
        case "denied":
            return f"nothing: an approval by {remedy.by} was denied"
        case "approved":
            return f"repeating the same request: an approval by {remedy.by} was given"
        case "pending":
            asked = f"an approval by {remedy.by}, requested as {ticket.id}, until {ticket.expires}"
            return f"{asked}; then repeating the same request"
        case state:
            return f"repeating the same request, to request another approval by {remedy.by}: {ticket.id} is {state}"


def denial_data(decision: Decision) -> dict[str, Any]:
    """Return only what the caller may know: no location in a policy, no revision, and no facts except those of the
    request."""
    wait = retry_after(decision)
    return {
        "decision": decision.id,
        "outcome": decision.outcome.value,
        "gate": decision.gate.value if decision.gate else None,
        "reasons": [
            {"message": one.message, **({"rule": one.rule} if one.rule else {})}
            for one in decision.reasons
            if one.outcome is decision.outcome
        ],
        "remedies": [remedy_data(one) for one in decision.remedies],
        **({} if wait is None else {"retry_after": wait}),
    }


def remedy_data(remedy: Remedy) -> dict[str, Any]:
    names = ("kind", "rule", "by", "within", "binding", "bound", "issuers", "scopes", "need")
    members = {name: getattr(remedy, name) for name in names}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in members.items() if value}
    return found if remedy.approval is None else {**found, "approval": ticket_members(remedy.approval)}


def retry_after(decision: Decision) -> int | None:
    """Return the whole seconds until all limits have capacity again; None if the decision is not a throttle."""
    if decision.outcome is not Outcome.THROTTLE:
        return None
    told = dict(rate_limit_headers(decision)).get("retry-after")
    return wait_of_remedies(decision) if told is None else int(told)


def wait_of_remedies(decision: Decision) -> int | None:
    """Return the longest waiting time in the remedies, in whole seconds; None if they name none. A decision that came
    over the network states no other waiting time.
    """
    waits = [coerce_duration(one.within, "within") for one in decision.remedies if one.kind == "wait"]
    known = [one for one in waits if isinstance(one, timedelta)]
    return max(1, ceil(max(known).total_seconds())) if known else None

"""Remedies and obligations as tests write them: the policy text without quotes around the arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policyengine.runtime.decision import Obligation, Outcome, RateState, Remedy
from policyengine.syntax import nodes as ast

# The kinds of remedies, each with the outcomes that may have it.
REMEDY_OUTCOMES: Mapping[str, frozenset[Outcome]] = {
    "approval": frozenset({Outcome.CONFIRM}),
    "scope": frozenset({Outcome.DENY}),
    "credential": frozenset({Outcome.DENY}),
    "attestation": frozenset({Outcome.DENY}),
    "task": frozenset({Outcome.DENY}),
    "facts": frozenset({Outcome.DENY}),
    "wait": frozenset({Outcome.THROTTLE}),
}
OBLIGATION_KINDS = ("audit", "redact", "notify", "warn", "step_up", "header")


def remedy_text(remedy: Remedy) -> str:
    """Return the remedy as text: `approval by role finance within 15m`, `scope read:invoices or read:all`, `credential:
    lifetime <= 15m`, `wait 600ms`."""
    match remedy.kind:
        case "approval":
            within = "" if remedy.within is None else f" within {remedy.within}"
            return collapse_whitespace(f"approval by {remedy.by}{within}")
        case "scope":
            return f"scope {' or '.join(remedy.scopes or ())}"
        case "wait":
            return f"wait {remedy.within}"
        case _:
            return collapse_whitespace(f"{remedy.kind}: {remedy.need}")


def rate_text(rate: RateState) -> str:
    """Return the remaining capacity of a rate: `per agent: 37 of 100`."""
    return f"{rate.rule}: {rate.remaining} of {rate.limit}"


def obligation_text(duty: Obligation) -> str:
    """Return the obligation as text: `audit full`, `redact body.card, body.pin`, `header X-A b`, `warn so much is
    unusual`."""
    return join_arguments(duty.kind, [*duty.arguments, *([] if duty.message is None else [duty.message])])


def obligation_source_text(item: ast.ObligationEffect) -> str:
    """Return the obligation of a guard as text, without the message of a `warn`, because its facts are not
    known yet.
    """
    return join_arguments(
        item.kind, [part.text if isinstance(part, ast.Name) else part.value for part in item.arguments]
    )


def join_arguments(kind: str, arguments: Iterable[str]) -> str:
    return f"{kind} {(', ' if kind == 'redact' else ' ').join(arguments)}".rstrip()


def first_word(text: str) -> str:
    """Return the first word of a text; a colon ends a word."""
    return text.replace(":", " ").partition(" ")[0]


def collapse_whitespace(text: str) -> str:
    return " ".join(text.split())

"""Compares the trust anchors of two policies: issuers and attesters that were added, removed or changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import Direction
from policyengine.analysis.diff.model import RuleExcerpt, TrustChange
from policyengine.runtime.format_values import format_value

VERIFICATION_BOUNDS = ("audience", "users_like")  # terms that restrict an issuer that has them
TrustAnchor: TypeAlias = k.Issuer | k.Attester


def trust_changes(old: k.Kernel, new: k.Kernel) -> tuple[TrustChange, ...]:
    """Return added, removed and changed issuers and attesters. The compared requests do not show them, because
    credentials are verified before the decision.
    """
    found = [
        *anchor_changes("issuer", old.issuers, new.issuers),
        *anchor_changes("attester", old.attesters, new.attesters),
    ]
    return tuple(sorted(found, key=lambda one: [*Direction].index(one.direction)))


def anchor_changes(kind: str, old: Mapping[str, TrustAnchor], new: Mapping[str, TrustAnchor]) -> Iterator[TrustChange]:
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before is None or after is None or verification_terms(before) != verification_terms(after):
            words, sides = f"{kind} {format_value(name)}", (anchor_excerpts(kind, before), anchor_excerpts(kind, after))
            yield TrustChange(trust_direction(before, after), words, *sides)


def trust_direction(before: TrustAnchor | None, after: TrustAnchor | None) -> Direction:
    if before is None or after is None:
        return Direction.WIDENING if before is None else Direction.NARROWING
    was, now = verification_terms(before), verification_terms(after)
    different = [member for member in was if was[member] != now.get(member)]
    if len(different) == 1 and different[0] in VERIFICATION_BOUNDS:
        held, holds = bool(was[different[0]]), bool(now[different[0]])
        if held is not holds:
            return Direction.NARROWING if holds else Direction.WIDENING
    return Direction.CHANGED


def verification_terms(anchor: TrustAnchor) -> dict[str, object]:
    """Return the terms that determine how credentials are verified; requests compare the other terms."""
    match anchor:
        case k.Issuer():
            claims = sorted(anchor.claims)
            bounds = {"audience": anchor.audience, "users_like": anchor.users_like}
            return {"url": anchor.url, "keys": anchor.keys, "claims": claims, **bounds}
        case k.Attester():
            return {"url": anchor.url}


def anchor_excerpts(kind: str, anchor: TrustAnchor | None) -> tuple[RuleExcerpt, ...]:
    if anchor is None:
        return ()
    told = (
        f"{member.replace('_', ' ')} {format_term(value)}"
        for member, value in verification_terms(anchor).items()
        if value
    )
    return (RuleExcerpt(f"{kind} {format_value(anchor.name)}", anchor.span.at, "   ".join(told)),)


def format_term(value: object) -> str:
    if isinstance(value, str):
        return format_value(value)
    return ", ".join(map(format_term, value)) if isinstance(value, list | tuple) else str(value)

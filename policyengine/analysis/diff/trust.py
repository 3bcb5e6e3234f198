"""Whose word two policies take: issuers and attesters that were added, removed, or are verified otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.analysis.diff.answers import Direction
from policyengine.analysis.diff.model import Rule, TrustChange
from policyengine.runtime.format_values import shown

BOUNDS = ("audience", "users_like")  # what, where it is said at all, holds an issuer to less
Anchor: TypeAlias = k.Issuer | k.Attester


def trust_changes(old: k.Kernel, new: k.Kernel) -> tuple[TrustChange, ...]:
    """Another key, audience or claim is no matter of the requests compared: credentials are verified before."""
    found = [*changes("issuer", old.issuers, new.issuers), *changes("attester", old.attesters, new.attesters)]
    return tuple(sorted(found, key=lambda one: [*Direction].index(one.direction)))


def changes(kind: str, old: Mapping[str, Anchor], new: Mapping[str, Anchor]) -> Iterator[TrustChange]:
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before is None or after is None or says(before) != says(after):
            words, sides = f"{kind} {shown(name)}", (rules(kind, before), rules(kind, after))
            yield TrustChange(direction_of(before, after), words, *sides)


def direction_of(before: Anchor | None, after: Anchor | None) -> Direction:
    if before is None or after is None:
        return Direction.WIDENING if before is None else Direction.NARROWING
    was, now = says(before), says(after)
    different = [member for member in was if was[member] != now.get(member)]
    if len(different) == 1 and different[0] in BOUNDS:
        held, holds = bool(was[different[0]]), bool(now[different[0]])
        if held is not holds:
            return Direction.NARROWING if holds else Direction.WIDENING
    return Direction.CHANGED


def says(anchor: Anchor) -> dict[str, object]:
    """What credentials are verified by; what else it says is compared by requests."""
    match anchor:
        case k.Issuer():
            claims = sorted(anchor.claims)
            bounds = {"audience": anchor.audience, "users_like": anchor.users_like}
            return {"url": anchor.url, "keys": anchor.keys, "claims": claims, **bounds}
        case k.Attester():
            return {"url": anchor.url}


def rules(kind: str, anchor: Anchor | None) -> tuple[Rule, ...]:
    if anchor is None:
        return ()
    told = (f"{member.replace('_', ' ')} {written(value)}" for member, value in says(anchor).items() if value)
    return (Rule(f"{kind} {shown(anchor.name)}", anchor.span.at, "   ".join(told)),)


def written(value: object) -> str:
    if isinstance(value, str):
        return shown(value)
    return ", ".join(map(written, value)) if isinstance(value, list | tuple) else str(value)

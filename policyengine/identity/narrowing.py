"""What a new token takes over of those that it rests on: never more than they have."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from policyengine.identity.exchange import Task
from policyengine.identity.proved import Binding, Token
from policyengine.identity.unissued import NotIssued, Unissued


def began(token: Token) -> int | None:
    """Since when whoever presents it has what it says: also where a token of its own came in place of another."""
    act = token.claims.get("act")
    times = (token.claims.get("iat"), act.get("iat") if isinstance(act, Mapping) else None)
    return min((one for one in map(seconds, times) if one is not None), default=None)


def end_of(token: Token) -> int:
    """By its own word: from what counts a little longer, as clocks differ, nobody gets that much more each time."""
    said = seconds(token.claims.get("exp"))
    if token.late:
        return 0
    return token.expires if said is None else min(token.expires, said)


def narrowed(given: Mapping[str, object] | None, asked: Task | None) -> dict[str, object] | None:
    """The claim: as it was, or narrower, never wider."""
    found: dict[str, object] = {}
    if given is not None:
        found = {name: seconds_of(value) for name, value in given.items()}
    if asked is None:
        return found or None
    if given is not None and given.get("id") != asked.id:
        raise NotIssued(Unissued.TASK)
    for name, names in (("tools", asked.tools), ("entities", asked.entities)):
        before = found.get(name)
        if names is not None and isinstance(before, list) and not set(names) <= set(before):
            raise NotIssued(Unissued.TASK)
        if names is not None:
            found[name] = list(names)
    return {**found, "id": asked.id}


def seconds_of(value: object) -> object:
    return int(value.timestamp()) if isinstance(value, datetime) else value


def innermost(act: dict[str, object]) -> dict[str, object]:
    while isinstance(inner := act.get("act"), dict):
        act = inner
    return act


def confirmation(binding: Binding) -> dict[str, str]:
    """By certificate where there is one: the connection proves it."""
    if binding.x5t is not None:
        return {"x5t#S256": binding.x5t}
    if binding.jkt is None:
        raise NotIssued(Unissued.ACTOR_UNBOUND)
    return {"jkt": binding.jkt}


def seconds(raw: object) -> int | None:
    return int(raw) if isinstance(raw, int | float | Decimal) and not isinstance(raw, bool) else None

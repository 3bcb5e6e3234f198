"""Limits on a new token, which has at most the authority of the tokens that it is derived from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.issue.request import TaskRequest
from policyengine.identity.verified import ConfirmedKey, VerifiedToken
from policyengine.identity.verify.task_claim import reference_to_dict


def authority_start(token: VerifiedToken) -> int | None:
    """Return the time since which the presenter has had this authority, even if the token has been renewed since, in
    seconds since 1970; None if the token does not state it.
    """
    act = token.claims.get("act")
    times = (token.claims.get("iat"), act.get("iat") if isinstance(act, Mapping) else None)
    return min((one for one in map(parse_seconds, times) if one is not None), default=None)


def authority_end(token: VerifiedToken) -> int:
    """Return the time when the token expires, in seconds since 1970, without leeway, so that repeated exchanges gain no
    time; 0 if the token is accepted only within the leeway.
    """
    said = parse_seconds(token.claims.get("exp"))
    if token.late:
        return 0
    return token.expires if said is None else min(token.expires, said)


def common_task(task: Mapping[str, object] | None, other: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Return the intersection of two tokens' tasks. None stands for a token without a task, which sets no bounds.
    Raises TokenIssuanceError if they are different tasks.
    """
    if task is None or other is None:
        return task or other
    if task.get("id") != other.get("id"):
        raise TokenIssuanceError(IssuanceRefusal.TASK)
    found = {**other, **task}
    for name, holds in (("tools", includes_tool), ("entities", list.__contains__)):
        mine, theirs = task.get(name), other.get(name)
        if isinstance(mine, list) and isinstance(theirs, list):
            narrower = [one for one in mine if holds(theirs, one)]
            found[name] = narrower + [one for one in theirs if holds(mine, one) and one not in narrower]
    times = [one for one in (task.get("issued_at"), other.get("issued_at")) if isinstance(one, datetime)]
    return {**found, "issued_at": min(times)} if times else found


def narrow_task(given: Mapping[str, object] | None, asked: TaskRequest | None) -> dict[str, object] | None:
    """Return the `task` claim: the `given` task, narrowed to the requested one; None if there is neither. Raises
    TokenIssuanceError if the requested task is a different task, or is wider.
    """
    found: dict[str, object] = {}
    if given is not None:
        found = {name: task_start(value) for name, value in given.items()}
    if asked is None:
        return found or None
    if given is not None and given.get("id") != asked.id:
        raise TokenIssuanceError(IssuanceRefusal.TASK)
    tools, entities = found.get("tools"), found.get("entities")
    if asked.tools is not None:
        if isinstance(tools, list) and not all(includes_tool(tools, one) for one in asked.tools):
            raise TokenIssuanceError(IssuanceRefusal.TASK)
        found["tools"] = list(asked.tools)
    if asked.entities is not None:
        wanted = [reference_to_dict(one) for one in asked.entities]
        if isinstance(entities, list) and not all(one in entities for one in wanted):
            raise TokenIssuanceError(IssuanceRefusal.TASK)
        found["entities"] = wanted
    return {**found, "id": asked.id}


def includes_tool(tools: list[str], name: str) -> bool:
    """Return whether the list includes the tool. A name without a server includes that tool at every server."""
    server, slash, alone = name.partition("/")
    return name in tools or (bool(slash and server) and "/" not in alone and alone in tools)


def task_start(value: object) -> object:
    return int(value.timestamp()) if isinstance(value, datetime) else value


def innermost_actor(act: dict[str, object]) -> dict[str, object]:
    while isinstance(inner := act.get("act"), dict):
        act = inner
    return act


def cnf_claim(binding: ConfirmedKey) -> dict[str, str]:
    """Return `cnf`. If the client has a certificate, `cnf` names the certificate, because the connection proves it.
    Raises TokenIssuanceError.
    """
    if binding.x5t is not None:
        return {"x5t#S256": binding.x5t}
    if binding.jkt is None:
        raise TokenIssuanceError(IssuanceRefusal.ACTOR_UNBOUND)
    return {"jkt": binding.jkt}


def parse_seconds(raw: object) -> int | None:
    return int(raw) if isinstance(raw, int | float | Decimal) and not isinstance(raw, bool) else None

"""Policies from text and questions from parts, for the tests of the specification."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from policyengine import kernel as k
from policyengine.check import check
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.request import EntityData, Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Source
from policyengine.spec import reference
from policyengine.syntax.parse import parse
from policyengine.typesystem import EntityRef

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
Rows = Mapping[str, Mapping[str, object]]


@lru_cache(maxsize=512)
def kernel(*texts: str) -> k.Kernel:
    """Return the kernel of the policies; the checker must report nothing."""
    parsed = [parse(Source(f"{number}.policy", text)) for number, text in enumerate(texts)]
    checked = check([module for module, _ in parsed if module], [one for _, found in parsed for one in found])
    errors = [diagnostic.render() for diagnostic in checked.diagnostics if diagnostic.is_error]
    assert checked.kernel is not None, "\n".join(errors)
    return checked.kernel


def codes(text: str) -> set[str]:
    """Return the codes of the errors that the checker reports."""
    module, found = parse(Source("p.policy", text))
    return {one.code for one in check([module] if module else [], found).diagnostics if one.is_error}


def directory(rows: Rows | None) -> EntityStore:
    """Build entities from `{"user alice": {"roles": ["clerk"], "in": ["team legal"]}}`."""
    return EntityStore(row(name, given) for name, given in (rows or {}).items())


def row(name: str, given: Mapping[str, object]) -> EntityData:
    attributes = {key: value for key, value in given.items() if key != "in"}
    parents: Any = given.get("in", ())
    return EntityData(ref(name), attributes, tuple(ref(parent) for parent in parents))


def ref(name: str) -> EntityRef:
    type_, _, id_ = name.partition(" ")
    return EntityRef(type_, id_)


def endpoint(text: str) -> dict[str, object]:
    """Parse `POST /pay`, `TOOL billing/refund`, `ACTION view invoice 7`."""
    word, _, rest = text.partition(" ")
    match word:
        case "TOOL":
            server, slash, name = rest.rpartition("/")
            return {"tool": {"server": server, "name": name} if slash else {"name": name}}
        case "ACTION":
            verb, type_, id_ = rest.split(" ")
            return {"action": {"name": verb}, "resource": {"type": type_, "id": id_}}
        case _:
            return {"request": {"method": word, "path": rest}}


def question(where: str, **members: object) -> dict[str, object]:
    """Return a question about an endpoint; further facts of `request` are merged into it."""
    found = endpoint(where)
    for name, value in members.items():
        known = found.get(name)
        found[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return found


def bot(name: str = "bot", user: str | None = "alice", issuer: str = "acme", **credential: object) -> dict[str, object]:
    """Return an agent with its credential, and the person it acts for."""
    found: dict[str, object] = {"agent": {"id": name, "issuer": issuer}, "credential": credential}
    return found if user is None else {**found, "user": {"id": user}}


def ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


def hop(agent: str, *scopes: str, issuer: str = "acme", minutes: float = 5, **more: object) -> dict[str, object]:
    return {"agent": agent, "issuer": issuer, "issued_at": ago(minutes), "scopes": list(scopes), **more}


def chain(*hops: object) -> dict[str, object]:
    return {"hops": list(hops)}


def spending(
    policy: str | k.Kernel,
    asked: Mapping[str, object] | str | bytes,
    rows: Rows | None = None,
    now: datetime = NOW,
    spent: Iterable[str] = (),
) -> tuple[Decision, Effects]:
    """Return the decision of the specification and its effects."""
    meant = kernel(policy) if isinstance(policy, str) else policy
    request = Request.from_json(asked if isinstance(asked, str | bytes) else json.dumps(asked))
    return reference.decide(meant, request, Snapshot(directory(rows), frozenset(spent)), now)


def decide(
    policy: str | k.Kernel,
    asked: Mapping[str, object] | str | bytes,
    rows: Rows | None = None,
    now: datetime = NOW,
    spent: Iterable[str] = (),
) -> Decision:
    return spending(policy, asked, rows, now, spent)[0]


def verdict(decision: Decision) -> str:
    """Return `allow`, `deny by default`, `confirm by "ask"`, as tests of policies write it."""
    if decision.gate is None:
        return str(decision.outcome)
    rule = decision.reasons[0].rule
    return f"{decision.outcome} by " + (f'"{rule}"' if rule else str(decision.gate))


def gates(decision: Decision) -> list[str]:
    return [str(reason.gate) for reason in decision.reasons]


def unknown(decision: Decision) -> set[str]:
    return {one.fact for one in decision.unknown}

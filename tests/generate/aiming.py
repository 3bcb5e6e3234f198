"""Questions that fit a policy: from a caller whom a block matches, about an endpoint that it grants."""

from __future__ import annotations

from random import Random

from policyengine import kernel as k
from tests.generate.requests import AS_NAMES, Question, ago

CAPTURED = ("7", "north", "d1", "m1", "alice")


def aimed(random: Random, asked: Question, kernel: k.Kernel) -> Question:
    """Return the question from a caller whom a block of the policy matches, about an endpoint that the block grants."""
    if not kernel.agents:
        return asked
    block = random.choice(kernel.agents)
    issuer = next(random.choice(one.issuers) for one in block.requirements if isinstance(one, k.IssuedBy))
    alone = any(isinstance(one, k.ActsAlone) for one in block.requirements)
    credential = {
        **asked.get("credential", {}), "issuer": issuer, "scopes": list(AS_NAMES), "bound": True, "kind": "jwt",
        "lifetime": "10m", "age": "5m",
    }  # fmt: skip
    credential.pop("subject", None)
    found = {**asked, "agent": {**asked.get("agent", {}), **_named(random, block, issuer)}, "credential": credential}
    found["attestation"] = {**asked.get("attestation", {}), "verified": True, "by": "lab", "age": "1m"}
    if random.random() < 0.8:
        found.pop("chain", None)
    else:
        found["chain"] = {"hops": [_hop(random, kernel, issuer)]}
    found.pop("user", None)
    found |= {} if alone else {"user": {"id": random.choice(["alice", "bob", "carol"])}}
    found |= _endpoint(random, block, found) if random.random() < 0.8 else {}
    found["pending"] = [
        name for name in asked.get("pending", ()) if name.partition(".")[0] in ("context", "body", "args")
    ]
    return found


def _named(random: Random, block: k.AgentBlock, issuer: str) -> Question:
    match block.who:
        case k.ExactName(name):
            return {"id": name, "issuer": issuer}
        case k.NamePattern(glob):
            return {"id": glob.replace("*", "read" if glob.startswith("*") else "ot"), "issuer": issuer}
        case k.InGroup(group):
            return {"id": "bot", "issuer": issuer, "groups": [group]}
        case _:
            return {"id": random.choice(["bot", "planner", "reader"]), "issuer": issuer}


def _hop(random: Random, kernel: k.Kernel, issuer: str) -> Question:
    """Return a hop, preferably of an agent that may delegate."""
    able = [block for block in kernel.agents if block.delegates and isinstance(block.who, k.ExactName)]
    name = random.choice(able).who.name if able else "planner"  # type: ignore[union-attr]  # such blocks were chosen
    return {"agent": name, "issuer": issuer, "issued_at": ago(5), "scopes": list(AS_NAMES), "groups": ["ops"]}


def _endpoint(random: Random, block: k.AgentBlock, asked: Question) -> Question:
    patterns = [opening.pattern for grant in block.grants for opening in grant.openings]
    return endpoint_of(random, random.choice(patterns), asked)


def endpoint_of(random: Random, pattern: k.Pattern, asked: Question) -> Question:
    """Return members of the question about an endpoint that the pattern matches."""
    facts = {name: value for name, value in asked.get("request", {}).items() if name not in ("method", "path")}
    nothing: Question = {"tool": None, "action": None}
    match pattern:
        case k.HttpPattern(methods, segments, rest):
            parts = [s.prefix + random.choice(CAPTURED) + s.suffix if s.wild else s.prefix for s in segments]
            path = "/" + "/".join([*parts, *(["7"] if rest and random.random() < 0.7 else [])])
            return {**nothing, "request": {**facts, "method": random.choice(methods or ("GET",)), "path": path}}
        case k.ToolPattern(glob):
            server, slash, name = glob.replace("*", "send").rpartition("/")
            tool = {"server": server, "name": name} if slash else {"name": name}
            return {**nothing, "request": facts, "tool": tool}
        case k.ActionPattern(verb, kind):
            return {**nothing, "request": facts, "action": {"name": verb}, "resource": {"type": kind, "id": "7"}}

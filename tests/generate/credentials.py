"""Credentials: policies that decide by claims and proofs, and questions whose credential has them in part."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from tests.generate import vocabulary as v
from tests.generate.policies import File, Policy
from tests.generate.requests import VALUES, Question, ago

CLAIMS = {
    "tenant": "tenant", "roles": "roles", "plan": "plan", "age": "int", "tier": "int", "home": "team",
}  # fmt: skip
ISSUERS = """
issuer badge {
  scopes none
  records chains
  claims { tenant -> user.tenant   roles -> user.roles   plan -> user.plan   age -> user.age
           tier -> agent.tier   home -> agent.home }
}
issuer card { records chains   claims { tier -> agent.tier   tenant -> user.tenant } }
attester lab { age <= 5m   model "m1" sha256:00ff   model "m2"   environment in ["tdx", "snp"] }
attester notary { }
scope read { GET /notes/** }
scope write { POST /notes/{id} }
"""
CLAIMED = (
    'user.tenant == "acme"', 'user.roles has "clerk"', "user.plan >= basic", "(user.age else 0) > 1",
    'user.tenant != "evil"', "user.age is present",
)  # fmt: skip
OF_AGENT = ("(agent.tier else 0) >= 2", 'agent.home == team "legal"', "agent.tier is present", "agent.tier > 1")
PROVED = (
    "credential.bound", "attestation.verified", "attestation.age <= 5m", "credential.age <= 1h",
    "credential.lifetime <= 15m", "credential.kind in [jwt, mtls]", 'attestation.by == "lab"',
    "credential.lifetime > 15m", "time < 2027-01-05",
)  # fmt: skip
MINUTES = (1, 2, 5, 59, 61)  # since a credential was issued
ENDPOINTS = (("GET", "/notes/7"), ("GET", "/notes/a/b"), ("POST", "/notes/7"), ("POST", "/notes/8"))


def proving(random: Random) -> Policy:
    """Return a policy whose blocks and guards test claims and proofs."""
    declarations = [v.ENTITIES, ISSUERS, "scope refunds { TOOL billing/refund }"]
    declarations += [f"define {name} = context.flag" for name in v.DEFINED]
    declarations.append(f"user any {{ may read, write{_when(random, CLAIMED, 0.5)} }}")
    declarations += [_agent(random, name) for name in (*v.AGENTS, *random.sample([*v.AGENTS, *v.AGENT_GLOBS], 2))]
    declarations += [_guard(random, number) for number in range(random.choice([1, 2, 3]))]
    return Policy((File("package acme.app", tuple(declarations)),))


def _when(random: Random, among: tuple[str, ...], chance: float) -> str:
    if random.random() >= chance:
        return ""
    parts = random.sample(among, random.choice([1, 1, 2]))
    return f" when {random.choice([' and ', ' or ']).join(parts)}"


def _agent(random: Random, name: str) -> str:
    acts = _one(random, "acts for any user", f"acts for users where {random.choice(CLAIMED)}", "acts alone")
    items = [f"issued by {_one(random, 'badge, card', 'badge', 'card')}", acts]
    proofs = ["bound", "age <= 1h", "lifetime <= 15m", "kind in [jwt, mtls]"]
    if random.random() < 0.25:
        items.append(f"credential {{ {'   '.join(random.sample(proofs, random.choice([1, 1, 2])))} }}")
    if random.random() < 0.25:
        items.append(f"attested by {_one(random, 'lab', 'notary', 'lab, notary')}")
    items.append(f"may read, write{_when(random, (*CLAIMED, *OF_AGENT, *OF_AGENT, *PROVED), 0.6)}")
    if name in v.AGENTS and random.random() < 0.8:
        to = random.choice([f'agent "{name}"', f'agent "{random.choice(v.AGENTS)}"', 'group "ops"'])
        items.append(f"may delegate read, write to {to}{_when(random, OF_AGENT, 0.3)}")
    return f'agent "{name}" {{\n' + "".join(f"  {item}\n" for item in items) + "}"


def _guard(random: Random, number: int) -> str:
    place = random.choice(["", " on read", " on /notes/7", " on write"])
    forms = [
        f"deny unless {random.choice(PROVED)}", f"require {random.choice(PROVED)}",
        f"require {random.choice(PROVED)} and {random.choice(PROVED)}", f"require {random.choice(CLAIMED)}",
        f"deny when not ({random.choice(PROVED)})", f"step_up mfa unless {random.choice(PROVED)}",
        'header "X-Checked" "yes"', f"warn unless {random.choice(PROVED)}", f"audit full when {random.choice(CLAIMED)}",
    ]  # fmt: skip
    return f'guard "c{number}"{place} {{ {random.choice(forms)} }}'


def questions(random: Random) -> Iterator[Question]:
    """Yield questions by an agent for a user, or by an agent alone; up to three members are missing, old, or wrong."""
    while True:
        agent, user = random.choice(v.AGENTS), random.choice(v.USERS)
        issuer = _one(random, "badge", "card")
        method, path = random.choice(ENDPOINTS)
        found: Question = {
            "request": {"method": method, "path": path}, "user": {"id": user},
            "agent": {"id": agent, "issuer": issuer, "groups": random.choice([[], ["ops"]])},
            "credential": {
                "issuer": issuer, "scopes": ["read", "write"], "kind": "jwt", "bound": True, "claims": _claims(random),
                "issued_at": ago(random.choice(MINUTES)), "expires_at": ago(-8),
            },
            "attestation": {
                "verified": True, "by": "lab", "issued_at": ago(1), "model": "m1", "model_hash": "sha256:00ff",
                "environment": "tdx",
            },
            "context": {"flag": True},
        }  # fmt: skip
        for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
            root, name, values = random.choice(ODD)
            value = random.choice(values)
            found[root][name] = {"agent": agent, "user": user}.get(value, value) if isinstance(value, str) else value
        if random.random() < 0.08:
            del found["user"]
        if random.random() < 0.4:
            hops = [_hop(random, random.choice([agent, *v.AGENTS]), issuer) for _ in range(random.choice([1, 1, 2]))]
            found["chain"] = {"hops": hops}
        if random.random() < 0.2:
            found["options"] = _options(random)
        if random.random() < 0.08:
            name = random.choice(["credential.bound", "attestation.age", "user.tenant", "agent.tier"])
            root, _, member = name.partition(".")
            found.get(root, {}).pop(member, None)
            found["pending"] = [name]
        yield found


ODD: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("credential", "scopes", (["write"], [], None, ["read", 7])),
    ("credential", "subject", ("agent", "agent", "user", "user", "mallory", 7)),
    ("credential", "kind", ("mtls", "api_key", None)), ("credential", "bound", (False, None, "yes")),
    ("credential", "issued_at", (ago(61), ago(-5), None, "soon")), ("credential", "claims", ({}, None)),
    ("credential", "expires_at", (ago(-14), ago(-300), ago(3), None)),
    ("credential", "issuer", ("card", "plain", None)),
    ("credential", "refused", ("expired", "revoked", 7)), ("credential", "lifetime", ("10m", "1h", "0s")),
    ("credential", "age", ("0s", "2h")), ("attestation", "verified", (False, None)),
    ("attestation", "age", ("1h", "1m")),
    ("attestation", "by", ("notary", "x")), ("attestation", "issued_at", (ago(4), ago(6), ago(-1), None)),
    ("attestation", "model", ("m2", "m3")), ("attestation", "model_hash", ("x", None)),
    ("attestation", "environment", ("snp", "none")), ("agent", "issuer", ("card", "plain", None)),
    ("agent", "groups", (None, ["ops", 7], "ops")), ("user", "id", ("nobody", "", 7)),
)  # fmt: skip


def _hop(random: Random, agent: str, issuer: str) -> Question:
    return {
        "agent": agent, "issuer": issuer, "issued_at": ago(random.choice([1, 9, 70])), "scopes": ["read", "write"],
        "groups": random.choice([[], ["ops"]]),
    }  # fmt: skip


def _claims(random: Random) -> dict[str, Any]:
    return {
        name: random.choice([None, 7, "x", ["x", 7]]) if random.random() < 0.05 else VALUES[kind](random)
        for name, kind in CLAIMS.items()
        if random.random() < 0.7
    }


def _one(random: Random, usual: Any, *others: Any) -> Any:
    return usual if random.random() < 0.7 else random.choice(others)


def _options(random: Random) -> Question:
    if random.random() < 0.6:
        kinds = [one for one in v.OBLIGATIONS if random.random() < 0.5]
        return {"obligations_supported": kinds}
    minutes = random.choice([0.5, 5, 30, 60 * 24 * 2, -6, -60])
    return {"consume": False, "at": ago(minutes)}

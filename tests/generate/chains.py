"""Chains of delegation: policies whose agents delegate to each other, and questions from the end of such a chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from policyengine import kernel as k
from tests.generate import vocabulary as v
from tests.generate.aiming import endpoint_of
from tests.generate.expressions import Writer, atoms_at
from tests.generate.policies import ABOUT_AGENTS, Policy, policy
from tests.generate.requests import AS_NAMES, Question, ago

SCOPES = ("notes.read", "invoices.write", "docs", "mail", "run", "everything")
MINUTES = (1, 5, 9, 11, 29, 30, 31, 59, 61, 200)  # since a hop was issued: about the lifetimes that policies name
MAX_HOPS = 4


def delegating(random: Random) -> Policy:
    """Return a policy with agents that delegate some scopes to each other."""
    head, *others = policy(random).files
    scopes = random.sample(SCOPES, random.choice([1, 2, 3]))
    relays = tuple(_relay(random, name, scopes) for name in (*v.AGENTS, random.choice(v.AGENTS)))
    return Policy((replace(head, declarations=(*head.declarations, *relays)), *others))


def _relay(random: Random, name: str, scopes: list[str]) -> str:
    issuers = random.choice(["acme", "acme", "acme, open", "acme, c.partner", "open, plain"])
    targets = [f'agent "{one}"' for one in (*v.AGENTS, *v.AGENT_GLOBS)] + ['group "ops"']
    items = [f"issued by {issuers}", "acts for any user" if random.random() < 0.8 else "acts alone"]
    items += [f"may {', '.join(scopes)}{_when(random)}"]
    for target in random.sample(targets, random.choice([1, 2, 3])):
        lasting = random.choice(["", "", " for 10m", " for 30m", " for 1h"])
        items.append(f"may delegate {', '.join(scopes)} to {target}{lasting}{_when(random)}")
    return f'agent "{name}" {{\n' + "".join(f"  {item}\n" for item in items) + "}"


def _when(random: Random) -> str:
    """Return a condition, usually about the agent itself, which is another one for each hop."""
    if random.random() < 0.6:
        return ""
    roots = random.choice([ABOUT_AGENTS, ABOUT_AGENTS | {"chain", "credential"}])
    return (
        f" when {Writer(random, atoms_at((), roots), roots, random.choice([0, 0, 1]), definitions=False).condition()}"
    )


def relayed(random: Random, asked: Question, kernel: k.Kernel) -> Question:
    """Return the question from the last agent of a chain that the policy permits, about an endpoint that all of them
    delegate; parts of the chain may be wrong."""
    blocks = [block for block in kernel.agents if isinstance(block.who, k.ExactName)]
    chain, patterns = _walk(random, blocks, random.randint(2, MAX_HOPS))
    if not patterns:
        return asked
    *hops, presenter = chain
    issuer = _issuer(random, presenter)
    found = {name: one for name, one in asked.items() if name not in ("pending", "action", "tool", "resource")}
    found["agent"] = {**asked.get("agent", {}), "id": presenter.who.name, "issuer": issuer, "groups": ["ops"]}
    found["credential"] = {
        **asked.get("credential", {}), "issuer": issuer, "scopes": list(AS_NAMES), "issued_at": ago(7),
    }  # fmt: skip
    found["credential"].pop("subject", None)
    found["user"] = {"id": random.choice(v.USERS)}
    if any(isinstance(one, k.ActsAlone) for one in presenter.requirements):
        found.pop("user")
    found["chain"] = {"hops": [_hop(random, one) for one in hops]}
    found |= endpoint_of(random, random.choice(patterns), found)
    return {name: value for name, value in found.items() if value is not None}


def _walk(random: Random, blocks: list[Any], hops: int) -> tuple[list[Any], list[k.Pattern]]:
    """Return agents that delegate one to the next, and the patterns that the last delegation names."""
    chain, patterns = [random.choice(blocks)] if blocks else [], list[k.Pattern]()
    while chain and len(chain) <= hops:
        steps = list(_steps(chain[-1], blocks))
        if not steps:
            break
        then, delegate = random.choice(steps)
        chain, patterns = [*chain, then], list(delegate.patterns)
    return chain, patterns


def _steps(block: Any, blocks: list[Any]) -> Iterator[tuple[Any, k.DelegationGrant]]:
    for delegate in block.delegates:
        for then in blocks:
            match delegate.to:
                case k.ExactName(name) if then.who.name != name:
                    continue
                case k.NamePattern(glob) if not (
                    then.who.name.startswith(glob.rstrip("*")) or then.who.name.endswith(glob.lstrip("*"))
                ):
                    continue
            yield then, delegate


def _issuer(random: Random, block: Any) -> str:
    issuers = next(one.issuers for one in block.requirements if isinstance(one, k.IssuedBy))
    return "acme" if "acme" in issuers and random.random() < 0.8 else str(random.choice(issuers))


def _hop(random: Random, block: Any) -> Question:
    found: Question = {
        "agent": block.who.name, "issuer": _issuer(random, block), "issued_at": ago(random.choice(MINUTES)),
        "scopes": list(AS_NAMES), "groups": random.choice([["ops"], ["ops"], ["night", "ops"], []]),
    }  # fmt: skip
    if random.random() < 0.08:
        name = random.choice(list(found))
        found[name] = random.choice([None, "stranger", 7, [], "ops", ["ops", 7]])
    return found


def rechained(random: Random, asked: Question) -> Question:
    """Return the question with a hop less, twice, or issued at another time; or unchanged."""
    hops = list(asked.get("chain", {}).get("hops", ()))
    if not hops or random.random() < 0.4:
        return asked
    place = random.randrange(len(hops))
    match random.choice(["less", "twice", "issued", "issued", "turned"]):
        case "less":
            del hops[place]
        case "twice":
            hops.insert(place, hops[place])
        case "issued":
            hops[place] = {**hops[place], "issued_at": ago(random.choice(MINUTES))}
        case _:
            hops.reverse()
    return {**asked, "chain": {"hops": hops}}

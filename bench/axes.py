"""The axes of `growth`: each generates a policy and questions of a given size, with their expected verdicts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import policy
from bench.paper.data import drive, question
from bench.workload import workload

QUESTIONS = 2_000


@dataclass(frozen=True, slots=True)
class GrownPolicy:
    """A policy of a given size. `rows` are entities as in a JSON file; `expected` is None where only a peer engine
    knows the verdict."""

    text: str
    questions: list[dict[str, Any]]
    expected: list[bool] | None
    rows: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    name: str
    title: str
    points: tuple[int, ...]
    grow: Callable[[int], GrownPolicy]


def grow_rules(count: int) -> GrownPolicy:
    work = workload(count, QUESTIONS)
    return GrownPolicy(policy.policy(work), [policy.question(asked) for asked in work.requests], list(work.expected))


SERVICES = 20
IDENTITY = 'issuer idp { url "https://idp.example" }\n'


def grow_depth(segments: int) -> GrownPolicy:
    """Return twenty endpoints with paths of `segments` segments; every other question misses the last path by one
    character."""
    pick = random.Random(segments)
    paths = ["/" + "/".join(f"s{number}n{level}" for level in range(segments - 1)) for number in range(SERVICES)]
    scopes = "\n".join(f"scope x{number} {{ GET {path}/{{id}} }}" for number, path in enumerate(paths))
    block = f'agent "bot" {{ issued by idp   acts alone   may {", ".join(f"x{n}" for n in range(SERVICES))} }}'
    questions, expected = [], []
    for place in range(QUESTIONS):
        number, good = pick.randrange(SERVICES), place % 2 == 0
        path = f"{paths[number]}{'' if good else 'y'}/{pick.randrange(10**6)}"
        questions.append(_question(path, [f"x{number}"]))
        expected.append(good)
    return GrownPolicy(f"{_policy_head('depth')}{IDENTITY}{scopes}\n{block}\n", questions, expected)


def grow_collections(count: int) -> GrownPolicy:
    """Return one rule for `count` collections, each requested at least twice: more collections than an engine may
    cache."""
    text = f"{_policy_head('collections')}{IDENTITY}scope x {{ GET /v1/{{organization}}/items/{{id}} }}\n"
    block = 'agent "bot" { issued by idp   acts alone   may x }\n'
    asked = [_question(f"/v1/o{place % count}/items/{place}", ["x"]) for place in range(max(QUESTIONS, 2 * count))]
    for other in asked[::2]:
        other["credential"] = {"scopes": ["y"]}
    return GrownPolicy(text + block, asked, [place % 2 == 1 for place in range(len(asked))])


def grow_chain(hops: int) -> GrownPolicy:
    """Return a delegation chain of `hops` agents; in every other question the first agent lacks the scope."""
    names = [f"h{number}" for number in range(hops + 1)]
    blocks = [
        f'agent "{name}" {{ issued by idp   acts alone   may x   may delegate x to agent "{then}" }}'
        for name, then in zip(names, [*names[1:], "nobody"], strict=True)
    ]
    head = f"{_policy_head('chain')}issuer idp {{ records chains }}\nscope x {{ GET /x/{{id}} }}\n"
    questions, expected = [], []
    for place in range(QUESTIONS):
        good = place % 2 == 0
        asked = _question(f"/x/{place}", ["x"], agent=names[-1])
        scopes = [["x"] if good or number else ["y"] for number in range(hops)]
        listed = [{"agent": name, "issuer": "idp", "scopes": has} for name, has in zip(names, scopes, strict=False)]
        questions.append({**asked, "chain": {"hops": listed}})
        expected.append(good)
    return GrownPolicy(f"{head}{chr(10).join(blocks)}\n", questions, expected)


def grow_roles(count: int) -> GrownPolicy:
    """Return an agent in `count` groups, each with a block and an endpoint; every other question requests an endpoint
    of a group it is not in."""
    pick = random.Random(count)
    scopes = "\n".join(f"scope x{number} {{ GET /x/r{number}/{{id}} }}" for number in range(count * 2))
    blocks = "\n".join(
        f'agent group "g{number}" {{ issued by idp   acts alone   may x{number} }}' for number in range(count * 2)
    )
    groups, questions, expected = [f"g{number}" for number in range(count)], [], []
    for place in range(QUESTIONS):
        good = place % 2 == 0
        number = pick.randrange(count) + (0 if good else count)
        questions.append(_question(f"/x/r{number}/{place}", [f"x{number}"], groups=groups))
        expected.append(good)
    return GrownPolicy(f"{_policy_head('roles')}{IDENTITY}{scopes}\n{blocks}\n", questions, expected)


def grow_entities(users: int) -> GrownPolicy:
    """Return the drive of the Cedar paper with `users` users and six times as many rows."""
    made = drive(users)
    questions = [question(asked) for asked in made.requests]
    return GrownPolicy(made.policy.read_text(encoding="utf-8"), questions, None, made.plain())


AXES = {
    axis.name: axis
    for axis in (
        Axis("rules", "rules", (10, 100, 1_000, 10_000, 100_000), grow_rules),
        Axis("depth", "segments of a path", (2, 4, 8, 16, 32, 64), grow_depth),
        Axis("collections", "collections asked", (100, 1_000, 10_000, 30_000), grow_collections),
        Axis("chain", "hops of a chain", (1, 2, 4, 8, 16), grow_chain),
        Axis("roles", "groups of the agent", (1, 4, 16, 64, 256), grow_roles),
        Axis("entities", "users of the drive", (100, 1_000, 10_000), grow_entities),
    )
}


def _policy_head(name: str) -> str:
    return f"language 1\npackage bench.{name}\n\n"


def _question(path: str, scopes: list[str], agent: str = "bot", groups: list[str] | None = None) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": path},
        "agent": {"id": agent, "issuer": policy.ISSUER, "groups": groups or []},
        "credential": {"scopes": scopes},
    }

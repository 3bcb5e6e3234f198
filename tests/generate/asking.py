"""Many raw questions to one policy, at low cost: some random, most slightly different from one that fits, some damaged.
A raw question is what a client sends: a mapping, JSON as text or bytes, or something that is not a question."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from random import Random
from typing import Any

from policyengine import kernel as k
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Gate
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.reference import decide
from tests.generate import vocabulary as v
from tests.generate.aiming import aimed
from tests.generate.cases import checked_policy, kernel_of, twinned
from tests.generate.hazards import Spoilt, copied, spoilt
from tests.generate.policies import Policy, gateway, policy
from tests.generate.requests import (
    AS_NAMES,
    METHODS,
    NOW,
    NOWS,
    PATHS,
    VALUES,
    WRONG,
    Question,
    Rows,
    ago,
    directory,
    question,
    respelled,
    rows,
)

CANDIDATES = 40  # candidates for the base questions of one policy
BASES = 4  # maximum number that are stopped at one gate
SHARES: dict[Gate | None, int] = {
    None: 12,
    Gate.IDENTITY: 1,
    Gate.CHAIN: 2,
    Gate.MALFORMED_PATH: 1,
}  # … and other numbers at some
SETTLED = ("issuer", "subject", "issued_at", "expires_at")  # with wrong ones almost no block applies
VARIED, SPOILT = 0.79, 0.14  # the remaining ones are random
AS_JSON = 0.06
LACKING = 0.3  # of those about policies that ask whether a fact is there do without it
WHETHER_THERE = re.compile(r"""\b(body|args|context|request\.query)[.\[]"?(\w+)"?\]? (?:is present|is absent|else\b)""")
UNDECLARED = ("body", "args", "context")  # may have any member


@dataclass(frozen=True, slots=True)
class Setting:
    """A policy that checks, and entities. Its text shows what to paste into a test."""

    policy: Policy
    rows: Rows
    kernel: k.Kernel
    directory: EntityStore

    def __str__(self) -> str:
        return "\n\n# next file\n".join(self.policy.texts) + f"\nrows = {self.rows!r}"


@dataclass(frozen=True, slots=True)
class Asking:
    """A question, and the learned facts of its caller if it is decided with some."""

    question: Spoilt
    now: datetime
    behavior: Mapping[str, object] | None = None


@lru_cache(maxsize=128)
def setting(seed: int) -> Setting:
    random = Random(seed)
    found = checked_policy(random, gateway if random.random() < 0.6 else policy)
    known = rows(random, known=random.choice([0.0, 0.6, *[0.9, 1.0] * 8]))
    found = twinned(random, found) if random.random() < 0.3 else found
    kernel = kernel_of(found)
    assert kernel is not None
    return Setting(found, known, kernel, directory(known))


def askings(seed: int, questions: int) -> Iterator[Asking]:
    """Yield questions to `setting(seed)`; the same seed gives the same questions."""
    random, kernel = Random(), setting(seed).kernel
    beside, optional = Random(f"lacking {seed}"), facts_that_may_lack(seed)
    bases, state = begun(seed)
    random.setstate(state)
    for _ in range(questions):
        chance = random.random()
        if chance < VARIED:
            asked: Spoilt = varied(random, random.choice(bases))
        elif chance < VARIED + SPOILT:
            asked = spoilt(random, random.choice(bases))
        else:
            asked = aimed(random, question(random, random.choice([0.8, 0.95, 1.0])), kernel)
        asked = lacking(beside, asked, optional)
        yield Asking(posted(random, asked), NOW if random.random() < 0.85 else random.choice(NOWS))


@lru_cache(maxsize=128)
def begun(seed: int) -> tuple[list[Question], tuple[Any, ...]]:
    """Return the base questions of `askings(seed)`, found by deciding dozens of questions, and the random state after
    that."""
    random = Random(f"askings {seed}")
    return chosen(random, seed), random.getstate()


def chosen(random: Random, seed: int) -> list[Question]:
    """Return questions that fit, some for every gate: few random ones would pass the first gate."""
    asked = setting(seed)
    text = rules_of(asked.policy)
    return spread(asked, (lean(random, fitting(random, asked.kernel), text) for _ in range(CANDIDATES)))


def rules_of(policy: Policy) -> str:
    return "\n".join(one for file in policy.files for one in file.declarations if one != v.ENTITIES)


def spread(asked: Setting, candidates: Iterable[Question]) -> list[Question]:
    """Return some of the questions: some that are allowed, and some that are stopped at each gate."""
    found: dict[Gate | None, list[Question]] = defaultdict(list)
    for one in candidates:
        found[gate_of(asked, one)].append(one)
    return [one for gate in found for one in found[gate][: SHARES.get(gate, BASES)]]


def passing(asked: Setting, candidates: Iterable[Question]) -> list[Question]:
    """Return the questions that only guards and limits can stop; if there is none, all questions."""
    given = list(candidates)
    return [one for one in given if gate_of(asked, one) in (None, Gate.GUARD, Gate.RATE, Gate.BUDGET)] or given


def gate_of(asked: Setting, one: Question) -> Gate | None:
    return decide(asked.kernel, Request.from_mapping(one), Snapshot(asked.directory), NOW)[0].gate


def fitting(random: Random, kernel: k.Kernel) -> Question:
    """Return a question with every fact, of its type, from a caller whom a block matches: only the rules decide it."""
    asked = complete(random)
    found = aimed(random, {name: value for name, value in asked.items() if name in kept(random)}, kernel)
    found["credential"] |= {"issued_at": ago(7), "expires_at": random.choice([None, ago(-300)])}
    found.pop("pending", None)
    if random.random() < 0.03:
        found["credential"]["refused"] = random.choice(["expired", "of no code", 7])
    if random.random() < 0.7:
        found.pop("chain", None)
    return {name: value for name, value in found.items() if value is not None}


def complete(random: Random) -> Question:
    asked = question(random, right=1.0)
    for root, members in v.GIVEN.items():
        if root != "agent":
            asked[root] = {**{name: VALUES[kind](random) for name, kind in members.items()}, **asked.get(root, {})}
    asked["request"] |= {"headers": {"X-Trace": "acme"}, "query": {"page": "7"}}
    return asked


def lean(random: Random, asked: Question, text: str) -> Question:
    """Return the question without most facts that the policy never reads: they cost time and decide nothing."""
    for root in ("context", "body", "args", "task"):
        members = asked.get(root)
        if members:
            asked[root] = {n: one for n, one in members.items() if f"{root}.{n}" in text or random.random() < 0.1}
    scopes = asked.get("credential", {}).get("scopes", [])
    if scopes == list(AS_NAMES):
        kept_scopes = [name for name in scopes if not name.startswith("x:") or name in text]
        asked["credential"]["scopes"] = kept_scopes if random.random() < 0.8 else random.sample(kept_scopes, 4)
    return asked


def kept(random: Random) -> set[str]:
    """Sometimes keep chains, rows and options."""
    extras = ("chain", "entities", "options")  # in a fixed order: a seed means the same in every process
    return {*v.GIVEN, "user", "tool", "action", "resource"} | {one for one in extras if random.random() < 0.06}


def varied(random: Random, base: Question) -> Question:
    """Return the question with some facts changed: another value of the type, rarely a wrong or missing one."""
    found = {**base}
    for _ in range(random.choice([0, 1, 2, 3, 5])):
        root = random.choice(list(found))
        kinds = v.GIVEN.get(root)
        if root == "request" and random.random() < 0.5:
            reach(random, found)
        elif root == "user":
            found["user"] = {"id": random.choice([*v.USERS, "nobody"])}
        elif root in UNDECLARED and random.random() < 0.15:
            found[root] = {**found[root], **beside(random)}
        elif kinds:
            known = [one for one in kinds if one in found[root] and (one not in SETTLED or random.random() < 0.2)]
            name = random.choice(known or list(kinds))
            value = VALUES[kinds[name]](random)
            found[root] = {**found[root], name: random.sample(value, min(len(value), 4)) if name == "scopes" else value}
            lesser(random, found, root, name)
    return found


def beside(random: Random) -> Question:
    """Add a member that no policy declares; approvals are bound to it, too."""
    value = random.choice(
        [1, 1.0, "1", None, [], {}, {"dry": True}, {"dry": False, "deep": [{"x": 1}, {"x": 2}]}, 2**70]
    )
    return {random.choice(["trace_id", "options", "x-id"]): copied(value)}


def lesser(random: Random, found: Question, root: str, name: str) -> None:
    """Sometimes make a fact wrong-typed, absent, pending, or present in another case only."""
    match random.choices(["right", "other case", "wrong", "absent", "pending"], [82, 6, 4, 3, 5])[0]:
        case "other case" if root in ("body", "args", "context"):
            found[root] = {one.capitalize(): value for one, value in found[root].items()}
        case "wrong":
            found[root][name] = copied(random.choice(WRONG))
        case "absent":
            found[root].pop(name)
        case "pending":
            found[root].pop(name)
            others = root in ("body", "args", "context") and random.random() < 0.5
            found["pending"] = [*found.get("pending", ()), f"{root}.*" if others else f"{root}.{name}"]
        case _:
            pass


@lru_cache(maxsize=128)
def facts_that_may_lack(seed: int) -> list[tuple[str, str]]:
    """Return the facts whose presence the policy tests, or for which it has a default."""
    return WHETHER_THERE.findall("\n".join(setting(seed).policy.texts))


def lacking(random: Random, asked: Spoilt, names: Sequence[tuple[str, str]]) -> Spoilt:
    """Return the question without such a fact, or with it in another case only."""
    if not names or random.random() >= LACKING or type(asked) is not dict:
        return asked
    root, name = random.choice(names)
    other = random.choice([None, name.capitalize(), name.upper()])
    holder: Spoilt = asked.get("request") if root == "request.query" else asked
    members = holder.get(root.removeprefix("request.")) if type(holder) is dict else None
    if type(members) is not dict or name not in members:
        return asked
    left = {one: value for one, value in members.items() if one != name}
    renamed = left if other is None else {**left, other: members[name]}
    if root == "request.query":
        return {**asked, "request": {**holder, "query": renamed}}
    return {**asked, root: renamed}


def reach(random: Random, found: Question) -> None:
    """Return the question with another path or method, if it is about a path."""
    if "path" in found["request"]:
        path = found["request"]["path"]
        other = respelled(random, path) if isinstance(path, str) else random.choice(PATHS)
        one = random.choice([{"path": random.choice(PATHS)}, {"path": other}, {"method": random.choice(METHODS)}])
        found["request"] = {**found["request"], **one}


def posted(random: Random, asked: Spoilt) -> Spoilt:
    """Sometimes return the question as JSON, if JSON can represent it."""
    if random.random() >= AS_JSON or not isinstance(asked, dict):
        return asked
    try:
        text = json.dumps(asked)
    except (TypeError, ValueError):
        return asked
    return random.choice([text, text.encode()])

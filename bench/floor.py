"""The floor: the fastest hand-written Python we know for this workload, with the duties of an `Engine`, and without.

Same duties: it takes the same nested question, checks the type of each fact it uses, checks that the path is canonical
(as `policyengine/runtime/paths.py` does for ASCII), and returns an object with an id and the reasons. A value equal to
a known text is a text, so equality needs no type check. Same means: the part of a path before the last slash repeats,
so the floor caches its lookup, as the engine does. Variants that were no faster, within noise: an index by tenant below
the path, one key for path and method, `split` for the base, named tuples, slotted classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from sys import intern
from typing import Any

import msgspec

from bench.policy import ISSUER
from bench.workload import PermitRule, Workload

# The first two segments are the key of the index. Most paths consist of word characters; the others get a full check.
PLAIN_PATH = re.compile(r"(/[\w~-]++/[\w~-]++)(?:/[\w~-]++){0,126}+/?+", re.ASCII)
SEGMENT = r'/(?:[!"$&-\-0-:<->@-\[\]-~]|\.++(?=[^./]))++'
ANY_PATH = re.compile(rf"({SEGMENT}{SEGMENT})(?:{SEGMENT}){{0,126}}+/?+")
MAX_PATH_LENGTH = 8_192
MAX_KNOWN_COLLECTIONS = 8_192  # collections in the cache

Question = Mapping[str, Any]
DEFAULT, IDENTITY, MALFORMED = ("default",), ("identity",), ("malformed_path",)


class Verdict(msgspec.Struct, gc=False):
    """A verdict. `reasons` names the deciding rule or gate; the id becomes text when it is first read."""

    outcome: str
    reasons: tuple[str, ...]
    number: int

    @property
    def allowed(self) -> bool:
        return self.outcome == "allow"

    @property
    def id(self) -> str:
        return f"{self.number:026}"


def floor(work: Workload) -> Callable[[Question], Verdict]:
    """Return a decision function over rules in tuples, indexed by path and method; a closure, because its variables are
    the fastest to access."""
    known: dict[str, Methods] = {}
    shut, find, number, learn = (None, ()), known.get, count().__next__, partial(_learn_methods, _index(work), known)

    def decide(question: Question) -> Verdict:
        try:
            request = question["request"]
            path = request["path"]
            cut = path.rfind("/")
            methods = find(path[:cut])
            if methods is None or not path[cut + 1 :].isalnum() or not path.isascii() or len(path) > MAX_PATH_LENGTH:
                methods = learn(path, cut)
                if methods is None:
                    return Verdict("deny", MALFORMED, number())
            guard, rules = methods.get(request["method"], shut)
            if guard is not None and question["attestation"]["verified"] is not True:
                return Verdict("deny", guard, number())
            agent = question["agent"]
            if agent["issuer"] != ISSUER or "user" in question:
                return Verdict("deny", IDENTITY, number())
            context = question["context"]
            tenant = context["tenant"]
            for wanted, rule in rules:
                if wanted != tenant:
                    continue
                single, group, scope, depth, hours, risk, _, reasons = rule
                if single is not None:
                    if single != agent["id"]:
                        continue
                else:
                    groups = agent["groups"]
                    if type(groups) is not list or group not in groups:
                        continue
                scopes = question["credential"]["scopes"]
                if type(scopes) is not list or scope not in scopes:
                    continue
                at = context["depth"]
                if type(at) is not int or at > depth:
                    continue
                if hours is not None:
                    hour = context["hour"]
                    if type(hour) is not int or not hours[0] <= hour < hours[1]:
                        continue
                if risk is not None:
                    level = context["risk"]
                    if type(level) is not int or level >= risk:
                        continue
                return Verdict("allow", reasons, number())
            return Verdict("deny", DEFAULT, number())
        except (AttributeError, KeyError, TypeError):  # a fact is absent or has another type
            return decide(_complete_question(question))

    return decide


def bare_floor(work: Workload) -> Callable[[Question], bool]:
    """Return the same lookup without duties (no checks, no object, only a bool), for orientation."""
    doors, shut = _index(work), (None, ())

    def decide(question: Question) -> bool:
        request = question["request"]
        path = request["path"]
        methods = doors.get(path[: path.find("/", path.find("/", 1) + 1)])
        if methods is None:
            return False
        guard, rules = methods.get(request["method"], shut)
        if guard is not None and not question["attestation"]["verified"]:
            return False
        context, agent = question["context"], question["agent"]
        tenant = context["tenant"]
        for wanted, (single, group, scope, depth, hours, risk, prefix, _) in rules:
            if (
                wanted == tenant
                and (single == agent["id"] if single is not None else group in agent["groups"])
                and path.startswith(prefix)
                and scope in question["credential"]["scopes"]
                and context["depth"] <= depth
                and (hours is None or hours[0] <= context["hour"] < hours[1])
                and (risk is None or context["risk"] < risk)
            ):
                return True
        return False

    return decide


Rule = tuple[str, tuple[Any, ...]]
Methods = dict[str, tuple[tuple[str, ...] | None, tuple[Rule, ...]]]


def _index(work: Workload) -> dict[str, Methods]:
    """Return the forbid that applies and the permits with their tenants, by the first two segments and the method."""
    listed: dict[str, dict[str, list[Rule]]] = {}
    for permit in work.permits:
        row = _row(permit)
        for method in permit.methods:
            listed.setdefault(permit.base, {}).setdefault(method, []).append((intern(permit.tenant), row))
    guards = {forbid.base: (forbid.id,) for forbid in work.forbids}
    for base in guards:
        listed.setdefault(base, {}).setdefault("DELETE", [])
    return {
        base: {m: (guards.get(base) if m == "DELETE" else None, tuple(rules)) for m, rules in methods.items()}
        for base, methods in listed.items()
    }


def _learn_methods(index: dict[str, Methods], known: dict[str, Methods], path: str, cut: int) -> Methods | None:
    """Return the rules by method for all paths that differ only after the last slash, or None if the path is not
    canonical."""
    match = PLAIN_PATH.fullmatch(path) or ANY_PATH.fullmatch(path)
    if match is None or len(path) > MAX_PATH_LENGTH:
        return None
    methods = _methods_below(path, index.get(match[1], {}))
    if match.end(1) <= cut < len(path) - 1:
        if len(known) >= MAX_KNOWN_COLLECTIONS:
            known.clear()
        known[path[:cut]] = methods
    return methods


def _row(permit: PermitRule) -> tuple[Any, ...]:
    """Return the rule as a row of interned texts: with many rules, fewer distinct memory locations to read."""
    agent, group = permit.agent and intern(permit.agent), permit.group and intern(permit.group)
    bounds = (permit.depth, permit.hours, permit.risk)
    return (agent, group, intern(permit.scope), *bounds, permit.prefix, (permit.id,))


def _methods_below(path: str, methods: Methods) -> Methods:
    """Return the rows without the rules whose prefix (ending in a slash) the path does not start with."""
    return {
        method: (guard, tuple(rule for rule in rules if path.startswith(rule[1][-2])))
        for method, (guard, rules) in methods.items()
    }


MEMBERS = {
    "request": ("method", "path"),
    "agent": ("id", "issuer", "groups"),
    "credential": ("scopes",),
    "context": ("depth", "tenant", "hour", "risk"),
    "attestation": ("verified",),
}


def _complete_question(question: Question) -> Question:
    """Return the question with every fact present; an absent fact is None, which matches no rule."""
    given = {root: value if isinstance(value := question.get(root), dict) else {} for root in MEMBERS}
    whole = {root: {name: given[root].get(name) for name in names} for root, names in MEMBERS.items()}
    for name, value in whole["request"].items():
        whole["request"][name] = value if isinstance(value, str) else ""
    return {**whole, **({"user": None} if "user" in question else {})}

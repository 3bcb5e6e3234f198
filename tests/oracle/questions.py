"""Entities and questions in both forms: for Cedar, and for our engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from tests.oracle import policies as p
from tests.oracle import writing as w

Plain: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Value:
    """A value in Cedar's JSON, and in ours."""

    cedar: Any
    ours: Any


def plain(value: object) -> Value:
    return Value(value, value)


def extension(function: str, value: str, ours: object = None) -> Value:
    return Value({"__extn": {"fn": function, "arg": value}}, value if ours is None else ours)


def decimal(text: str) -> Value:
    return extension("decimal", text, float(text))


def reference(kind: str, name: str) -> Value:
    named = {"type": kind, "id": name}
    return Value({"__entity": named}, named)


VALUES: dict[str, Callable[[Random], Value]] = {
    "bool": lambda random: plain(random.random() < 0.5),
    "int": lambda random: plain(random.choice([0, 1, 2, 5, 500, -3])),
    "string": lambda random: plain(random.choice(w.WORDS)),
    "strings": lambda random: plain([word for word in w.WORDS if random.random() < 0.4]),
    "ip": lambda random: extension("ip", random.choice(["10.0.0.1", "8.8.8.8", "::1", "2001:db8::7"])),
    "time": lambda random: extension("datetime", random.choice([*w.MOMENTS, "2027-01-04T12:00:01Z"])),
    "duration": lambda random: extension("duration", random.choice([*w.DURATIONS, "5m1s"])),
    "number": lambda random: decimal(random.choice([*w.DECIMALS, "0.51"])),
    "user": lambda random: reference("user", random.choice(w.USERS)),
    "team": lambda random: reference("team", random.choice(w.TEAMS)),
    "people": lambda random: listed([*(reference("user", name) for name in random.sample(w.USERS, 1)),
                                     *(reference("team", name) for name in w.TEAMS if random.random() < 0.2)]),
}  # fmt: skip


def listed(values: list[Value]) -> Value:
    return Value([value.cedar for value in values], [value.ours for value in values])


def record(random: Random, atoms: w.Atoms, optional: float = 0.6) -> tuple[Plain, Plain]:
    """Return a value for every fact of a table that is a member of its root; optional ones are sometimes present."""
    cedar, ours = {}, {}
    for kind, facts in atoms.items():
        for fact in facts:
            _, dot, name = fact.cedar.partition(".")
            if dot and (not kind.endswith("?") or random.random() < optional):
                value = VALUES[kind.removesuffix("?")](random)
                cedar[name], ours[name] = value.cedar, value.ours
    return cedar, ours


@dataclass(frozen=True, slots=True)
class World:
    """Entities in both forms, without missing ones; `groups` are those of each agent, which a request states here."""

    cedar: list[Plain]
    ours: list[Plain]
    groups: dict[str, list[str]]


KINDS: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...], w.Atoms], ...] = (
    ("team", w.TEAMS, "team", w.TEAMS, {}),
    ("user", w.USERS, "team", w.TEAMS, w.USER),
    ("folder", w.FOLDERS, "folder", w.FOLDERS, w.FOLDER),
    ("doc", w.DOCS, "folder", w.FOLDERS, w.DOC),
    ("agent", w.AGENTS, "group", w.GROUPS, w.AGENT),
)  # kind, names, what it can be in, names of those, attributes


def world(random: Random) -> World:
    """Return the entities. Memberships lead to earlier names, so there is no cycle, which Cedar refuses."""
    found = World([*hierarchy()], [], {})
    for kind, names, above, tops, attributes in KINDS:
        for number, name in enumerate(names):
            known = tops[:number] if above == kind else tops
            parents = [{"type": above, "id": one} for one in known if random.random() < 0.4]
            cedar, ours = record(random, attributes)
            named = {"id": name} if kind == "agent" else {}
            found.cedar.append({"uid": {"type": kind, "id": name}, "attrs": {**cedar, **named}, "parents": parents})
            if kind == "agent":
                ours.pop("id")
                found.groups[name] = [one["id"] for one in parents]
            rows = [] if kind == "agent" else parents
            found.ours.append({"type": kind, "id": name, "attributes": ours, "in": rows})
    return found


def hierarchy() -> list[Plain]:
    """Return what our policies express directly and Cedar expresses by entities: the group of actions, and paths within
    paths."""
    reading = [{"type": "Action", "id": "reading"}]
    rows = [({"type": "Action", "id": verb}, reading if verb in p.READING else []) for verb in p.ACTIONS]
    for path in (*p.PATHS, *UNNAMED):
        parent, name = path.rpartition("/")[0], {"type": "endpoint", "id": path}
        rows.append((name, [{"type": "endpoint", "id": parent or "/"}]))
    return [{"uid": uid, "attrs": {}, "parents": parents} for uid, parents in rows]


UNNAMED = ("/v1/other", "/v1/notes/8", "/other")  # paths that no policy names


@dataclass(frozen=True, slots=True)
class Question:
    cedar: Plain
    ours: Plain


def question(random: Random, kind: str, world: World) -> Question:
    name = random.choice(w.USERS if kind == "user" else w.AGENTS)
    cedar, ours = record(random, w.CONTEXT)
    return asked(random, {"principal": {"type": kind, "id": name}, "context": cedar},
                 {**presenter(kind, name, world), "context": ours})  # fmt: skip


def presenter(kind: str, name: str, world: World) -> Plain:
    """Return the presenter. Cedar has no credentials: every caller has one whose issuer has `scopes none`."""
    credential = {"credential": {"issuer": "main"}}
    if kind == "user":
        return {"user": {"id": name}, **credential}
    return {"agent": {"id": name, "issuer": "main", "groups": world.groups[name]}, **credential}


def asked(random: Random, cedar: Plain, ours: Plain) -> Question:
    """Return a question about an endpoint, or an action on an entity."""
    if random.random() < 0.4:
        method, path = random.choice(p.METHODS), random.choice([*p.PATHS, *UNNAMED])
        action, resource = {"type": "Action", "id": method}, {"type": "endpoint", "id": path}
        reached: Plain = {"request": {"method": method, "path": path}}
    else:
        verb = random.choice([*p.ACTIONS, *p.READING])
        kind, names = random.choice([("doc", w.DOCS), ("doc", w.DOCS), ("folder", w.FOLDERS)])
        action, resource = {"type": "Action", "id": verb}, {"type": kind, "id": random.choice(names)}
        reached = {"action": {"name": verb}, "resource": dict(resource)}
    return Question({**cedar, "action": action, "resource": resource}, {**ours, **reached})

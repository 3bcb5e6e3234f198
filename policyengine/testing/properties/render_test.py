"""A sketch as a test to be pasted into a file of tests: what is given, the request, and what it should come to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from policyengine import kernel as k
from policyengine.checker.names.symbols import MAIN
from policyengine.policy_files import head_of
from policyengine.runtime.format_values import duration
from policyengine.testcases import GivenApproval, Property
from policyengine.testcases.scenario import BEGINNING
from policyengine.testing.properties.draft_request import Path, Sketch
from policyengine.testing.properties.endpoints import Action, Http, Tool
from policyengine.typesystem import EntityRef

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLAIN_PATH = re.compile(r"(?:/(?:[A-Za-z0-9_][A-Za-z0-9._~@-]*))+")
PLAIN_TOOL = re.compile(r"[A-Za-z0-9_](?:[-.\/:]*[A-Za-z0-9_])*")
GROUPS = ("credential", "attestation", "task", "request")
BROUGHT = ("body", "args", "context")
IMPORT = re.compile(r"\bimport\s+(\S+)(?:\s+as\s+(\S+))?")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the package of a property writes the names of other packages."""

    package: str
    aliases: Mapping[str, str]
    kernel: k.Kernel

    @classmethod
    def of(cls, prop: Property, sketch: Sketch) -> Spelling:
        aliases = {package: alias or package for package, alias in IMPORT.findall(prop.span.source.text)}
        return cls(prop.package, aliases, sketch.kernel)

    def entity(self, name: str) -> str:
        return self.name(name, self.kernel.entities.get(name))

    def name(self, name: str, declared: k.Entity | k.Issuer | None) -> str:
        package = None if declared is None else head_of(declared.span.source)[0] or MAIN
        if package in (None, self.package):
            return name
        alias = self.aliases.get(str(package))
        return name if alias is None else f"{alias}.{name}"

    def ref(self, ref: EntityRef) -> str:
        return f"{self.entity(ref.type)} {text(ref.id)}"

    def value(self, value: object) -> str:
        """A raw fact as a test gives it."""
        match value:
            case None:
                return "absent"
            case bool():
                return "true" if value else "false"
            case int() | Decimal():
                return format(value, "f") if isinstance(value, Decimal) else str(value)
            case str():
                return text(value)
            case timedelta():
                return duration(value)
            case datetime():
                return moment(value)
            case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
                return str(value)
            case EntityRef():
                return self.ref(value)
            case tuple() | list():
                return "[" + ", ".join(self.value(item) for item in value) + "]"
            case Mapping():
                return self.record(value)
            case _:
                raise TypeError(f"no test can give {type(value).__name__}")

    def record(self, members: Mapping[str, object]) -> str:
        inside = ", ".join(f"{key(name)}: {self.value(value)}" for name, value in members.items())
        return f"{{ {inside} }}" if inside else "{ }"


def text(value: str) -> str:
    return json.dumps(value, ensure_ascii=not value.isprintable())


def moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def key(name: str) -> str:
    return name if NAME.fullmatch(name) and name[0].islower() else text(name)


def path_text(path: Path) -> str:
    """`body.amount`, `args["content-type"]`: what follows a name in brackets stands in brackets, too."""
    found, bracketed = path[0], False
    for name in path[1:]:
        bracketed = bracketed or not NAME.fullmatch(name)
        found += f"[{text(name)}]" if bracketed else f".{name}"
    return found


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


def request_text(sketch: Sketch, spelling: Spelling | None = None) -> str:
    match sketch.spot:
        case Http(method, _) as spot:
            return f"{method} {spot.path if PLAIN_PATH.fullmatch(spot.path) else text(spot.path)}"
        case Tool(name):
            return f"TOOL {name if PLAIN_TOOL.fullmatch(name) else text(name)}"
        case Action(verb, type_, id_):
            return f"ACTION {verb} {spelling.entity(type_) if spelling else type_} {text(id_)}"


def test_text(sketch: Sketch, prop: Property) -> str:
    """A whole test, of a name that its file is unlikely to have."""
    spelling = Spelling.of(prop, sketch)
    lines = [*givens(sketch, spelling), shot(sketch, prop, spelling)]
    name = text(f"{prop.test}: counterexample to {prop.number}")
    return "\n".join([f"test {name} {{", *(f"  {line}" for line in lines), "}"])


test_text.__test__ = False  # type: ignore[attr-defined]  # pytest: this is none of ours


def shot(sketch: Sketch, prop: Property, spelling: Spelling) -> str:
    brought = [(path, value) for path, value in facts(sketch) if path[0] in BROUGHT]
    pairs = [f"{path_text(path)}: {spelling.value(value)}" for path, value in brought]
    pairs += [f"{root}.{name}: {spelling.value(value)}" for (root, name), value in sketch.attributes.items()]
    inside = f" {{ {', '.join(pairs)} }}" if pairs else ""
    return f"{request_text(sketch, spelling)}{inside} => {prop.expected.text}"


def facts(sketch: Sketch) -> Iterator[tuple[Path, object]]:
    def inside(tree: Mapping[str, object], above: Path) -> Iterator[tuple[Path, object]]:
        for name, value in tree.items():
            if isinstance(value, Mapping) and value:
                yield from inside(value, (*above, name))
            else:
                yield (*above, name), value

    yield from inside(sketch.facts, ())


def givens(sketch: Sketch, spelling: Spelling) -> Iterator[str]:
    if sketch.now != BEGINNING:
        yield f"given time {moment(sketch.now)}"
    yield from entities(sketch, spelling)
    yield from who(sketch.facts, spelling)
    for root in GROUPS:
        if root in sketch.facts:
            yield f"given {root} {spelling.value(sketch.facts[root])}"
    yield from chain(sketch, spelling)
    yield from approvals(sketch.approvals)


def who(facts: Mapping[str, object], spelling: Spelling) -> Iterator[str]:
    """The agent and the user, in the short form where that says everything."""
    agent, user = facts.get("agent"), facts.get("user")
    served = user["id"] if isinstance(user, Mapping) and list(user) == ["id"] and isinstance(user["id"], str) else None
    issuer = spelling.kernel.issuers.get(str(agent.get("issuer"))) if isinstance(agent, Mapping) else None
    short = issuer is not None and isinstance(agent, Mapping) and isinstance(agent.get("id"), str)
    if short and issuer is not None and isinstance(agent, Mapping):
        rest = {name: value for name, value in agent.items() if name not in ("id", "issuer")}
        words = [f"given agent {text(agent['id'])} from {spelling.name(issuer.name, issuer)}"]
        words += [f"for user {text(served)}"] if served is not None else []
        yield " ".join([*words, *([spelling.record(rest)] if rest else [])])
    elif isinstance(agent, Mapping):
        yield from (f"given agent.{name} {spelling.value(value)}" for name, value in agent.items())
    if served is not None and not short:
        yield f"given user {text(served)}"
    elif "user" in facts and served is None:
        yield f"given user {spelling.value(user)}"


def entities(sketch: Sketch, spelling: Spelling) -> Iterator[str]:
    if not sketch.rows:
        return
    yield "given entities {"
    for ref, row in sketch.rows.items():
        attributes = f" {spelling.record(row.attributes)}" if row.attributes else ""
        inside = f" in {', '.join(spelling.ref(parent) for parent in row.parents)}" if row.parents else ""
        yield f"  {spelling.ref(ref)}{attributes}{inside}"
    yield "}"


def chain(sketch: Sketch, spelling: Spelling) -> Iterator[str]:
    given = sketch.facts.get("chain")
    if given is None and "chain" not in sketch.facts:
        return
    hops = given.get("hops") if isinstance(given, Mapping) else None
    yield f"given chain {spelling.value(hops)}"


def approvals(given: list[GivenApproval]) -> Iterator[str]:
    every = [f"{{ rule: {text(one.rule)}, by: {text(one.by)}, age: {duration(one.age)} }}" for one in given]
    if every:
        yield f"given approval {every[0] if len(every) == 1 else '[' + ', '.join(every) + ']'}"

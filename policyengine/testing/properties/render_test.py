"""Renders a generated request as a test for a test file: its setup, the request, and the expectation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from policyengine import kernel as k
from policyengine.checker.names.symbols import MAIN_PACKAGE
from policyengine.policy_files import parse_head
from policyengine.runtime.format_values import quote_string
from policyengine.runtime.values import Invalid
from policyengine.testcases import GivenApproval, Property
from policyengine.testcases.scenario import DEFAULT_TIME
from policyengine.testing.properties.draft_request import DraftRequest, FactPath
from policyengine.testing.properties.endpoints import ConcreteAction, ConcreteHttp, ConcreteTool
from policyengine.time_formats import format_duration, format_rfc3339
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import GROUPED_ROOTS

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BARE_PATH = re.compile(r"(?:/(?:[A-Za-z0-9_][A-Za-z0-9._~@-]*))+")
BARE_TOOL_NAME = re.compile(r"[A-Za-z0-9_](?:[-.\/:]*[A-Za-z0-9_])*")
REQUEST_ROOTS = ("tool", "body", "args", "context")
IMPORT = re.compile(r"\bimport\s+(\S+)(?:\s+as\s+(\S+))?")


@dataclass(frozen=True, slots=True)
class TestNameWriter:
    """Writes the names of other packages as the package of the property imports them."""

    package: str
    aliases: Mapping[str, str]
    kernel: k.Kernel

    @classmethod
    def of(cls, prop: Property, sketch: DraftRequest) -> TestNameWriter:
        aliases = {package: alias or package for package, alias in IMPORT.findall(prop.span.source.text)}
        return cls(prop.package, aliases, sketch.kernel)

    def entity(self, name: str) -> str:
        return self.name(name, self.kernel.entities.get(name))

    def name(self, name: str, declared: k.EntityType | k.Issuer | None) -> str:
        package = None if declared is None else parse_head(declared.span.source)[0] or MAIN_PACKAGE
        if package in (None, self.package):
            return name
        alias = self.aliases.get(str(package))
        return name if alias is None else f"{alias}.{name}"

    def ref(self, ref: EntityRef) -> str:
        return f"{self.entity(ref.type)} {quote_string(ref.id)}"

    def value(self, value: object) -> str:
        """Return a raw fact as the text of a test. Raises TypeError for a value that tests cannot express."""
        match value:
            case None:
                return "absent"
            case bool():
                return "true" if value else "false"
            case int() | Decimal():
                return format(value, "f") if isinstance(value, Decimal) else str(value)
            case str():
                return quote_string(value)
            case timedelta():
                return format_duration(value)
            case datetime():
                return time_text(value)
            case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
                return str(value)
            case EntityRef():
                return self.ref(value)
            case tuple() | list():
                return "[" + ", ".join(self.value(item) for item in value) + "]"
            case Mapping():
                return self.record(value)
            case Invalid():  # a learned fact
                return "unknown"
            case _:
                raise TypeError(f"no test can give {type(value).__name__}")

    def record(self, members: Mapping[str, object]) -> str:
        inside = ", ".join(f"{key_text(name)}: {self.value(value)}" for name, value in members.items())
        return f"{{ {inside} }}" if inside else "{ }"


def time_text(value: datetime) -> str:
    return format_rfc3339(value.astimezone(UTC), "seconds")


def key_text(name: str) -> str:
    return name if NAME.fullmatch(name) and name[0].islower() else quote_string(name)


def path_text(path: FactPath) -> str:
    """Return a path as text: `body.amount`, `args["content-type"]`. After the first name in brackets, all names are in
    brackets.
    """
    found, bracketed = path[0], False
    for name in path[1:]:
        bracketed = bracketed or not NAME.fullmatch(name)
        found += f"[{quote_string(name)}]" if bracketed else f".{name}"
    return found


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


def request_text(sketch: DraftRequest, spelling: TestNameWriter | None = None) -> str:
    match sketch.spot:
        case ConcreteHttp(method, _) as spot:
            return f"{method} {spot.path if BARE_PATH.fullmatch(spot.path) else quote_string(spot.path)}"
        case ConcreteTool(name):
            return f"TOOL {name if BARE_TOOL_NAME.fullmatch(name) else quote_string(name)}"
        case ConcreteAction(verb, type_, id_):
            return f"ACTION {verb} {spelling.entity(type_) if spelling else type_} {quote_string(id_)}"


def test_text(sketch: DraftRequest, prop: Property) -> str:
    """Return a complete test, with a name that is unlikely to exist in its file."""
    spelling = TestNameWriter.of(prop, sketch)
    lines = [*given_lines(sketch, spelling), request_line(sketch, prop, spelling)]
    name = quote_string(f"{prop.test}: counterexample to {prop.number}")
    return "\n".join([f"test {name} {{", *(f"  {line}" for line in lines), "}"])


test_text.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def request_line(sketch: DraftRequest, prop: Property, spelling: TestNameWriter) -> str:
    brought = [(path, value) for path, value in leaf_facts(sketch) if path[0] in REQUEST_ROOTS]
    pairs = [f"{path_text(path)}: {spelling.value(value)}" for path, value in brought]
    pairs += [f"{root}.{name}: {spelling.value(value)}" for (root, name), value in sketch.attributes.items()]
    inside = f" {{ {', '.join(pairs)} }}" if pairs else ""
    return f"{request_text(sketch, spelling)}{inside} => {prop.expected.text}"


def leaf_facts(sketch: DraftRequest) -> Iterator[tuple[FactPath, object]]:
    def inside(tree: Mapping[str, object], above: FactPath) -> Iterator[tuple[FactPath, object]]:
        for name, value in tree.items():
            if isinstance(value, Mapping) and value:
                yield from inside(value, (*above, name))
            else:
                yield (*above, name), value

    yield from inside(sketch.facts, ())


def given_lines(sketch: DraftRequest, spelling: TestNameWriter) -> Iterator[str]:
    if sketch.now != DEFAULT_TIME:
        yield f"given time {time_text(sketch.now)}"
    yield from entity_lines(sketch, spelling)
    yield from principal_lines(sketch.facts, spelling)
    for root in GROUPED_ROOTS:
        if root in sketch.facts:
            yield f"given {root} {spelling.value(sketch.facts[root])}"
    yield from behavior_lines(sketch.facts, spelling)
    yield from chain_lines(sketch, spelling)
    yield from approval_lines(sketch.approvals, spelling)


def behavior_lines(facts: Mapping[str, object], spelling: TestNameWriter) -> Iterator[str]:
    """Yield the line for learned facts. If a profile declares an order of calls, the line also states whether the
    request follows it, because a test would otherwise begin a run with this request."""
    found = facts.get("behavior")
    learned = {**found} if isinstance(found, Mapping) else {}
    if any(profile.order for profile in spelling.kernel.profiles):
        learned.setdefault("sequence", True)
    if learned:
        yield f"given behavior {spelling.value(learned)}"
    if "cluster" in facts:
        yield f"given cluster {spelling.value(facts['cluster'])}"


def principal_lines(facts: Mapping[str, object], spelling: TestNameWriter) -> Iterator[str]:
    """Yield the lines for agent and user, in the short form if it is complete."""
    agent, user = facts.get("agent"), facts.get("user")
    served = user["id"] if isinstance(user, Mapping) and list(user) == ["id"] and isinstance(user["id"], str) else None
    issuer = spelling.kernel.issuers.get(str(agent.get("issuer"))) if isinstance(agent, Mapping) else None
    short = issuer is not None and isinstance(agent, Mapping) and isinstance(agent.get("id"), str)
    if short and issuer is not None and isinstance(agent, Mapping):
        rest = {name: value for name, value in agent.items() if name not in ("id", "issuer")}
        words = [f"given agent {quote_string(agent['id'])} from {spelling.name(issuer.name, issuer)}"]
        words += [f"for user {quote_string(served)}"] if served is not None else []
        yield " ".join([*words, *([spelling.record(rest)] if rest else [])])
    elif isinstance(agent, Mapping):
        yield from (f"given agent.{name} {spelling.value(value)}" for name, value in agent.items())
    if served is not None and not short:
        yield f"given user {quote_string(served)}"
    elif "user" in facts and served is None:
        yield f"given user {spelling.value(user)}"


def entity_lines(sketch: DraftRequest, spelling: TestNameWriter) -> Iterator[str]:
    if not sketch.rows:
        return
    yield "given entities {"
    for ref, row in sketch.rows.items():
        attributes = f" {spelling.record(row.attributes)}" if row.attributes else ""
        inside = f" in {', '.join(spelling.ref(parent) for parent in row.parents)}" if row.parents else ""
        yield f"  {spelling.ref(ref)}{attributes}{inside}"
    yield "}"


def chain_lines(sketch: DraftRequest, spelling: TestNameWriter) -> Iterator[str]:
    given = sketch.facts.get("chain")
    if given is None and "chain" not in sketch.facts:
        return
    hops = given.get("hops") if isinstance(given, Mapping) else None
    yield f"given chain {spelling.value(hops)}"


def approval_lines(given: list[GivenApproval], spelling: TestNameWriter) -> Iterator[str]:
    every = []
    for approval in given:
        issuer = spelling.kernel.issuers.get(approval.issuer or "")
        vouched = "" if issuer is None else f"issuer: {spelling.name(issuer.name, issuer)}, "
        by, age = quote_string(approval.by), format_duration(approval.age)
        every.append(f"{{ rule: {quote_string(approval.rule)}, by: {by}, {vouched}age: {age} }}")
    if every:
        yield f"given approval {every[0] if len(every) == 1 else '[' + ', '.join(every) + ']'}"

"""What fixtures and tests give, as steps: facts, entities, the agent, its chain, approvals and the time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import assert_never

from policyengine.checker.type_names import a, listed
from policyengine.diagnostics.model import suggest
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import HOP
from policyengine.runtime.values import Unknown, coerce
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.catalogue import Attribute, Fact, Group, Path
from policyengine.testcases.scenario import GivenApproval, PutApprovals, PutAttribute, PutFact, PutRow, PutTime, Step
from policyengine.testcases.values import ABSENT, Reading, entity, key_path, once, raw, reference_path, report_twice
from policyengine.typesystem import EntityRef, Field, Record, Type

HOP_MEMBERS = (*HOP, "age")
APPROVAL_MEMBERS = ("rule", "by", "age", "of")
EXAMPLES = {
    "approval": 'write `given approval { rule: "…", by: "…" }`',
    "chain": 'write `given chain [agent "planner"]`',
    "resource": 'write `given resource invoice "42"`',
}


def steps(given: ast.GivenEntities | ast.GivenAgent | ast.GivenFact, reading: Reading) -> Iterator[Step]:
    match given:
        case ast.GivenEntities(rows):
            yield from entities(rows, reading)
        case ast.GivenAgent():
            yield from agent(given, reading)
        case ast.GivenFact(reference, value):
            yield from assign(reference_path(reference), reference.span, value, reading)
        case _:
            assert_never(given)


def facts(written: ast.RecordLiteral | None, reading: Reading) -> Iterator[Step]:
    """`{ body.amount: 90, user.plan: team }`: what a request brings along."""
    if written is None:
        return
    once(written, reading.report)
    for pair in written.pairs:
        yield from assign(key_path(pair), pair.key.span, pair.value, reading)


def assign(path: Path, span: Span, value: ast.Value, reading: Reading) -> Iterator[Step]:
    """One fact, or every fact of a group."""
    match path:
        case ("time",):
            yield from moment(value, reading)
        case ("approval",):
            yield PutApprovals(approvals(value, reading))
        case ("chain",) | ("chain", "hops"):
            yield PutFact(("chain", "hops"), hops(value, path, reading))
        case ("resource",) if not isinstance(value, ast.RecordLiteral):
            yield from resource(value, reading)
        case ("agent",) | ("user",) if not isinstance(value, ast.RecordLiteral):
            yield from called(path[0], value, reading)
        case _:
            yield from known(path, span, value, reading)


def known(path: Path, span: Span, value: ast.Value, reading: Reading) -> Iterator[Step]:
    match reading.catalogue.find(path, span):
        case None:
            return
        case Attribute(type_):
            yield PutAttribute(path[0], path[1], raw(value, reading, Fact(type_)))
        case Fact() as fact:
            yield PutFact(spelled(path), raw(value, reading, fact))
        case Group(free):
            yield from group(path, value, free, reading)


def group(path: Path, value: ast.Value, free: bool, reading: Reading) -> Iterator[Step]:
    name = ".".join(path)
    match value:
        case ast.RecordLiteral(pairs):
            once(value, reading.report)
            for pair in pairs:
                names = key_path(pair)
                # Names of headers, parameters and claims may hold dots: there they are one name.
                inner = (*path, ".".join(names)) if free else (*path, *names)
                yield from assign(inner, pair.key.span, pair.value, reading)
        case ast.WordValue(text) if text == ABSENT and text not in reading.variables:
            yield PutFact(path, None)
        case _:
            hint = EXAMPLES.get(name, f"write `{name} {{ … }}`, or name one of its facts")
            reading.report("E605", f"`{name}` is a group of facts, not a value", value.span, hint)


def spelled(path: Path) -> Path:
    """Names of headers have no case, so that one given again is the same one."""
    return (*path[:2], *(name.lower() for name in path[2:])) if path[:2] == ("request", "headers") else path


# ── Who and what ──────────────────────────────────────────────────────────────────────────────


def agent(given: ast.GivenAgent, reading: Reading) -> Iterator[Step]:
    """A whole agent in place of the one before; the user stays unless another one is named."""
    who: dict[str, object] = {"id": given.name.value}
    if given.issuer is not None:
        symbol = reading.catalogue.program.find(reading.package, "issuer", given.issuer)
        who["issuer"] = symbol.name if symbol else None
    yield PutFact(("agent",), who)
    if given.user is not None:
        yield PutFact(("user",), {"id": given.user.value})
    if given.attributes is not None:
        yield from group(("agent",), given.attributes, False, reading)


def called(root: str, value: ast.Value, reading: Reading) -> Iterator[Step]:
    """`given user "alice"`, `given user user "alice"`, `given user absent`."""
    id_ = raw(value, reading)
    if isinstance(id_, EntityRef) and id_.type == root:
        id_ = id_.id
    yield PutFact((root,), None if id_ is None else {"id": id_})


def resource(value: ast.Value, reading: Reading) -> Iterator[Step]:
    thing = raw(value, reading)
    if thing is not None and not isinstance(thing, EntityRef):
        reading.report("E605", "a resource is an entity", value.span, EXAMPLES["resource"])
    elif isinstance(thing, EntityRef):
        yield PutFact(("resource",), {"type": thing.type, "id": thing.id})
    else:
        yield PutFact(("resource",), None)


def moment(value: ast.Value, reading: Reading) -> Iterator[Step]:
    found = raw(value, reading)
    if isinstance(found, datetime):
        yield PutTime(found)
    elif not has_kind(value, "date", "clock"):
        reading.report("E605", "the time is a moment", value.span, "write `given time 2026-01-31T09:00:00Z`")


def has_kind(value: ast.Value, *kinds: ast.LiteralKind) -> bool:
    """A literal like that has a value of its own, or a mistake of its own."""
    return isinstance(value, ast.Literal) and value.kind in kinds


def is_absent(value: ast.Value) -> bool:
    return isinstance(value, ast.WordValue) and value.text == ABSENT


# ── Chains ────────────────────────────────────────────────────────────────────────────────────


def hops(value: ast.Value, path: Path, reading: Reading) -> tuple[object, ...] | None:
    """`[agent "planner", …]`, `[{ agent: "planner", … }]`, or `{ hops: […] }`; the presenter is not among them."""
    match value:
        case ast.ValueList(items):
            return tuple(hop(item, reading) for item in items)
        case ast.RecordLiteral((ast.Pair(key, inner),)) if path == ("chain",) and key.span.text == "hops":
            return hops(inner, ("chain", "hops"), reading)
        case ast.WordValue("absent"):
            return None
        case _:
            reading.report("E605", "a chain is a list of agents", value.span, EXAMPLES["chain"])
            return None


def hop(value: ast.Value, reading: Reading) -> dict[str, object]:
    match value:
        case ast.EntityLiteral(ast.Name("agent"), name):
            return {"agent": name.value}
        case ast.RecordLiteral(pairs):
            once(value, reading.report)
            for pair in pairs:
                check_member(pair, HOP_MEMBERS, "hop of a chain", reading)
            return {pair.key.span.text: member(pair, reading) for pair in pairs}
        case _:
            hint = 'write `agent "planner"`, or `{ agent: "planner", scopes: […] }`'
            reading.report("E605", "a hop of a chain is an agent", value.span, hint)
            return {}


def member(pair: ast.Pair, reading: Reading) -> object:
    match pair.key.span.text, pair.value:
        case "agent", ast.EntityLiteral(ast.Name("agent"), name):
            return name.value
        case "issuer", value:
            return raw(value, reading, Fact(None, "issuer"))
        case "age", value:
            return duration(value, reading)
        case _, value:
            return raw(value, reading)


def duration(value: ast.Value, reading: Reading) -> timedelta | None:
    """None for `absent`, and where something was reported."""
    age = raw(value, reading)
    if not isinstance(age, timedelta) and not is_absent(value) and not has_kind(value, "duration"):
        reading.report("E605", "an age is a duration", value.span, "write how long ago: `5m`")
    return age if isinstance(age, timedelta) else None


def check_member(pair: ast.Pair, allowed: tuple[str, ...], what: str, reading: Reading) -> None:
    name = ".".join(key_path(pair))
    if name not in allowed:
        meant = suggest(name, allowed)
        hint = f"did you mean `{meant}`?" if meant else f"it has {listed(allowed)}"
        reading.report("E602", f"{a_or_an(what)} has no `{name}`", pair.key.span, hint)


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────


def approvals(value: ast.Value, reading: Reading) -> tuple[GivenApproval, ...]:
    """One, a list of several, or none (`absent`)."""
    match value:
        case ast.ValueList(items):
            found = [approval(item, reading) for item in items]
        case ast.WordValue("absent"):
            found = []
        case _:
            found = [approval(value, reading)]
    return tuple(one for one in found if one is not None)


def approval(value: ast.Value, reading: Reading) -> GivenApproval | None:
    if not isinstance(value, ast.RecordLiteral):
        reading.report("E605", "an approval says for which rule and by whom", value.span, EXAMPLES["approval"])
        return None
    once(value, reading.report)
    for pair in value.pairs:
        check_member(pair, APPROVAL_MEMBERS, "approval", reading)
    given = {pair.key.span.text: pair.value for pair in value.pairs}
    rule, by = text(given.get("rule"), "rule", value, reading), text(given.get("by"), "by", value, reading)
    age = (duration(given["age"], reading) if "age" in given else None) or timedelta(0)
    if rule is not None and rule not in reading.catalogue.confirming:
        report_rule(rule, given["rule"].span, reading)
    other = tuple(facts_of_another(given["of"], reading)) if "of" in given else ()
    if rule is None or by is None:
        return None
    where = value.span
    return GivenApproval(f"{where.at}:{where.column}", rule, by, age, other)


def facts_of_another(value: ast.Value, reading: Reading) -> Iterator[PutFact]:
    """What differs in the request that was approved; what the directory knows is the same for both."""
    if not isinstance(value, ast.RecordLiteral):
        hint = "name what differs in it: `of: { body.amount: 1 }`"
        reading.report("E605", "an approval is `of` a request with other facts", value.span, hint)
        return
    for step in facts(value, reading):
        if isinstance(step, PutFact):
            yield step
        else:
            message = "what the directory knows is the same for both requests"
            reading.report("E605", message, value.span, "name facts that come with a request: `of: { body.amount: 1 }`")


def text(value: ast.Value | None, name: str, whole: ast.RecordLiteral, reading: Reading) -> str | None:
    found = None if value is None else raw(value, reading)
    if isinstance(found, EntityRef) and found.type == "user":
        return found.id
    if isinstance(value, ast.WordValue) and found is None and value.text != ABSENT:
        return None  # an unknown word: that was reported
    if not isinstance(found, str) or not found:
        span = whole.span if value is None else value.span
        message = f"an approval says its `{name}`" if value is None else f"the `{name}` of an approval is a text"
        reading.report("E605", message, span, EXAMPLES["approval"])
        return None
    return found


def report_rule(rule: str, span: Span, reading: Reading) -> None:
    known_ones = reading.catalogue.confirming
    if rule in reading.catalogue.rules:
        message, hint = f"the guard `{rule}` asks for no approval", "only `confirm` does"
    else:
        meant = suggest(rule, known_ones)
        message = f"no guard is called `{rule}`"
        hint = f"did you mean `{meant}`?" if meant else rules_hint(known_ones, "guards that ask for approvals are")
    reading.report("E608", message, span, hint)


def rules_hint(names: frozenset[str], what: str) -> str:
    return f"{what} {listed(sorted(names)[:6])}" if names else "there is none in these policies"


# ── The directory ─────────────────────────────────────────────────────────────────────────────


def entities(rows: tuple[ast.EntityRow, ...], reading: Reading) -> Iterator[Step]:
    """Rows of the directory; one that was given before is replaced. Here types count: a directory has a schema."""
    seen: dict[EntityRef, Span] = {}
    for row in rows:
        ref = entity(row.entity, reading)
        if ref is None:
            continue
        first = seen.setdefault(ref, row.entity.span)
        if first is not row.entity.span:
            report_twice(str(ref), row.entity.span, first, reading.report)
        parents = [parent_of(ref, parent, reading) for parent in row.parents]
        yield PutRow(EntityData(ref, attributes(ref, row, reading), tuple(p for p in parents if p is not None)))


def parent_of(ref: EntityRef, parent: ast.EntityLiteral, reading: Reading) -> EntityRef | None:
    found = entity(parent, reading)
    declared = reading.catalogue.schema.entities[ref.type]
    if found is not None and found.type not in declared.parents:
        hint = f"declare it: `entity {ref.type} {{ … }} in {found.type}`"
        reading.report("E606", f"{a_or_an(ref.type)} is never in {a_or_an(found.type)}", parent.span, hint)
    return found


def a_or_an(name: str) -> str:
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def attributes(ref: EntityRef, row: ast.EntityRow, reading: Reading) -> dict[str, object]:
    if row.attributes is None:
        return {}
    once(row.attributes, reading.report)
    declared = reading.catalogue.schema.entities[ref.type]
    found: dict[str, object] = {}
    for pair in row.attributes.pairs:
        name = ".".join(key_path(pair))
        attribute = declared.field(name)
        if attribute is None:
            report_attribute(name, ref, pair, reading)
            continue
        found[name] = raw(pair.value, reading, Fact(attribute.type))
        check_type(found[name], attribute, f"{ref.type}.{name}", pair.value, reading)
    return found


def report_attribute(name: str, ref: EntityRef, pair: ast.Pair, reading: Reading) -> None:
    names = [declared.name for declared in reading.catalogue.schema.entities[ref.type].fields]
    meant = suggest(name, names)
    known_ones = f"it has {listed(names)}" if names else f"declare it: `entity {ref.type} {{ {name}: string }}`"
    hint = f"did you mean `{meant}`?" if meant else known_ones
    reading.report("E606", f"{a_or_an(ref.type)} has no attribute `{name}`", pair.key.span, hint)


def check_type(value: object, attribute: Field, name: str, written: ast.Value, reading: Reading) -> None:
    """A row is what the directory would give; `user.plan: 5` in a request tests what a wrong type does."""
    if value is not None and not has_type(value, attribute.type, name):
        hint = f"`{name}` is {a(attribute.type)}"
        reading.report("E606", f"`{written.span.text}` does not fit `{name}`", written.span, hint)


def has_type(value: object, type_: Type, name: str) -> bool:
    found = coerce(value, type_, name)
    if isinstance(type_, Record) and isinstance(value, dict):
        members = ((value.get(member.name), member) for member in type_.fields)
        return all(inner is None or has_type(inner, member.type, name) for inner, member in members)
    items = found if isinstance(found, tuple) else ()
    return not isinstance(found, Unknown) and not any(isinstance(item, Unknown) for item in items)

"""Setup of fixtures and tests as scenario steps: facts, entities, the agent, its chain, approvals and the time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never

from policyengine.checker.type_names import describe_type, join_words
from policyengine.diagnostics.suggest import did_you_mean, suggest
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import CHAIN_HOP_MEMBERS
from policyengine.runtime.snapshot import NOT_READABLE
from policyengine.runtime.values import Unknown, coerce
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.fact_catalogue import CatalogueAttribute, CatalogueFact, FactGroup, FactPath
from policyengine.testcases.raw_facts import (
    ABSENT,
    ValueContext,
    check_members_unique,
    entity_ref,
    key_path,
    raw_value,
    reference_path,
    report_twice,
)
from policyengine.testcases.scenario import (
    GivenApproval,
    PutApprovals,
    PutAttribute,
    PutFact,
    PutRow,
    PutTime,
    PutTrace,
    ScenarioStep,
)
from policyengine.typesystem import EntityRef, FieldType, RecordType, Scalar, Type
from policyengine.vocabulary import CLUSTER_ID, LEARNED_FACTS, is_learned_value

UNKNOWN = "unknown"
HOP_MEMBERS = (*CHAIN_HOP_MEMBERS, "age")
APPROVAL_MEMBERS = ("rule", "by", "issuer", "age", "of")
TRACE_HINT = 'write `given trace "events.jsonl"`, relative to this file'
HINTS = {
    "approval": 'write `given approval { rule: "…", by: "…" }`',
    "behavior": "write `given behavior { trust: 0.95, burst: true }`",
    "cluster": 'write `given cluster { id: "ring", size: 30 }`',
    "chain": 'write `given chain [agent "planner"]`',
    "resource": 'write `given resource invoice "42"`',
}


def given_steps(
    given: ast.GivenEntities | ast.GivenAgent | ast.GivenFact, reading: ValueContext
) -> Iterator[ScenarioStep]:
    match given:
        case ast.GivenEntities(rows):
            yield from entity_steps(rows, reading)
        case ast.GivenAgent():
            yield from agent_steps(given, reading)
        case ast.GivenFact(reference, value):
            yield from assign_fact(reference_path(reference), reference.span, value, reading)
        case _:
            assert_never(given)


def fact_steps(written: ast.RecordLiteral | None, reading: ValueContext) -> Iterator[ScenarioStep]:
    """Yield the steps for `{ body.amount: 90, user.plan: team }`, the facts of one request."""
    if written is None:
        return
    check_members_unique(written, reading.report)
    for pair in written.pairs:
        yield from assign_fact(key_path(pair), pair.key.span, pair.value, reading)


def assign_fact(path: FactPath, span: Span, value: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    """Yield the steps for one fact, or for every fact of a group."""
    match path:
        case ("time",):
            yield from time_steps(value, reading)
        case ("trace",):
            yield from trace_steps(value, reading)
        case ("approval",):
            yield PutApprovals(read_approvals(value, reading))
        case ("chain",) | ("chain", "hops"):
            yield PutFact(("chain", "hops"), read_hops(value, path, reading))
        case ("resource",) if not isinstance(value, ast.RecordLiteral):
            yield from resource_steps(value, reading)
        case ("agent",) | ("user",) if not isinstance(value, ast.RecordLiteral):
            yield from principal_steps(path[0], value, reading)
        case _:
            yield from assign_known(path, span, value, reading)


def assign_known(path: FactPath, span: Span, value: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    match reading.catalogue.find(path, span):
        case None:
            return
        case CatalogueAttribute(type_):
            yield PutAttribute(path[0], path[1], raw_value(value, reading, CatalogueFact(type_)))
        case CatalogueFact() as fact if path in LEARNED_FACTS:
            yield PutFact(path, read_learned_fact(path, value, fact, reading))
        case CatalogueFact() as fact:
            yield PutFact(normalize_path(path), raw_value(value, reading, fact))
        case FactGroup(free):
            yield from assign_group(path, value, free, reading)


def assign_group(path: FactPath, value: ast.Value, free: bool, reading: ValueContext) -> Iterator[ScenarioStep]:
    name = ".".join(path)
    match value:
        case ast.RecordLiteral(()):
            yield PutFact(path, {})  # an empty object, as in a request; not the same as an absent one
        case ast.RecordLiteral(pairs):
            check_members_unique(value, reading.report)
            for pair in pairs:
                names = key_path(pair)
                # The name of a header, parameter or claim may contain dots, so it is one name.
                inner = (*path, ".".join(names)) if free else (*path, *names)
                yield from assign_fact(inner, pair.key.span, pair.value, reading)
        case ast.WordValue(text) if text == ABSENT and text not in reading.variables:
            yield PutFact(path, None)
        case _:
            hint = HINTS.get(name, f"write `{name} {{ … }}`, or name one of its facts")
            reading.report("E605", f"`{name}` is a group of facts, not a value", value.span, hint)


def normalize_path(path: FactPath) -> FactPath:
    """Return the path with header names in lower case, so that all spellings of a header are one fact."""
    return (*path[:2], *(name.lower() for name in path[2:])) if path[:2] == ("request", "headers") else path


def trace_steps(value: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    """Yield the step for a file of events, whose name is relative to the file of the test."""
    if not isinstance(value, ast.Text):
        reading.report("E605", f"`{value.span.text}` is not the name of a file", value.span, TRACE_HINT)
        return
    path = Path(value.span.source.name).parent / value.value
    if not path.is_file():
        reading.report("E605", f"there is no file `{path}`", value.span, TRACE_HINT)
        return
    yield PutTrace(path)


def read_learned_fact(path: FactPath, value: ast.Value, fact: CatalogueFact, reading: ValueContext) -> object:
    """Parse a learned fact, which the engine computes, so its type and range are checked. `unknown` is a fact that the
    engine could not read.
    """
    if isinstance(value, ast.WordValue) and value.text == UNKNOWN and UNKNOWN not in reading.variables:
        return NOT_READABLE
    found = raw_value(value, reading, fact)
    if not is_learned_value(path, found) and (found is not None or is_absent(value)):
        name = ".".join(path)
        hint = f"write {learned_range(path, fact)}, or `unknown`; without a value, the fact is neutral"
        reading.report("E605", f"`{value.span.text}` is not a value of `{name}`", value.span, hint)
        return None
    return found


def learned_range(path: FactPath, fact: CatalogueFact) -> str:
    """Return which values a learned fact can have, in words."""
    if path[0] == "cluster":
        return "a text" if path == CLUSTER_ID else "a whole number, 1 or more"
    return "true or false" if fact.type == Scalar.BOOL else "a number from 0 to 1"


# ── Who and what ──────────────────────────────────────────────────────────────────────────────


def agent_steps(given: ast.GivenAgent, reading: ValueContext) -> Iterator[ScenarioStep]:
    """Yield the steps that replace the whole agent. The user stays unless `for` names another one."""
    who: dict[str, object] = {"id": given.name.value}
    if given.issuer is not None:
        symbol = reading.catalogue.program.find(reading.package, "issuer", given.issuer)
        who["issuer"] = symbol.name if symbol else None
    yield PutFact(("agent",), who)
    if given.user is not None:
        yield PutFact(("user",), {"id": given.user.value})
    if given.attributes is not None and given.attributes.pairs:
        yield from assign_group(("agent",), given.attributes, False, reading)


def principal_steps(root: str, value: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    """Yield the steps for `given user "alice"`, `given user user "alice"` or `given user absent`."""
    id_ = raw_value(value, reading)
    if isinstance(id_, EntityRef) and id_.type == root:
        id_ = id_.id
    yield PutFact((root,), None if id_ is None else {"id": id_})


def resource_steps(value: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    thing = raw_value(value, reading)
    if thing is not None and not isinstance(thing, EntityRef):
        reading.report("E605", "a resource must be an entity", value.span, HINTS["resource"])
    elif isinstance(thing, EntityRef):
        yield PutFact(("resource",), {"type": thing.type, "id": thing.id})
    else:
        yield PutFact(("resource",), None)


def time_steps(value: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    found = raw_value(value, reading)
    if isinstance(found, datetime):
        yield PutTime(found)
    elif not has_kind(value, "date", "clock"):
        reading.report(
            "E605", "the time must be a point in time", value.span, "write `given time 2026-01-31T09:00:00Z`"
        )


def has_kind(value: ast.Value, *kinds: ast.LiteralKind) -> bool:
    """Return whether the value is a literal of one of these kinds; if so, it is valid or its mistake is already
    reported.
    """
    return isinstance(value, ast.Literal) and value.kind in kinds


def is_absent(value: ast.Value) -> bool:
    return isinstance(value, ast.WordValue) and value.text == ABSENT


# ── Chains ────────────────────────────────────────────────────────────────────────────────────


def read_hops(value: ast.Value, path: FactPath, reading: ValueContext) -> tuple[object, ...] | None:
    """Parse `[agent "planner", …]`, `[{ agent: "planner", … }]` or `{ hops: […] }`, a chain without its presenter.
    Return None if an error was reported.
    """
    match value:
        case ast.ValueList(items):
            return tuple(read_hop(item, reading) for item in items)
        case ast.RecordLiteral((ast.RecordEntry(key, inner),)) if path == ("chain",) and key.span.text == "hops":
            return read_hops(inner, ("chain", "hops"), reading)
        case ast.WordValue("absent"):
            return None
        case _:
            reading.report("E605", "a chain must be a list of agents", value.span, HINTS["chain"])
            return None


def read_hop(value: ast.Value, reading: ValueContext) -> dict[str, object]:
    match value:
        case ast.EntityLiteral(ast.Name("agent"), name):
            return {"agent": name.value}
        case ast.RecordLiteral(pairs):
            check_members_unique(value, reading.report)
            for pair in pairs:
                check_member(pair, HOP_MEMBERS, "hop of a chain", reading)
            return {pair.key.span.text: read_hop_member(pair, reading) for pair in pairs}
        case _:
            hint = 'write `agent "planner"`, or `{ agent: "planner", scopes: […] }`'
            reading.report("E605", "a hop of a chain must be an agent", value.span, hint)
            return {}


def read_hop_member(pair: ast.RecordEntry, reading: ValueContext) -> object:
    match pair.key.span.text, pair.value:
        case "agent", ast.EntityLiteral(ast.Name("agent"), name):
            return name.value
        case "issuer", value:
            return raw_value(value, reading, CatalogueFact(None, "issuer"))
        case "age", value:
            return read_duration(value, reading)
        case _, value:
            return raw_value(value, reading)


def read_duration(value: ast.Value, reading: ValueContext) -> timedelta | None:
    """Parse a duration; return None for `absent`, and if a mistake was reported."""
    age = raw_value(value, reading)
    if not isinstance(age, timedelta) and not is_absent(value) and not has_kind(value, "duration"):
        reading.report("E605", "an age must be a duration", value.span, "write a duration: `5m`")
    return age if isinstance(age, timedelta) else None


def check_member(pair: ast.RecordEntry, allowed: tuple[str, ...], what: str, reading: ValueContext) -> None:
    name = ".".join(key_path(pair))
    if name not in allowed:
        hint = did_you_mean(name, allowed) or f"it has {join_words(allowed)}"
        reading.report("E602", f"{with_article(what)} has no `{name}`", pair.key.span, hint)


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────


def read_approvals(value: ast.Value, reading: ValueContext) -> tuple[GivenApproval, ...]:
    """Parse one approval, a list of them, or `absent`."""
    match value:
        case ast.ValueList(items):
            found = [read_approval(item, reading) for item in items]
        case ast.WordValue("absent"):
            found = []
        case _:
            found = [read_approval(value, reading)]
    return tuple(one for one in found if one is not None)


def read_approval(value: ast.Value, reading: ValueContext) -> GivenApproval | None:
    if not isinstance(value, ast.RecordLiteral):
        reading.report("E605", "an approval must be a record with `rule` and `by`", value.span, HINTS["approval"])
        return None
    check_members_unique(value, reading.report)
    for pair in value.pairs:
        check_member(pair, APPROVAL_MEMBERS, "approval", reading)
    given = {pair.key.span.text: pair.value for pair in value.pairs}
    rule, by = (
        read_member_text(given.get("rule"), "rule", value, reading),
        read_member_text(given.get("by"), "by", value, reading),
    )
    issuer = read_approval_issuer(given["issuer"], reading) if "issuer" in given else None
    age = (read_duration(given["age"], reading) if "age" in given else None) or timedelta(0)
    if rule is not None and rule not in reading.catalogue.confirming:
        report_rule(rule, given["rule"].span, reading)
    other = tuple(read_approved_facts(given["of"], reading)) if "of" in given else ()
    if rule is None or by is None:
        return None
    where = value.span
    return GivenApproval(f"{where.at}:{where.column}", rule, by, age, other, issuer=issuer)


def read_approval_issuer(value: ast.Value, reading: ValueContext) -> str | None:
    """Parse the issuer that vouches for an approver; return None for `absent`, and if a mistake was reported."""
    found = raw_value(value, reading, CatalogueFact(None, "issuer"))
    if found is not None and not isinstance(found, str):
        hint = "name an issuer: `issuer: acme`"
        reading.report("E605", "the `issuer` of an approval must be an issuer", value.span, hint)
    return found if isinstance(found, str) else None


def read_approved_facts(value: ast.Value, reading: ValueContext) -> Iterator[PutFact]:
    """Parse the facts that differ in the approved request. Entities are the same for both requests."""
    if not isinstance(value, ast.RecordLiteral):
        hint = "name the facts that differ: `of: { body.amount: 1 }`"
        reading.report("E605", "`of` must name the facts of the approved request that differ", value.span, hint)
        return
    for step in fact_steps(value, reading):
        if isinstance(step, PutFact):
            yield step
        else:
            message = "the entity store is the same for both requests"
            reading.report("E605", message, value.span, "name facts that come with a request: `of: { body.amount: 1 }`")


def read_member_text(value: ast.Value | None, name: str, whole: ast.RecordLiteral, reading: ValueContext) -> str | None:
    found = None if value is None else raw_value(value, reading)
    if isinstance(found, EntityRef) and found.type == "user":
        return found.id
    if isinstance(value, ast.WordValue) and found is None and value.text != ABSENT:
        return None  # an unknown word, already reported
    if not isinstance(found, str) or not found:
        span = whole.span if value is None else value.span
        message = f"an approval needs a `{name}`" if value is None else f"the `{name}` of an approval must be a string"
        reading.report("E605", message, span, HINTS["approval"])
        return None
    return found


def report_rule(rule: str, span: Span, reading: ValueContext) -> None:
    known_ones = reading.catalogue.confirming
    if rule in reading.catalogue.rules:
        message, hint = f"the guard `{rule}` requires no approval", "only `confirm` does"
    else:
        meant = suggest(rule, known_ones)
        message = f"no guard is named `{rule}`"
        hint = f"did you mean `{meant}`?" if meant else rules_hint(known_ones, "the guards that require approvals are")
    reading.report("E608", message, span, hint)


def rules_hint(names: frozenset[str], what: str) -> str:
    return f"{what} {join_words(sorted(names)[:6])}" if names else "no guard of these policies requires an approval"


# ── The directory ─────────────────────────────────────────────────────────────────────────────


def entity_steps(rows: tuple[ast.EntityRow, ...], reading: ValueContext) -> Iterator[ScenarioStep]:
    """Yield the steps for entity rows. A later row replaces an earlier one; values must have the declared types."""
    seen: dict[EntityRef, Span] = {}
    for row in rows:
        ref = entity_ref(row.entity, reading)
        if ref is None:
            continue
        first = seen.setdefault(ref, row.entity.span)
        if first is not row.entity.span:
            report_twice(str(ref), row.entity.span, first, reading.report)
        parents = [read_parent(ref, parent, reading) for parent in row.parents]
        yield PutRow(EntityData(ref, read_attributes(ref, row, reading), tuple(p for p in parents if p is not None)))


def read_parent(ref: EntityRef, parent: ast.EntityLiteral, reading: ValueContext) -> EntityRef | None:
    found = entity_ref(parent, reading)
    declared = reading.catalogue.schema.entities[ref.type]
    if found is not None and found.type not in declared.parents:
        hint = f"declare it: `entity {ref.type} {{ … }} in {found.type}`"
        reading.report("E606", f"{with_article(ref.type)} is never in {with_article(found.type)}", parent.span, hint)
    return found


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def read_attributes(ref: EntityRef, row: ast.EntityRow, reading: ValueContext) -> dict[str, object]:
    if row.attributes is None:
        return {}
    check_members_unique(row.attributes, reading.report)
    declared = reading.catalogue.schema.entities[ref.type]
    found: dict[str, object] = {}
    for pair in row.attributes.pairs:
        name = ".".join(key_path(pair))
        attribute = declared.field(name)
        if attribute is None:
            report_attribute(name, ref, pair, reading)
            continue
        found[name] = raw_value(pair.value, reading, CatalogueFact(attribute.type))
        check_type(found[name], attribute, f"{ref.type}.{name}", pair.value, reading)
    return found


def report_attribute(name: str, ref: EntityRef, pair: ast.RecordEntry, reading: ValueContext) -> None:
    names = [declared.name for declared in reading.catalogue.schema.entities[ref.type].fields]
    meant = suggest(name, names)
    known_ones = f"it has {join_words(names)}" if names else f"declare it: `entity {ref.type} {{ {name}: string }}`"
    hint = f"did you mean `{meant}`?" if meant else known_ones
    reading.report("E606", f"{with_article(ref.type)} has no attribute `{name}`", pair.key.span, hint)


def check_type(value: object, attribute: FieldType, name: str, written: ast.Value, reading: ValueContext) -> None:
    """Check the type of a row's attribute. The type of a fact of a request is not checked, because a test may send a
    wrong type.
    """
    if value is not None and not has_type(value, attribute.type, name):
        hint = f"`{name}` is {describe_type(attribute.type)}"
        reading.report("E606", f"`{written.span.text}` does not fit `{name}`", written.span, hint)


def has_type(value: object, type_: Type, name: str) -> bool:
    found = coerce(value, type_, name)
    if isinstance(type_, RecordType) and isinstance(value, dict):
        members = ((value.get(member.name), member) for member in type_.fields)
        return all(inner is None or has_type(inner, member.type, name) for inner, member in members)
    items = found if isinstance(found, tuple) else ()
    return not isinstance(found, Unknown) and not any(isinstance(item, Unknown) for item in items)

"""The digest that binds an approval to one request, and the unknown facts among its parts. Part of the
specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from policyengine import kernel as k
from policyengine.runtime.canonical_form import (
    CANONICAL_TYPES,
    OMIT_NOTHING,
    LeftOut,
    binding_digest,
    binding_form,
    canonical_bytes,
)
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.fact_access import get_member
from policyengine.runtime.format_values import format_fact_path
from policyengine.runtime.pending_facts import HEADERS_PATH
from policyengine.runtime.snapshot import NOT_ANSWERED
from policyengine.runtime.values import PENDING, Cause, Invalid, PartialObject, Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts, Path, ReadFact, has_agent, hops_of, presenter_of
from policyengine.spec.kleene import describe, elements
from policyengine.spec.match_endpoint import match_pattern
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import FACTS

VOLATILE = frozenset(fact.path for fact in FACTS if fact.volatile)
TOOL_OBJECTS = (k.BoundObject(("args",)), k.BoundObject(("body",)))
ACTION_OBJECTS = (*TOOL_OBJECTS, k.BoundObject(("context",)))  # the context contains the details of an action
HTTP_OBJECTS = (*TOOL_OBJECTS, k.BoundObject(("request", "host")), k.BoundObject(("request", "query")))
CALLER_FACTS: tuple[Path, ...] = (
    ("agent", "id"), ("agent", "issuer"), ("credential", "issuer"), ("user", "id"), ("chain", "hops"),
)  # fmt: skip
# Reasons that mean that a fact has a value which the decision could not read.
UNSEEN_REASONS = frozenset({"pending", NOT_ANSWERED})
MAX_UNSEEN = 5


def digest_approval(guard: k.Guard, index: int, confirm: k.Confirm, facts: Facts) -> w.ApprovalDigest:
    """Return the digest to which an approval of this request must be bound. It covers the rule, principal and chain,
    endpoint and resource, the revision, the bound parts of the request, and every fact that the rule and its message
    read.
    """
    read, objects = facts_read(confirm, facts), bound_objects(confirm, facts.request.endpoint)
    digest = binding_digest(
        (
            "approval", facts.kernel.revision, guard.package, guard.name, index,
            principal_identity(facts), request_target(facts),
            tuple((one.path, canonical_bytes(raw_object(one, facts), exclusions_of(one))) for one in objects),
            tuple((key, *digest_form(one)) for key, one in sorted(read.items())),
        )
    )  # fmt: skip
    return w.ApprovalDigest(digest, frozenset(islice(all_unseen(objects, read, facts), MAX_UNSEEN)))


def all_unseen(objects: tuple[k.BoundObject, ...], read: Mapping[Path, ReadFact], facts: Facts) -> Iterator[Cause]:
    for bound_object in objects:
        yield from unseen_below(raw_object(bound_object, facts), bound_object.path, exclusions_of(bound_object))
    for path in CALLER_FACTS:
        yield from unseen_below(facts.request.fact(*path), path)
    if ("resource",) not in facts.bound:
        yield from unseen_below(facts.raw(("resource",)), ("resource",))
    yield from unseen_below(claimed_resource_row(facts), ("resource",))
    for key, fact in sorted(read.items()):
        yield from unseen_in_fact(key, fact, facts)


# ── Parts of the request ────────────────────────────────────────────────────────────────


def bound_objects(confirm: k.Confirm, endpoint: Endpoint) -> tuple[k.BoundObject, ...]:
    """Return the parts of a request that are bound as a whole, by declaration or by default."""
    if confirm.bound is not None:
        return confirm.bound.objects
    match endpoint:
        case ToolEndpoint():
            return TOOL_OBJECTS
        case ActionEndpoint():
            return ACTION_OBJECTS
        case _:
            return HTTP_OBJECTS


def describe_bound(confirm: k.Confirm, endpoint: Endpoint) -> tuple[str, ...]:
    """Return the bound parts as policies write them, with the facts that `bound to (…)` names, for approvers."""
    facts = () if confirm.bound is None else map(describe_fact, confirm.bound.facts)
    return tuple(sorted([*map(describe_object, bound_objects(confirm, endpoint)), *facts])) or ("resource",)


def describe_object(one: k.BoundObject) -> str:
    excepts = ", ".join(map(format_fact_path, one.excepts))
    return f"{format_fact_path(one.path)} except {excepts}" if excepts else format_fact_path(one.path)


def describe_fact(node: k.Expr) -> str:
    match node:
        case k.Fact(path):
            return format_fact_path(path)
        case k.Attribute(base, name) | k.Member(base, name):
            return f"{describe_fact(base)}.{name}"
        case _:
            return describe(node)


def raw_object(one: k.BoundObject, facts: Facts) -> object:
    return facts.request.fact(*one.path)


def exclusions_of(one: k.BoundObject) -> LeftOut:
    """Return the members of the object that are not bound."""
    return exclusion_tree(path[len(one.path) :] for path in one.excepts)


def exclusion_tree(paths: Iterable[Path]) -> LeftOut:
    """Return the paths as a tree by their first steps. Paths below a completely omitted member add nothing."""
    below: dict[str, list[Path]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(tuple(rest))
    return {first: OMIT_NOTHING if () in rests else exclusion_tree(rests) for first, rests in below.items()}


def unseen_below(raw: object, path: Path, left_out: LeftOut = OMIT_NOTHING) -> Iterator[Cause]:
    """Yield each unknown value at a path of the request and below it."""
    match raw:
        case Invalid(why, given) if given is None:
            yield Cause(format_fact_path(path), why)
        case Mapping():
            if isinstance(raw, PartialObject):
                yield Cause(f"{format_fact_path(path)}.*", "pending")
            for name in raw:
                if left_out.get(name) != OMIT_NOTHING:
                    yield from unseen_below(raw[name], (*path, name), left_out.get(name, OMIT_NOTHING))
        case tuple() | list():
            for number, item in enumerate(raw):
                yield from unseen_below(item, (*path, str(number)))
        case _ if raw is PENDING:
            yield Cause(format_fact_path(path), "pending")
        case _ if not isinstance(raw, CANONICAL_TYPES):
            yield Cause(format_fact_path(path), "of a type that policies do not support")


# ── Principal and resource ────────────────────────────────────────────────────────────────────


def principal_identity(facts: Facts) -> object:
    """Return the presenter, the user and the chain; if one of them is unknown but not absent, also the
    facts as given.
    """
    presenter, hops, user = presenter_of(facts), hops_of(facts), facts.read(("user", "id"))
    chain = hops if isinstance(hops, Unknown) else tuple((hop.issuer, hop.id) for hop in hops)
    known = (presenter.issuer, presenter.id, user, *(chain if isinstance(chain, tuple) else (chain,)))
    unsure = any(isinstance(one, Unknown) and not one.absent for part in known for one in elements(part))
    given = canonical_bytes(tuple(facts.request.fact(*path) for path in CALLER_FACTS)) if unsure else None
    forms = tuple(map(identity_form, (presenter.issuer, presenter.id, user)))
    return has_agent(facts.request), *forms, None if chain == () else canonical_bytes(chain), given


def identity_form(value: Value) -> object:
    """Return the form of an issuer or id: None if it is absent."""
    return None if isinstance(value, Unknown) and value.absent else binding_form(value)


def request_target(facts: Facts) -> object:
    rows = claimed_resource_row(facts)
    form = None if rows == () else canonical_bytes(rows)
    return endpoint_parts(facts.request.endpoint), canonical_bytes(facts.raw(("resource",))), form


def endpoint_parts(endpoint: Endpoint) -> tuple[str | None, ...]:
    match endpoint:
        case HttpEndpoint(method, path):
            return "http", method, path
        case ToolEndpoint(server, name):
            return "tool", server, name
        case ActionEndpoint(verb, type_):
            return "action", verb, type_
        case _:  # a malformed path is denied, so no approval is requested
            return ("malformed",)


def claimed_resource_row(facts: Facts) -> object:
    """Return the rows of the resource that the request contains."""
    ref = resource_ref(facts.raw(("resource",)))
    rows = [row for row in facts.request.entities if row.ref == ref]
    return tuple((dict(row.attributes), row.parents) for row in rows)


def resource_ref(raw: object) -> EntityRef | None:
    match raw:
        case EntityRef():
            return raw
        case {"type": str(type_), "id": str(id_)}:
            return EntityRef(type_, id_)
        case _:
            return None


# ── Facts that the rule reads ───────────────────────────────────────────────────────────────────────


def facts_read(confirm: k.Confirm, facts: Facts) -> dict[Path, ReadFact]:
    """Return every fact that the rule, its message and `bound to (…)` read, except facts that change on their own, such
    as the time.
    """
    seen: dict[Path, ReadFact] = {}
    reading = replace(facts, seen=seen)
    shown = (part.expression for part in confirm.message or () if isinstance(part, k.MessageFact))
    named = () if confirm.bound is None else confirm.bound.facts
    for node in (confirm.condition, *shown, *named):
        if node is not None:
            evaluate(node, reading)
    for source in binding_sources(frozenset(seen), facts):
        evaluate(source, reading)
    return {key: one for key, one in seen.items() if key not in VOLATILE}


def binding_sources(read: frozenset[Path], facts: Facts) -> Iterator[k.Expr]:
    """Yield the expressions that `with` binds to the facts in `read`, and always the expression of the resource."""
    binders = (one for one in facts.kernel.binders if one.facts)
    matching = (one for one in binders if match_pattern(one.pattern, facts.request.endpoint, "full") is not None)
    for path, expression in (bound for binder in matching for bound in binder.facts):
        if path == ("resource",) or any(key[: len(path)] == path for key in read):
            yield expression


def digest_form(one: ReadFact) -> tuple[object, ...]:
    """Return the form of a fact in the digest: its value if known, otherwise the unknown and the given fact."""
    known: object = one.value
    if one.unordered and isinstance(known, tuple):
        known = tuple(sorted({canonical_bytes(item) for item in known}))
    if unknown_elements(one):
        return "unknown", canonical_bytes(known), canonical_bytes(one.given)
    return "known", binding_form(known)


def unknown_elements(one: ReadFact) -> tuple[Unknown, ...]:
    return tuple(item for item in elements(one.value) if isinstance(item, Unknown))


def unseen_in_fact(key: Path, one: ReadFact, facts: Facts) -> Iterator[Cause]:
    """Yield the causes for which a fact is unknown, if the request contains a value of the fact that the decision could
    not read. Missing facts and facts of the wrong type are not reported, because the decision saw them.
    """
    unknown = unknown_elements(one)
    if not unknown:
        yield from unseen_below(one.given, key)
    elif is_from_request(key, facts) and any(unseen_below(raw_in_request(key, one, facts), key)):
        yield from Unknown.merge(*unknown).causes
    else:
        yield from (cause for item in unknown for cause in item.causes if cause.why in UNSEEN_REASONS)


def is_from_request(key: Path, facts: Facts) -> bool:
    """Return whether the fact comes from the request itself, not from the time, path, chain or entity store."""
    if " " in key[0]:  # an attribute: `("user \"alice\"", "roles")`
        claimed = {(str(ref), name) for ref, name in facts.claims}
        return key in claimed | {(str(row.ref), name) for row in facts.request.entities for name in row.attributes}
    return not any(key[:length] in facts.bound for length in range(1, len(key) + 1))


def raw_in_request(key: Path, one: ReadFact, facts: Facts) -> object:
    """Return the raw input at the place of the fact, even if a parent is not an object."""
    if " " in key[0]:
        return one.given
    if key[:2] == HEADERS_PATH:
        return facts.request.fact(*key)  # another spelling may denote the same header
    found: object = facts.request.facts
    for name in key:
        if not isinstance(found, Mapping):
            break
        found = get_member(found, name)
    return found

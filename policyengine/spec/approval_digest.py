"""What an approval of one request is bound to, as a digest, and what of it is not known. Part of the specification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from policyengine import kernel as k
from policyengine.runtime.canonical_form import CANONICAL_TYPES, OMIT_NOTHING, LeftOut, canonical_bytes
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.format_values import format_fact_path
from policyengine.runtime.request import HEADERS_PATH, get_member
from policyengine.runtime.snapshot import NOT_ANSWERED
from policyengine.runtime.values import PENDING, Cause, Invalid, PartialObject, Unknown
from policyengine.spec import trace as w
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts, Path, ReadFact, has_agent, hops_of, presenter_of
from policyengine.spec.kleene import describe, elements
from policyengine.spec.match_endpoint import match_pattern
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import FACTS

VOLATILE = frozenset(fact.path for fact in FACTS if fact.volatile)
TOOL_OBJECTS = (k.BoundObject(("args",)), k.BoundObject(("body",)))
ACTION_OBJECTS = (*TOOL_OBJECTS, k.BoundObject(("context",)))  # what an action is about in detail is said there
HTTP_OBJECTS = (*TOOL_OBJECTS, k.BoundObject(("request", "host")), k.BoundObject(("request", "query")))
CALLER_FACTS: tuple[Path, ...] = (
    ("agent", "id"), ("agent", "issuer"), ("credential", "issuer"), ("user", "id"), ("chain", "hops"),
)  # fmt: skip
UNSEEN_REASONS = frozenset({"pending", NOT_ANSWERED})  # of a fact that has some value, which nobody saw
MAX_UNSEEN = 5


def digest_approval(guard: k.Guard, index: int, confirm: k.Confirm, facts: Facts) -> w.ApprovalDigest:
    """All that an approval is for: the rule, principal and chain, endpoint and resource, the revision, what came with
    the request, and every fact that the rule and its message read."""
    read, objects = facts_read(confirm, facts), bound_objects(confirm, facts.request.endpoint)
    everything = (
        "approval", facts.kernel.revision, guard.package, guard.name, index,
        caller_identity(facts), request_target(facts),
        tuple((one.path, canonical_bytes(raw_object(one, facts), exclusions_of(one))) for one in objects),
        tuple((key, digest_form(one)) for key, one in sorted(read.items())),
    )  # fmt: skip
    digest = hashlib.sha256(canonical_bytes(everything)).hexdigest()
    return w.ApprovalDigest(f"sha256:{digest}", frozenset(islice(all_unseen(objects, read, facts), MAX_UNSEEN)))


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


# ── What came with the request ────────────────────────────────────────────────────────────────


def bound_objects(confirm: k.Confirm, endpoint: Endpoint) -> tuple[k.BoundObject, ...]:
    """The parts of a request that are bound as a whole, declared or not."""
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
    """The same in the words of policies, with the facts that `bound to (…)` names: what approvers are to look at."""
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
    """What is below the object and no part of what an approval is bound to."""
    return exclusion_tree(path[len(one.path) :] for path in one.excepts)


def exclusion_tree(paths: Iterable[Path]) -> LeftOut:
    """By their first steps; what is below one that is left out as a whole says nothing more."""
    below: dict[str, list[Path]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(tuple(rest))
    return {first: OMIT_NOTHING if () in rests else exclusion_tree(rests) for first, rests in below.items()}


def unseen_below(raw: object, path: Path, left_out: LeftOut = OMIT_NOTHING) -> Iterator[Cause]:
    """What is not known at a path of the request and anywhere below it."""
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
            yield Cause(format_fact_path(path), "of no type that policies know")


# ── Who asks, and what for ────────────────────────────────────────────────────────────────────


def caller_identity(facts: Facts) -> object:
    """Presenter, user and chain; where any of it is unknown, also what was given in its place."""
    presenter, hops, user = presenter_of(facts), hops_of(facts), facts.read(("user", "id"))
    chain = hops if isinstance(hops, Unknown) else tuple((hop.issuer, hop.id) for hop in hops)
    known = (presenter.issuer, presenter.id, user, *(chain if isinstance(chain, tuple) else (chain,)))
    unsure = any(isinstance(one, Unknown) for part in known for one in elements(part))
    given = tuple(facts.request.fact(*path) for path in CALLER_FACTS) if unsure else None
    return has_agent(facts.request), presenter.issuer, presenter.id, user, chain, given


def request_target(facts: Facts) -> object:
    return endpoint_parts(facts.request.endpoint), facts.raw(("resource",)), claimed_resource_row(facts)


def endpoint_parts(endpoint: Endpoint) -> tuple[str | None, ...]:
    match endpoint:
        case HttpEndpoint(method, path):
            return "http", method, path
        case ToolEndpoint(server, name):
            return "tool", server, name
        case ActionEndpoint(verb, type_):
            return "action", verb, type_
        case _:  # nobody is asked about a path that is none
            return ("malformed",)


def claimed_resource_row(facts: Facts) -> object:
    """What the request itself says of the resource, in a row."""
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


# ── What the rule reads ───────────────────────────────────────────────────────────────────────


def facts_read(confirm: k.Confirm, facts: Facts) -> dict[Path, ReadFact]:
    """Every fact that the rule and its message read, and that `bound to (…)` names, but for what changes by itself."""
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
    """What the facts that `with` binds are made of, as far as they are read; the resource always is."""
    binders = (one for one in facts.kernel.binders if one.facts)
    matching = (one for one in binders if match_pattern(one.pattern, facts.request.endpoint, "full") is not None)
    for path, expression in (bound for binder in matching for bound in binder.facts):
        if path == ("resource",) or any(key[: len(path)] == path for key in read):
            yield expression


def digest_form(one: ReadFact) -> object:
    """A value that is known as it is; one that is not by what was given in its place, too."""
    known: object = one.value
    if one.unordered and isinstance(known, tuple):
        known = tuple(sorted({canonical_bytes(item) for item in known}))
    return ("known", known) if not unknown_elements(one) else ("unknown", known, one.given)


def unknown_elements(one: ReadFact) -> tuple[Unknown, ...]:
    return tuple(item for item in elements(one.value) if isinstance(item, Unknown))


def unseen_in_fact(key: Path, one: ReadFact, facts: Facts) -> Iterator[Cause]:
    """Why a fact is unknown, where it has some value that nobody saw. That nothing was given, or that what was is of a
    wrong type, is known."""
    unknown = unknown_elements(one)
    if not unknown:
        yield from unseen_below(one.given, key)
    elif is_from_request(key, facts) and any(unseen_below(raw_in_request(key, one, facts), key)):
        yield from Unknown.merge(*unknown).causes
    else:
        yield from (cause for item in unknown for cause in item.causes if cause.why in UNSEEN_REASONS)


def is_from_request(key: Path, facts: Facts) -> bool:
    """Neither what is known from elsewhere (the time, the path, the chain) nor what the directory says."""
    if " " in key[0]:  # an attribute: `("user \"alice\"", "roles")`
        claimed = {(str(ref), name) for ref, name in facts.claims}
        return key in claimed | {(str(row.ref), name) for row in facts.request.entities for name in row.attributes}
    return not any(key[:length] in facts.bound for length in range(1, len(key) + 1))


def raw_in_request(key: Path, one: ReadFact, facts: Facts) -> object:
    """What was given where the fact would be: what holds it may be no object."""
    if " " in key[0]:
        return one.given
    if key[:2] == HEADERS_PATH:
        return facts.request.fact(*key)  # where another that is there may be taken for it, nobody can say
    found: object = facts.request.facts
    for name in key:
        if not isinstance(found, Mapping):
            break
        found = get_member(found, name)
    return found

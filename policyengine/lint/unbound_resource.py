"""Guards and limits that read `resource` where nothing binds it. It is unknown there, so they would deny without a
visible reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.lower.context import facts_read, rule_text
from policyengine.checker.patterns.overlap import PatternIndex, by_method, covers
from policyengine.checker.type_names import join_words
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.absent_facts import Truths, limit_inputs, needs_absent_fact, possible_outcomes
from policyengine.source import Span

Rule: TypeAlias = k.Guard | k.Limit
Block: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock
RESOURCE = ("resource",)
MAX_ENDPOINTS_LISTED = 4  # maximum endpoints in a message or hint
TYPE_A_CAPTURE = "give a path capture a type, `{id: invoice}`, or bind `resource` with `with resource = invoice(…)`"


def unbound_resource_errors(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield an E518 for each rule that covers a granted endpoint at which the `resource` it reads is unknown."""
    reading = [
        (rule, read) for rule in (*kernel.guards, *kernel.limits) if (read := first_unknown_use(rule)) is not None
    ]
    if reading:
        doors, binders = granted_endpoints(kernel), resource_binders(kernel)
        for rule, read in reading:
            met = list(endpoints_in(rule.place, doors))
            bare = [one for one in met if not any(covers(by, one.piece) for by in binders.overlapping(one.piece))]
            if bare:
                yield diagnostic_for(rule, read, bare, [one for one in met if one not in bare])


# ── What is unknown without a resource ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """A read of `resource`, and the text of a check for it that could precede the read."""

    span: Span
    first: str


def first_unknown_use(rule: Rule) -> ResourceUse | None:
    """Return the first read of `resource` that can make the rule unknown; None if there is no such read."""
    for expression, first in conditions_left_unknown(rule):
        for fact, span in facts_read(expression):
            if fact.path == RESOURCE:
                return ResourceUse(span, first)
    return None


def conditions_left_unknown(rule: Rule) -> Iterator[tuple[k.Expr, str]]:
    present, absent = "`resource is present and …`", "`resource is absent or …`"
    if isinstance(rule, k.Guard):
        for effect in rule.effects:
            acts: Truths = (
                frozenset({True}) if effect.condition is None else possible_outcomes(effect.condition, is_resource)
            )
            if effect.condition is not None and None in acts:
                required = effect.words.startswith("require") or " unless " in effect.words
                yield effect.condition, absent if required else present
            who = effect.approvers.of if isinstance(effect, k.Confirm) else None
            if isinstance(who, k.MemberOf) and needs_resource(who.expression) and acts != {False}:
                yield who.expression, present
        return
    acts = frozenset({True}) if rule.when is None else possible_outcomes(rule.when, is_resource)
    if rule.when is not None and None in acts:
        yield rule.when, present
    if acts != {False}:
        clamping = [] if isinstance(rule, k.Budget) else [one.when for one in rule.clamps]
        whole = "`when resource is present`" if rule.when is None else present
        yield from (
            (one, present if one in clamping else whole) for one in counted_expressions(rule) if needs_resource(one)
        )


def counted_expressions(limit: k.Limit) -> Iterator[k.Expr]:
    """Yield the expressions that a limit needs to count. The condition of a `raise` is left out: if it is unknown, the
    raise does not act, so it cannot weaken the limit.
    """
    yield from limit_inputs(limit)
    if isinstance(limit, k.Rate):
        yield from (one.when for one in limit.clamps)


def needs_resource(node: k.Expr) -> bool:
    """Return whether the value can be unknown without a resource."""
    return needs_absent_fact(node, is_resource)


def is_resource(path: tuple[str, ...]) -> bool:
    return path == RESOURCE


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class GrantedEndpoint:
    """An endpoint pattern that a block grants."""

    pattern: k.Pattern
    label: str


@dataclass(frozen=True, slots=True)
class CoveredEndpoint:
    """The endpoints of one method at which a rule and a grant meet; `text` is their spelling in the policy."""

    piece: k.Pattern
    text: str
    door: GrantedEndpoint


def granted_endpoints(kernel: k.Kernel) -> PatternIndex[GrantedEndpoint]:
    found: PatternIndex[GrantedEndpoint] = PatternIndex()
    blocks: tuple[Block, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
    for block in blocks:
        for pattern in dict.fromkeys(opening.pattern for grant in block.grants for opening in grant.openings):
            found.add(pattern, GrantedEndpoint(pattern, block.label))
    return found


def resource_binders(kernel: k.Kernel) -> PatternIndex[k.Pattern]:
    """Index the patterns that bind `resource`, with case folding, because guards and limits ignore case."""
    found: PatternIndex[k.Pattern] = PatternIndex()
    for binder in kernel.binders:
        if binder.resource is not None or RESOURCE in dict(binder.facts):
            pattern = k.with_folding(binder.pattern, "full")
            found.add(pattern, pattern)
    return found


def endpoints_in(place: k.Place, doors: PatternIndex[GrantedEndpoint]) -> Iterator[CoveredEndpoint]:
    """Yield the granted endpoints of a place. Actions are left out, because their request names the resource."""
    for pattern in (None,) if place.patterns is None else place.patterns:
        for door in doors.overlapping(pattern):
            met = door.pattern if pattern is None else intersect_patterns(pattern, door.pattern)
            pieces = () if isinstance(met, k.ActionPattern) else by_method(met)
            covered = (piece for piece in pieces if not any(covers(hole, piece) for hole in place.excepts))
            text = rule_text(met.span)
            yield from (CoveredEndpoint(piece, text, door) for piece in covered)


def intersect_patterns(a: k.Pattern, b: k.Pattern) -> k.Pattern:
    """Return the endpoints that two overlapping patterns both match: of two globs the narrower, or `b`. A path has the
    spelling of `b`, or that of `a` where `b` is wild: a rule also applies to other cases, but no author wrote an
    endpoint there.
    """
    if isinstance(a, k.HttpPattern) and isinstance(b, k.HttpPattern):
        return intersect_paths(a, b)
    return a if covers(b, a) else b


def intersect_paths(a: k.HttpPattern, b: k.HttpPattern) -> k.HttpPattern:
    segments = tuple(
        intersect_segments(one, other) if one is not None and other is not None else one or other
        for one, other in zip_longest(a.segments, b.segments)
    )
    narrow = a if covers(b, a) else b
    methods = tuple(one for one in b.methods or a.methods or () if a.methods is None or one in a.methods) or None
    return replace(narrow, methods=methods, segments=segments, rest=a.rest and b.rest, folding="none")


def intersect_segments(a: k.Segment, b: k.Segment) -> k.Segment:
    """Return the segment that matches what both segments match."""
    if not a.wild or not b.wild:
        return a if b.wild else b
    return replace(a, prefix=max(b.prefix, a.prefix, key=len), suffix=max(b.suffix, a.suffix, key=len))


# ── The diagnostic ──────────────────────────────────────────────────────────────────────────────


def diagnostic_for(
    rule: Rule, read: ResourceUse, bare: list[CoveredEndpoint], bound: list[CoveredEndpoint]
) -> Diagnostic:
    word = "guard" if isinstance(rule, k.Guard) else "budget" if isinstance(rule, k.Budget) else "rate"
    endpoints = endpoint_texts(bare)
    message = (
        f"nothing binds `resource` at {list_endpoints(endpoints)}, where this {word} applies: "
        "`resource` is unknown there"
    )
    door = next(one.door for one in bare if one.text == endpoints[0])
    where = RelatedLocation(f"{door.label} grants it", door.pattern.span)
    return Diagnostic("E518", message, read.span, hint(rule, read, endpoints, endpoint_texts(bound)), (where,))


def hint(rule: Rule, read: ResourceUse, bare: list[str], bound: list[str]) -> str:
    """Return a hint with the shorter text to write, and the alternative."""
    openly = f"or handle requests without a resource: {read.first}"
    if rule.place.patterns is not None and len(bare) <= min(MAX_ENDPOINTS_LISTED, len(bound)):
        return f"exclude it with `except {', '.join(bare)}`, {openly}"
    kept = [one for one in bound if one not in bare]
    if kept and len(kept) <= MAX_ENDPOINTS_LISTED:
        return f"narrow the rule: `on {', '.join(kept)}`, {openly}"
    return (
        f"narrow the rule with `on …` to {list_endpoint_sample(kept)}, {openly}"
        if kept
        else f"{TYPE_A_CAPTURE}, {openly}"
    )


def list_endpoint_sample(endpoints: list[str]) -> str:
    return f"endpoints that bind it, such as {join_words(endpoints[:2], 'or')}"


def list_endpoints(endpoints: list[str]) -> str:
    """List a few endpoints, or the first endpoints and the number of the others."""
    if len(endpoints) <= MAX_ENDPOINTS_LISTED:
        return join_words(endpoints)
    named = ", ".join(f"`{one}`" for one in endpoints[:MAX_ENDPOINTS_LISTED])
    return f"{named} and {len(endpoints) - MAX_ENDPOINTS_LISTED} more"


def endpoint_texts(met: Iterable[CoveredEndpoint]) -> list[str]:
    return sorted({one.text for one in met})

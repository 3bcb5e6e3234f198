"""Lowering of `map authzen { … }`: subjects, resources, actions, and properties as facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal as Word
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.context import LoweringContext
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.runtime.pending_facts import ENDPOINT_FACTS
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.vocabulary import CREDENTIAL_ROOTS, OPEN_ROOTS, ROOTS

PROTOCOL = "authzen"
SUBJECT_KINDS: Mapping[str, Word["user", "agent"]] = {"user": "user", "agent": "agent"}
SOURCES = {
    "subject": ("type", "id", "properties"),
    "action": ("name", "properties"),
    "resource": ("type", "id", "properties"),
}
ENTITY_SOURCES = ("subject", "resource")
SOURCE_HINT = "write `subject.id`, `resource.properties.NAME`, `action.properties.NAME` or `context.NAME`"
ISSUER = ("credential", "issuer")
ROOTS_OF_FACTS = ("request", *CREDENTIAL_ROOTS)
BRACES = re.compile(r"\{([^{}]*)\}")
SEGMENT = re.compile(r"(?P<text>[^{}]*)(?:\{(?P<source>[^{}:]*)\}(?P<after>[^{}]*))?")
ONE_QUESTION = "a question has only one endpoint: write it, as in `GET /todos/{resource.id}`"


def lower_maps(draft: LoweringContext) -> tuple[k.MapItem, ...]:
    """Lower every valid item and report the others."""
    items: list[k.MapItem] = []
    for package, declared in draft.declared(ast.MapDecl):
        if declared.protocol.text != PROTOCOL:
            hint = f"write `map {PROTOCOL}`"
            draft.report("E930", f"unknown protocol `{declared.protocol.text}`", declared.protocol.span, hint)
            continue
        reader = AuthzenMapReader(draft, package)
        items += [item for written in declared.items if (item := reader.item(written)) is not None]
    check_duplicate_items(items, draft)
    vouched = [item for item in items if isinstance(item, k.MapSubject) and item.issuer is not None]
    check_conflicting_facts((item for item in items if isinstance(item, k.MapFact)), vouched, draft)
    for item in items:
        check_conflicting_facts(item.facts if isinstance(item, k.MapAction) else (), vouched, draft)
    return tuple(items)


@dataclass(frozen=True, slots=True)
class AuthzenMapReader:
    """Lowers the items of one block."""

    draft: LoweringContext
    package: str

    def item(self, written: ast.MapEntity | ast.MapAction | ast.MapFact) -> k.MapItem | None:
        match written:
            case ast.MapEntity("subject"):
                return self.subject(written)
            case ast.MapEntity():
                entity = self.draft.program.find(self.package, "entity", written.entity)
                return k.MapResource(written.foreign.value, entity.name, span=written.span) if entity else None
            case ast.MapAction():
                return self.action(written)
            case ast.MapFact(fact, source):
                return self.fact(fact, tuple(source.text.split(".")), source.span, written.span)
            case _:
                assert_never(written)

    def subject(self, written: ast.MapEntity) -> k.MapSubject | None:
        issuer = None
        if written.issuer is not None:
            issuer = self.draft.program.find(self.package, "issuer", written.issuer)
        becomes = SUBJECT_KINDS.get(written.entity.text)
        if becomes is None:
            message = f"a subject must be a `user` or an `agent`, not `{written.entity.text}`"
            self.draft.report("E932", message, written.entity.span, "write `=> user` or `=> agent`")
        if becomes is None or (written.issuer is not None and issuer is None):
            return None
        return k.MapSubject(written.foreign.value, becomes, issuer.name if issuer else None, span=written.span)

    # ── Actions ───────────────────────────────────────────────────────────────────────────────

    def action(self, written: ast.MapAction) -> k.MapAction | None:
        endpoint = self.endpoint(written.endpoint)
        facts = [self.binding(binding) for binding in written.bindings]
        if endpoint is None or None in facts:
            return None
        on = None if written.on is None else written.on.value
        given = sorted((one for one in facts if one is not None), key=lambda one: one.path)
        return k.MapAction(written.action.value, on, endpoint, tuple(given), span=written.span)

    def endpoint(self, written: ast.Endpoint) -> k.MapEndpoint | None:
        match written:
            case ast.HttpPattern():
                return self.http(written)
            case ast.ToolPattern():
                pattern = self.draft.places.pattern(written, self.package, opening=False)
                return k.MapTool(pattern.glob, span=written.span) if isinstance(pattern, k.ToolPattern) else None
            case ast.ActionPattern():
                found = self.draft.places.pattern(written, self.package, opening=False)
                return (
                    k.MapVerb(found.verb, found.type, span=written.span) if isinstance(found, k.ActionPattern) else None
                )
            case ast.ReservedWord():
                self.draft.places.pattern(written, self.package, opening=False)  # also reports any error
                return None
            case _:
                assert_never(written)

    def http(self, written: ast.HttpPattern) -> k.MapHttp | None:
        if len(written.methods) != 1 or written.methods[0] == "ANY":
            self.draft.report("E935", "this is more than one endpoint", written.span, ONE_QUESTION)
            return None
        plain = ast.HttpPattern(
            written.methods, BRACES.sub("x", written.path), span=written.span, path_span=written.path_span
        )
        if "*" in plain.path:
            self.draft.report("E935", "this is more than one endpoint", written.path_span, ONE_QUESTION)
            return None
        pattern = self.draft.places.pattern(plain, self.package, opening=False)
        segments = [self.segment(text, written) for text in written.path[1:].split("/") if written.path != "/"]
        if not isinstance(pattern, k.HttpPattern) or None in segments:
            return None
        assert pattern.methods is not None
        kept = tuple(one for one in segments if one is not None)
        return k.MapHttp(pattern.methods[0], kept, span=written.span)

    def segment(self, text: str, written: ast.HttpPattern) -> k.MapSegment | None:
        found = SEGMENT.fullmatch(text)
        if found is None or (found["source"] is None and "{" in text):
            hint = f"write `{{resource.id}}`, once in a segment: {SOURCE_HINT}"
            self.draft.report("E934", f"`{text}` is not a member of a question", written.path_span, hint)
            return None
        if found["source"] is None:
            return k.MapSegment(text, span=written.path_span)
        source = tuple(found["source"].split("."))
        known = self.is_source(source, found["source"], written.path_span)
        return k.MapSegment(found["text"], source, found["after"], span=written.path_span) if known else None

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def binding(self, binding: ast.FactAssignment) -> k.MapFact | None:
        if not isinstance(binding.value, ast.Reference):
            message = f"`{' '.join(binding.value.span.text.split())}` is not a member of a question"
            self.draft.report("E934", message, binding.value.span, SOURCE_HINT)
            return None
        source = (*binding.value.name.split("."), *(key.value for key in binding.value.keys))
        return self.fact(binding.fact, source, binding.value.span, binding.span)

    def fact(self, fact: ast.Name, source: k.MapPath, source_span: Span, span: Span) -> k.MapFact | None:
        path = tuple(fact.text.split("."))
        if not self.is_source(source, source_span.text, source_span):
            return None
        if self.is_attribute(path):
            if source[0] in ENTITY_SOURCES:
                return k.MapFact(path, source, True, span=span)
            message = f"`{fact.text}` is an attribute, but `{source_span.text}` belongs to no entity"
            hint = "take it from `subject.properties` or from `resource.properties`"
            self.draft.report("E933", message, source_span, hint)
            return None
        return k.MapFact(path, source, False, span=span) if self.is_fact(path, fact) else None

    def is_source(self, source: k.MapPath, text: str, span: Span) -> bool:
        told = is_source(source)
        if not told:
            self.draft.report("E934", f"`{text}` is not a member of a question", span, SOURCE_HINT)
        return told

    def is_attribute(self, path: k.MapPath) -> bool:
        entity = self.draft.schema.entities.get(path[0])
        return len(path) == 2 and entity is not None and entity.field(path[1]) is not None

    def is_fact(self, path: k.MapPath, fact: ast.Name) -> bool:
        """Return whether a caller of `/decide` could also claim the fact; report it if not."""
        root, known = path[0], is_claimable(path)
        if known and root in OPEN_ROOTS:
            known = any(are_nested_paths(path, declared.path) for declared in self.draft.schema.facts)
            hint = f"declare it: `facts {{ {fact.text}: string }}`"
        elif path in ENDPOINT_FACTS:
            hint = "`action` sets the endpoint: remove it"
        else:
            meant = suggest(path[1], ROOTS[root] or ()) if root in ROOTS_OF_FACTS and len(path) > 1 else None
            hint = f"did you mean `{root}.{meant}`?" if meant else self.attribute_hint(path)
        if not known:
            self.draft.report("E933", f"`{fact.text}` is not a fact that a question can supply", fact.span, hint)
        return known

    def attribute_hint(self, path: k.MapPath) -> str:
        entity = self.draft.schema.entities.get(path[0])
        if entity is not None and len(path) == 2:
            meant = suggest(path[1], [field.name for field in entity.fields])
            return (
                f"did you mean `{path[0]}.{meant}`?"
                if meant
                else f"declare it: `entity {path[0]} {{ {path[1]}: string? }}`"
            )
        if path[0] == "resource":
            return "name its type, as in `record.status`"
        return "a fact must begin with `args.`, `body.` or `context.`, an attribute with its entity: `record.status`"


def is_source(source: k.MapPath) -> bool:
    """Return whether AuthZEN questions have this member."""
    root, *rest = source or ("",)
    if not rest or root not in SOURCES:
        return root == "context" and bool(rest)
    return rest[0] in SOURCES[root] and (rest[0] == "properties") == (len(rest) > 1)


def is_claimable(path: k.MapPath) -> bool:
    """Return whether a caller of `/decide` could also claim the fact. The endpoint is not a claim."""
    root, *rest = path or ("",)
    if root in OPEN_ROOTS:
        return bool(rest)
    return root in ROOTS_OF_FACTS and bool(rest) and rest[0] in (ROOTS[root] or ()) and path not in ENDPOINT_FACTS


def are_nested_paths(one: k.MapPath, other: k.MapPath) -> bool:
    """Return whether one path equals or contains the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


# ── Checks of all items ────────────────────────────────────────────────────────────────────────


def check_duplicate_items(items: Sequence[k.MapItem], draft: LoweringContext) -> None:
    """Report members that are mapped twice, because the result would depend on the order of the items."""
    first: dict[tuple[object, ...], Span] = {}
    for item in items:
        for key, what in item_identities(item):
            where = first.setdefault(key, item.span)
            if where is not item.span:
                related = [RelatedLocation("the other mapping", where)]
                draft.report("E931", f"{what} is mapped twice", item.span, "keep one", related)


def check_conflicting_facts(
    facts: Iterable[k.MapFact], vouched: Sequence[k.MapSubject], draft: LoweringContext
) -> None:
    """Report facts that are set twice or inside one another, and an issuer that both `from` and a fact set."""
    before: list[k.MapFact] = []
    for fact in facts:
        others: list[k.MapItem] = [one for one in before if facts_conflict(one, fact)]
        others += vouched if fact.path == ISSUER else ()
        if others:
            related = [RelatedLocation("the other mapping", others[0].span)]
            draft.report("E931", f"`{'.'.join(fact.path)}` is mapped twice", fact.span, "keep one", related)
        before.append(fact)


def facts_conflict(one: k.MapFact, other: k.MapFact) -> bool:
    """Return whether two facts conflict. An attribute of the subject and an attribute of the resource do not: they
    belong to two entities, or have the same value.
    """
    if one.entity or other.entity:
        return (one.path, one.source[0]) == (other.path, other.source[0])
    return are_nested_paths(one.path, other.path)


def item_identities(item: k.MapItem) -> Iterator[tuple[tuple[object, ...], str]]:
    match item:
        case k.MapSubject(type_):
            yield ("subject", type_), f"the subject `{type_}`"
        case k.MapResource(type_):
            yield ("resource", type_), f"the resource `{type_}`"
        case k.MapAction(name, on):
            yield ("action", name, on), f"the action `{name}`"
        case k.MapFact():
            pass  # `check_conflicting_facts` checks facts, which may also contain one another
        case _:
            assert_never(item)


def check_actions_reach_grants(items: Sequence[k.MapItem], draft: LoweringContext, opened: PatternIndex[bool]) -> None:
    """Report actions with an endpoint that no grant covers. Every caller of such an action is denied, so the endpoint
    is usually misspelled.
    """
    for item in items:
        if isinstance(item, k.MapAction) and not any(opened.overlapping(endpoint_pattern(item.endpoint))):
            message = f"no grant covers `{' '.join(item.endpoint.span.text.split())}`"
            draft.report("W936", message, item.endpoint.span, "check the spelling: every caller is denied this action")


def endpoint_pattern(endpoint: k.MapEndpoint) -> k.Pattern:
    """Return a pattern of all endpoints that a mapped action can produce."""
    match endpoint:
        case k.MapHttp(method, segments):
            return k.HttpPattern((method,), tuple(map(segment_pattern, segments)), span=endpoint.span)
        case k.MapTool(glob):
            return k.ToolPattern(glob, span=endpoint.span)
        case k.MapVerb(verb, type_):
            return k.ActionPattern(verb, type_, span=endpoint.span)
        case _:
            assert_never(endpoint)


def segment_pattern(segment: k.MapSegment) -> k.Segment:
    return k.Segment(segment.text, segment.source is not None, segment.after)

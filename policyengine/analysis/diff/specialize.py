"""Specializes conditions for one kind of request: settled facts become constants, and facts of both policies are
unified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.entities.store import EntityStore
from policyengine.kernel.base import Node
from policyengine.kernel.expressions import child_fields
from policyengine.runtime.endpoints import ActionEndpoint, ToolEndpoint
from policyengine.runtime.request import Request
from policyengine.runtime.values import Unknown
from policyengine.solver.value_partition import SpecialValue
from policyengine.source import Source, Span
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.match_endpoint import match_pattern
from policyengine.typesystem import EntityRef, Scalar

FactPath: TypeAlias = tuple[str, ...]
ApprovalMode: TypeAlias = Literal["none", "shared", "own"]
NOWHERE = Span(Source("", ""), 0, 0)
# Paths of facts that policies cannot name: facts of the engine, and facts that represent path segments.
ISSUER: FactPath = ("", "issuer")
SOUND: FactPath = ("", "chain")
SEGMENT, RESOURCE, UNSURE, DEPTH = "segment", "resource", "unsure", "depth"
SPLIT = "split"  # marks a capture that may be invalid because it begins or ends within a character


@dataclass(frozen=True, slots=True)
class CallerAssumption:
    """The settled facts of a kind of caller: a name, an absent name (ABSENT), or an invalid name (BROKEN). `hops` is 0
    without delegation, None with it.
    """

    agent: str | SpecialValue
    user: str | SpecialValue
    hops: int | None = 0


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    """Options for rewriting the conditions of both policies for one comparison.

    `claimed` are attributes that the policies take from different claims; they stay separate by side. `tasks` includes
    task constraints, for resources of these `types`. `approvals` is `none` if no rule reads approvals, `shared` if the
    same rules require them, and `own` if each policy's approvals are separate. `past` means that events were recorded
    differently.
    """

    settled: CallerAssumption
    claimed: frozenset[tuple[str, str]] = frozenset()
    tasks: bool = False
    types: frozenset[str] = frozenset()
    approvals: ApprovalMode = "none"
    past: bool = False


def string_constant(text: str) -> k.Constant:
    return k.Constant(text, Scalar.STRING, span=NOWHERE)


def make_fact(path: FactPath, type_: typesystem.Type = Scalar.STRING) -> k.Fact:
    return k.Fact(path, type_, span=NOWHERE)


def one_of_expression(names: object, item: k.Expr) -> k.Expr:
    chosen = tuple(sorted(names))  # type: ignore[call-overload]  # any collection of names
    return k.Relation("has", k.Constant(chosen, typesystem.ListType(Scalar.STRING), span=NOWHERE), item, span=NOWHERE)


def all_of(*items: k.Expr) -> k.Expr:
    return items[0] if len(items) == 1 else k.And(tuple(items), span=NOWHERE)


def any_of(*items: k.Expr) -> k.Expr:
    return items[0] if len(items) == 1 else k.Or(tuple(items), span=NOWHERE)


ALWAYS: k.Expr = k.Constant(True, Scalar.BOOL, span=NOWHERE)
NEVER: k.Expr = k.Constant(False, Scalar.BOOL, span=NOWHERE)

# ── What the patterns of one policy bind at an endpoint ───────────────────────────────────────


def fact_bindings(kernel: k.Kernel, at: EndpointClass, binders: tuple[k.Binder, ...]) -> dict[FactPath, k.Expr | None]:
    """Return the expression for each bound fact: a constant, a segment or another fact; None if patterns disagree."""
    found: dict[FactPath, k.Expr | None] = {}

    def bind(path: FactPath, expression: k.Expr | None) -> None:
        found[path] = expression if found.get(path, expression) == expression else None

    for binder in binders:
        captured = capture_expressions(binder.pattern, at)
        for name, text in captured.items():
            bind(("params", name), text)
        if binder.resource is not None:
            type_, capture = binder.resource
            bind(("resource",), entity_expression(type_, captured[capture]))
        for path, expression in binder.facts:
            bind(path, rewrite_condition(expression, {}))
    if isinstance(at.endpoint, ActionEndpoint):
        reference = typesystem.RefType(frozenset({at.endpoint.type}))
        bind(("resource",), make_fact((RESOURCE, at.endpoint.type), reference))
    return found


def entity_expression(type_: str, id_: k.Expr | None) -> k.Expr | None:
    reference = typesystem.RefType(frozenset({type_}))
    if id_ is None:
        return None
    if isinstance(id_, k.Constant):
        return k.Constant(EntityRef(type_, str(id_.value)), reference, span=NOWHERE)
    assert isinstance(id_, k.Fact)
    return make_fact((RESOURCE, type_, *id_.path), reference)


def capture_expressions(pattern: k.Pattern, at: EndpointClass) -> dict[str, k.Expr | None]:
    """Return the expression for each capture: the text of a settled segment, or a fact if the segment can be several
    texts; None if it is unknown.
    """
    texts = match_pattern(pattern, at.endpoint, "full") or {}
    if not isinstance(pattern, k.HttpPattern):
        return {}

    def captured(number: int, one: k.Segment) -> k.Expr | None:
        text, split = texts.get(one.capture or ""), (number, one.prefix, one.suffix) in at.split
        if text is not None and (number in at.free or number in at.spelled):
            return make_fact((SEGMENT, str(number), one.prefix, one.suffix, *((SPLIT,) if split else ())))
        return string_constant(text) if isinstance(text, str) else None

    return {
        one.capture: captured(*numbered) for numbered in enumerate(pattern.segments) if (one := numbered[1]).capture
    }


def captured_path(path: FactPath) -> FactPath | None:
    """Return the path of the capture if the fact is a capture, or a resource that a capture names; otherwise None."""
    match path:
        case ("segment", *_):
            return path
        case ("resource", _, "segment", *_):
            return path[2:]
        case _:
            return None


# ── Rewriting ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ConditionRewriter:
    """Rewrites conditions of one policy for a class of endpoints and a kind of caller; facts that only this policy
    knows are kept apart by `side`. `recorded` are the issuers that record chains.
    """

    at: EndpointClass
    settled: CallerAssumption
    bound: Mapping[FactPath, k.Expr | None]
    side: str
    recorded: tuple[str, ...]
    reading: RewriteOptions

    def __call__(self, expression: k.Expr) -> k.Expr:
        return rewrite_condition(expression, self)

    def get(self, node: k.Fact) -> k.Expr:
        """Return the expression for a fact."""
        path = node.path
        if path in self.bound:
            found = self.bound[path]
            return make_fact((UNSURE, self.side, *path), node.type) if found is None else self.typed(found, node)
        settled = self.caller(node)
        if settled is not None:
            return settled
        if path[0] == "approval":
            return self.approval(node)
        if path in self.at.settled:
            return string_constant(self.at.settled[path])
        if path == ("chain", "depth") and self.settled.hops == 0:
            return make_fact((DEPTH, *self.recorded), node.type)
        return replace(node, optional=False)

    def approval(self, node: k.Fact) -> k.Expr:
        """Return the fact for an approval. Generated requests have no approvals, but equality is not proved if it holds
        only without them.
        """
        if self.reading.approvals == "none":
            return NEVER if node.path[1:] == ("granted",) else replace(node, optional=False)
        whose = self.side if self.reading.approvals == "own" else "both"
        return make_fact((UNSURE, whose, *node.path), node.type)

    def event(self, event: k.EventPattern) -> k.EventPattern:
        return replace(event, watch=f"{self.side} {event.watch}") if self.reading.past else event

    def typed(self, found: k.Expr, node: k.Fact) -> k.Expr:
        """Return a bound expression with the type of the fact; it stays separate if the types differ. A capture of an
        entity is bound as a text.
        """
        found = rewrite_condition(found, self)
        if node.path[0] == "params" and isinstance(node.type, typesystem.RefType):
            return entity_expression(min(node.type.entities), found) or found
        if isinstance(found, k.Fact) and found.path[0] not in (SEGMENT, RESOURCE) and found.type != node.type:
            return make_fact((UNSURE, self.side, *node.path), node.type)
        return found

    def caller(self, node: k.Fact) -> k.Expr | None:
        name: object = None
        match node.path:
            case ("agent",) | ("agent", "id"):
                name = self.settled.agent
            case ("user",) | ("user", "id"):
                name = self.settled.user
            case ("chain", "root") if self.settled.hops == 0:
                name = self.settled.agent if self.settled.agent is not SpecialValue.ABSENT else self.settled.user
            case _:
                return None
        if not isinstance(name, str):
            return None
        if isinstance(node.type, typesystem.RefType):
            return k.Constant(EntityRef(node.path[0], name), node.type, span=NOWHERE)
        return string_constant(name)

    def attribute(self, node: k.Attribute, base: k.Expr) -> k.Expr:
        if node.name == "id" and isinstance(base, k.Constant) and isinstance(base.value, EntityRef):
            return string_constant(base.value.id)
        holder = node.base.path[:1] if isinstance(node.base, k.Fact) else ()
        if (*holder, node.name) in self.reading.claimed:
            base = make_fact(("claimed", self.side, *holder), getattr(base, "type", Scalar.STRING))
        return replace(node, base=base, optional=False)


def rewrite_condition(expression: k.Expr, by: ConditionRewriter | Mapping[FactPath, k.Expr]) -> k.Expr:
    """Rewrite the facts of an expression, inline its definitions and fold its constants."""
    if isinstance(expression, k.DefinitionRef):
        return rewrite_condition(expression.expression, by)
    if isinstance(expression, k.Fact):
        return by.get(expression) if isinstance(by, ConditionRewriter) else replace(expression, optional=False)
    changed: dict[str, object] = {}
    for name in child_fields(type(expression)):  # type: ignore[arg-type]  # as in `kernel.children`
        part = getattr(expression, name)
        if isinstance(part, k.EventPattern):
            inside = rewrite_condition(part, by)  # type: ignore[arg-type]  # it is made of expressions
            changed[name] = by.event(inside) if isinstance(by, ConditionRewriter) else inside  # type: ignore[arg-type]
        elif isinstance(part, Node):
            changed[name] = rewrite_condition(part, by)  # type: ignore[arg-type]  # all nodes in it are expressions
        elif isinstance(part, tuple) and part and isinstance(part[0], Node):
            changed[name] = tuple(rewrite_condition(one, by) for one in part)
    if isinstance(expression, k.Attribute) and isinstance(by, ConditionRewriter):
        return by.attribute(expression, changed["base"])  # type: ignore[arg-type]
    if isinstance(expression, k.IsPresent | k.Default) and isinstance(changed["operand"], k.Constant):
        return ALWAYS if isinstance(expression, k.IsPresent) else changed["operand"]
    return fold_constants(replace(expression, **changed)) if changed else expression  # type: ignore[arg-type]


FOLDABLE = (k.Relation, k.InWindow, k.Arithmetic)


def fold_constants(expression: k.Expr) -> k.Expr:
    """Fold an expression that contains only constants and no entity lookups."""
    if not isinstance(expression, (*FOLDABLE, k.Call)) or not all(
        isinstance(part, k.Constant) for part in k.children(expression)
    ):
        return expression
    if isinstance(expression, k.Relation) and needs_directory(expression):
        return expression
    found = evaluate(expression, EMPTY_FACTS.looked_at_anew)
    type_ = expression.type if isinstance(expression, k.Call | k.Arithmetic) else Scalar.BOOL
    return expression if isinstance(found, Unknown) else k.Constant(found, type_, span=expression.span)


def needs_directory(relation: k.Relation) -> bool:
    match relation.row.operands:
        case k.Operands.ENTITIES:
            return True
        case k.Operands.ELEMENT:
            return holds_entities(relation.left) or holds_entities(relation.right)
        case _:
            return False


def holds_entities(part: k.Expr) -> bool:
    found = part.value if isinstance(part, k.Constant) else None
    return any(isinstance(one, EntityRef) for one in (found if isinstance(found, tuple) else (found,)))


EMPTY_FACTS = Facts(
    k.Kernel("", (), {}, {}, {}, (), (), (), (), (), (), ()),
    Request(ToolEndpoint(None, "x")),
    EntityStore(),
    datetime(2026, 1, 1, tzinfo=UTC),
    {},
    {},
)

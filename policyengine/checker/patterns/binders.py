"""Bindings of patterns: captures, the resource, and facts in `with`. Reports endpoints with conflicting bindings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyengine import kernel as k
from policyengine.checker.lower.expressions import lower_value
from policyengine.checker.names.program import Program
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.checker.patterns.places import PatternBindings, PlaceResolver, bindings_of, has_bindings
from policyengine.checker.type_names import describe_type
from policyengine.checker.types.schema import AvailableFacts, Schema
from policyengine.diagnostics.model import RelatedLocation
from policyengine.syntax import nodes as ast
from policyengine.typesystem import RefType, Scalar, Type, UnresolvedType

BINDABLE = ("args", "body", "context")
# Roots that a bound value may read. Messages may show the value to the caller, and it must not depend on other
# bindings, so it may read only the request.
READABLE = frozenset({"args", "body", "params", "request", "tool", "context", "time"})
RESOURCE = ("resource",)
READ = "read"  # stands for a fact that is read but not bound
MAX_CONFLICTS = 20  # maximum findings reported for each pattern
BoundFact = tuple[tuple[str, ...], k.Expr]


def collect_binders(program: Program, places: PlaceResolver, schema: Schema) -> tuple[k.Binder, ...]:
    """Collect all bindings, register them with `places` so that rules can be lowered, and report conflicts."""
    found: dict[PatternBindings, None] = {}
    for package, endpoint, bindings in written_endpoints(program):
        pattern = places.pattern(endpoint, package, opening=False)
        if pattern is not None and (bindings or has_bindings(pattern)):
            context = ExpressionContext(program, schema, package, facts_for_bindings(pattern), {}, program.report)
            facts = lower_bindings(bindings, pattern, context)
            check_double_resource(endpoint, pattern, facts, bindings, program)
            if facts or has_bindings(pattern):
                found[bindings_of(pattern, facts)] = None
    every = sorted(found, key=lambda b: (b.pattern.span.source.name, b.pattern.span.start))
    places.know(every)
    check_conflicts(every, program)
    return tuple(k.Binder(b.pattern, b.resource, b.facts, span=b.pattern.span) for b in every if b.captures or b.facts)


def written_endpoints(program: Program) -> Iterator[tuple[str, ast.Endpoint, tuple[ast.FactAssignment, ...]]]:
    """Yield every endpoint in a rule, a scope or `facts`, with its package and its `with` bindings."""
    for package, declaration in program.declarations():
        for endpoint, bindings in endpoints_of(declaration):
            yield package, endpoint, bindings
        if "within" in declaration.span.text:  # most rules have no history and need no walk
            events = (node for node in ast.walk(declaration) if isinstance(node, ast.EventPattern))
            yield from (
                (package, endpoint, ()) for event in events for endpoint, _ in _without_bindings((event.target,))
            )


def endpoints_of(declaration: ast.Declaration) -> Iterator[tuple[ast.Endpoint, tuple[ast.FactAssignment, ...]]]:
    match declaration:
        case ast.ScopeDecl(items=items):
            yield from ((item.endpoint, item.bindings) for item in items if isinstance(item, ast.ScopeEndpoint))
        case ast.AgentDecl(items=items) | ast.UserDecl(items=items) | ast.AnyoneDecl(items=items):
            for may in items:
                yield from _without_bindings(may.targets if isinstance(may, ast.May) else ())
        case ast.GuardDecl(place=place) | ast.FactsDecl(place=place) | ast.RateDecl(place=place):
            yield from _without_bindings(place.targets if place else ())
        case ast.BudgetDecl(place=place):
            yield from _without_bindings(place.targets if place else ())
        case _:
            pass


def _without_bindings(targets: Iterable[ast.Target]) -> Iterator[tuple[ast.Endpoint, tuple[ast.FactAssignment, ...]]]:
    yield from ((target, ()) for target in targets if not isinstance(target, ast.Name))


def facts_for_bindings(pattern: k.Pattern) -> AvailableFacts:
    """Return the facts that a `with` may read: the facts at its own endpoint, except `resource`, which it
    may define.
    """
    captures = bindings_of(pattern).captures
    params: dict[str, Type] = {
        name: RefType(frozenset({entity})) if entity else Scalar.STRING for name, (_, entity) in captures.items()
    }
    return AvailableFacts(None, params, k.Place((pattern,), span=pattern.span), binds=True)


# ── `with` ────────────────────────────────────────────────────────────────────────────────────


def lower_bindings(
    bindings: tuple[ast.FactAssignment, ...], pattern: k.Pattern, context: ExpressionContext
) -> tuple[BoundFact, ...]:
    found: dict[tuple[str, ...], k.Expr] = {}
    targets = {tuple(binding.fact.text.split(".")): binding for binding in reversed(bindings)}
    for binding in bindings:
        path = tuple(binding.fact.text.split("."))
        if targets[path] is not binding:
            where = [RelatedLocation("bound here", targets[path].fact.span)]
            context.report("E315", f"`{binding.fact.text}` is bound twice", binding.fact.span, "remove one", where)
            continue
        value = lower_binding(binding, path, context)
        if value is not None and reads_only_the_request(value, binding, set(targets), context):
            found[path] = value
    return tuple(sorted(found.items(), key=lambda bound: bound[0]))


def lower_binding(binding: ast.FactAssignment, path: tuple[str, ...], context: ExpressionContext) -> k.Expr | None:
    if path == RESOURCE:
        value = lower_value(binding.value, context)
        if value is not None and not isinstance(value.type, RefType | UnresolvedType):
            message = f"`resource` must be an entity, but this is {describe_type(value.type)}"
            context.report("E316", message, binding.value.span, "name its type: `resource = invoice(args.id)`")
            return None
        return value
    if path[0] not in BINDABLE or len(path) == 1:
        message = f"`{binding.fact.text}` cannot be bound"
        hint = "bind `resource`, or a declared fact that begins with `body.`, `args.` or `context.`"
        context.report("E316", message, binding.fact.span, hint)
        return None
    target = lower_value(ast.Reference(binding.fact.text, span=binding.fact.span), context)
    return lower_value(binding.value, context, target.type) if target is not None else None


def reads_only_the_request(
    value: k.Expr, binding: ast.FactAssignment, bound: set[tuple[str, ...]], context: ExpressionContext
) -> bool:
    for node in k.walk(value):
        if isinstance(node, k.Attribute) or (isinstance(node, k.Fact) and node.path[0] not in READABLE):
            message = f"`{node.span.text}` is not part of the request"
            hint = "`with` reads only `args`, `body`, `params`, `context`, `request` and `tool`"
            context.report("E317", message, node.span, hint)
            return False
        if isinstance(node, k.Fact) and node.path in bound:
            message = f"`{node.span.text}` is itself bound here"
            context.report("E317", message, node.span, f"write its value in place of `{node.span.text}`")
            return False
    return True


def check_double_resource(
    endpoint: ast.Endpoint,
    pattern: k.Pattern,
    facts: tuple[BoundFact, ...],
    bindings: tuple[ast.FactAssignment, ...],
    program: Program,
) -> None:
    """Report a `resource` binding in addition to a typed capture."""
    if RESOURCE in dict(facts) and bindings_of(pattern).resource is not None:
        written = next(binding for binding in bindings if binding.fact.text == "resource")
        hint = "remove this binding, or the type of the capture"
        program.report("E320", f"`{endpoint.span.text}` already binds `resource`", written.fact.span, hint)


# ── Conflicts between patterns that match the same endpoint ───────────────────────────────────


def check_conflicts(every: list[PatternBindings], program: Program) -> None:
    """Report conflicting patterns. Patterns are compared without regard to case, because guards ignore case."""
    earlier: PatternIndex[PatternBindings] = PatternIndex()
    for binding in select_contested(every):
        before = len(program.report.found)
        for other in earlier.overlapping(k.with_folding(binding.pattern, "full")):
            check_pair(binding, other, program)
            if len(program.report.found) > before + MAX_CONFLICTS:
                break
        earlier.add(binding.pattern, binding)


def select_contested(every: Iterable[PatternBindings]) -> list[PatternBindings]:
    """Return the patterns that bind a name that another pattern reads or binds differently; the other patterns need no
    comparison.
    """
    bindings, ways = list(every), dict[object, set[object]]()
    for binding in bindings:
        for name, way in ways_of(binding):
            ways.setdefault(name, set()).add(way)
    return [one for one in bindings if any(len(ways[name]) > 1 for name, _ in ways_of(one))]


def ways_of(binding: PatternBindings) -> Iterator[tuple[object, object]]:
    """Yield each name that the pattern binds or that its `with` reads, and a key. Equal bindings of a name have
    equal keys; all reads have the same key.
    """
    resource = binding.resource[1] if binding.resource else None
    for name, (place, entity) in binding.captures.items():
        yield f"params.{name}", (place, entity, name == resource)
    if (found := resource_identity(binding)) is not None:
        yield RESOURCE, found
    for path, value in binding.facts:
        yield path, value
        yield from ((node.path, READ) for node in k.walk(value) if isinstance(node, k.Fact))


def check_pair(binding: PatternBindings, other: PatternBindings, program: Program) -> None:
    report, span = program.report, binding.pattern.span
    where = [RelatedLocation("the other pattern", other.pattern.span)]
    if (
        resource_identity(binding)
        and resource_identity(other)
        and resource_identity(binding) != resource_identity(other)
    ):
        both = f"{describe_bindings(binding)} and {describe_bindings(other)}"
        message = f"an endpoint of this pattern has two resources: {both}"
        hint = "write the same typed capture at the same position in both"
        report("E320", message, span, hint, where)
    for name in binding.captures.keys() & other.captures.keys():
        (place, entity), (place_there, entity_there) = binding.captures[name], other.captures[name]
        same_type = entity == entity_there or entity is None or entity_there is None
        resources = {bound.resource[1] for bound in (binding, other) if bound.resource}
        if place != place_there or not (same_type or name in resources):
            message = f"`{name}` is captured in two ways for the same endpoint"
            report("E321", message, span, "give one of the captures another name", where)
    facts, facts_there = dict(binding.facts), dict(other.facts)
    for path in facts.keys() & facts_there.keys() - {RESOURCE}:
        if facts[path] != facts_there[path]:
            message = f"`{'.'.join(path)}` is bound in two ways for the same endpoint"
            report("E320", message, span, "bind it in the same way in both", where)
    check_reads(binding, other, program)
    check_reads(other, binding, program)


def check_reads(binding: PatternBindings, other: PatternBindings, program: Program) -> None:
    """Report a read of a fact that the other pattern binds, because the result would depend on the order of the two
    patterns.
    """
    bound = {path for path, _ in other.facts}
    for _, value in binding.facts:
        for node in k.walk(value):
            if isinstance(node, k.Fact) and node.path in bound and binding is not other:
                where = [RelatedLocation("bound here", other.pattern.span)]
                message = f"`{node.span.text}` is bound by another pattern of the same endpoint"
                program.report("E317", message, node.span, "write that value instead", where)


def resource_identity(binding: PatternBindings) -> object:
    """Return a key that is equal for equal resources: the type and position of the capture, or the expression."""
    bound = dict(binding.facts).get(RESOURCE)
    if bound is not None or binding.resource is None:
        return bound
    entity, name = binding.resource
    return entity, binding.captures[name][0]


def describe_bindings(binding: PatternBindings) -> str:
    bound = dict(binding.facts).get(RESOURCE)
    if bound is not None:
        return f"`{bound.span.text}`"
    entity, name = binding.resource or ("", "")
    return f"`{{{name}: {entity}}}`"

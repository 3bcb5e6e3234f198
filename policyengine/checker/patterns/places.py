"""Places of rules: resolves targets to patterns and scopes to their includes, and finds the facts that
exist at a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from policyengine import kernel as k
from policyengine.checker.names.program import Program
from policyengine.checker.names.symbols import Symbol
from policyengine.checker.patterns import overlap
from policyengine.checker.patterns.endpoint_reader import read_endpoint
from policyengine.checker.patterns.overlap import PatternIndex, covers, overlaps, place_covers
from policyengine.checker.types.schema import AvailableFacts
from policyengine.diagnostics.model import BoundExceededError, Diagnostic, RelatedLocation
from policyengine.syntax import nodes as ast
from policyengine.typesystem import RefType, Scalar, Type

__all__ = ["PatternBindings", "PlaceResolver", "Position", "bindings_of", "covers", "overlaps", "place_covers"]

MAX_INCLUDED = 500_000  # base limit for the includes of all scopes; the next constant is added for each scope
INCLUDED_PER_SCOPE = 20
Key = tuple[str, str]  # identifies a scope: its package and its name
Position = tuple[int, str, str]  # position of a capture: the segment, and the text before and after the capture


@dataclass(frozen=True, slots=True)
class PatternBindings:
    """The bindings of one pattern: `captures` are the captures by name, with the entity of typed captures; `facts`
    are the facts that `with` binds. `resource` is the last typed capture, or the resource in `with`. `resource_types`
    are its possible types, including the type of an action, which binds no resource because the request names it.
    """

    pattern: k.Pattern
    captures: Mapping[str, tuple[Position, str | None]]
    resource: tuple[str, str] | None
    resource_types: frozenset[str]
    facts: tuple[tuple[tuple[str, ...], k.Expr], ...] = ()

    def __hash__(self) -> int:
        return hash((self.pattern, self.facts))


def has_bindings(pattern: k.Pattern) -> bool:
    """Return whether the pattern has captures or is an action. Most patterns bind nothing."""
    if isinstance(pattern, k.HttpPattern):
        return any(segment.capture is not None for segment in pattern.segments)
    return isinstance(pattern, k.ActionPattern)


def bindings_of(pattern: k.Pattern, facts: tuple[tuple[tuple[str, ...], k.Expr], ...] = ()) -> PatternBindings:
    captures: dict[str, tuple[Position, str | None]] = {}
    typed: tuple[str, str] | None = None
    types: set[str] = set()
    if isinstance(pattern, k.HttpPattern):
        for number, segment in enumerate(pattern.segments):
            if segment.capture is not None:
                captures[segment.capture] = ((number, segment.prefix, segment.suffix), segment.entity)
                typed = (segment.entity, segment.capture) if segment.entity is not None else typed
    elif isinstance(pattern, k.ActionPattern):
        types.add(pattern.type)
    bound = dict(facts).get(("resource",))
    if bound is not None:
        typed, types = None, _entity_types(bound.type)
    elif typed is not None:
        types.add(typed[0])
    return PatternBindings(pattern, captures, typed, frozenset(types), facts)


@dataclass(slots=True)
class PlaceResolver:
    """Resolves targets and places. Fill `bindings` before any rule is lowered, because `facts_here` depends on it."""

    program: Program
    bindings: PatternIndex[PatternBindings] = field(default_factory=PatternIndex)
    ignoring_case: frozenset[str] = field(init=False)  # the packages with `paths ignore case`
    _binds: bool = False  # whether there are any bindings
    _patterns: dict[tuple[int, bool], tuple[ast.Endpoint, k.Pattern | None]] = field(default_factory=dict)
    _here: dict[tuple[object, ...], AvailableFacts] = field(default_factory=dict)
    _scopes: dict[tuple[str, str, bool], list[tuple[Symbol, k.Pattern]]] = field(default_factory=dict)
    _reach: dict[Key, tuple[Symbol, ...]] = field(default_factory=dict)
    _included: int = 0  # includes of all scopes
    _carriers: dict[Key, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        declared = self.program.declarations()
        self.ignoring_case = frozenset(owner for owner, one in declared if isinstance(one, ast.PathsIgnoreCase))

    def know(self, bindings: Iterable[PatternBindings]) -> None:
        """Register the bindings of patterns. Facts that were computed earlier, for `with`, are computed again when
        needed.
        """
        for binding in bindings:
            self.bindings.add(binding.pattern, binding)
            self._binds = True
        self._here.clear()

    # ── Targets ───────────────────────────────────────────────────────────────────────────────

    def pattern(self, endpoint: ast.Endpoint, package: str, opening: bool) -> k.Pattern | None:
        """Return the pattern of an endpoint. `opening` is true in a `may`, where `ANY` means only the standard methods.
        Patterns are cached by the identity of the endpoint, because equal endpoints have different spans. Return None
        if an error was reported.
        """
        key = (id(endpoint), opening and isinstance(endpoint, ast.HttpPattern) and "ANY" in endpoint.methods)
        if key not in self._patterns:
            found = read_endpoint(endpoint, package, self.program, opening)
            if found is not None and package in self.ignoring_case:
                found = k.with_folding(found, "ascii")
            self._patterns[key] = endpoint, found
        return self._patterns[key][1]

    def of_scope(self, scope: Symbol, opening: bool) -> list[tuple[Symbol, k.Pattern]]:
        """Return each pattern of the scope and of its includes, with the scope that declares it."""
        key = (scope.package, scope.name, opening)
        if key not in self._scopes:
            self._scopes[key] = [
                (owner, pattern)
                for owner in self.reach(scope)
                for item in _scope_endpoints(owner)
                if (pattern := self.pattern(item.endpoint, owner.package, opening))
            ]
        return self._scopes[key]

    def patterns(self, targets: Iterable[ast.Target], package: str, opening: bool = False) -> list[k.Pattern] | None:
        """Return all patterns of the targets. Returns None if one of them is an empty scope or has another reported
        error."""
        found: list[k.Pattern] = []
        sound = True
        for target in targets:
            some = self.target(target, package, opening)
            sound = sound and some is not None
            found += some or ()
        return list(dict.fromkeys(found)) if sound else None

    def target(self, target: ast.Target, package: str, opening: bool = False) -> list[k.Pattern] | None:
        if not isinstance(target, ast.Name):
            pattern = self.pattern(target, package, opening)
            return [pattern] if pattern else None
        scope = self.program.find(package, "scope", target)
        return [pattern for _, pattern in self.of_scope(scope, opening)] or None if scope else None

    # ── Places, as the schema and expressions need them ───────────────────────────────────

    def place(self, place: ast.Place, package: str) -> k.Place | None:
        """Resolve `on A, B except C`. Returns None if an error was reported."""
        inside, outside = self.patterns(place.targets, package), self.patterns(place.excepts, package)
        if inside is None or outside is None:
            return None
        self._check_excepts(place, inside, outside, package)
        return k.Place(tuple(k.with_folding(one, "full") for one in inside), tuple(outside), span=place.span)

    def covers(self, outer: k.Place, inner: k.Place) -> bool:
        return overlap.place_covers(outer, inner)

    def overlaps(self, a: k.Place, b: k.Place) -> bool:
        if a.patterns is None or b.patterns is None:
            return True
        return any(overlap.place_overlaps(b, pattern) for pattern in a.patterns) and any(
            overlap.place_overlaps(a, pattern) for pattern in b.patterns
        )

    def facts_here(self, targets: tuple[ast.Target, ...], package: str) -> AvailableFacts | None:
        """Return the facts that exist at the targets. Returns None if an error was reported."""
        patterns = self.patterns(targets, package)
        if patterns is None:
            return None
        span = targets[0].span.to(targets[-1].span)
        return self.here(k.Place(tuple(patterns), span=span))

    def here(self, place: k.Place) -> AvailableFacts:
        """Return the facts that exist at the place: everything that an overlapping pattern may bind."""
        if not self._binds and not any(map(has_bindings, place.patterns or ())):
            return AvailableFacts(place=place)
        key = (place.patterns, place.excepts)
        if key not in self._here:
            found = [b for b in self._find_overlapping(place) if overlap.place_overlaps(place, b.pattern)]
            found += [bindings_of(pattern) for pattern in place.patterns or ()]
            types = frozenset(name for binding in found for name in binding.resource_types)
            self._here[key] = AvailableFacts(RefType(types) if types else None, _parameter_types(found), place)
        return self._here[key]

    def _find_overlapping(self, place: k.Place) -> Iterator[PatternBindings]:
        for pattern in place.patterns if place.patterns is not None else (None,):
            yield from self.bindings.overlapping(pattern)

    def _check_excepts(self, place: ast.Place, inside: list[k.Pattern], outside: list[k.Pattern], package: str) -> None:
        report = self.program.report
        for target in place.excepts:
            some = self.target(target, package) or ()
            if some and not any(overlaps(hole, pattern) for hole in some for pattern in inside):
                message = f"`except {target.span.text}` excludes nothing"
                report("W322", message, target.span, "it overlaps none of the places before `except`: remove it")
        if inside and all(any(covers(hole, pattern) for hole in outside) for pattern in inside):
            report(
                "E318",
                "`except` excludes every place",
                place.span,
                "remove `except`, or the whole rule: with `except`, the rule never applies",
            )

    # ── Scopes ────────────────────────────────────────────────────────────────────────────────

    def reach(self, scope: Symbol) -> tuple[Symbol, ...]:
        """Return the scope and all scopes that it includes, each once. `check_scopes` reports cycles. Raises
        BoundExceededError.
        """
        key = (scope.package, scope.name)
        if key not in self._reach:
            found: dict[Key, Symbol] = {}
            pending = [scope]
            while pending:
                current = pending.pop()
                if found.setdefault((current.package, current.name), current) is current:
                    pending += [inner for _, inner in self.included(current) if not _scopes_known(inner, found)]
            self._reach[key] = tuple(found.values())
            self._count_included(scope, len(found) - 1)
        return self._reach[key]

    def _count_included(self, scope: Symbol, count: int) -> None:
        """Count the includes of a scope. Raises BoundExceededError if all scopes together include too many others."""
        self._included += count
        if self._included > MAX_INCLUDED + INCLUDED_PER_SCOPE * len(self._reach):
            message = f"the scopes up to `{scope.name}` include more than {MAX_INCLUDED:,} others in all"
            hint = "include only the scopes that are needed, not chains in which each scope includes the one before"
            raise BoundExceededError(Diagnostic("E323", message, scope.span, hint))

    def included(self, scope: Symbol) -> Iterator[tuple[ast.Name, Symbol]]:
        for item in _scope_items(scope):
            for name in item.scopes if isinstance(item, ast.Include) else ():
                found = self.program.find(scope.package, "scope", name)
                if found is not None:
                    yield name, found

    def scopes(self) -> Iterator[Symbol]:
        for package in self.program.packages.values():
            yield from (symbol for symbol in package.symbols.values() if symbol.kind == "scope")

    def carriers(self, owner: Symbol) -> tuple[str, ...]:
        """Return the names with which a credential may use the endpoints of `owner`: the names of all scopes that
        contain `owner`.
        """
        if not self._carriers:
            found: dict[Key, set[str]] = {}
            for scope in self.scopes():
                for inner in self.reach(scope):
                    found.setdefault((inner.package, inner.name), set()).add(scope_alias(scope))
            self._carriers = {key: tuple(sorted(names)) for key, names in found.items()}
        return self._carriers[owner.package, owner.name]

    def check_scopes(self) -> None:
        """Check that every scope has an endpoint, is not part of a cycle, and has a name in credentials that is unique
        in its package.
        """
        aliases: dict[Key, Symbol] = {}
        in_circles: set[Key] = set()
        for scope in self.scopes():
            self._check_alias(scope, aliases)
            self._check_circle(scope, in_circles)
            for item in _scope_endpoints(scope):
                self.pattern(item.endpoint, scope.package, opening=True)
            if not any(_scope_endpoints(inner) for inner in self.reach(scope)):
                hint = "add an endpoint, a tool or an action"
                self.program.report("E311", f"the scope `{scope.name}` is empty", scope.span, hint)

    def _check_alias(self, scope: Symbol, aliases: dict[Key, Symbol]) -> None:
        assert isinstance(scope.declaration, ast.ScopeDecl)
        written = scope.declaration.alias or scope.declaration.name
        alias = scope_alias(scope)
        if not alias or any(char.isspace() for char in alias):
            hint = "write the scope as the issuer writes it in the credential"
            self.program.report(
                "E314", "the name of a scope in credentials must not be empty or contain spaces", written.span, hint
            )
        first = aliases.setdefault((scope.package, alias), scope)
        if first is not scope:
            related = [RelatedLocation("first used here", first.span)]
            message = f"two scopes have the name `{alias}` in credentials"
            self.program.report("E313", message, written.span, "give one of them another `as` name", related)

    def _check_circle(self, scope: Symbol, in_circles: set[Key]) -> None:
        """Report a cycle once, at the include of its first scope."""
        key = (scope.package, scope.name)
        if key in in_circles:
            return
        for name, inner in self.included(scope):
            if _scopes_known(scope, {(s.package, s.name): s for s in self.reach(inner)}):
                message = f"the scope `{scope.name}` includes itself"
                through = f" through `{name.text}`" if inner is not scope else ""
                self.program.report("E312", message + through, name.span, "remove one of the includes")
                in_circles.update((s.package, s.name) for s in self.reach(scope) if scope in self.reach(s))
                return


def _entity_types(type_: Type) -> set[str]:
    return set(type_.entities) if isinstance(type_, RefType) else set()


def scope_alias(scope: Symbol) -> str:
    """Return the name of the scope in credentials."""
    assert isinstance(scope.declaration, ast.ScopeDecl)
    return scope.declaration.alias.value if scope.declaration.alias else scope.name


def _scope_items(scope: Symbol) -> tuple[ast.Include | ast.ScopeEndpoint, ...]:
    assert isinstance(scope.declaration, ast.ScopeDecl)
    return scope.declaration.items


def _scope_endpoints(scope: Symbol) -> list[ast.ScopeEndpoint]:
    return [item for item in _scope_items(scope) if isinstance(item, ast.ScopeEndpoint)]


def _scopes_known(scope: Symbol, found: Mapping[Key, Symbol]) -> bool:
    return (scope.package, scope.name) in found


def _parameter_types(found: list[PatternBindings]) -> dict[str, Type]:
    """Return the types of captures. A capture is a reference if all patterns that capture it, or others at the same
    endpoints, agree on its type; otherwise it is a string."""
    typed: dict[str, PatternIndex[str]] = {}
    types: dict[str, set[str]] = {}
    for binding in found:
        for name, (_, entity) in binding.captures.items():
            if entity is not None:
                types.setdefault(name, set()).add(entity)
                typed.setdefault(name, PatternIndex()).add(binding.pattern, entity)
    untyped = {
        name
        for binding in found
        for name, (_, entity) in binding.captures.items()
        if entity is None
        and not (name in typed and any(typed[name].overlapping(k.with_folding(binding.pattern, "full"))))
    }
    plain = {name for name, entities in types.items() if len(entities) > 1} | untyped
    names: dict[str, Type] = {name: RefType(frozenset(some)) for name, some in types.items()}
    return names | dict.fromkeys(plain, Scalar.STRING)
